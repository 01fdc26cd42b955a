"""Whatever goes wrong while a checkpoint is read becomes a CheckpointError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyrl.errors import CheckpointError

_LONGEST = 1000  # characters of a message: what a stranger wrote is quoted in some


@contextmanager
def checkpoint_errors(path: str | Path, what: str) -> Iterator[None]:
    """Raise the errors of the body as CheckpointError, ``"checkpoint <path> <what>: ..."``, with their cause.

    As they are: a CheckpointError, which names the file already, FileNotFoundError, and what is no error (Ctrl-C).
    """
    try:
        yield
    except (CheckpointError, FileNotFoundError):
        raise
    except Exception as error:
        text = str(error) if len(str(error)) <= _LONGEST else f"{str(error)[:_LONGEST]} ..."
        kind = "" if isinstance(error, ValueError | TypeError | RuntimeError) and text else type(error).__name__
        cause = f"it has no {text}" if isinstance(error, KeyError) else ": ".join(part for part in (kind, text) if part)
        raise CheckpointError(f"checkpoint {path} {what}: {cause}") from error
