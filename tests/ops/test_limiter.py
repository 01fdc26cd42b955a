"""The rate limiter against its definition, among threads, and under settings by which it would deadlock."""

from __future__ import annotations

import signal
import threading
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pyrl.ops import RateLimiter


class Definition:
    """In exact numbers: an insert may not lift the drift above the buffer, a draw not push it below minus the buffer."""

    def __init__(self, samples_per_insert: float, min_size: int, error_buffer: float) -> None:
        self.ratio, self.min_size, self.buffer = Fraction(samples_per_insert), min_size, Fraction(error_buffer)
        self.stored = self.being_stored = self.drawn = 0
        self.stopped = False

    def drift(self, inserts: int, samples: int) -> Fraction:
        return inserts * self.ratio - samples - self.min_size * self.ratio

    def may_insert(self, count: int) -> bool:
        promised = self.stored + self.being_stored
        return not self.stopped and (promised < self.min_size or self.drift(promised + count, self.drawn) <= self.buffer)

    def may_sample(self, count: int) -> bool:
        return not self.stopped and self.stored >= self.min_size and self.drift(self.stored, self.drawn + count) >= -self.buffer


@pytest.mark.parametrize("seed", range(40))
def test_it_equals_its_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    ratio = float(random.integers(1, 200)) / 8  # exact in binary, so that both agree at the very bounds
    min_size, insert_size, sample_size = (int(n) for n in random.integers(1, 40, 3))
    buffer = RateLimiter.least_buffer(ratio, insert_size=insert_size, sample_size=sample_size) + float(random.integers(0, 3)) * 7
    limiter = RateLimiter(ratio, min_size=min_size, insert_size=insert_size, sample_size=sample_size, error_buffer=buffer)
    model, open_inserts, answers = Definition(ratio, min_size, buffer), list[int](), set[tuple[str, bool]]()
    for _ in range(3000):
        what = random.choice(["insert", "end", "sample", "stop", "resume", "load"], p=[0.35, 0.3, 0.3, 0.02, 0.02, 0.01])
        if what == "insert":
            count = int(random.integers(0, insert_size + 1))
            allowed = model.may_insert(count)
            assert limiter.can_insert(count) == allowed
            assert limiter.begin_insert(count) == allowed
            if allowed:
                model.being_stored += count
                open_inserts.append(count)
            answers.add((what, allowed))
        elif what == "end" and open_inserts:
            count, stored = open_inserts.pop(int(random.integers(len(open_inserts)))), bool(random.random() < 0.9)
            limiter.end_insert(count, stored)
            model.being_stored -= count
            model.stored += count * stored
        elif what == "sample":
            count = int(random.integers(0, sample_size + 1))
            allowed = model.may_sample(count)
            assert limiter.can_sample(count) == allowed
            assert limiter.sample(count) == allowed
            model.drawn += count * allowed
            answers.add((what, allowed))
        elif what in ("stop", "resume"):
            getattr(limiter, what)()
            model.stopped = what == "stop"
        elif what == "load" and not open_inserts:
            state = limiter.state_dict()
            limiter = RateLimiter(ratio, min_size=min_size, insert_size=insert_size, sample_size=sample_size, error_buffer=buffer)
            limiter.load_state_dict(state)
            model.stopped = False
        assert (limiter.inserts, limiter.samples, limiter.stopped) == (model.stored, model.drawn, model.stopped)
    assert len(answers) == 4


@pytest.mark.parametrize("seed", range(20))
def test_with_the_least_buffer_one_side_can_always_go_on(seed: int) -> None:
    random = np.random.default_rng(seed)
    ratio, (min_size, insert_size, sample_size) = float(random.exponential(20.0)) + 1e-3, (int(n) for n in random.integers(1, 500, 3))
    least = RateLimiter.least_buffer(ratio, insert_size=insert_size, sample_size=sample_size)
    limiter = RateLimiter(ratio, min_size=min_size, insert_size=insert_size, sample_size=sample_size, error_buffer=least)
    waited = {"insert": 0, "sample": 0}
    for _ in range(5000):
        may_insert, may_sample = limiter.can_insert(insert_size), limiter.can_sample(sample_size)
        assert may_insert or may_sample
        waited["insert"] += not may_insert
        waited["sample"] += not may_sample
        if may_insert and (not may_sample or random.random() < 0.5):
            assert limiter.begin_insert(insert_size)
            limiter.end_insert(insert_size)
        else:
            assert limiter.sample(sample_size)
    assert min(waited.values()) > 0
    drift = limiter.inserts * ratio - limiter.samples - min_size * ratio
    assert abs(drift) <= least + insert_size * ratio


def test_a_smaller_buffer_would_deadlock_and_is_refused() -> None:
    sizes = {"insert_size": 32, "sample_size": 256}
    least = RateLimiter.least_buffer(8.0, **sizes)
    assert least == (32 * 8 + 256 + 1) / 2
    with pytest.raises(ValueError, match=r"error_buffer is 200, expected at least 256.5: .* could wait for each other for ever"):
        RateLimiter(8.0, error_buffer=200.0, **sizes)
    # What it would come to: at a drift of 0, 32 more are 256 above it, and 256 drawn are 256 below it.
    model = Definition(8.0, 32, 200.0)
    model.stored = 32
    assert not model.may_insert(32)
    assert not model.may_sample(256)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples_per_insert": 0.0}, "samples_per_insert is 0, expected a positive number"),
        ({"samples_per_insert": float("nan")}, "samples_per_insert is nan"),
        ({"samples_per_insert": float("inf")}, "samples_per_insert is inf"),
        ({"min_size": 0}, "min_size is 0, expected at least 1"),
        ({"insert_size": -1}, "insert_size is -1"),
        ({"sample_size": 0}, "sample_size is 0"),
        ({"error_buffer": float("nan")}, "error_buffer is nan"),
        ({"error_buffer": float("inf")}, "error_buffer is inf"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RateLimiter(**{"samples_per_insert": 1.0, **options})


def test_counts_that_cannot_be_are_refused_and_change_nothing() -> None:
    limiter = RateLimiter(1.0, insert_size=4, sample_size=4)
    for call in (
        lambda: limiter.begin_insert(5),
        lambda: limiter.begin_insert(-1),
        lambda: limiter.sample(5),
        lambda: limiter.end_insert(1),
        lambda: limiter.load_state_dict({"inserts": -1, "samples": 0}),
        lambda: limiter.load_state_dict({"inserts": 1}),
        lambda: limiter.load_state_dict({"inserts": 1.0, "samples": 0}),
    ):
        with pytest.raises(ValueError, match="RateLimiter"):
            call()
    assert limiter.begin_insert(4)
    with pytest.raises(ValueError, match="counts cannot be set while 4 are being inserted"):
        limiter.load_state_dict({"inserts": 1, "samples": 0})
    assert (limiter.inserts, limiter.samples) == (0, 0)


def test_threads_keep_the_ratio() -> None:
    """Writers and readers that only the limiter holds back; nobody starves, and nothing is counted twice."""
    limiter = RateLimiter(4.0, min_size=50, insert_size=7, sample_size=32)
    total, failures = 20_000, list[str]()

    def write(count: int, times: int) -> None:
        for _ in range(times):
            if not limiter.begin_insert(count, timeout=60.0):
                failures.append("insert")
                return
            limiter.end_insert(count)

    def read(count: int, times: int) -> None:
        for _ in range(times):
            if not limiter.sample(count, timeout=60.0):
                failures.append("sample")
                return

    threads = [threading.Thread(target=write, args=(n, total // 4 // n)) for n in (1, 2, 5, 5)]
    threads += [threading.Thread(target=read, args=(32, (total * 4 - 200) // 64)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert limiter.inserts == total
    assert limiter.samples == (total * 4 - 200) // 64 * 64


@pytest.mark.parametrize("side", ["insert", "sample"])
def test_stop_wakes_who_waits(side: str) -> None:
    limiter, told = RateLimiter(1.0, min_size=1), list[tuple[bool, float]]()
    if side == "insert":
        while limiter.begin_insert(1):
            limiter.end_insert(1)

    def wait() -> None:
        began = time.monotonic()
        answer = limiter.begin_insert(1, timeout=60.0) if side == "insert" else limiter.sample(1, timeout=60.0)
        told.append((answer, time.monotonic() - began))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.15)
    assert not told
    limiter.stop()
    thread.join(10)
    assert told[0][0] is False
    assert 0.1 < told[0][1] < 5.0
    assert not limiter.can_insert(1)
    assert not limiter.can_sample(1)
    limiter.resume()
    assert limiter.can_insert(1) == (side == "sample")


def test_a_signal_ends_a_wait() -> None:
    limiter = RateLimiter(1.0, min_size=100)
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        limiter.sample(1, timeout=60.0)
    assert time.monotonic() - began < 10.0
    timer.join()
    assert limiter.samples == 0


def test_a_wait_ends_in_time() -> None:
    limiter = RateLimiter(1.0, min_size=100)
    began = time.monotonic()
    assert not limiter.sample(1, timeout=0.2)
    assert 0.15 < time.monotonic() - began < 5.0
