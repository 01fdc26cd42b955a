"""Keeping threads and processes that save the same checkpoint out of each other's way."""

from __future__ import annotations

import os
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from pathlib import Path

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows has no such locks: two processes must not save the same checkpoint there
    flock = None  # type: ignore[assignment]

_NO_LOCKS = (ENOLCK, ENOSYS, EOPNOTSUPP)  # what some network file systems say


class Lock:
    """Holds a folder: its entries while they are renamed, or a temporary folder while it is written.

    The system lets go of it when the process dies. Where the file system has no locks, nothing is ``held``.
    """

    def __init__(self, folder: Path, wait: bool = True) -> None:
        self.handle = os.open(folder, os.O_RDONLY)
        self.held = False
        try:
            if flock is not None:
                flock(self.handle, LOCK_EX if wait else LOCK_EX | LOCK_NB)
                self.held = True
        except BaseException as error:
            if not isinstance(error, OSError) or error.errno not in _NO_LOCKS:
                os.close(self.handle)
                raise

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.handle)
