"""A lost life ends something for the learner, and nothing in the report; stacks of pictures are known as such."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, TimeLimit

import pyrl
from pyrl.envs import make
from pyrl.loops.off_policy import OffPolicyLoop


class ThreeLives(gym.Env):
    """Loses a life in every fourth step, and plays on for one step with none left; pays 2 a step, so that a game pays 26."""

    observation_space = spaces.Box(0, 255, (3, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, episodic_life: bool = True, fires: bool = False) -> None:
        self.episodic_life, self.fires = episodic_life, fires

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.picture(), {"lives": 3}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.t += 1
        return self.picture(), 2.0, self.t == 13, False, {"lives": max(3 - self.t // 4, 0)}

    def picture(self) -> np.ndarray:
        return np.full((3, 3), self.t, np.uint8) + self.np_random.integers(0, 100, (3, 3), np.uint8)


def stacked(padding: Any = "zero", episodic_life: bool = False) -> gym.Env:
    return FrameStackObservation(ThreeLives(episodic_life), 3, padding_type=padding)


@pytest.mark.parametrize(
    ("backend", "autoreset"),
    [*((b, "SAME_STEP") for b in ("lean", "processes")), *((b, mode) for b in ("sync", "async") for mode in ("SAME_STEP", "NEXT_STEP"))],
)
@pytest.mark.parametrize(("episodic_life", "fires"), [(False, False), (True, False), (True, True)])
def test_lost_lives(backend: Any, autoreset: str, episodic_life: bool, fires: bool) -> None:
    options = {"episodic_life": episodic_life, "fires": fires}
    with make(ThreeLives, 2, backend=backend, autoreset=autoreset, env_kwargs=options) as stepper:
        assert (stepper.episodic_life, stepper.fires) == (episodic_life, fires)
        stepper.reset()
        ages, episodes = [], []
        for _ in range(60):
            step = stepper.step(np.zeros(2, np.int64))
            assert step.terminated[0] == step.terminated[1]
            assert not step.truncated.any()
            ages.append(step.terminated[0] if step.valid[0] else None)
            episodes += step.episodes
    flags = [bool(flag) for flag in ages if flag is not None]
    # With the third life nothing is left but the game's end. The steps after the others are left out, if they revive the player.
    lost = {4, 8, 13} if episodic_life else {13}
    game = [t in lost for t in range(1, 14) if not (fires and t in (5, 9))]
    assert flags == [game[t % len(game)] for t in range(len(flags))]
    assert len(flags) == 60 - ages.count(None)
    assert {(e.episode_return, e.length) for e in episodes} == {(26.0, 13)}


def test_a_time_limit_counts_whole_games() -> None:
    with make(ThreeLives, max_episode_steps=8) as stepper:
        stepper.reset()
        flags = []
        for _ in range(16):
            step = stepper.step(np.zeros(1, np.int64))
            flags.append((bool(step.terminated[0]), bool(step.truncated[0])))
    wanted = [(t == 4, t == 8) for t in range(1, 9)]  # the life lost at the limit is cut
    assert flags == wanted * 2


def test_which_observations_are_stacks() -> None:
    makers: dict[Any, tuple[int, str] | None] = {
        stacked: (3, "zero"),
        (lambda: stacked("reset")): (3, "repeat"),
        (lambda: TimeLimit(stacked(), 5)): (3, "zero"),
        (lambda: stacked(np.full((3, 3), 7, np.uint8))): None,
        (lambda: FlattenObservation(stacked())): None,
        (lambda: FrameStackObservation(ThreeLives(), 1)): None,
        ThreeLives: None,
    }
    for maker, frames in makers.items():
        for backend in ("lean", "sync"):
            with make(maker, 2, backend=backend) as stepper:
                assert stepper.frames == frames


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("padding", ["zero", "reset"])
def test_replay_of_single_pictures_gives_the_stacks_back(padding: str, prioritized: bool) -> None:
    """What is drawn is bit for bit what was acted on, though each picture is stored once."""
    seen: dict[bytes, bytes] = {}
    with make(lambda: TimeLimit(stacked(padding), 11), 2, seed=1) as stepper:
        spaces_ = stepper.single_observation_space, stepper.single_action_space
        agent = pyrl.make_agent("dqn", *spaces_, num_envs=2, learning_starts=40, batch_size=32, buffer_size=200, prioritized=prioritized)
        loop = pyrl.iterate(agent, stepper, total_steps=300)
        assert isinstance(loop, OffPolicyLoop)
        step_of = stepper.step

        def remember(action: Any) -> Any:
            step = step_of(action)
            for before, after in zip(step.observation, step.next_observation):
                seen[before.tobytes()] = after.tobytes()
            return step

        stepper.step = remember  # type: ignore[method-assign]
        for _ in loop:
            pass
        batch = loop.buffer.sample(128)
    assert batch.observation.shape == (128, 3, 3, 3)
    for before, after in zip(batch.observation, batch.next_observation):
        assert seen[before.tobytes()] == after.tobytes()
    record = loop.buffer.nbytes / loop.buffer.capacity
    assert record < 2 * 27  # a stack alone has 27 bytes, a picture 9
