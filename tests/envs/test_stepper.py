"""Every backend and every autoreset mode against a loop over one environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_envs import ACTIONS, OBSERVATIONS, Script, Scripted, ToyVector, policy

from pyrl.envs import Stepper, make
from pyrl.envs.success import success_rule
from pyrl.errors import EnvError
from pyrl.seeding import stream_seed
from pyrl.types import map_observation

EXAMPLES = int(os.environ.get("PYRL_EXAMPLES", "1"))
MODES = list(AutoresetMode)
Transition = tuple[Any, Any, float, Any, bool, bool]


def flat(observation: Any) -> list[float]:
    """All numbers of one observation, whatever its kind."""
    if isinstance(observation, dict):
        return [x for v in observation.values() for x in flat(v)]
    if isinstance(observation, tuple):
        return [x for v in observation for x in flat(v)]
    return np.asarray(observation, np.float64).ravel().tolist()


def in_space_order(space: gym.Space, observation: Any) -> Any:
    if isinstance(space, gym.spaces.Dict):
        return {k: in_space_order(s, observation[k]) for k, s in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(in_space_order(s, o) for s, o in zip(space.spaces, observation))
    return observation


def to_env(space: Any, action: np.ndarray) -> Any:
    """The specification of the action border."""
    if isinstance(space, gym.spaces.Box):
        return np.clip(action, space.low, space.high)
    return action + space.start


def plain_loop(env: Scripted, seed: int, kind: str, action_kind: str, count: int) -> tuple[list[Transition], list[tuple[float, int, bool]]]:
    """What gymnasium's documentation says a loop over one environment is."""
    transitions: list[Transition] = []
    episodes = []
    observation, _ = env.reset(seed=seed)
    total, length = 0.0, 0
    while len(transitions) < count:
        seen = in_space_order(env.observation_space, observation)
        action = policy(kind, action_kind, map_observation(np.asarray, seen))
        following, reward, terminated, truncated, info = env.step(to_env(env.action_space, action))
        transitions.append(
            (
                flat(seen),
                flat(action),
                reward,
                flat(in_space_order(env.observation_space, following)),
                terminated,
                truncated,
            )
        )
        total, length = total + reward, length + 1
        observation = following
        if terminated or truncated:
            episodes.append((total, length, info["is_success"]))
            observation, _ = env.reset()
            total, length = 0.0, 0
    return transitions, episodes


def stepper_loop(
    stepper: Stepper, kind: str, action_kind: str, count: int
) -> tuple[list[list[Transition]], list[list[tuple[float, int, Any]]]]:
    """Transitions and episodes of each environment, until each has ``count`` transitions."""
    n = stepper.num_envs
    transitions: list[list[Transition]] = [[] for _ in range(n)]
    episodes: list[list[tuple[float, int, Any]]] = [[] for _ in range(n)]
    row = lambda observation, i: flat(map_observation(lambda x: x[i], observation))  # noqa: E731
    while min(map(len, transitions)) < count:
        before = map_observation(np.copy, stepper.observation)
        action = policy(kind, action_kind, before)
        step = stepper.step(action)
        assert step.reward.dtype == np.float64
        assert step.terminated.dtype == step.truncated.dtype == step.valid.dtype == bool
        np.testing.assert_array_equal(step.action, action)
        for i in range(n):
            assert row(step.observation, i) == row(before, i)
            if step.valid[i]:
                flags = bool(step.terminated[i]), bool(step.truncated[i])
                transitions[i].append((row(before, i), flat(action[i]), float(step.reward[i]), row(step.next_observation, i), *flags))
                if not any(flags):
                    assert row(stepper.observation, i) == row(step.next_observation, i)
            else:
                assert stepper.autoreset is AutoresetMode.NEXT_STEP
                assert transitions[i][-1][4] | transitions[i][-1][5]
                assert step.reward[i] == 0
                assert not step.terminated[i]
                assert not step.truncated[i]
                assert row(before, i) == transitions[i][-1][3]  # the final observation, acted on once more
                assert row(step.next_observation, i) == row(stepper.observation, i)
        for e in step.episodes:
            episodes[e.env_index].append((e.episode_return, e.length, e.success))
        assert {e.env_index for e in step.episodes} == set(np.flatnonzero(step.terminated | step.truncated))
    return transitions, episodes


def check(stepper: Stepper, scripts: list[Script], kind: str, action_kind: str, count: int, seeds: list[int]) -> None:
    transitions, episodes = stepper_loop(stepper, kind, action_kind, count)
    for i, script in enumerate(scripts):
        want, ended = plain_loop(Scripted(script, kind, action_kind), seeds[i], kind, action_kind, len(transitions[i]))
        assert transitions[i] == want
        assert episodes[i] == ended


def makers(scripts: list[Script], kind: str, action_kind: str) -> Callable[[], Scripted]:
    """A callable that gives the environments their scripts in turn."""
    made = iter(scripts)
    return lambda: Scripted(next(made), kind, action_kind)


scripts_of_many = st.lists(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["terminated", "truncated", "both"])), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)
kinds = st.sampled_from(list(OBSERVATIONS))
action_kinds = st.sampled_from(list(ACTIONS))


@settings(max_examples=60 * EXAMPLES, deadline=None)
@given(scripts_of_many, kinds, action_kinds, st.integers(0, 1000))
def test_lean(scripts: list[Script], kind: str, action_kind: str, seed: int) -> None:
    with make(makers(scripts, kind, action_kind), len(scripts), seed=seed) as stepper:
        assert stepper.autoreset is AutoresetMode.SAME_STEP
        stepper.reset()
        check(stepper, scripts, kind, action_kind, 20, [stream_seed(seed, "env", i) for i in range(len(scripts))])


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@settings(max_examples=25 * EXAMPLES, deadline=None)
@given(scripts_of_many, kinds, action_kinds, st.integers(0, 1000))
def test_sync(mode: AutoresetMode, scripts: list[Script], kind: str, action_kind: str, seed: int) -> None:
    with make(makers(scripts, kind, action_kind), len(scripts), backend="sync", autoreset=mode, seed=3) as stepper:
        assert stepper.autoreset is mode
        stepper.reset(seed=seed)
        check(stepper, scripts, kind, action_kind, 20, [stream_seed(seed, "env", i) for i in range(len(scripts))])


@settings(max_examples=60 * EXAMPLES, deadline=None)
@given(
    scripts_of_many,
    kinds,
    action_kinds,
    st.integers(0, 1000),
    st.sampled_from(MODES),
    st.booleans(),
    st.sampled_from(["object", "batch"]),
)
def test_own_vector_env(
    scripts: list[Script], kind: str, action_kind: str, seed: int, mode: AutoresetMode, declares: bool, final: str
) -> None:
    env = ToyVector([Scripted(s, kind, action_kind) for s in scripts], mode, mode if declares else None, final)
    said = None if declares or mode is AutoresetMode.NEXT_STEP else mode.name.lower()
    with make(env, seed=seed, autoreset=said) as stepper:
        stepper.reset()
        check(stepper, scripts, kind, action_kind, 20, [stream_seed(seed, "env", 0) + i for i in range(len(scripts))])


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize(("kind", "action_kind"), [("box", "discrete_start"), ("dict", "box")])
def test_async(mode: AutoresetMode, kind: str, action_kind: str) -> None:
    script: Script = [(3, "terminated"), (1, "truncated"), (4, "both")]
    with make(
        Scripted,
        2,
        env_kwargs=dict(script=script, observation=kind, action=action_kind),
        backend="async",
        autoreset=mode,
    ) as stepper:
        stepper.reset()
        check(stepper, [script] * 2, kind, action_kind, 15, [stream_seed(0, "env", i) for i in range(2)])


@pytest.mark.parametrize("mode", [None, *MODES], ids=lambda m: m.name if m else "lean")
@pytest.mark.parametrize("steps", range(6))
def test_reset_at_any_time(mode: AutoresetMode | None, steps: int) -> None:
    """In the middle of an episode, and between its end and the dead step."""
    scripts: list[Script] = [[(3, "terminated")], [(2, "truncated"), (4, "both")]]
    env: Any = makers(scripts, "box", "discrete")
    if mode is not None:
        env = ToyVector([Scripted(s) for s in scripts], mode, mode)
    with make(env, 2) as stepper:
        stepper.reset()
        for _ in range(steps):
            stepper.step(np.ones(2, np.int64))
        stepper.reset(seed=8)
        seeds = [stream_seed(8, "env", 0) + i if mode else stream_seed(8, "env", i) for i in range(2)]
        check(stepper, scripts, "box", "discrete", 12, seeds)


@pytest.mark.parametrize("wrapped", [False, True])
def test_users_sync_vector_env(wrapped: bool) -> None:
    """Known kinds of vector environments get one seed stream each, also below a vector wrapper."""
    script: Script = [(3, "terminated"), (2, "truncated")]
    env: Any = SyncVectorEnv([lambda: Scripted(script)] * 2)
    env = gym.wrappers.vector.RecordEpisodeStatistics(env) if wrapped else env
    with make(env, seed=4) as stepper:
        assert stepper.autoreset is AutoresetMode.NEXT_STEP
        assert stepper.num_envs == 2
        stepper.reset()
        check(stepper, [script] * 2, "box", "discrete", 10, [stream_seed(4, "env", i) for i in range(2)])


@pytest.mark.parametrize("kind", OBSERVATIONS)
@pytest.mark.parametrize("action_kind", ACTIONS)
def test_toy_envs_are_legal(kind: str, action_kind: str) -> None:
    check_env(Scripted([(3, "terminated")], kind, action_kind), skip_render_check=True, skip_close_check=True)


BACKENDS = ["lean", "sync", "async", "processes", "vector"]


def run_cartpole(stepper: Stepper, steps: int, seed: int | None) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Observations, rewards and episode lengths under a fixed sequence of actions."""
    random = np.random.default_rng(0)
    stepper.reset(seed=seed)
    observations, rewards, lengths = [], [], []
    for _ in range(steps):
        step = stepper.step(random.integers(0, 2, stepper.num_envs))
        observations.append(np.copy(step.next_observation))
        rewards.append(np.copy(step.reward))
        lengths += [e.length for e in step.episodes]
    return np.array(observations), np.array(rewards), lengths


@pytest.mark.parametrize("backend", BACKENDS)
def test_seeds(backend: Any) -> None:
    with (
        make("CartPole-v1", 3, backend=backend, seed=5) as one,
        make("CartPole-v1", 3, backend=backend, seed=99) as two,
    ):
        first = run_cartpole(one, 60, None)
        again = run_cartpole(two, 60, 5)
        other = run_cartpole(one, 60, 6)
        back = run_cartpole(one, 60, 5)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[0], back[0])
    assert first[2] == again[2] == back[2]
    assert len(first[2]) > 2
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0][:, 0], first[0][:, 1])


def test_unseeded_reset_goes_on_with_the_stream() -> None:
    with make("CartPole-v1", 2, seed=5) as stepper:
        first = np.copy(stepper.reset())
        second = np.copy(stepper.reset())
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(stepper.reset(seed=5), first)
        np.testing.assert_array_equal(stepper.reset(), second)


@pytest.mark.parametrize("backend", ["lean", "sync", "async", "processes"])
def test_cartpole_as_gymnasium_has_it(backend: Any) -> None:
    env = gym.make("CartPole-v1", max_episode_steps=30)
    with make("CartPole-v1", 1, backend=backend, max_episode_steps=30, seed=2) as stepper:
        stepper.reset()
        observation, _ = env.reset(seed=stream_seed(2, "env", 0))
        ends = set()
        for k in range(300):
            np.testing.assert_array_equal(stepper.observation[0], observation)
            action = int(observation[2] + 0.3 * observation[3] > 0) if k % 100 < 60 else 1
            observation, reward, terminated, truncated, _ = env.step(action)
            step = stepper.step(np.array([action]))
            np.testing.assert_array_equal(step.next_observation[0], observation)
            assert (step.reward[0], step.terminated[0], step.truncated[0]) == (reward, terminated, truncated)
            if terminated or truncated:
                ends.add((terminated, truncated))
                observation, _ = env.reset()
        assert (True, False) in ends
        assert (False, True) in ends


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_time_limit_is_never_terminal(backend: Any) -> None:
    with make("CartPole-v1", 2, backend=backend, max_episode_steps=5) as stepper:
        stepper.reset()
        lengths = []
        for k in range(36):
            step = stepper.step(np.full(2, k % 2))
            assert not step.terminated.any()
            assert [e.env_index for e in step.episodes] == np.flatnonzero(step.truncated).tolist()
            lengths += [e.length for e in step.episodes]
        assert len(lengths) >= 12
        assert set(lengths) == {5}


@pytest.mark.parametrize("backend", ["lean", "sync"])
def test_time_limit_beside_other_ends(backend: Any) -> None:
    """Limits that strike in some environments only; in the same step as a terminal state both flags are set."""
    scripts: list[Script] = [
        [(3, "terminated")],
        [(9, "terminated")],
        [(4, "terminated"), (2, "truncated"), (9, "both")],
    ]
    with make(makers(scripts, "box", "discrete"), 3, backend=backend, max_episode_steps=4) as stepper:
        stepper.reset()
        transitions, _ = stepper_loop(stepper, "box", "discrete", 20)
    ends = [[(row[3][1], row[4], row[5]) for row in rows if row[4] or row[5]] for rows in transitions]
    assert set(ends[0]) == {(3, True, False)}
    assert set(ends[1]) == {(4, False, True)}
    assert ends[2][:3] == [(4, True, True), (2, False, True), (4, False, True)]


def test_arrays_stay_until_the_next_step() -> None:
    with make(lambda: Scripted([(2, "terminated")]), 2) as stepper:
        stepper.reset()
        for _ in range(7):
            step = stepper.step(np.zeros(2, np.int64))
            copies = [np.copy(a) for a in (step.observation, step.next_observation, step.reward, step.terminated, stepper.observation)]
            held = (step.observation, step.next_observation, step.reward, step.terminated, stepper.observation)
            assert not np.shares_memory(step.observation, step.next_observation)
            for array, copy in zip(held, copies):
                np.testing.assert_array_equal(array, copy)
            assert np.shares_memory(stepper.observation, step.next_observation) != step.terminated.any()


def test_environments_may_keep_actions_and_reuse_observations() -> None:
    class Keeps(Scripted):
        def __init__(self) -> None:
            super().__init__([(4, "terminated")], "box", "box")
            self.kept: list[np.ndarray] = []
            self.array = np.zeros(3, np.float32)

        def step(self, action: Any) -> Any:
            self.kept.append(action)
            return super().step(action)

        def observe(self) -> Any:
            self.array[:] = super().observe()
            return self.array

    with make(Keeps, 2) as stepper:
        stepper.reset()
        transitions, _ = stepper_loop(stepper, "box", "box", 12)
        assert [row[3][1] for row in transitions[0]] == [1, 2, 3, 4] * 3
        kept = stepper.envs[0].kept  # type: ignore[attr-defined]
        want = [np.clip(row[1], -1, 1) for row in transitions[0]]
        np.testing.assert_allclose(kept, want, rtol=1e-6)


@pytest.mark.parametrize("backend", ["lean", "sync"])
def test_success(backend: Any) -> None:
    """FrozenLake reaches its goal by these moves, and falls into a hole by the others; a time limit is no success."""

    def episode(moves: list[int], limit: int | None = None) -> bool | None:
        with make("FrozenLake-v1", 1, backend=backend, env_kwargs={"is_slippery": False}, max_episode_steps=limit) as stepper:
            stepper.reset()
            for move in moves:
                step = stepper.step(np.array([move]))
            assert len(step.episodes) == 1
            return step.episodes[0].success

    assert episode([1, 1, 2, 2, 1, 2]) is True
    assert episode([2, 1]) is False
    assert episode([0, 0, 0], limit=3) is False


def test_success_rules() -> None:
    for env_id in ("FrozenLake-v1", "FrozenLake8x8-v1", "LunarLander-v3", "somewhere/FrozenLake-v2", "FrozenLake"):
        rule = success_rule(env_id)
        assert rule is not None
        assert [rule(True, 1.0), rule(True, 0.0), rule(True, -100.0), rule(False, 1.0)] == [True, False, False, False]
    rule = success_rule("MountainCar-v0")
    assert rule is not None
    assert [rule(True, -1.0), rule(False, -1.0)] == [True, False]
    assert success_rule("CartPole-v1") is None


def test_no_success_where_nothing_is_known() -> None:
    with make("CartPole-v1", 1) as stepper:
        stepper.reset()
        episodes = [e for _ in range(40) for e in stepper.step(np.array([1])).episodes]
        assert episodes
        assert all(e.success is None for e in episodes)


class TestModeMismatch:
    def vector(self, mode: AutoresetMode, declared: Any, **options: Any) -> Stepper:
        stepper = make(ToyVector([Scripted([(2, "terminated")])] * 1, mode, declared, **options))
        stepper.reset()
        return stepper

    def run(self, stepper: Stepper) -> None:
        for _ in range(5):
            stepper.step(np.zeros(1, np.int64))

    def test_undeclared_same_step(self) -> None:
        with pytest.raises(EnvError, match=r"ToyVector is assumed to be NEXT_STEP, but gave final observations.*autoreset="):
            self.run(self.vector(AutoresetMode.SAME_STEP, None))

    def test_undeclared_same_step_without_final_observations(self) -> None:
        with pytest.raises(EnvError, match="assumed to be NEXT_STEP, but gave rewards or ends"):
            self.run(self.vector(AutoresetMode.SAME_STEP, None, final="none"))

    def test_declared_next_step_is_same_step(self) -> None:
        with pytest.raises(EnvError, match="says that it is NEXT_STEP"):
            self.run(self.vector(AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP))

    def test_declared_same_step_is_next_step(self) -> None:
        with pytest.raises(EnvError, match="SAME_STEP, but gave no final_obs in infos for environment 0"):
            self.run(self.vector(AutoresetMode.NEXT_STEP, "SameStep"))

    def test_declared_next_step_may_shape_dead_rewards(self) -> None:
        stepper = self.vector(AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP, dead_reward=-1.0)
        rewards = [float(stepper.step(np.zeros(1, np.int64)).reward[0]) for _ in range(3)]
        assert rewards == [1.0, 2.0, 0.0]

    def test_told_otherwise(self) -> None:
        with pytest.raises(ValueError, match="autoreset is SAME_STEP, but ToyVector declares NEXT_STEP"):
            make(
                ToyVector([Scripted([(2, "terminated")])], AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP),
                autoreset="same_step",
            )
