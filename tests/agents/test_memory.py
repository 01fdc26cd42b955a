"""The room for agents with memory: a toy that remembers is trained, evaluated, saved and played."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import pyrl
from pyrl import ops
from pyrl.agents.base import Agent, AgentConfig
from pyrl.agents.registry import register, registered
from pyrl.agents.storage import RolloutSpec
from pyrl.errors import ShapeError
from pyrl.types import Choice, Learned, PolicyInput, Rollout, StepResult

BLANK = 2


class Recall(gymnasium.Env):
    """The first observation shows a cue, 0 or 1, the three that follow nothing; each action equal to the cue pays 1."""

    observation_space = spaces.Discrete(3)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict]:
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.integers(2))
        return self.cue, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        self.t += 1
        return BLANK, float(action == self.cue), self.t == 4, False, {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecallConfig(AgentConfig):
    n_steps: int = 16


class Remembers(Agent):
    """Remembers the first observation of each episode, and prefers the action that paid most after it."""

    loop = "on_policy"
    Config = RecallConfig

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.table = torch.nn.Module()
        self.table.register_buffer("paid", torch.zeros(2, 2))  # by cue and action
        self.table.register_buffer("taken", torch.zeros(2, 2))

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"table": self.table}

    def choose(self, given: PolicyInput, deterministic: bool = False) -> Choice:
        assert given.state is not None or given.first.all()
        cue = given.observation if given.state is None else np.where(given.first, given.observation, given.state)
        action = (self.table.paid / self.table.taken.clamp(min=1)).argmax(1).numpy()[cue]  # type: ignore[operator, union-attr]
        if not deterministic:
            action = ops.uniform_indices(len(cue), 2, self.random)
        return Choice(action, cue, {"cue": cue})

    def storage(self) -> RolloutSpec:
        return RolloutSpec(n_steps=self.config.n_steps, extra={"cue": ((), np.int64)})

    def learn(self, data: Rollout) -> Learned:
        valid = data.valid
        cue, action = data.extra["cue"][valid], data.action[valid]
        assert (cue != BLANK).all()
        assert self.updates > 0 or data.first[0].all()
        np.testing.assert_array_equal(data.first, data.observation != BLANK)
        np.add.at(self.table.paid.numpy(), (cue, action), data.reward[valid])  # type: ignore[operator, union-attr]
        np.add.at(self.table.taken.numpy(), (cue, action), 1)  # type: ignore[operator, union-attr]
        self.updates += 1
        return Learned({"loss/unknown": float((self.table.taken == 0).sum())})  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    register("remembers")(Remembers)
    yield
    del registered["remembers"]


def make(num_envs: int = 3, **config: Any) -> Agent:
    return pyrl.make_agent("remembers", Recall.observation_space, Recall.action_space, num_envs=num_envs, **config)


def vector(mode: AutoresetMode) -> SyncVectorEnv:
    return SyncVectorEnv([Recall] * 3, autoreset_mode=mode)


@pytest.mark.parametrize("mode", ["inline", *AutoresetMode])
def test_learns_what_only_memory_can(mode: Any) -> None:
    agent = make(n_steps=15)  # rollouts end in the middle of episodes
    env = Recall if mode == "inline" else vector(mode)
    for _ in pyrl.iterate(agent, env, total_steps=300):
        pass
    assert agent.updates > 0
    np.testing.assert_array_equal(pyrl.evaluate(agent, Recall, 20).returns, 4.0)
    if mode != "inline":
        np.testing.assert_array_equal(pyrl.evaluate(agent, vector(mode), 20).returns, 4.0)


def test_is_saved_loaded_and_resumed(tmp_path: Path) -> None:
    run = pyrl.train("remembers", Recall, total_steps=200, num_envs=2, run_dir=tmp_path / "run")
    loaded = pyrl.load(run.dir)  # type: ignore[arg-type]
    assert pyrl.evaluate(loaded, Recall, 10).mean == 4.0
    assert pyrl.train("remembers", Recall, resume=tmp_path / "run", total_steps=300).agent.updates > run.agent.updates


def test_player_keeps_the_memory_and_act_refuses_to_lose_it() -> None:
    agent = make()
    agent.table.paid.copy_(torch.eye(2))  # type: ignore[attr-defined]
    player = agent.player(2)
    assert player.act(np.array([0, 1])).tolist() == [0, 1]
    assert player.act(np.array([BLANK, BLANK])).tolist() == [0, 1]
    assert player.act(np.array([1, BLANK]), first=np.array([True, False])).tolist() == [1, 1]
    assert player.act(np.array([BLANK, BLANK])).tolist() == [1, 1]
    player.reset()
    assert player.act(np.array([1, 0])).tolist() == [1, 0]
    alone = agent.player()
    assert (alone.act(1), alone.act(BLANK), alone.act(0, first=True)) == (1, 1, 0)
    with pytest.raises(ValueError, match=r"remembers has a memory.*agent\.player\(num_envs\)"):
        agent.act(0)
    with pytest.raises(ShapeError, match="observation has 3 rows, expected 2"):
        player.act(np.array([0, 1, 1]))
    with pytest.raises(ShapeError, match=r"first has shape \[3\], expected \[N\] = \[2\]"):
        player.act(np.array([0, 1]), first=np.zeros(3))
    with pytest.raises(ValueError, match="remembers does not honour masks"):
        player.act(np.array([0, 1]), action_mask=np.ones((2, 2)))


@pytest.mark.parametrize("old", ["policy", "native_choose"])
def test_methods_under_their_old_names_are_refused(old: str) -> None:
    with pytest.raises(TypeError, match=f"Old.{old} would never be called"):
        type("Old", (Remembers,), {old: lambda self, observation: None})


@pytest.mark.parametrize(("method", "returned"), [("choose", "Choice"), ("learn", "Learned")])
def test_dictionaries_are_refused_by_name(method: str, returned: str) -> None:
    agent = make(n_steps=4)
    setattr(agent, method, lambda *_: {"action": np.zeros(3, np.int64)})
    with pytest.raises(TypeError, match=f"remembers: {method} returned dict, expected {returned}"):
        list(pyrl.iterate(agent, Recall, 24))


def test_steps_say_where_episodes_start() -> None:
    """By the definition: a row starts an episode if nothing came before it, or an end; the dead step of NEXT_STEP begins nothing."""
    for mode in AutoresetMode:
        with pyrl.envs.make(vector(mode)) as stepper:
            stepper.reset(seed=0)
            steps: list[StepResult] = []
            for t in range(15):
                shown = stepper.observation.copy()
                step = stepper.step(np.zeros(3, np.int64))
                np.testing.assert_array_equal(step.first, shown != BLANK, err_msg=f"{mode} {t}")
                steps.append(step)
            stepper.reset()
            assert stepper.first.all()
