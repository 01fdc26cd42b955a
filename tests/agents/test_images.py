"""Agents that see: they learn from pictures, share the convolutions, and say which engine does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agent_envs import CONTINUOUS, NATIVE, TwoPictures
from gymnasium import spaces
from torch import Tensor, nn

import pyrl
from pyrl.agents.base import Agent
from pyrl.types import Batch

PICTURE = TwoPictures.observation_space
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": dict(n_steps=32, batch_size=64, n_epochs=4, learning_rate=1e-3, net_arch=()),
    "a2c": dict(n_steps=8, net_arch=()),
    "dqn": dict(learning_starts=64, batch_size=32, learning_rate=1e-3, target_update_interval=100, train_freq=8, net_arch=()),
}
GENERAL = "graph" if torch.cuda.is_available() else "torch"  # the engine of networks that are not plain MLPs


def seeing(algo: str, **options: Any) -> Agent:
    action_space = spaces.Box(-1, 1, (2,)) if algo in CONTINUOUS else TwoPictures.action_space
    return pyrl.make_agent(algo, PICTURE, action_space, **options)


def batch(agent: Agent, size: int = 4) -> Batch:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (2, size, *PICTURE.shape), np.uint8)
    action = random.uniform(-1, 1, (size, 2)).astype(np.float32) if agent.name in CONTINUOUS else random.integers(0, 2, size)
    reward, zeros = random.normal(size=size).astype(np.float32), np.zeros(size, bool)
    return Batch(pictures[0], action, reward, pictures[1], zeros, np.full(size, 0.9, np.float32), np.arange(size))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_learns_from_pictures(algo: str) -> None:
    run = pyrl.train(algo, TwoPictures, total_steps=2_400, num_envs=4, seed=1, run_dir=False, **ALGORITHMS[algo])
    assert run.agent.engine == GENERAL
    assert pyrl.evaluate(run.agent, TwoPictures, 10).mean > 9.5  # of 10; 5 by chance


@pytest.mark.parametrize("extractor", ["nature", "impala"])
@pytest.mark.parametrize("algo", NATIVE)
def test_native_engine_refuses(algo: str, extractor: str) -> None:
    with pytest.raises(ValueError, match=f"{algo}: engine is 'native', but the networks are not plain MLPs"):
        seeing(algo, features_extractor=extractor, engine="native")
    assert seeing(algo, features_extractor=extractor).engine == ("torch" if algo == "a3c" else GENERAL)


def test_flattened_pictures_stay_native() -> None:
    agent = seeing("ppo", features_extractor="flatten")
    assert agent.engine == "native"
    assert agent.encoder.size == 36 * 36  # type: ignore[attr-defined]


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_policy_and_value_share_the_convolutions(algo: str) -> None:
    network = seeing(algo, net_arch=()).network  # type: ignore[attr-defined]
    names = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert names == {"encoder", "actor", "critic", "log_std"}
    observation = torch.zeros(1, *PICTURE.shape, dtype=torch.uint8) + 100
    policy, value = network(observation)
    for output in (policy.sum(), value.sum()):
        network.zero_grad()
        output.backward(retain_graph=True)
        assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in network.encoder.named_parameters() if n.endswith("weight"))


@pytest.mark.parametrize("net_arch", [(), (16,), (16, 8)])
def test_dueling_streams(net_arch: tuple[int, ...]) -> None:
    agent: Any = seeing("dqn", dueling=True, net_arch=net_arch)
    q = agent.q_network(torch.as_tensor(batch(agent).observation))
    assert q.shape == (4, 2)
    agent.learn(batch(agent))


@pytest.mark.parametrize("algo", CONTINUOUS)
def test_continuous_agents_see(algo: str) -> None:
    agent = seeing(algo, learning_starts=0, net_arch=(16,))
    before = {name: p.clone() for name, p in agent.modules()["critic"].named_parameters()}
    for _ in range(2):  # TD3's actor waits for the second
        agent.learn(batch(agent))
    assert all(not torch.equal(before[name], p) for name, p in agent.modules()["critic"].named_parameters() if "images" in name)
    assert agent.act(batch(agent).observation).shape == (4, 2)


@pytest.mark.parametrize("extractor", ["nature", "impala"])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_checkpoint_round_trip(algo: str, extractor: str, tmp_path: Path) -> None:
    options = {"num_envs": 2, "total_steps": 160, **ALGORITHMS[algo]}
    agent = pyrl.train(algo, TwoPictures, run_dir=False, features_extractor=extractor, **options).agent
    same = pyrl.load(agent.save(tmp_path / "agent"))
    assert same.config.features_extractor == extractor
    for a, b in zip(agent.state_dict()["model"].values(), same.state_dict()["model"].values(), strict=True):
        assert torch.equal(a, b)
    pictures = batch(agent, 16).observation
    np.testing.assert_array_equal(agent.act(pictures), same.act(pictures))


class OneConvolution(nn.Module):
    features_dim = 8

    def __init__(self, space: spaces.Space) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 4, 9, stride=9), nn.Linear(64, 8)

    def forward(self, picture: Tensor) -> Tensor:
        return self.linear(self.convolution(picture.permute(0, 3, 1, 2) / 255.0).relu().flatten(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, at the first compilation
@pytest.mark.parametrize(("algo", "extractor"), [("ppo", OneConvolution), ("dqn", "nature")])
def test_compiled_update_equals_eager(algo: str, extractor: Any) -> None:
    """Seconds for each loop that is compiled: PPO's last rollout is shorter and compiled anew, so its network is small."""
    for engine in ("torch", "compile"):
        options = {"total_steps": 160, "num_envs": 2, "features_extractor": extractor, **ALGORITHMS[algo]}
        agent = pyrl.train(algo, TwoPictures, run_dir=False, engine=engine, **options).agent
        weights = torch.cat([p.flatten() for p in agent.state_dict()["model"].values()])
        if engine == "torch":
            eager = weights
    torch.testing.assert_close(weights, eager, atol=1e-4, rtol=1e-3)
