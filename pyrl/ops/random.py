"""The random stream that every sampler takes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from pyrl import _core
from pyrl.seeding import stream_key

__all__ = ["RandomStream"]

_WORD = 1 << 64


class RandomStream(_core.RandomStream):
    """A Philox 4x32-10 stream (Salmon et al., 2011): a 64-bit key and a count of draws, 24 bytes in a checkpoint.

    ``RandomStream(seed, *name)`` has the key `pyrl.seeding.stream_key` gives to ``name``, so that streams of one seed with
    different names are unrelated. Each call of a sampler takes the next draw; its numbers are a function of the key, the
    number of the draw and the position of the element, for any number of threads and on every platform. Copies and pickles
    continue from the same point. Threads that share a stream get different draws, in the order in which they come. A forked child
    continues with another key, so that it does not repeat its parent's numbers; a stream made or set in the child keeps its key.

    ``device`` (a torch device, ``"cuda"`` as a rule) keeps the state there, for calls whose arrays are there. The numbers are
    the same; the draw is taken on the device, in the order of the current stream, so that every replay of a CUDA graph draws
    anew. Reading `state`, copying and pickling then wait for the device. Without it, calls for any device are served, and one
    captured in a graph repeats the draw of the capture.

    >>> stream = RandomStream(0, "agent")
    >>> stream.state = (key, 0, draw)
    """

    def __init__(self, seed: int = 0, *name: str | int, device: Any = None) -> None:
        super().__init__(stream_key(seed, *name), 0, _memory(device))

    @classmethod
    def from_state(cls, state: Sequence[int], device: Any = None) -> RandomStream:
        """The stream that was at ``state``."""
        stream = cls.__new__(cls)
        _core.RandomStream.__init__(stream, 0, 0, _memory(device))
        stream.state = state
        return stream

    @property
    def device(self) -> Any:
        """The torch device on which the state is, or None."""
        return None if self.memory is None else self.memory.device

    @property
    def state(self) -> tuple[int, int, int]:
        """(key, counter low, counter high): three 64-bit words. Between draws the low word is 0."""
        state: tuple[int, int, int] = _core.RandomStream.state.__get__(self)  # type: ignore[attr-defined]
        return state

    @state.setter
    def state(self, state: Sequence[int]) -> None:
        try:
            words = tuple(operator.index(word) for word in state)
        except TypeError:
            words = ()
        if len(words) != 3 or words[1] != 0 or not all(0 <= word < _WORD for word in words):
            raise ValueError(f"RandomStream: state is {state!r}, expected (key, 0, draw) of 64-bit words")
        _core.RandomStream.state.__set__(self, words)  # type: ignore[attr-defined]

    def spawn(self, *name: str | int) -> RandomStream:
        """The stream called ``name`` below this one: it depends on the key, not on the draws made, and takes none."""
        return type(self).from_state((stream_key(self.key, *name), 0, 0), self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self.state, self.device)

    def __repr__(self) -> str:
        key, _, draw = self.state
        where = "" if self.device is None else f", device={self.device}"
        return f"RandomStream(key=0x{key:016x}, draw={draw}{where})"


def _memory(device: Any) -> Any:
    if device is None:
        return None
    import torch

    return torch.empty(2, dtype=torch.int64, device=device)
