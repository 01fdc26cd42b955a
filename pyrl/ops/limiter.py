"""Keeps drawing from a replay and filling it at a ratio."""

from __future__ import annotations

import time
from typing import Any

from pyrl._core import LimiterCore

__all__ = ["RateLimiter"]

_SLICE = 0.05  # seconds of one wait in C++; between two of them signals are handled


class RateLimiter:
    """``samples_per_insert`` transitions are drawn for each that is stored, give or take ``error_buffer`` (Cassirer et al. 2021, Reverb).

    The drift is ``inserts * samples_per_insert - samples``, less what it is when ``min_size`` is reached. An insert has to wait while it
    would lift the drift above ``error_buffer``, a draw while it would push it below ``-error_buffer``. Up to ``min_size`` inserts are free,
    and no draw is allowed. Threads may share it.

    Args:
        samples_per_insert: positive.
        min_size: inserts before the first draw.
        error_buffer: in samples; None: twice the least. ValueError for less than `least_buffer`: then an insert and a draw could wait for
            each other for ever.
        insert_size, sample_size: the most transitions of one insert, of one draw.
    """

    def __init__(
        self, samples_per_insert: float, *, min_size: int = 1, insert_size: int = 1, sample_size: int = 1, error_buffer: float | None = None
    ) -> None:
        if error_buffer is None:
            error_buffer = 2 * self.least_buffer(samples_per_insert, insert_size=insert_size, sample_size=sample_size)
        self.samples_per_insert, self.min_size, self.error_buffer = float(samples_per_insert), min_size, float(error_buffer)
        self.insert_size, self.sample_size = insert_size, sample_size
        self._core = LimiterCore(samples_per_insert, min_size, error_buffer, insert_size, sample_size)

    @staticmethod
    def least_buffer(samples_per_insert: float, *, insert_size: int, sample_size: int) -> float:
        """The smallest ``error_buffer`` by which inserts and draws never wait for each other: half of what the two move the drift by."""
        return LimiterCore.least_buffer(samples_per_insert, insert_size, sample_size)

    def begin_insert(self, count: int, timeout: float = 0.0) -> bool:
        """Whether ``count`` transitions may be stored, after a wait of at most ``timeout`` seconds: then they are reserved.

        ValueError for more than ``insert_size``."""
        return self._wait(self._core.begin_insert, count, timeout)

    def end_insert(self, count: int, stored: bool = True) -> None:
        """They are stored, and may be drawn from here on; or they were not. ValueError for more than are reserved."""
        self._core.end_insert(count, stored)

    def sample(self, count: int, timeout: float = 0.0) -> bool:
        """Whether ``count`` transitions may be drawn, after a wait of at most ``timeout`` seconds. If so they count as drawn.

        ValueError for more than ``sample_size``."""
        return self._wait(self._core.sample, count, timeout)

    def can_insert(self, count: int) -> bool:
        """What `begin_insert` would say now; nothing is reserved."""
        return self._core.can_insert(count)

    def can_sample(self, count: int) -> bool:
        """What `sample` would say now; nothing is counted."""
        return self._core.can_sample(count)

    def stop(self) -> None:
        """Whoever waits is told no, and so is everybody else until `resume`."""
        self._core.stop()

    def resume(self) -> None:
        self._core.resume()

    @property
    def stopped(self) -> bool:
        return self._core.stopped

    @property
    def inserts(self) -> int:
        """Transitions stored."""
        return self._core.inserts

    @property
    def samples(self) -> int:
        """Transitions drawn."""
        return self._core.samples

    def state_dict(self) -> dict[str, Any]:
        return {"inserts": self.inserts, "samples": self.samples}

    def load_state_dict(self, state: Any) -> None:
        """ValueError for what `state_dict` does not give, and while something is being inserted; nothing is changed then."""
        counts = [state.get(name) for name in ("inserts", "samples")]
        if not all(type(count) is int and 0 <= count < 1 << 53 for count in counts) or len(state) != 2:
            raise ValueError(f"RateLimiter: the state is {state!r:.200}, expected the counts inserts and samples")
        self._core.set_counts(*counts)

    def _wait(self, ask: Any, count: int, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not ask(count, max(0.0, min(_SLICE, timeout))):
            timeout = deadline - time.monotonic()
            if timeout <= 0.0 or self.stopped:
                return False
        return True

    def __repr__(self) -> str:
        return f"RateLimiter({self.samples_per_insert:g} samples per insert, {self.inserts} inserts, {self.samples} samples)"
