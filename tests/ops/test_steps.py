"""`StepBook` against the obvious definition, lists of Python numbers; `StepCalls` and `RolloutCalls` against their parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrl.errors import DTypeError, ShapeError
from pyrl.ops.acting import act
from pyrl.ops.environments import NativePolicy
from pyrl.ops.networks import Layer, Network
from pyrl.ops.random import RandomStream
from pyrl.ops.steps import RolloutCalls, StepBook, StepCalls, rollout_calls

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


class Calls:
    """`StepCalls` of functions that return what ``results`` says."""

    def __init__(self, results: list[Any], limits: list[int] | None = None, buffers: int = 1) -> None:
        count = len(results)
        self.results = results
        self.book, self.reward, self.truncated = book_of(limits or [NEVER] * count)
        self.terminated = np.zeros(count, bool)
        self.buffers = [np.zeros((count, 2), np.float32) for _ in range(buffers)]
        self.lists: tuple[list[Any], ...] = ([None] * count, [0.0] * (count + 1), [None] * count)
        self.calls = StepCalls(self.book, *self.lists, self.terminated, self.buffers)
        self.actions: list[Any] = []

    def run(self, buffer: int = 0) -> tuple[int, list[int]]:
        def step(i: int) -> Any:
            def call(action: Any) -> Any:
                self.actions.append(action)
                if isinstance(self.results[i], BaseException):
                    raise self.results[i]
                return self.results[i]

            return call

        ended: list[int] = []
        count = len(self.results)
        return self.calls.run([step(i) for i in range(count)], [f"action {i}" for i in range(count)], buffer, ended), ended


def result(*row: float, reward: Any = 1.0, terminated: Any = False, truncated: Any = False) -> tuple[Any, ...]:
    return np.array(row, np.float32), reward, terminated, truncated, {"row": row}


def test_usual_results_are_taken_in_one_call() -> None:
    case = Calls(
        [result(1, 2, reward=3), result(3, 4, terminated=True), result(5, 6, truncated=True), result(7, 8, reward=np.float64(0.5))]
    )
    assert case.run() == (-1, [1, 2])
    assert case.actions == [f"action {i}" for i in range(4)]
    assert case.buffers[0].tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert case.reward.tolist() == [3, 1, 1, 0.5]
    assert (case.terminated.tolist(), case.truncated.tolist()) == ([False, True, False, False], [False, False, True, False])
    observations, rewards, infos = case.lists
    assert all(observation is given[0] and info is given[4] for observation, info, given in zip(observations, infos, case.results))
    assert rewards == [3, 1.0, 1.0, 0.5, 0.0]
    assert case.book.clock == 1
    assert case.book.finish(0, 1) == (3.0, 1)


def test_time_limits_end_episodes_in_the_same_call() -> None:
    case = Calls([result(1, 2), result(3, 4), result(5, 6)], [2, 1, 2])
    assert case.run() == (-1, [1])
    assert case.truncated.tolist() == [False, True, False]
    case.book.finish(1, 1)
    case.truncated[:] = False
    case.results[0] = result(1, 2, terminated=True)
    assert case.run() == (-1, [0, 1, 2])
    assert (case.terminated.tolist(), case.truncated.tolist()) == ([True, False, False], [True] * 3)


FORMS = [
    None,
    3,
    [*result(3, 4)],
    result(3, 4)[:4],
    result(3, 4, terminated=0),
    result(3, 4, truncated=np.False_),
    result(3, 4, terminated=None),
]


@pytest.mark.parametrize("form", FORMS)
def test_a_result_of_another_form_is_left_to_the_caller(form: Any) -> None:
    """From the first one on: the environments behind it are not called."""
    case = Calls([result(1, 2, terminated=True), form, result(5, 6)])
    assert case.run() == (1, [0])
    assert len(case.actions) == 2
    assert case.lists[0][1] is form
    assert case.book.clock == 0


NUMBERS = [
    *(
        (x, 1.0)
        for x in ([1.0, 2.0], np.zeros(2), np.zeros(3, np.float32), np.zeros((2, 2), np.float32)[:, 0], np.array([0, np.nan], np.float32))
    ),
    *((np.zeros(2, np.float32), reward) for reward in (np.float32(1), True, None, math.nan, 1 << 2000)),
]


@pytest.mark.parametrize(("observation", "reward"), NUMBERS)
def test_numbers_of_another_kind_are_left_to_the_caller(observation: Any, reward: Any) -> None:
    """All were called, nothing is booked."""
    case = Calls([(observation, reward, False, False, {}), result(5, 6)])
    assert case.run() == (2, [])
    assert case.lists[0][0] is observation
    assert case.lists[1][0] is reward
    assert case.book.clock == 0


def test_without_buffers_the_observations_are_left_to_the_caller() -> None:
    case = Calls([result(1, 2), result(3, 4, terminated=True)], buffers=0)
    assert case.run() == (2, [1])


def test_an_error_says_where_it_was() -> None:
    case = Calls([result(1, 2), KeyError("wheels"), result(3, 4)])
    with pytest.raises(KeyError, match="wheels"):
        case.run()
    assert case.calls.at == 1
    assert len(case.actions) == 2


def test_calls_that_are_refused() -> None:
    book, _, truncated = book_of([9, 9])
    usual = dict(book=book, observations=[0, 0], rewards=[0, 0], infos=[0, 0], terminated=truncated.copy(), buffers=[np.zeros((2, 3))])
    for error, text, other in (
        (ShapeError, "a list has 1 entries, expected at least 2", {"infos": [0]}),
        (ShapeError, r"terminated has shape \[3\]", {"terminated": np.zeros(3, bool)}),
        (ShapeError, r"buffer has shape \[3, 3\]", {"buffers": [np.zeros((3, 3))]}),
        (ShapeError, r"buffer has shape \[2\]", {"buffers": [np.zeros(2)]}),
        (ValueError, "not contiguous", {"buffers": [np.zeros((2, 6))[:, ::2]]}),
    ):
        with pytest.raises(error, match=text):
            StepCalls(**{**usual, **other})
    calls = StepCalls(**usual)
    with pytest.raises(ShapeError, match="run: 1 steps and 2 actions, expected 2 of each"):
        calls.run([len], [0, 0], 0, [])
    with pytest.raises(DTypeError, match="run: ended is a tuple, expected a list"):
        calls.run([len, len], [0, 0], 0, ())


class Rollout:
    """`RolloutCalls` of three functions, whose actions are ``kind``: an int of discrete ones, or "box"."""

    def __init__(self, kind: int | str, rows: int = 4) -> None:
        self.calls = Calls([result(1, 2), result(3, 4, reward=3), result(5, 6)], buffers=3)
        self.calls.buffers[0][...] = [[1, -2], [0, 3], [2, 2]]
        network = Network([Layer(2, 4, 0, 8, activation="tanh"), Layer(4, 2, 12)])
        parameters = np.random.default_rng(0).normal(size=20).astype(np.float32)
        log_std = np.array([-1, 0.5], np.float32) if kind == "box" else None
        self.policy = NativePolicy(network, parameters, log_std, RandomStream(3, "a"))
        shown, flags = np.zeros((2, rows, 3, 2), np.float32), np.ones((2, rows, 3), bool)
        drawn = np.zeros((rows, 3, 2), np.float32) if kind == "box" else np.zeros((rows, 3), np.int64)
        self.columns = (*shown, drawn, np.zeros((rows, 3)), *flags, np.zeros((rows, 3), np.float32))
        self.kind: Any = kind
        self.made = self.make()

    def make(self, **other: Any) -> RolloutCalls:
        usual: dict[str, Any] = {"calls": self.calls.calls, "policy": self.policy, "columns": self.columns}
        actions = list if self.kind == "box" else (self.kind, 2)
        return rollout_calls(**{**usual, "actions": actions, **other})

    def row(self, t: int, shown: int) -> tuple[int, list[int]]:
        ended: list[int] = []
        return self.made.row(t, shown, [lambda action, i=i: self.step(i, action) for i in range(3)], ended), ended

    def step(self, index: int, action: Any) -> Any:
        self.calls.actions.append(action)
        if isinstance(self.calls.results[index], BaseException):
            raise self.calls.results[index]
        return self.calls.results[index]


@pytest.mark.parametrize("kind", [0, -1, 7, "box"])
def test_a_row_is_what_its_parts_make(kind: int | str) -> None:
    one = Rollout(kind)
    random = RandomStream(3, "a")
    for t, shown in ((0, 0), (1, 1), (3, 2)):
        observation = one.calls.buffers[shown].copy()
        del one.calls.actions[:]
        assert one.row(t, shown) == (-1, [])
        nvec = None if kind == "box" else 2
        action, log_prob = act(one.policy.network, one.policy.parameters, observation, None, None, nvec, one.policy.log_std, random, False)
        given = [row.tolist() for row in one.calls.actions] if kind == "box" else [number - kind for number in one.calls.actions]
        assert given == action.tolist()
        assert list(map(type, one.made.actions)) == [np.ndarray if kind == "box" else int] * 3
        expected = observation, one.calls.buffers[(shown + 1) % 3], action, one.calls.reward, [False] * 3, [False] * 3, log_prob
        for column, value in zip(one.columns, expected):
            np.testing.assert_array_equal(column[t], value)
    assert one.policy.random.state == random.state
    assert one.calls.book.clock == 3


@pytest.mark.parametrize("reward", [4e38, -1e300, 3e38])
def test_a_reward_that_float32_does_not_hold_is_told(reward: float) -> None:
    one = Rollout(0)
    one.calls.results[1] = result(3, 4, reward=reward)
    assert one.row(0, 0) == (-1 if reward == 3e38 else -2, [])
    assert one.columns[3][0].tolist() == [1, reward, 1]


def test_a_finalizer_may_step_the_same_environments() -> None:
    """What an info held is dropped while its successor is stored; nothing is written where no environment is."""
    case = Calls([result(1, 2), result(3, 4)])
    ran = []

    class Last:
        def __del__(self) -> None:
            ran.append(case.run())

    case.results[0] = (*result(1, 2)[:4], {"last": Last()})
    assert case.run() == (-1, [])
    case.results[0] = result(5, 6)
    assert case.run() == (-1, [])
    assert ran == [(-1, [])]
    assert case.buffers[0].tolist() == [[5, 6], [3, 4]]


def test_what_is_not_usual_is_left_to_the_caller() -> None:
    one = Rollout(0)
    one.calls.results[1] = result(3, 4, terminated=True)
    assert one.row(0, 0) == (-1, [1])
    assert one.columns[5][0].all()  # not written
    one.calls.results[2] = None
    assert one.row(1, 1) == (2, [1])
    one.calls.results[0] = KeyError("wheels")
    with pytest.raises(KeyError, match="wheels"):
        one.row(2, 2)
    assert one.calls.calls.at == 0
    assert one.policy.random.draw == 3  # each step took its draw
    one.policy.parameters[...] = math.nan
    with pytest.raises(ValueError, match="logits"):
        one.row(3, 0)
    assert one.calls.calls.at == -1
    assert one.policy.random.draw == 3


def test_rollouts_that_are_refused() -> None:
    one, columns = Rollout(0), list(Rollout(0).columns)
    policies = {
        "wide": NativePolicy(Network([Layer(5, 2, 0)]), np.zeros(10, np.float32), None, one.policy.random),
        "double": NativePolicy(Network([Layer(2, 2, 0)], "float64"), np.zeros(4), None, one.policy.random),
    }
    wrong: list[tuple[str, dict[str, Any]]] = [
        (r"RolloutCalls: columns has 6 arrays, expected 7", {"columns": tuple(columns[:6])}),
        (r"columns.action has shape \[4, 3, 2\] and dtype|columns.action has dtype float32", {"columns": Rollout("box").columns}),
        (r"columns.reward has shape \[4, 2\], expected \[T, 3, ...\]", {"columns": (*columns[:3], np.zeros((4, 2)), *columns[4:])}),
        ("an observation has 2 numbers of float32, expected 5", {"policy": policies["wide"]}),
        ("the network is of float64", {"policy": policies["double"]}),
        (r"the network has 2 outputs, expected 3 \(the actions\)", {"actions": (0, 3)}),
        ("calls has no buffers", {"calls": Calls([result(1, 2)] * 3, buffers=0).calls}),
    ]
    for text, other in wrong:
        with pytest.raises((ValueError, DTypeError), match=text):
            one.make(**other)
    for t, shown in ((4, 0), (-1, 0), (0, 3)):
        with pytest.raises(ValueError, match=f"row: t is {t} and shown {shown}, expected less than 4 and 3"):
            one.row(t, shown)
    with pytest.raises(DTypeError, match="row: steps is a tuple, expected a list"):
        one.made.row(0, 0, (), [])
    with pytest.raises(ShapeError, match="run: 2 steps and 3 actions"):
        one.made.row(0, 0, [one.step] * 2, [])
    assert one.policy.random.draw == 1


def test_actions_of_another_number_are_refused() -> None:
    one = Rollout("box")
    for actions, error, text in ((lambda row: list(row)[:2], ShapeError, "3 steps and 2 actions"), (lambda row: None, TypeError, "None")):
        one.made = one.make(actions=actions)
        with pytest.raises(error, match=text):
            one.row(0, 0)
