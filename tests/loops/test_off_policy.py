"""Off-policy training with the replay on a GPU, in whose place the CPU simulates one."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import pyrl
from pyrl.errors import DeviceError

SMALL = {"total_steps": 400, "run_dir": False, "num_envs": 2, "learning_starts": 50, "batch_size": 16, "net_arch": (8,)}


@pytest.mark.parametrize(
    ("algo", "env", "options"),
    [("dqn", "CartPole-v1", {"n_step": 3}), ("dqn", "CartPole-v1", {"prioritized": True, "clip_reward": 0.5}), ("sac", "Pendulum-v1", {})],
)
def test_a_replay_on_a_device_changes_nothing(algo: str, env: str, options: dict[str, Any]) -> None:
    here = pyrl.train(algo, env, seed=3, **SMALL, **options)
    with patch("pyrl.loops.off_policy.buffer_device", lambda agent: "simulated"), patch("pyrl.buffers.replay._device", str):
        there = pyrl.train(algo, env, seed=3, **SMALL, **options)
    assert here.agent.updates > 50
    for name, weight in here.agent.state_dict()["model"].items():
        np.testing.assert_array_equal(weight.numpy(), there.agent.state_dict()["model"][name].numpy(), err_msg=name)


def test_a_device_that_the_agent_cannot_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="DQNConfig: buffer_device is 'gpu', expected cpu, cuda or cuda:<index>"):
        pyrl.train("dqn", "CartPole-v1", buffer_device="gpu", **SMALL)
    with pytest.raises(DeviceError, match="sac: buffer_device is 'cuda', but the networks lie on the CPU; set device too"):
        pyrl.train("sac", "Pendulum-v1", buffer_device="cuda", **SMALL)
