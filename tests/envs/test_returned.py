"""What an environment may return, in every type that means the same, and what is refused in the same words by every backend."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from toy_envs import Scripted, ToyVector

from pyrl.envs import make
from pyrl.errors import EnvError

EXAMPLES = int(os.environ.get("PYRL_EXAMPLES", "1"))
BACKENDS: list[Any] = ["lean", "sync", "async", "processes"]
GOOD_REWARDS = [1, 1.0, True, np.float32(1), np.float64(1), np.int64(1), np.bool_(True), np.array(1.0), Fraction(1), torch.tensor(1.0)]
GOOD_FLAGS: list[tuple[Any, Any]] = [
    (False, True), (0, 1), (np.bool_(False), np.bool_(True)), (np.int64(0), np.int64(1)), (np.array(False), np.array(True)),
    (0.0, 1.0), (torch.tensor(False), torch.tensor(True)),
]  # fmt: skip
GOOD_OBSERVATIONS = [
    np.ones(2, np.float64),
    np.ones(2, np.float16),
    np.ones(2, np.int64),
    np.ones(2, bool),
    [1.0, 1.0],
    (1, 1),
    torch.ones(2),
]
# What is wrong, and what every message of it holds.
NOT_FINITE = "(not finite|expected finite numbers)"  # the second where the array came from another process, with a dtype of its own
BAD: dict[str, list[tuple[Any, str]]] = {
    "observation": [
        (None, "observation"), (np.ones(3, np.float32), r"shape \[3\], expected \[2\]"), (np.float32(1), r"shape \[\], expected \[2\]"),
        (np.ones((1, 2), np.float32), r"shape \[1, 2\], expected \[2\]"), (np.ones(2, np.complex64), "complex64, expected float32"),
        (np.array([1, np.nan], np.float32), NOT_FINITE), (np.array([1, -np.inf], np.float32), NOT_FINITE),
        (np.array([1, np.nan]), "expected finite numbers"), (np.array([1, 1e39]), r"1e\+39 at \[1\], expected numbers that float32 holds"),
        ("much", "observation"), ({"a": 1}, "observation"), (np.array(["a", "b"]), "observation"),
    ],
    "reward": [
        (None, "reward is None, expected a number"), ("much", "reward is 'much', expected a number"), (1j, "reward is 1j, expected"),
        (np.ones(1), r"reward has shape \[1\], expected a single value"), (np.ones(3), r"reward has shape \[3\]"),
        ([1.0], r"reward has shape \[1\]"), ([1, [2]], "reward is list"), ({}, "reward is {}, expected"), (torch.ones(2), r"shape \[2\]"),
        (np.nan, "the reward nan, expected a finite number"), (-np.inf, "the reward -inf, expected a finite"), (10**400, "reward is 1000"),
    ],
    "terminated": [
        ("False", "terminated is 'False', expected a bool"), (np.ones(1, bool), r"terminated has shape \[1\]"), (2, "terminated is 2"),
        (np.nan, "terminated is nan, expected a bool"), ([True], r"terminated has shape \[1\]"), (None, "terminated is None"),
    ],
    "truncated": [
        ("yes", "truncated is 'yes', expected a bool"), (np.ones(2, bool), r"truncated has shape \[2\]"), (None, "truncated is None"),
    ],
    "info": [
        (3, "info is int, expected a dict"), ([], "info is list, expected a dict"), ({"success": np.ones(2)}, r"info\['success'\] is"),
    ],
    "step": [
        (None, "step returned NoneType, expected"), ((1, 2, 3, 4), "step returned 4 values, expected"), (5, "step returned int, expected"),
    ],
    "reset": [
        (None, "reset returned NoneType, expected"), (np.ones(2, np.float32), "reset returned ndarray, expected"),
        ((np.ones(2, np.float32), 3), "reset: info is int"), ((np.ones(2),) * 3, "reset returned 3 values"),
    ],
    "reset observation": [
        (np.ones(3), r"shape \[3\], expected \[2\]"), (np.array([0, np.nan], np.float32), NOT_FINITE), (None, "observation"),
    ],
}  # fmt: skip


class Returns(gym.Env):
    """Returns what it is told, from its ``at``-th step on; ends after four."""

    observation_space = spaces.Box(-2, 2, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, at: int = 1, **told: Any) -> None:
        self.at, self.told, self.t = at, told, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        usual = self.told.get("reset observation", np.zeros(2, np.float32)), self.told.get("reset info", {})
        return self.told.get("reset", usual)

    def step(self, action: Any) -> Any:
        self.t += 1
        told = self.told if self.t >= self.at else {}
        if "step" in told:
            return told["step"]
        no, yes = told.get("flags", (False, True))
        ended = yes if self.t == 4 else no
        return [
            told.get("observation", np.ones(2, np.float32)), told.get("reward", 1.0), told.get("terminated", ended),
            told.get("truncated", no), told.get("info", {}),
        ]  # fmt: skip


def run(backend: Any, env: Any = Returns, count: int = 9, **told: Any) -> list[Any]:
    """Everything that a stepper says in some steps."""
    options = {"env_kwargs": told} if told else {}
    with make(env, 2, backend=backend, seed=3, **options) as stepper:
        rows: list[Any] = [np.copy(stepper.reset()).tolist()]
        for _ in range(count):
            step = stepper.step(np.zeros(2, np.int64))
            rows.append([np.copy(x).tolist() for x in (step.next_observation, step.reward, step.terminated, step.truncated)])
            rows.append([(e.env_index, e.episode_return, e.length, e.success) for e in step.episodes])
    return rows


USUAL = run("lean")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("what", "value"),
    [("reward", v) for v in GOOD_REWARDS]
    + [("flags", v) for v in GOOD_FLAGS]
    + [("observation", v) for v in GOOD_OBSERVATIONS]
    + [("info", None), ("reset info", None), ("info", {"unpicklable": lambda: 0}), ("reset info", {"odd": object(), 3: 4})],
    ids=lambda v: f"{type(v).__name__}",
)
def test_the_same_in_other_types(backend: Any, what: str, value: Any) -> None:
    assert run(backend, **{what: value}) == USUAL


@pytest.mark.parametrize(
    ("backend", "at", "what", "value", "words"),
    [
        (backend, at, what, *case)
        for backend in BACKENDS
        for what, cases in BAD.items()
        for at in ((1,) if what.startswith("reset") or (backend == "async" and EXAMPLES == 1) else (1, 3))
        for case in cases
    ],
    ids=lambda v: str(v)[:24].replace("\n", " "),
)
def test_the_wrong_is_named(backend: Any, at: int, what: str, value: Any, words: str) -> None:
    told = {what: value, "at": at}
    with pytest.raises(EnvError, match=rf"Returns: environment 0 \(seed \d+, step \d+\): .*{words}") as caught:
        run(backend, **told)
    assert "raised" not in str(caught.value)


class Whole(ToyVector):
    """A vector environment that returns what it is told in place of one part."""

    def __init__(self, part: int, value: Any) -> None:
        super().__init__([Scripted([(3, "terminated")]) for _ in range(3)], AutoresetMode.NEXT_STEP, None)
        self.part, self.value = part, value

    def step(self, actions: Any) -> Any:
        result: list[Any] = list(super().step(actions))
        if self.part < 0:
            return self.value
        result[self.part] = self.value
        return tuple(result)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        (1, 1.0, r"reward has shape \[\], expected \[N\] = \[3\]"),
        (1, np.ones(1), r"reward has shape \[1\], expected \[N\] = \[3\]"),
        (1, np.ones((3, 1)), r"reward has shape \[3, 1\]"),
        (1, np.array(["a"] * 3), "reward has dtype"),
        (1, np.array([None] * 3), "reward has dtype object"),
        (2, False, r"terminated has shape \[\]"),
        (2, np.zeros(3), "terminated has dtype float64, expected bool"),
        (3, [False], r"truncated has shape \[1\]"),
        (0, np.zeros((2, 3), np.float32), r"shape \[2, 3\], expected \[3, 3\]"),
        (4, 7, "infos is int, expected a dict"),
        (-1, None, "step returned NoneType"),
    ],
)
def test_a_vector_environment_that_returns_something_else(part: int, value: Any, words: str) -> None:
    with make(Whole(part, value)) as stepper:
        stepper.reset()
        with pytest.raises(EnvError, match=rf"Whole \(3 environments, seed 0\): .*{words}"):
            stepper.step(np.zeros(3, np.int64))


def test_a_vector_environment_without_infos_or_metadata() -> None:
    env: VectorEnv = Whole(4, None)
    env.metadata = None  # type: ignore[assignment]
    with make(env) as stepper:
        stepper.reset()
        assert stepper.step(np.zeros(3, np.int64)).reward.tolist() == [1, 1, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_metadata_and_with_gymnasiums_autoreset(backend: Any) -> None:
    class Bare(Returns):
        metadata = None  # type: ignore[assignment]

    assert run(backend, Bare) == USUAL
    assert run(backend, lambda: gym.wrappers.Autoreset(Returns())) == USUAL


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_spaces(backend: Any) -> None:
    class Spaceless(gym.Env):
        pass

    with pytest.raises(ValueError, match="Spaceless: observation_space is None"):
        make(Spaceless, backend=backend)


def test_a_users_sync_vector_env_closes_in_words() -> None:
    class Jammed(Returns):
        def close(self) -> None:
            raise OSError("door is jammed")

    stepper = make(SyncVectorEnv([Jammed]))
    stepper.reset()
    with pytest.raises(EnvError, match="close raised OSError: door is jammed"):
        stepper.close()
