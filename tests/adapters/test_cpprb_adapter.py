"""cpprb's interface on the record stream, against cpprb 11.0.0 itself (`pip install 'pyrl[cpprb]'`): the same calls to both.

Of cpprb's own tests none is run here: they read positions of its ring and its private arrays.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyrl.adapters import cpprb as ours
from pyrl.errors import CheckpointError, DTypeError, NonFiniteError, SettingError, ShapeError

host_module = pytest.importorskip("cpprb", reason="cpprb is not installed: pip install 'pyrl[cpprb]'")
COLUMNS = {
    "obs": {"shape": (2, 3), "dtype": np.float64},
    "act": {"dtype": np.int32},
    "rew": {"shape": 2},
    "next_obs": {"shape": (2, 3), "dtype": np.float64},
    "done": {},
    "mask": {"shape": 4, "dtype": np.bool_},
    "reward": {"dtype": np.uint8},  # a name that pyrl's own buffers reserve
}
NSTEP = {"size": 3, "gamma": 0.5, "rew": "rew", "next": "next_obs"}


class theirs:
    """cpprb; it writes into the `env_dict` that it is given, so it gets a copy."""

    @staticmethod
    def ReplayBuffer(size: int, env_dict: Any, **options: Any) -> Any:
        return host_module.ReplayBuffer(size, copy.deepcopy(env_dict), **options)

    @staticmethod
    def PrioritizedReplayBuffer(size: int, env_dict: Any, **options: Any) -> Any:
        return host_module.PrioritizedReplayBuffer(size, copy.deepcopy(env_dict), **options)


def steps(count: int, rng: np.random.Generator, ends: float = 0.0) -> dict[str, np.ndarray]:
    return {
        "obs": rng.normal(size=(count, 2, 3)),
        "act": rng.integers(-5, 5, count),
        "rew": rng.normal(size=(count, 2)).astype(np.float32),
        "next_obs": rng.normal(size=(count, 2, 3)),
        "done": rng.random(count) < ends,
        "mask": rng.random((count, 4)) < 0.5,
        "reward": rng.integers(0, 255, count),
    }


def ordered(transitions: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By the first number of the observation, which no two steps share."""
    order = np.argsort(transitions["obs"].reshape(len(transitions["obs"]), -1)[:, 0])
    return {name: column[order] for name, column in transitions.items()}


def assert_same(own: dict[str, np.ndarray], host: dict[str, np.ndarray], columns: Any = None) -> None:
    own, host = ordered(own), ordered(host)
    for name in columns or host:
        assert own[name].dtype == host[name].dtype, name
        np.testing.assert_array_equal(own[name], host[name], err_msg=name)


def test_the_same_columns_are_stored() -> None:
    rng = np.random.default_rng(0)
    own, host = ours.ReplayBuffer(50, COLUMNS), theirs.ReplayBuffer(50, COLUMNS)
    for count in (1, 1, 7, 1, 30, 1, 25, 60, 3):  # beyond the ring, and more than the ring at once
        rows = steps(count, rng)
        if count == 1:
            rows = {name: column[0] for name, column in rows.items()}
        own.add(**rows)
        host.add(**rows)
        assert_same(own.get_all_transitions(), host.get_all_transitions())
        assert own.get_stored_size() == host.get_stored_size()
        assert own.get_buffer_size() == host.get_buffer_size()
        assert own.get_next_index() == host.get_next_index()
        assert own.get_current_episode_len() == host.get_current_episode_len()
    own.on_episode_end()
    assert own.get_current_episode_len() == 0
    assert_same(own.get_all_transitions(shuffle=True), host.get_all_transitions())
    drawn, stored = own.sample(400), own.get_all_transitions()
    assert {name: column.shape for name, column in drawn.items()} == {n: c.shape for n, c in host.sample(400).items()}
    rows = {tuple(row) for row in stored["obs"].reshape(50, -1)}
    assert {tuple(row) for row in drawn["obs"].reshape(400, -1)} == rows
    for row in range(400):  # whole transitions are drawn
        at = np.flatnonzero((stored["obs"] == drawn["obs"][row]).all((1, 2)))[0]
        assert all((stored[name][at] == drawn[name][row]).all() for name in stored)


def test_lists_numbers_and_defaults_as_cpprb_takes_them() -> None:
    about = {"obs": {"shape": 2}, "act": {}, "done": {"dtype": bool}}
    both = ours.ReplayBuffer(1e1, about, default_dtype=np.float64), theirs.ReplayBuffer(10, about, default_dtype=np.float64)
    for buffer in both:
        assert buffer.add(obs=[1, 2], act=3, done=0) == 0
        assert buffer.add(obs=[[3, 4], [5, 6]], act=[1, 2], done=[True, False]) == 1
        assert buffer.add(obs=np.arange(2), act=np.array([7]), done=1) == 3
    assert_same(*(buffer.get_all_transitions() for buffer in both))


def test_what_is_stored_is_a_copy() -> None:
    for options in ({}, {"Nstep": NSTEP}):
        buffer, rows = ours.ReplayBuffer(9, COLUMNS, **options), steps(1, np.random.default_rng(0))
        first = rows["rew"].copy()
        buffer.add(**rows)
        for column in rows.values():
            column[...] = 0
        buffer.on_episode_end()
        np.testing.assert_array_equal(buffer.get_all_transitions()["rew"], first)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_n_step_sums_are_cpprbs(count: int) -> None:
    """cpprb's `done` leaves out a window's last step, and an episode that is cut has no next value: compared where it is right."""
    rng = np.random.default_rng(count)
    options = {"Nstep": {**NSTEP, "rew": ["rew"], "next": ["next_obs"]}}
    own, host = ours.ReplayBuffer(500, COLUMNS, **options), theirs.ReplayBuffer(500, COLUMNS, **options)
    assert own.is_Nstep()
    for block in range(40):
        rows = steps(count, rng, ends=0.1)
        first, second = (buffer.add(**{name: column.copy() for name, column in rows.items()}) for buffer in (own, host))
        assert first == second
        if block % 9 == 8:
            own.on_episode_end()
            host.on_episode_end()
        assert own.get_stored_size() == host.get_stored_size()
    mine, other = ordered(own.get_all_transitions()), ordered(host.get_all_transitions())
    assert_same(mine, other, ["obs", "act", "mask", "reward"])
    np.testing.assert_allclose(mine["rew"], other["rew"], rtol=1e-6, atol=1e-6)
    runs_on = (mine["discounts"] == 0.5**3)[:, 0] & (mine["done"] == 0)[:, 0]
    assert 5 < runs_on.sum() < len(runs_on)
    np.testing.assert_array_equal(mine["next_obs"][runs_on], other["next_obs"][runs_on])
    assert (mine["done"][other["done"] > 0] == 1).all()  # which counts them, where there are two


def test_n_step_windows_of_an_episode_that_terminates_and_one_that_is_cut() -> None:
    """By hand. A window that ends in a terminal step says so (cpprb: done 0, so it bootstraps from beyond the end); the last windows of
    an episode that a time limit cuts are not done, bootstrap from the last observation (cpprb: from a number that was never
    given) and say by how much."""
    about = {"obs": {}, "rew": {}, "next_obs": {}, "done": {}}
    for terminated in (False, True):
        buffer = ours.ReplayBuffer(20, about, Nstep=NSTEP)
        for step in range(4):
            buffer.add(obs=step, rew=1, next_obs=step + 1, done=terminated and step == 3)
        buffer.on_episode_end()
        stored = {name: column.ravel().tolist() for name, column in buffer.get_all_transitions().items()}
        assert stored["obs"] == [0, 1, 2, 3]
        assert stored["rew"] == [1.75, 1.75, 1.5, 1]
        assert stored["next_obs"] == [3, 4, 4, 4]
        assert stored["discounts"] == [0.125, 0.125, 0.25, 0.5]
        assert stored["done"] == ([0, 1, 1, 1] if terminated else [0, 0, 0, 0])
        # The value of the first state of a chain whose every next state is worth 8: what a learner would aim at.
        target = [r + d * (1 - done) * 8 for r, d, done in zip(stored["rew"], stored["discounts"], stored["done"])]
        assert target == ([2.75, 1.75, 1.5, 1] if terminated else [2.75, 2.75, 3.5, 5])


def test_next_of_stores_each_observation_once() -> None:
    rng = np.random.default_rng(0)
    about = {"obs": {"shape": 300}, "act": {}, "done": {}}
    own, host = ours.ReplayBuffer(40, about, next_of="obs"), theirs.ReplayBuffer(200, about, next_of="obs")
    plain = ours.ReplayBuffer(40, {**about, "next_obs": {"shape": 300}})
    assert own._buffer.nbytes < 0.6 * plain._buffer.nbytes
    for length in (5, 9, 12):
        observations = rng.normal(size=(length + 1, 300)).astype(np.float32)
        for t in range(length):
            for buffer in (own, host):
                buffer.add(obs=observations[t], next_obs=observations[t + 1], act=t, done=0)
        own.on_episode_end()
        host.on_episode_end()
    assert_same(own.get_all_transitions(), host.get_all_transitions())
    for step in range(60):
        own.add(obs=np.full(300, step), next_obs=np.full(300, step + 1), act=0, done=0)
    assert own.get_stored_size() == own.get_buffer_size() == 40
    np.testing.assert_array_equal(own.get_all_transitions()["next_obs"][:, 0], np.arange(21, 61))


@pytest.mark.parametrize("padding", ["repeat", "zero"])
@pytest.mark.parametrize("count", [1, 4])
def test_stack_compress_stores_each_frame_once(padding: str, count: int) -> None:
    """Frames of two values only, so that an episode often starts with the frame that the last one ended with."""
    rng = np.random.default_rng(count)
    about = {"obs": {"shape": (8, 64, 3), "dtype": np.uint8}, "act": {}, "done": {}}
    own, host = (m.ReplayBuffer(300, about, next_of="obs", stack_compress="obs") for m in (ours, theirs))
    assert own._buffer.nbytes < 1.1 * 301 * 8 * 64
    for length in rng.integers(1, 20, 20):
        frames = rng.integers(1, 3, (length + 1, 1, 1, 1)).astype(np.uint8) * np.ones((1, 8, 64, 1), np.uint8)
        first = frames[:1] if padding == "repeat" else np.zeros_like(frames[:1])
        padded = np.concatenate((first, first, frames))
        stacks = np.concatenate((padded[:-2], padded[1:-1], padded[2:]), -1)
        for t in range(0, length, count):
            rows = slice(t, min(t + count, length))
            step = {
                "obs": stacks[rows],
                "next_obs": stacks[rows.start + 1 : rows.stop + 1],
                "act": rng.random(rows.stop - t),
                "done": np.zeros(rows.stop - t),
            }
            for buffer in (own, host):
                buffer.add(**step)
        for buffer in (own, host):
            buffer.on_episode_end()
    mine, other = own.get_all_transitions(), host.get_all_transitions()
    for name in other:
        np.testing.assert_array_equal(mine[name], other[name])
    assert own.sample(5)["next_obs"].shape == (5, 8, 64, 3)
    again = copy.deepcopy(own)
    np.testing.assert_array_equal(again.get_all_transitions()["obs"], mine["obs"])


def test_weights_are_cpprbs_for_given_priorities() -> None:
    rng = np.random.default_rng(0)
    options = {"alpha": 0.7, "eps": 0.01}
    own, host = (module.PrioritizedReplayBuffer(64, COLUMNS, **options) for module in (ours, theirs))
    rows, priority = steps(64, rng), rng.exponential(size=64)
    weight = []
    for buffer in (own, host):
        buffer.add(**rows)
        buffer.update_priorities(np.arange(64), priority)
        drawn = buffer.sample(4000, beta=0.6)
        found = np.zeros(64, np.float32)
        found[drawn["indexes"].astype(int)] = drawn["weights"]
        assert drawn["weights"].dtype == np.float32
        for row in (0, 1999, 3999):
            np.testing.assert_array_equal(drawn["obs"][row], rows["obs"][drawn["indexes"][row]])
        weight.append(found)
        assert buffer.get_max_priority() == pytest.approx(priority.max(), rel=1e-6)
    seen = (weight[0] > 0) & (weight[1] > 0)
    assert seen.sum() > 40
    np.testing.assert_allclose(weight[0][seen], weight[1][seen], rtol=1e-5)
    expected = (priority + 0.01) ** 0.7
    counts = np.bincount(own.sample(64_000)["indexes"], minlength=64)
    np.testing.assert_allclose(counts, 64_000 * expected / expected.sum(), atol=2)  # stratified


def test_priorities_given_with_add_and_late_ones() -> None:
    for next_of in (None, "obs"):
        about = {"obs": {"shape": 2}, "done": {}}
        buffer = ours.PrioritizedReplayBuffer(8, about, alpha=1.0, next_of=next_of)
        extra = {} if next_of is None else {"next_obs": np.ones((3, 2))}
        first = buffer.add(obs=np.ones((3, 2)), done=[0, 0, 0], priorities=[0, 0, 7], **extra)
        assert first == 0
        assert set(buffer.sample(100)["indexes"][1:-1]) == {2}
    old = buffer.sample(1)["indexes"]
    for _ in range(30):
        buffer.add(obs=np.zeros(2), next_obs=np.ones(2), done=0)
    buffer.update_priorities(old, [1e9])  # its record is gone: dropped, where cpprb gives it to the record in its place
    assert buffer.get_max_priority() == pytest.approx(7, rel=1e-3)
    buffer.clear()
    assert (buffer.get_stored_size(), buffer.get_max_priority()) == (0, 1.0)
    for next_of in (None, "obs"):
        buffer = ours.PrioritizedReplayBuffer(8, {"obs": {"shape": 2}, "done": {}}, next_of=next_of)
        for step in range(30):
            first = buffer.add(obs=np.full(2, step), done=0, **({} if next_of is None else {"next_obs": np.full(2, step + 1)}))
            assert first in buffer.sample(200)["indexes"], step
            np.testing.assert_array_equal(buffer.get_all_transitions()["obs"][-1], step)
            if step % 11 == 10:
                buffer.clear()
    n_step = ours.PrioritizedReplayBuffer(8, COLUMNS, Nstep=NSTEP)
    assert n_step.add(**steps(5, np.random.default_rng(0))) == 0
    assert set(n_step.sample(30)) == {*COLUMNS, "discounts", "weights", "indexes"}


def test_copies_pickles_and_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for options in ({}, {"Nstep": NSTEP}):
        buffer = ours.ReplayBuffer(50, COLUMNS, **options)
        buffer.add(**steps(20, rng))
        for other in (copy.deepcopy(buffer), pickle.loads(pickle.dumps(buffer))):
            rows = steps(3, rng)
            buffer_too = copy.deepcopy(buffer)
            other.add(**rows)
            buffer_too.add(**rows)
            assert_same(other.get_all_transitions(), buffer_too.get_all_transitions())
        buffer.save_transitions(tmp_path / "saved.npz")
        read = ours.ReplayBuffer(50, COLUMNS, **options)
        read.load_transitions(tmp_path / "saved.npz")
        assert_same(read.get_all_transitions(), buffer.get_all_transitions())
    with pytest.raises(KeyError, match="file has no column 'other'"):
        ours.ReplayBuffer(5, {"other": {}}).load_transitions(tmp_path / "saved.npz")


def test_draws_follow_numpys_global_seed() -> None:
    drawn = []
    for _ in range(2):
        np.random.seed(3)  # noqa: NPY002
        buffer = ours.ReplayBuffer(50, {"obs": {}})
        buffer.add(obs=np.arange(50))
        drawn.append(buffer.sample(20)["obs"])
    np.testing.assert_array_equal(*drawn)


ROW = {"obs": np.zeros(2), "done": 0}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ours.ReplayBuffer(0, {"obs": {}}), SettingError, r"ReplayBuffer: size is 0, expected at least 1"),
        (lambda: ours.ReplayBuffer(2.5, {"obs": {}}), SettingError, r"size is 2.5, expected a whole number"),
        (lambda: ours.ReplayBuffer(5), SettingError, r"env_dict is None, expected columns by name"),
        (lambda: ours.ReplayBuffer(5, {"obs": 3}), SettingError, r"env_dict\['obs'\] is 3, expected a dict with shape and dtype"),
        (lambda: ours.ReplayBuffer(5, {"obs": {"dtypes": int}}), SettingError, r"env_dict\['obs'\] has an entry 'dtypes'"),
        (lambda: ours.ReplayBuffer(5, {"obs": {"dtype": "word"}}), SettingError, r"env_dict\['obs'\] is .*dtype: what NumPy knows"),
        (lambda: ours.ReplayBuffer(5, {"obs": {"dtype": object}}), SettingError, r"dtype object, expected .* numbers or bool"),
        (lambda: ours.ReplayBuffer(5, {"obs": {}}, next_of="state"), SettingError, r"next_of has 'state', which is not a column .*: obs"),
        (lambda: ours.ReplayBuffer(5, {"obs": {}, "next_obs": {}}, next_of="obs"), SettingError, r"next_of is 'obs', .* has next_obs too"),
        (
            lambda: ours.ReplayBuffer(5, {"obs": {}}, stack_compress="obs"),
            SettingError,
            r"compress is \['obs'\], and next_of is \[\]",
        ),
        (lambda: ours.ReplayBuffer(5, {"obs": {}}, "obs", stack_compress="obs"), SettingError, r"columns with \[1\] frames in the last"),
        (lambda: stacked([1, 1], [1, 3], [2, 4]), SettingError, r"add: next_obs is not obs moved on by a frame"),
        (lambda: stacked([1, 2], [2, 3]), SettingError, r"obs starts an episode with a stack of other frames, expected its newest"),
        (lambda: stacked([1, 1], [1, 3], None, [0, 2], [2, 2]), SettingError, r"expected its newest frame again before the first"),
        (lambda: ours.ReplayBuffer(5, {"obs": {}}, mmap_prefix="x"), SettingError, r"mmap_prefix is 'x', expected None"),
        (lambda: ours.ReplayBuffer(5, {"obs": {}}, Nstep=3), SettingError, r"Nstep is 3, expected a dict with size"),
        (lambda: ours.ReplayBuffer(5, {"obs": {}}, Nstep={"size": 3}), SettingError, r"env_dict has no column 'done'"),
        (lambda: ours.ReplayBuffer(5, COLUMNS, Nstep={**NSTEP, "gamma": 2}), SettingError, r"Nstep\['gamma'\] is 2, expected .* \[0, 1\]"),
        (lambda: ours.ReplayBuffer(5, COLUMNS, Nstep={**NSTEP, "rew": "r"}), SettingError, r"Nstep\['rew'\] has 'r', which is not"),
        (
            lambda: ours.ReplayBuffer(5, {"obs": {}, "done": {}}, "obs", Nstep=NSTEP),
            SettingError,
            r"Nstep is given, and next_of is \['obs'\]",
        ),
        (lambda: ours.PrioritizedReplayBuffer(5, COLUMNS, alpha=2), ValueError, r"alpha is 2.0, expected a number in \[0, 1\]"),
        (lambda: ours.PrioritizedReplayBuffer(5, COLUMNS, eps=0), SettingError, r"PrioritizedReplayBuffer: eps is 0, expected a positive"),
        (lambda: made().add(obs=np.zeros(2)), KeyError, r"add: column 'done' is missing, expected obs, done"),
        (lambda: made().add(**ROW, act=1), SettingError, r"add: column 'act' is not in env_dict, expected obs, done"),
        (lambda: made().add(obs=np.zeros(3), done=0), ShapeError, r"add: obs has shape \[3\], expected \[2\] or \[T, ...\] of it"),
        (lambda: made().add(obs=np.zeros((3, 2)), done=[0, 1]), ShapeError, r"add: done has 2 rows, obs has 3"),
        (lambda: made().add(obs="left", done=0), DTypeError, r"add: obs is 'left', expected numbers of dtype float32"),
        (
            lambda: made().add(obs=np.zeros((2, 3)), done=[0, 1, 0]),
            ShapeError,
            r"add: obs has shape \[2, 3\], expected \[2\] or \[T, ...\]",
        ),
        (lambda: made().add(obs=None, done=0), DTypeError, r"add: obs is None, expected numbers of dtype float32"),
        (lambda: bytes_of(300), ValueError, r"add: a is 300, which uint8, the dtype of its column, does not hold"),
        (lambda: bytes_of(np.array([0.5])), ValueError, r"does not hold"),
        (lambda: bytes_of(np.array([-1])), ValueError, r"does not hold"),
        (lambda: ours.ReplayBuffer(5, {"obs": {}}, next_of=3), SettingError, r"next_of is 3, expected a name or a list of names"),
        (lambda: made().update_priorities([0.5], [1]), DTypeError, r"indexes have dtype float64, expected integers"),
        (lambda: made().sample(4), ValueError, r"sample: batch_size is 4, but only 0 transitions are stored"),
        (lambda: made().update_priorities(None, [1]), DTypeError, r"update_priorities: indexes is None"),
        (lambda: made().update_priorities([0, 1], [1]), ShapeError, r"priorities has 1 elements, indexes has 2"),
        (lambda: made().update_priorities([0], [np.nan]), NonFiniteError, r"priority of element 0 is nan"),
        (lambda: filled().sample(4, beta=-1), ValueError, r"sample: beta is -1, expected a number in \[0, 1\]"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def bytes_of(value: Any) -> None:
    ours.ReplayBuffer(5, {"a": {"dtype": np.uint8}}).add(a=value)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Cut anywhere, or with another byte: refused, or what was saved; nothing is added then."""
    file, buffer = tmp_path / "saved.npz", made()
    for step in range(4):
        buffer.add(obs=np.full(2, step), done=step)
    buffer.save_transitions(file)
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 60):
        for damage in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            file.write_bytes(damage)
            other = made()
            try:
                other.load_transitions(file)
            except (CheckpointError, KeyError, ShapeError):
                assert other.get_stored_size() == 0
    np.savez(file, obs=np.zeros((3, 4)), done=np.zeros((3, 1)))
    with pytest.raises(ShapeError, match=r"load_transitions: obs has shape \[3, 4\], expected \[3, 2\]"):
        made().load_transitions(file)
    file.write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="damaged, or not of save_transitions"):
        made().load_transitions(file)


def stacked(*stacks: Any) -> None:
    """Adds steps from stack to stack; None ends an episode."""
    buffer = ours.ReplayBuffer(9, {"obs": {"shape": (1, 2)}}, "obs", stack_compress="obs")
    for now, following in zip(stacks, stacks[1:]):
        if now is None:
            buffer.on_episode_end()
        elif following is not None:
            buffer.add(obs=[now], next_obs=[following])


def made() -> ours.PrioritizedReplayBuffer:
    return ours.PrioritizedReplayBuffer(5, {"obs": {"shape": 2}, "done": {}})


def filled() -> ours.PrioritizedReplayBuffer:
    buffer = made()
    buffer.add(**ROW)
    return buffer
