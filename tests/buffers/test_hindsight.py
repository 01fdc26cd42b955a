"""Hindsight relabelling against the episodes as they were: goals, rewards and returns recomputed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from pyrl.buffers import Hindsight, PrioritizedReplayBuffer, ReplayBuffer
from pyrl.errors import DTypeError, NonFiniteError, ShapeError, SpaceError

GOAL = spaces.Box(-np.inf, np.inf, (2,), np.float32)
SPACE = spaces.Dict({"observation": spaces.Box(-np.inf, np.inf, (1,)), "achieved_goal": GOAL, "desired_goal": GOAL})
GAMMA = 0.9


def compute_reward(achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
    return np.sin(3.0 * achieved[..., 0] + desired[..., 0]) - (achieved[..., 1] != desired[..., 1])


class Story:
    """What happened in each lane: steps as (achieved goal after it, episode, terminated). Goals are numbered: each tells its step."""

    def __init__(self, buffer: ReplayBuffer, count: int, seed: int) -> None:
        rng, N = np.random.default_rng(seed), buffer.num_envs
        self.lanes: list[list[tuple[np.ndarray, int, bool]]] = [[] for _ in range(N)]
        self.number, episode, fresh = 0, np.zeros(N, int), [True] * N
        state: list[Any] = [None] * N
        for _ in range(count):
            for n in np.flatnonzero(fresh):
                state[n] = {"observation": self.next(1), "achieved_goal": self.next(2), "desired_goal": -self.next(2)}
            following = [{**s, "observation": self.next(1), "achieved_goal": self.next(2)} for s in state]
            terminated, truncated, manual = rng.random(N) < 0.04, rng.random(N) < 0.04, rng.random(N) < 0.02
            batch = lambda rows: {k: np.stack([row[k] for row in rows]) for k in SPACE}  # noqa: E731
            reward = np.array([compute_reward(f["achieved_goal"], f["desired_goal"], {}) for f in following], np.float32)
            buffer.add(batch(state), np.arange(N), reward, batch(following), terminated, truncated)
            for n in range(N):
                self.lanes[n].append((following[n]["achieved_goal"], int(episode[n]), bool(terminated[n])))
            fresh = list(terminated | truncated | manual)
            episode += fresh
            state = following
        self.of_goal = {float(goal[1]): (n, t) for n, lane in enumerate(self.lanes) for t, (goal, *_) in enumerate(lane)}

    def next(self, size: int) -> np.ndarray:
        self.number += 1
        return np.array([np.cos(self.number), self.number][-size:], np.float32)

    def episode(self, lane: int, t: int) -> list[int]:
        """The steps of its episode, oldest first."""
        return [u for u, (_, number, _) in enumerate(self.lanes[lane]) if number == self.lanes[lane][t][1]]


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_ten_thousand_draws_by_hand(strategy: Any, n_step: int, prioritized: bool) -> None:
    """The ring is overwritten, and in two lanes an episode runs at the end."""
    made: Any = PrioritizedReplayBuffer if prioritized else ReplayBuffer
    buffer = made(900, SPACE, spaces.Discrete(3), num_envs=3, n_step=n_step, gamma=GAMMA, seed=1)
    story = Story(buffer, 600, seed=2)
    stored: dict[int, set[int]] = {n: set() for n in range(3)}
    for episode in buffer.episodes():
        stored[episode["env"]] |= {step_of(buffer, story, i) for i in episode["index"]}
    hindsight = Hindsight(compute_reward, strategy, goals=3)
    relabelled, where = 0, []
    for _ in range(10):
        plain = buffer.get(index := buffer.draw(1000))
        batch = hindsight.relabel(buffer, buffer.get(index))
        np.testing.assert_array_equal(batch.observation["observation"], plain.observation["observation"])
        np.testing.assert_array_equal(batch.observation["desired_goal"], batch.next_observation["desired_goal"])
        np.testing.assert_array_equal(batch.discount, plain.discount)
        for i, goal in enumerate(batch.observation["desired_goal"]):
            if goal[1] < 0:  # its own
                assert batch.reward[i] == plain.reward[i]
                continue
            relabelled += 1
            lane, source = story.of_goal[float(goal[1])]
            t = step_of(buffer, story, index[i])
            episode = [u for u in story.episode(lane, t) if u in stored[lane]]
            candidates = {"future": [u for u in episode if u >= t], "final": episode[-1:], "episode": episode}[strategy]
            assert lane == index[i] % 3
            assert source in candidates
            where.append((candidates.index(source) + 0.5) / len(candidates))
            window = [u for u in episode if t <= u < t + n_step]
            expected = sum(GAMMA**k * compute_reward(story.lanes[lane][u][0], goal, {}) for k, u in enumerate(window))
            assert batch.reward[i] == pytest.approx(expected, abs=1e-5)
    assert abs(relabelled / 10_000 - 0.75) < 0.02
    assert abs(np.mean(where) - 0.5) < 0.02  # uniform among the candidates


def step_of(buffer: ReplayBuffer, story: Story, index: int) -> int:
    """The number of a record's step in its lane, by the goal achieved after it."""
    goal = buffer.column("next_observation['achieved_goal']", np.array([index]))[0]
    return story.of_goal[float(goal[1])][1]


def test_steps_and_columns() -> None:
    buffer = ReplayBuffer(60, SPACE, spaces.Discrete(3), num_envs=3, n_step=2, gamma=GAMMA, extra={"more": ((2,), "float32")})
    for t in range(10):
        state, following = ({k: np.full((3, *SPACE[k].shape), s, np.float32) for k in SPACE} for s in (t, t + 1))
        ended = np.array([t == 4, False, False])
        buffer.add(state, np.full(3, t % 3), np.full(3, t), following, ended, np.zeros(3, bool), more=np.full((3, 2), -t, np.float32))
    index = np.array([3 * 3, 4 * 3, 9 * 3 + 1])
    np.testing.assert_array_equal(buffer.steps(index), [[9, 12], [12, -1], [28, -1]])
    np.testing.assert_array_equal(buffer.steps(index[:1], 4), [[9, 12, -1, -1]])
    np.testing.assert_array_equal(buffer.column("reward", index), [3, 4, 9])
    np.testing.assert_array_equal(buffer.column("action", index), [0, 1, 0])
    np.testing.assert_array_equal(buffer.column("more", index), [[-3, -3], [-4, -4], [-9, -9]])
    np.testing.assert_array_equal(buffer.column("next_observation['observation']", index), [[4], [5], [10]])
    for call in (buffer.steps, lambda index: buffer.column("reward", index)):
        with pytest.raises(ValueError, match=r"index\[1\] is 15, a record that is no longer"):
            call(np.array([0, 15]))  # a tail
    with pytest.raises(ValueError, match=r"name is 'rewards', expected one of reward, observation\['achieved_goal'\]"):
        buffer.column("rewards", index)
    with pytest.raises(ValueError, match="n_step is 0, expected at least 1"):
        buffer.steps(index, 0)


def filled(**options: Any) -> ReplayBuffer:
    buffer = ReplayBuffer(900, SPACE, spaces.Discrete(3), num_envs=3, seed=1, **options)
    Story(buffer, 100, seed=0)
    return buffer


def test_the_goals_are_a_draw_of_the_buffers_stream() -> None:
    buffer, restored = filled(), filled()
    hindsight = Hindsight(compute_reward)
    hindsight.relabel(buffer, buffer.sample(64))
    restored.load_state_dict(buffer.state_dict())
    first, second = (hindsight.relabel(b, b.sample(64)) for b in (buffer, restored))
    np.testing.assert_array_equal(first.observation["desired_goal"], second.observation["desired_goal"])
    assert len({tuple(goal) for goal in first.observation["desired_goal"]}) > 10


def test_compute_reward_is_called_once_a_batch_where_it_can_be() -> None:
    sizes: list[int] = []

    def together(achieved: Any, desired: Any, info: Any) -> Any:
        sizes.append(len(info))
        return compute_reward(achieved, desired, info)

    def singly(achieved: Any, desired: Any, info: Any) -> float:
        assert achieved.shape == (2,)
        assert info == {}
        return float(compute_reward(achieved, desired, info))

    def collapses(achieved: Any, desired: Any, info: Any) -> Any:
        """Gives some number for many goals too."""
        return float(np.sum(compute_reward(achieved, desired, info)))

    batches = []
    for function in (together, singly, collapses):
        buffer, hindsight = filled(), Hindsight(function)
        batches.append([hindsight.relabel(buffer, buffer.sample(64)).reward for _ in range(3)])
    assert [size for size in sizes if size > 8] == sizes[-3:]  # after a trial with eight rows, and one by one
    for other in batches[1:]:
        np.testing.assert_allclose(other, batches[0], rtol=1e-6)


def test_infos_are_handed_on() -> None:
    buffer = filled()
    seen: list[Any] = []

    def reward(achieved: Any, desired: Any, info: Any) -> Any:
        seen.append(info)
        return compute_reward(achieved, desired, info)

    batch = buffer.sample(64)
    Hindsight(reward, info=lambda index: list(index)).relabel(buffer, batch)
    assert set(seen[-1]) <= set(batch.index)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"strategy": "past"}, ValueError, "strategy is 'past', expected one of future, final, episode"),
        ({"goals": -1}, ValueError, "goals is -1"),
        ({"compute_reward": 3}, DTypeError, "compute_reward is 3, expected a function"),
    ],
)
def test_mistakes_of_the_constructor(arguments: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Hindsight(**{"compute_reward": compute_reward, **arguments})


def test_mistakes_of_buffers_and_rewards() -> None:
    hindsight = Hindsight(compute_reward)
    plain = ReplayBuffer(10, GOAL, spaces.Discrete(2))
    with pytest.raises(SpaceError, match="expected a Dict with achieved_goal and desired_goal"):
        hindsight.check(plain)
    other = spaces.Dict({"achieved_goal": GOAL, "desired_goal": spaces.Box(0, 1, (3,))})
    with pytest.raises(SpaceError, match="expected one shape"):
        hindsight.check(ReplayBuffer(10, other, spaces.Discrete(2)))
    with pytest.raises(ValueError, match="expected frame_stack=1"):
        hindsight.check(ReplayBuffer(10, SPACE, spaces.Discrete(2), frame_stack=2))
    buffer = filled()
    for wrong, error, message in (
        (lambda a, d, i: np.zeros((2, 2)), ShapeError, r"compute_reward returned shape \[\d+, 2, 2\], expected"),
        (lambda a, d, i: compute_reward(a, d, i) * np.nan, NonFiniteError, "compute_reward returned nan"),
    ):
        with pytest.raises(error, match=message):
            Hindsight(wrong).relabel(buffer, buffer.sample(32))
