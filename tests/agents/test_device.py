"""Where the networks lie: chosen, refused in words where there is no such device, and without effect on what is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import TwoPictures, TwoStates, advance, random_env
from gymnasium import spaces
from test_engines import CASES, batches, make, observations, weights

import pyrl
from pyrl.errors import CheckpointError, DeviceError

DEVICES = torch.cuda.device_count()
no_cuda = pytest.mark.skipif(DEVICES > 0, reason="torch finds a CUDA device")
ALGORITHMS = sorted({case.split()[0] for case in CASES})


def on(case: str, device: str, engine: str = "torch") -> Any:
    name, observation_space, action_space, options = CASES[case]
    return pyrl.make_agent(name, observation_space, action_space, seed=3, engine=engine, device=device, **options)


@pytest.mark.parametrize("case", CASES)
def test_the_cpu_is_the_default_of_vectors(case: str) -> None:
    told, agent = on(case, "cpu"), make(case, "torch")
    assert agent.device == told.device == torch.device("cpu")
    for _, data in zip(range(3), batches(agent)):
        agent.learn(data)
        told.learn(data)
    assert torch.equal(weights(agent), weights(told))


@no_cuda
@pytest.mark.parametrize("name", [*ALGORITHMS, "random"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    action_space = spaces.Box(-1, 1, (2,))
    config = {"device": "cuda"}
    with pytest.raises(DeviceError, match=f"{name}: device is 'cuda'"):
        pyrl.make_agent(name, spaces.Box(-1, 1, (3,)), spaces.Discrete(2) if name == "dqn" else action_space, **config)


@no_cuda
def test_images_stay_on_the_cpu_without_a_gpu(tmp_path: Path) -> None:
    agent = pyrl.make_agent("ppo", TwoPictures.observation_space, TwoPictures.action_space)
    assert agent.device == torch.device("cpu")
    path = agent.save(tmp_path / "agent")
    assert pyrl.load(path, device="cpu").config.device == "cpu"
    with pytest.raises(CheckpointError, match="finds 0 CUDA devices"):
        pyrl.load(path, device="cuda:1")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "mps", ""])
def test_names_of_devices(device: str) -> None:
    with pytest.raises(ValueError, match=r"device is .*, expected auto, cpu, cuda or cuda:<index>"):
        pyrl.make_agent("ppo", spaces.Box(-1, 1, (3,)), spaces.Discrete(2), device=device)


def test_workers_share_the_memory_of_the_cpu() -> None:
    with pytest.raises(DeviceError, match="a3c: device is 'cuda', expected 'cpu'"):
        pyrl.make_agent("a3c", spaces.Box(-1, 1, (3,)), spaces.Discrete(2), device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(DEVICES == 0, reason="torch finds no CUDA device")
class TestCuda:
    @pytest.mark.parametrize("case", [case for case in CASES if case != "a3c"])
    def test_learns_what_the_cpu_learns(self, case: str, tmp_path: Path) -> None:
        here, there = on(case, "cpu"), on(case, "cuda")
        assert there.device.type == "cuda"
        before = weights(here)
        for _, data in zip(range(20), batches(here)):
            for agent in (here, there):
                advance(agent, 4)
                agent.learn(data)
        assert all(p.device.type == "cuda" for module in there.modules().values() for p in module.parameters())
        travelled = (weights(here) - before).norm()
        assert (weights(here) - weights(there).cpu()).norm() < 1e-2 * travelled
        observation = observations(here.observation_space, np.random.default_rng(0), 64)
        again = pyrl.load(there.save(tmp_path / "agent"), device="cpu")
        np.testing.assert_allclose(again.act(observation), there.act(observation), atol=1e-3)

    @pytest.mark.parametrize("algo", ["ppo", "a2c", "dqn"])
    def test_images_go_there_by_themselves(self, algo: str) -> None:
        from test_images import ALGORITHMS as SEEING

        run = pyrl.train(algo, TwoPictures, total_steps=2_400, num_envs=4, seed=1, run_dir=False, **SEEING[algo])
        assert run.agent.device.type == "cuda"
        assert pyrl.evaluate(run.agent, TwoPictures, 10).mean > 9.5

    @pytest.mark.parametrize("algo", ["ppo", "a2c"])
    @pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.Box(-2, 2, (2,))])
    def test_every_space(self, algo: str, action_space: spaces.Space) -> None:
        space = spaces.Dict({"a": spaces.Box(0, 255, (36, 36, 3), np.uint8), "b": spaces.MultiDiscrete([2, 3]), "c": spaces.Discrete(3)})
        options: dict[str, Any] = {"n_steps": 8, **({"batch_size": 8} if algo == "ppo" else {})}
        env = random_env(space, action_space)
        assert pyrl.train(algo, env, total_steps=64, num_envs=2, run_dir=False, device="cuda", **options).agent.updates > 0

    def test_native_engine_refuses(self) -> None:
        with pytest.raises(ValueError, match="the networks are not plain MLPs on the CPU"):
            on("dqn", "cuda", engine="native")
        assert on("dqn", "cuda", engine="auto").engine == "graph"
        assert pyrl.make_agent("dqn", TwoStates.observation_space, TwoStates.action_space).device.type == "cpu"
