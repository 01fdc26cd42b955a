"""Values that change with the progress of a run: a number stays, ``"linear_3e-4"`` falls from 3e-4 to zero, and a function of
``progress`` in [0, 1], the share of the run that is done, may do anything else.

The text follows rl-baselines3-zoo (``lin_3e-4`` is accepted too), so that its tuned settings can be copied. A function whose
parameter is called ``progress_remaining`` is given what remains, as Stable-Baselines3 calls its own.

A function of a module is kept by its name, ``"module:function"``, in configs and checkpoints. Others (lambdas, closures, objects)
work too, but cannot be saved.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, TypeAlias

from pyrl.errors import SettingError

Function: TypeAlias = Callable[[float], float]

_PREFIXES = ("linear_", "lin_")
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Scheduled:
    """Marks the annotation of a schedule, for whoever checks settings."""


Schedule: TypeAlias = Annotated[float | str | Function, Scheduled()]


def value_at(schedule: Any, progress: float) -> float:
    """The value when ``progress`` in [0, 1] of the run is done. SettingError where a function gives no number of at least 0."""
    if isinstance(schedule, float | int):
        return schedule
    if isinstance(schedule, str) and not is_name(schedule):
        return start_of(schedule) * (1.0 - min(max(progress, 0.0), 1.0))
    function = function_named(schedule) if isinstance(schedule, str) else schedule
    value: Any = function(1.0 - progress if _takes_the_rest(function) else progress)
    if not isinstance(value, Real) or isinstance(value, bool) or not 0.0 <= float(value) < math.inf:
        raise SettingError(f"schedule {schedule!r} is {value!r} at progress {progress:.3g}, expected a number of at least 0")
    return float(value)


def linear(start: float, end: float, fraction: float) -> float:
    """From ``start`` to ``end`` while ``fraction`` goes from 0 to 1, then ``end``."""
    return end + (start - end) * (1.0 - min(max(fraction, 0.0), 1.0))


def start_of(schedule: str) -> float:
    """The number in ``"linear_<number>"``; ValueError for other text."""
    for prefix in _PREFIXES:
        if schedule.startswith(prefix):
            return float(schedule.removeprefix(prefix))
    raise ValueError(f"{schedule!r} is not linear_<number>")


def is_name(schedule: Any) -> bool:
    """Whether this is ``"module:function"``."""
    return isinstance(schedule, str) and _NAME.fullmatch(schedule) is not None


def function_named(name: str) -> Function:
    """The function ``"module:function"``, its module imported; SettingError if there is none."""
    module, _, path = name.partition(":")
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise SettingError(f"schedule {name!r} is not found: {error}") from error
    if not inspect.isfunction(found):
        raise SettingError(f"schedule {name!r} is {type(found).__name__}, expected a function")
    return found


def by_name(schedule: Any) -> Any:
    """A function that its module has under its own name becomes that name; all else is left as it is."""
    if not inspect.isfunction(schedule):
        return schedule
    name = f"{schedule.__module__}:{schedule.__qualname__}"
    try:
        return name if is_name(name) and function_named(name) is schedule else schedule
    except SettingError:
        return schedule


def _takes_the_rest(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_varnames[: code.co_argcount][:1] == ("progress_remaining",)
