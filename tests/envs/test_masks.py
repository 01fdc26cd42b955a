"""Action masks come with the observations they belong to, for every backend and autoreset mode."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import pyrl
from pyrl.agents.random import Random
from pyrl.envs import make, notices
from pyrl.spaces.masks import MaskReader

SPACES = {"discrete": spaces.Discrete(3, start=5), "multi": spaces.MultiDiscrete([2, 3])}
SIZES = {"discrete": [3], "multi": [2, 3]}


def allowed(kind: str, shown: int) -> list[np.ndarray]:
    """The masks of the components at the observation ``shown``, an episode's number times ten and its step."""
    masks = [((shown + np.arange(size)) % 3 > 0) | (np.arange(size) == shown % size) for size in SIZES[kind]]
    return [mask.astype(np.int8) for mask in masks]


class Masked(gymnasium.Env):
    """Episodes of three steps. Observations count them, and masks follow from observations."""

    observation_space = spaces.Box(0, 1000, (1,), np.int64)

    def __init__(self, kind: str, late: bool = False, bad: str | None = None, until: int = 3) -> None:
        self.action_space = SPACES[kind]
        self.kind, self.late, self.bad, self.until = kind, late, bad, until
        self.episode, self.t = -1, 0

    def shown(self, at: str) -> tuple[np.ndarray, dict[str, Any]]:
        shown = 10 * self.episode + self.t
        if self.bad == at:
            return np.array([shown]), {"action_mask": np.ones(9)}
        masks = tuple(allowed(self.kind, shown))
        mask = masks if self.kind == "multi" and self.episode % 2 == 0 else np.concatenate(masks)
        return np.array([shown]), {} if (self.late and at == "reset") or self.t > self.until else {"action_mask": mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.shown("reset")

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.t += 1
        observation, info = self.shown("step")
        over, terminates = self.t == 3, self.episode % 2 == 0
        return observation, 1.0, over and terminates, over and not terminates, info


def source(kind: str, backend: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    if backend in AutoresetMode.__members__:
        return SyncVectorEnv([lambda: Masked(kind, **options)] * 2, autoreset_mode=AutoresetMode[backend]), {}
    return lambda: Masked(kind, **options), {"num_envs": 2, "backend": backend}


@pytest.mark.parametrize("backend", ["lean", "sync", "async", "processes", *AutoresetMode.__members__])
@pytest.mark.parametrize("kind", SPACES)
def test_masks_follow_the_observations(kind: str, backend: str) -> None:
    env, options = source(kind, backend)

    def expected(observation: np.ndarray) -> np.ndarray:
        return np.array([np.concatenate(allowed(kind, int(shown))) for shown in observation[:, 0]], bool)

    with make(env, **options) as stepper:
        stepper.reset()
        action = np.zeros(2, np.int64) if kind == "discrete" else np.zeros((2, 2), np.int64)
        for _ in range(11):
            np.testing.assert_array_equal(stepper.action_mask, expected(stepper.observation))
            step = stepper.step(action)
            np.testing.assert_array_equal(step.action_mask, expected(step.observation))
            np.testing.assert_array_equal(step.next_action_mask, expected(step.next_observation))


@pytest.mark.parametrize("backend", ["lean", "sync", "SAME_STEP"])
def test_late_masks_and_those_of_boxes_are_said_to_be_ignored_once(
    backend: str, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, sizes, why in (
        ({"late": True}, [3], "with steps and not with resets"),
        ({}, [], "masks of Box and MultiBinary actions are not known"),
    ):
        notices._said.clear()
        monkeypatch.setattr(MaskReader, "__init__", lambda self, space, sizes=sizes: setattr(self, "sizes", sizes))
        recwarn.clear()
        for _ in range(2):
            env, made = source("discrete", backend, **options)
            with make(env, **made) as stepper:
                stepper.reset()
                for _ in range(4):
                    assert stepper.step(np.zeros(2, np.int64)).action_mask is None
        said = [str(w.message) for w in recwarn]
        assert len(said) == 1
        assert "info['action_mask'] is ignored" in said[0]
        assert why in said[0]


@pytest.mark.parametrize("backend", ["lean", "sync", "SAME_STEP", "NEXT_STEP"])
@pytest.mark.parametrize("only_resets", [True, False])
def test_masks_of_resets_alone_are_told_of_once(only_resets: bool, backend: str, recwarn: pytest.WarningsRecorder) -> None:
    """Masks that are missing where an episode is over are not."""
    notices._said.clear()
    env, made = source("discrete", backend, until=0 if only_resets else 2)
    with make(env, **made) as stepper:
        stepper.reset()
        for _ in range(12):
            stepper.step(np.zeros(2, np.int64))
    said = [str(w.message) for w in recwarn if "action_mask" in str(w.message)]
    assert len(said) == only_resets
    assert all("comes with resets and not with steps" in text for text in said)


@pytest.mark.parametrize("backend", ["lean", "sync", "SAME_STEP"])
def test_a_mask_of_a_reset_that_is_none_is_an_error(backend: str) -> None:
    env, made = source("discrete", backend, bad="reset")
    with make(env, **made) as stepper, pytest.raises(pyrl.errors.EnvError, match=r"reset: info\['action_mask'\] is .*, expected 3 numbers"):
        stepper.reset()


def test_a_mask_that_breaks_later_is_an_error() -> None:
    with make(lambda: Masked("discrete", bad="step"), 2, backend="lean") as stepper:
        stepper.reset()
        with pytest.raises(pyrl.errors.EnvError, match=r"step: info\['action_mask'\] is .*, expected 3 numbers"):
            stepper.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("how", ["train", "evaluate"])
def test_agents_that_do_not_honour_masks_say_so_once(how: str, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    notices._said.clear()
    monkeypatch.setattr(Random, "honours_masks", False)
    agent = pyrl.make_agent("random", Masked.observation_space, SPACES["discrete"], n_steps=4)
    for _ in range(2):
        if how == "train":
            list(pyrl.iterate(agent, lambda: Masked("discrete"), 8))
        else:
            pyrl.evaluate(agent, lambda: Masked("discrete"), 2)
    said = [str(w.message) for w in recwarn if "action_mask" in str(w.message)]
    assert len(said) == 1
    assert "random does not honour masks" in said[0]


def test_masks_are_read_by_their_definition() -> None:
    reader = MaskReader(spaces.MultiDiscrete([2, 3]))
    expected = [False, True, True, False, True]
    for form in ([0, 1, 1, 0, 1], (np.array([0, 1]), np.array([1, 0, 1])), np.array([[0.0, 1.0, 1.0, 0.0, 1.0]]), tuple(expected)):
        np.testing.assert_array_equal(reader.read(form), expected)
    np.testing.assert_array_equal(reader.read([0, 0, 0, 1, 0]), [True, True, False, True, False])  # a component that nothing is allowed of
    for wrong in ([0, 1], [0, 2, 1, 1, 1], "abcde", None):
        with pytest.raises(ValueError, match=r"info\['action_mask'\] is .*, expected 5 numbers, each 0 or 1"):
            reader.read(wrong)
    with pytest.raises(ValueError, match="Box and MultiBinary"):
        MaskReader(spaces.MultiBinary(3)).read([1, 1, 1])
