"""A row of a rollout is checked whole before any of it is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from pyrl.buffers import RolloutBuffer
from pyrl.errors import DTypeError, NonFiniteError, ShapeError
from pyrl.types import StepResult

N = 3


def step(seed: int = 0, mask: np.ndarray | None = None) -> StepResult:
    rng = np.random.default_rng(seed)
    flags = (np.array(rng.random(N) < p) for p in (0.3, 0.0))
    observation = rng.random((N, 4), np.float32)
    ended, cut = flags
    return StepResult(
        observation,
        rng.integers(2, size=N),
        rng.standard_normal(N),
        observation + 1,
        ended,
        cut,
        np.ones(N, bool),
        first=~ended,
        action_mask=mask,
    )


def buffer(**options: object) -> RolloutBuffer:
    return RolloutBuffer(5, N, spaces.Box(-9, 9, (4,)), spaces.Discrete(2), **options)  # type: ignore[arg-type]


def test_rows_are_what_was_given() -> None:
    made, steps = buffer(extra={"log_prob": ((), "float32")}), [step(t) for t in range(5)]
    for t, given in enumerate(steps):
        made.add(given, {"log_prob": np.full(N, t)})  # integers become floats, float64 rewards float32
    rollout = made.take(steps[0].observation)
    for name in ("observation", "action", "terminated", "truncated", "valid", "first"):
        np.testing.assert_array_equal(getattr(rollout, name)[:5], np.stack([getattr(given, name) for given in steps]))
    np.testing.assert_array_equal(rollout.reward, np.stack([given.reward for given in steps]).astype(np.float32))
    np.testing.assert_array_equal(rollout.extra["log_prob"], np.repeat(np.arange(5.0, dtype=np.float32), N).reshape(5, N))


@pytest.mark.parametrize("flags", [np.array([0, 1, 0], bool), np.array([0, 3, 0], np.uint8), np.array([0, 2, 0], np.uint8).view(bool)])
def test_observations_after_which_episodes_were_truncated_are_kept(flags: np.ndarray) -> None:
    made, given = buffer(), replace(step(0), truncated=flags)
    for row in (step(1), given, step(2)):
        made.add(row, {})
    rollout = made.take(step(3).observation)
    assert (rollout.final_step.tolist(), rollout.final_env.tolist()) == ([1], [1])
    np.testing.assert_array_equal(rollout.final_observation, given.next_observation[1:2])
    assert rollout.truncated.view(np.uint8).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_masks_that_come_late_leave_the_rows_before_free() -> None:
    made, mask = buffer(), np.array([[True, False]] * N)
    for given in (step(0), step(1, mask), step(2)):
        made.add(given, {})
    masks = made.take(step().observation).action_mask
    assert masks is not None
    np.testing.assert_array_equal(masks, [np.ones_like(mask), mask, np.ones_like(mask)])


@pytest.mark.parametrize(
    ("error", "text", "changed"),
    [
        (NonFiniteError, "reward of environment 1 is not finite", {"reward": np.array([0, np.nan, 0])}),
        (NonFiniteError, "reward of environment 2 is not finite", {"reward": np.array([0, 0, 1e300])}),
        (ShapeError, "reward has shape", {"reward": np.zeros(N + 1)}),
        (ShapeError, "observation.0 has shape", {"observation": np.zeros((N, 3), np.float32)}),
        (DTypeError, "action has dtype", {"action": np.zeros(N)}),
        (DTypeError, "terminated has dtype", {"terminated": np.zeros(N)}),
    ],
)
def test_a_refused_row_changes_nothing(error: type[Exception], text: str, changed: dict[str, np.ndarray]) -> None:
    made, twin = buffer(), buffer()
    made.add(step(0), {})
    twin.add(step(0), {})
    with pytest.raises(error, match=f"RolloutBuffer: {text}"):
        made.add(replace(step(1), **changed), {})
    assert len(made) == 1
    for one in (made, twin):
        one.add(step(2), {})
    for name, rows in made.state_dict()["rows"].items():
        np.testing.assert_array_equal(rows, twin.state_dict()["rows"][name])


def test_columns_are_those_of_the_first_row() -> None:
    made = buffer()
    made.add(step(0), {"log_prob": np.zeros(N, np.float32)})
    for other in ({}, {"value": np.zeros(N)}):
        with pytest.raises(ValueError, match=r"RolloutBuffer: extra columns are .* expected \['log_prob'\]"):
            made.add(step(1), other)
