"""Where the replay of an off-policy training may lie. On a GPU: tests/gpu/test_gpu_replay_calls.py."""

from __future__ import annotations

import pytest

import pyrl
from pyrl.errors import DeviceError

SMALL = {"total_steps": 400, "run_dir": False, "num_envs": 2, "learning_starts": 50, "batch_size": 16, "net_arch": (8,)}


def test_a_device_that_the_agent_cannot_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="DQNConfig: buffer_device is 'gpu', expected cpu, cuda or cuda:<index>"):
        pyrl.train("dqn", "CartPole-v1", buffer_device="gpu", **SMALL)
    with pytest.raises(DeviceError, match="sac: buffer_device is 'cuda', but the networks lie on the CPU; set device too"):
        pyrl.train("sac", "Pendulum-v1", buffer_device="cuda", **SMALL)
