"""One seed, many independent streams: every consumer of randomness gets a stream named after what it is for."""

from __future__ import annotations

import hashlib


def stream_key(seed: int, *name: str | int) -> int:
    """A 64-bit key for the stream ``name`` of ``seed``: the same on every platform, unrelated for different names."""
    text = "/".join(("pyrl", str(int(seed)), *map(str, name)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def stream_seed(seed: int, *name: str | int) -> int:
    """A 31-bit seed for libraries that take only small ones (Gymnasium environments, torch)."""
    return stream_key(seed, *name) & 0x7FFFFFFF
