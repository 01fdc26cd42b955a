"""Whatever goes wrong while a checkpoint is read becomes a CheckpointError."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from pyrl.errors import CheckpointError

_LONGEST = 1000  # characters of a message: what a stranger wrote is quoted in some


class checkpoint_errors:
    """Raises the errors of its body as CheckpointError, ``"checkpoint <path> <what>: ..."``, with their cause.

    As they are: a CheckpointError that names the path, FileNotFoundError, and what is not an error (Ctrl-C). A class, as
    `contextlib.contextmanager` takes a RuntimeError that is raised from a StopIteration for its own, and lets the latter through.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self.path, self.what = path, what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, Exception) or isinstance(error, FileNotFoundError):
            return
        if isinstance(error, CheckpointError) and str(self.path) in str(error):
            return
        text = str(error) if len(str(error)) <= _LONGEST else f"{str(error)[:_LONGEST]} ..."
        named = "" if isinstance(error, ValueError | TypeError | RuntimeError) and text else type(error).__name__
        cause = f"it has no {text}" if isinstance(error, KeyError) else ": ".join(part for part in (named, text) if part)
        raise CheckpointError(f"checkpoint {self.path} {self.what}: {cause}") from error
