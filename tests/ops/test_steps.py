"""`StepBook` against the obvious definition: lists of Python numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrl.errors import DTypeError, ShapeError
from pyrl.ops.steps import StepBook

NEVER = 1 << 62


@dataclass
class Slow:
    """What a stepper keeps of its environments, one by one."""

    limits: list[int]
    clock: int = 0
    starts: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.starts, self.returns = [self.clock] * len(self.limits), [0.0] * len(self.limits)

    def step(self, rewards: list[Any]) -> bool:
        self.clock += 1
        self.returns = [total + float(reward) for total, reward in zip(self.returns, rewards)]
        return any(self.over())

    def over(self) -> list[bool]:
        return [self.clock - start >= limit for start, limit in zip(self.starts, self.limits)]

    def cut(self, ended: list[int]) -> list[int]:
        return [i for i, over in enumerate(self.over()) if over or i in ended]

    def finish(self, i: int) -> tuple[float, int]:
        result = self.returns[i], self.clock - self.starts[i]
        self.returns[i], self.starts[i] = 0.0, self.clock
        return result


def book_of(limits: list[int]) -> tuple[StepBook, np.ndarray, np.ndarray]:
    reward, truncated = np.zeros(len(limits)), np.zeros(len(limits), bool)
    return StepBook(reward, truncated, limits), reward, truncated


usual = st.floats(-1e300, 1e300) | st.integers(-(2**60), 2**60) | st.floats(-9, 9).map(np.float64)


@given(st.data(), st.lists(st.integers(1, 6) | st.just(NEVER), min_size=1, max_size=5))
def test_a_run_is_booked_as_by_hand(data: st.DataObject, limits: list[int]) -> None:
    book, reward, truncated = book_of(limits)
    slow = Slow(limits)
    for _ in range(data.draw(st.integers(1, 25))):
        if data.draw(st.integers(0, 9)) == 0:
            book.reset()
            slow.reset()
        rewards = [data.draw(usual) for _ in limits]
        if data.draw(st.booleans()):
            due = book.step([*rewards, "one more than there are"])
        else:
            reward[:] = rewards
            due = book.step(None)
        struck = slow.step(rewards)
        assert reward.tolist() == [float(r) for r in rewards]
        assert due in (True, False)
        assert due or not struck  # it may be asked for too early, never too late
        ended = data.draw(st.lists(st.integers(0, len(limits) - 1), unique=True).map(sorted))
        truncated[:] = False
        if due:
            over = slow.over()
            ended, expected = book.cut(ended), slow.cut(ended)
            assert ended == expected
            assert truncated.tolist() == over
        ages = [slow.clock - start for start in slow.starts]
        assert [book.age(i) for i in range(len(limits))] == ages
        assert book.clock == slow.clock
        for i in ended:
            assert book.finish(i, book.clock) == slow.finish(i)


@pytest.mark.parametrize("limits", [[3], [3, 5, NEVER]])
def test_a_limit_is_due_in_its_step(limits: list[int]) -> None:
    book, _, truncated = book_of(limits)
    due = [book.step([1.0] * len(limits)) for _ in range(3)]
    assert due == [False, False, True]
    assert book.cut([]) == [0]
    assert truncated.tolist() == [True, *[False] * (len(limits) - 1)]
    assert book.finish(0, book.clock) == (3.0, 3)
    assert book.step([1.0] * len(limits)) is False


UNUSUAL = [np.float32(1), True, None, "1", np.array(1.0), 1 << 2000]


@pytest.mark.parametrize("reward", [*UNUSUAL, math.nan, math.inf, -math.inf])
def test_other_rewards_are_left_to_the_caller(reward: Any) -> None:
    """Nothing is booked."""
    book, _, _ = book_of([9, 9])
    assert book.step([1.0, 2.0]) is False
    assert book.step([1.0, reward]) is None
    assert book.clock == 1
    assert [book.finish(i, 0) for i in range(2)] == [(1.0, 1), (2.0, 1)]


def test_a_step_of_the_array_counts_whatever_the_rewards_are() -> None:
    book, reward, _ = book_of([9, 9])
    reward[:] = 1.0, math.nan
    assert book.step(None) is None
    assert book.age(0) == 1
    assert book.finish(0, 1) == (0.0, 1)


def test_what_it_refuses() -> None:
    reward, truncated = np.zeros(2), np.zeros(2, bool)
    with pytest.raises(ValueError, match="StepBook: limits is empty"):
        StepBook(reward, truncated, [])
    with pytest.raises(ValueError, match=r"StepBook: a limit is .*, expected at most 2\^62"):
        StepBook(reward, truncated, [1, NEVER + 1])
    with pytest.raises(ShapeError, match=r"StepBook: reward has shape \[2\], expected \[N\] = \[3\]"):
        StepBook(reward, truncated, [1, 1, 1])
    with pytest.raises(DTypeError, match="StepBook: reward has dtype float32"):
        StepBook(reward.astype(np.float32), truncated, [1, 1])
    with pytest.raises(DTypeError, match="StepBook: truncated"):
        StepBook(reward, np.zeros(2), [1, 1])
    book = StepBook(reward, truncated, [1, 1])
    for wrong in ((1.0, 2.0), [1.0]):
        with pytest.raises(DTypeError, match=r"step: rewards is a .*, expected a list of at least 2, or None"):
            book.step(wrong)
    with pytest.raises(DTypeError, match="cut: ended is a tuple, expected a list"):
        book.cut((1,))
    for call in (lambda: book.cut([2]), lambda: book.age(-1), lambda: book.finish(2, 0)):
        with pytest.raises(ValueError, match=r"index is -?[12], expected 0 to 1"):
            call()
    with pytest.raises(TypeError, match="__init__ was not called"):
        StepBook.__new__(StepBook).reset()


def test_state_goes_over_to_another_book() -> None:
    """Returns, lengths and time limits go on where they were, whatever the other book's clock says."""
    first, second = (StepBook(np.zeros(3), np.zeros(3, bool), [5, 9, NEVER]) for _ in range(2))
    for book, steps in ((first, 3), (second, 4)):
        for _ in range(steps):
            book.step([1.0, 2.0, -1.0])
    second.load(*first.state())
    assert second.state() == first.state() == ([3.0, 6.0, -3.0], [3, 3, 3])
    assert [second.step([1.0] * 3) for _ in range(2)] == [False, True]
    assert second.cut([]) == [0]
    assert second.finish(0, second.clock) == (5.0, 5)
    with pytest.raises(ShapeError, match="2 returns and 3 ages, expected 3 of each"):
        second.load([0.0] * 2, [0] * 3)
