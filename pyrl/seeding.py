"""One seed, many independent streams: every consumer of randomness gets a stream named after what it is for."""

from __future__ import annotations

import hashlib
import operator
import secrets

from pyrl.errors import DTypeError


def stream_key(seed: int, *name: str | int) -> int:
    """A 64-bit key for the stream ``name`` of ``seed``: the same on every platform, unrelated for different names."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise DTypeError(f"seed is {seed!r}, expected an integer") from None
    text = "/".join(("pyrl", str(number), *map(str, name)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def fresh_seed() -> int:
    """A fresh random seed: what ``seed=None`` means. The caller keeps it, so that the run can be repeated."""
    return secrets.randbits(31)


def stream_seed(seed: int, *name: str | int) -> int:
    """A 31-bit seed for libraries that take only small ones (Gymnasium environments, torch)."""
    return stream_key(seed, *name) & 0x7FFFFFFF
