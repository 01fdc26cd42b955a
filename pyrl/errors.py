"""The typed errors of pyrl. Each message names the argument, what was expected and what came."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ShapeError(ValueError):
    """An array has the wrong shape."""


class DTypeError(TypeError):
    """An array has the wrong dtype, or an argument is not an array at all."""


class DeviceError(ValueError):
    """An array is on another device than expected."""


class SpaceError(ValueError):
    """A Gymnasium space that the agent, network or buffer cannot handle, or that differs from the one expected."""


class NetworkError(TypeError):
    """A network that is not what its agent learns: a module was replaced, added or removed, or does not follow the protocol."""


class UnknownNameError(ValueError):
    """No agent, environment or option has this name."""


class SettingError(ValueError):
    """A setting (a field of a config, an argument) has a value that it cannot have."""


class SettingTypeError(SettingError, TypeError):
    """A setting is of the wrong type."""


class EnvError(RuntimeError):
    """An environment raised or returned something impossible; the message says which index and which seed."""

    index: int | None = None  # of the environment, where one is to blame
    seed: int | None = None  # that it was reset with


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, of a later version, or made for something else."""


class UnsavedError(OSError):
    """A run has ended, but its folder could not be written; ``run`` is what `pyrl.train` would have returned."""

    run: Any = None


class AccountingError(RuntimeError):
    """Steps that collectors made were lost on the way to the learner, or came twice: a defect of pyrl."""


class LearnerError(RuntimeError):
    """Learners of a group failed again and again, or have come to differ."""


class NonFiniteError(ValueError):
    """A NaN or an infinity where a number was expected."""


def closest_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """``"; did you mean ppo, dqn?"``, or an empty string when nothing is close."""
    candidates = list(known)
    near = difflib.get_close_matches(str(name).lower(), [k.lower() for k in candidates], n=count, cutoff=0.5)
    by_lower = {k.lower(): k for k in candidates}
    return f"; did you mean {', '.join(by_lower[k] for k in near)}?" if near else ""
