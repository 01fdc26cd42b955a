"""Settings are checked by their annotations, and ranges are declared in them, beside the field or the argument itself:

    batch_size: Count = 64
    tau: Annotated[float, Range(0, 1, open_low=True)] = 0.005

A config calls `check_fields` once; a function has `checks_arguments`. What passes is a plain Python value, whatever kind of number
came (NumPy's too), so that every config can be saved as JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import types
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from pyrl.errors import SettingError, SettingTypeError, SpaceError
from pyrl.own import Own, kept
from pyrl.schedules import Schedule, Scheduled, by_name, is_name, start_of, value_at

if TYPE_CHECKING:
    from gymnasium import spaces

P = ParamSpec("P")
R = TypeVar("R")

MOST = 2**31 - 1  # of anything that is counted


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number, or of each number of a schedule. NaN never passes, infinities only where ``infinite``."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    infinite: bool = False

    def holds(self, value: float) -> bool:
        if value in (math.inf, -math.inf) and not self.infinite:
            return False
        return (value > self.low if self.open_low else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf and not (self.high == MOST and self.low > -math.inf):
            return f"in {'(' if self.open_low else '['}{self.low:.12g}, {self.high:.12g}]"
        return f"{'above' if self.open_low else 'of at least'} {self.low:.12g}" if self.low > -math.inf else ""


@dataclasses.dataclass(frozen=True)
class Whole:
    """A number without a fraction, 1e5 too."""

    def holds(self, value: float) -> bool:
        return math.isinf(value) or value == int(value)


@dataclasses.dataclass(frozen=True)
class Length:
    """The most items of a tuple."""

    most: int

    def holds(self, value: Any) -> bool:
        return len(value) <= self.most

    def __str__(self) -> str:
        return f"of at most {self.most}"


@dataclasses.dataclass(frozen=True)
class Device:
    """Names of devices: some words, or those of GPUs."""

    words: tuple[str, ...]

    def holds(self, value: str) -> bool:
        return value in self.words or re.fullmatch(r"cuda(:\d{1,3})?", value) is not None

    def __str__(self) -> str:
        return ", ".join((*self.words, "cuda or cuda:<index>"))


@dataclasses.dataclass(frozen=True)
class Starts:
    """Text that is a prefix and a positive number."""

    prefix: str

    def holds(self, value: str) -> bool:
        try:
            return value.startswith(self.prefix) and 0.0 < float(value.removeprefix(self.prefix)) < math.inf
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"'{self.prefix}<positive number>'"


@dataclasses.dataclass(frozen=True)
class Parts:
    """A value for each part of a network, by these names."""

    names: tuple[str, ...]

    def fault(self, value: Any) -> str:
        """What is wrong with the names of ``value``, with ours for those of Stable-Baselines3; nothing, if they are right."""
        theirs = {"pi": "actor", "vf": "critic", "qf": "critic"}
        meant = [f"{name!r} is {theirs[name]!r} here" for name in value if name in theirs]
        return "" if sorted(value, key=str) == sorted(self.names) else f" ({', '.join(meant)})" if meant else " (no more, no less)"

    def __str__(self) -> str:
        return f"of {' and '.join(self.names)}"


Count: TypeAlias = Annotated[int, Range(1, MOST)]
Amount: TypeAlias = Annotated[int, Range(0, MOST)]
Fraction: TypeAlias = Annotated[float, Range(0, 1)]
Positive: TypeAlias = Annotated[float, Range(0, open_low=True)]
NonNegative: TypeAlias = Annotated[float, Range(0)]
NetworkDevice: TypeAlias = Annotated[str, Device(("auto", "cpu"))]
BufferDevice: TypeAlias = Annotated[str, Device(("cpu",))]
Tau: TypeAlias = Annotated[float, Range(0, 1, open_low=True)]
GradientSteps: TypeAlias = Annotated[int, Range(-1, 1_000_000)]
NStep: TypeAlias = Annotated[int, Range(1, 10_000)]
Rate: TypeAlias = Annotated[Schedule, Range(0, open_low=True)]
Weight: TypeAlias = Annotated[Schedule, Range(0)]
Limit: TypeAlias = Annotated[float, Range(1, infinite=True), Whole()]  # of steps or episodes; inf: none
Goal: TypeAlias = Annotated[float, Range(-1e300, infinite=True)]  # a return; inf: none
Layers: TypeAlias = Annotated[tuple[Annotated[int, Range(1, 65_536)], ...], Length(100)]
PartLayers: TypeAlias = Annotated[Mapping[str, Layers], Parts(("actor", "critic"))]
OptimizerArguments: TypeAlias = Mapping[str, bool | int | float | tuple[float, ...] | None]
NumEnvs: TypeAlias = Annotated[int, Range(1, 65_536)]  # more than that is a mistake
Seed: TypeAlias = Annotated[int, Range(-(2**63), 2**64 - 1)]


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """Marks an argument that is checked where it is used."""


class Unsaid(int):
    """A default that differs from the same number given: an argument that was not given leaves the run's setting as it is."""


class _Refused(Exception):
    def __init__(self, by_type: bool, why: str = "") -> None:
        self.by_type, self.why = by_type, why


def checked(what: str, value: Any, annotation: Any) -> Any:
    """``value`` as a plain Python value of this annotation. SettingError, or SettingTypeError, names ``what``."""
    try:
        return _converted(value, annotation, Range())
    except _Refused as refused:
        kind = SettingTypeError if refused.by_type else SettingError
        raise kind(f"{what} is {_shown(value)}, expected {expectation(annotation)}{refused.why}") from None


def check_fields(config: Any, called: str | None = None) -> None:
    """Check every field of a dataclass, which messages call by its type or as ``called``; NumPy's numbers become Python's."""
    for name, annotation in _fields(type(config)):  # type: ignore[arg-type]
        value = getattr(config, name)
        plain = checked(f"{called or type(config).__name__}: {name}", value, annotation)
        if plain is not value:
            object.__setattr__(config, name, plain)


def checks_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: the arguments that are given are checked, and made plain, by the annotations of ``function``."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            if name in _parameters(function) and not isinstance(value, Unsaid):
                given.arguments[name] = checked(f"{function.__name__}: {name}", value, _parameters(function)[name])
        return function(*given.args, **given.kwargs)

    return call


def check_range(config: Any, name: str, low: float, high: float) -> None:
    """Raise SettingError unless ``low <= config.name <= high``: for bounds that depend on other fields."""
    value = getattr(config, name)
    if not low <= value <= high:
        raise SettingError(f"{type(config).__name__}: {name} is {value}, expected a value in [{low}, {high}]")


def check_spaces(name: str, action_space: spaces.Space, allowed: tuple[type, ...]) -> None:
    """Raise SpaceError unless the algorithm can act in ``action_space``."""
    if not isinstance(action_space, allowed):
        raise SpaceError(f"{name}: action_space is {action_space}, expected {' or '.join(t.__name__ for t in allowed)}")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits has none
        text = f"of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


@functools.cache
def _fields(config_type: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(config_type, include_extras=True)
    return [(field.name, hints[field.name]) for field in dataclasses.fields(config_type)]


@functools.cache
def _parameters(function: Any) -> dict[str, Any]:
    """The annotations of named parameters."""
    hints = get_type_hints(function, include_extras=True)
    named = (p.name for p in inspect.signature(function).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    return {name: hints[name] for name in named if name in hints}


def _plain(value: Any) -> Any:
    """What a NumPy scalar or array without dimensions holds."""
    is_numpy = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if is_numpy else value


def _converted(value: Any, annotation: Any, bounds: Range) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *about = arguments
        if Elsewhere() in about:
            return value
        if own := next((a for a in about if isinstance(a, Own)), None):
            return _own(value, own)
        bounds = next((a for a in about if isinstance(a, Range)), bounds)
        if isinstance(value, list | tuple) and not all(a.holds(value) for a in about if isinstance(a, Length)):
            raise _Refused(by_type=False)  # before its items are looked at: a stranger's list may be long
        value = _schedule(value, bounds) if Scheduled() in about else _converted(value, base, bounds)
        if not all(a.holds(value) for a in about if isinstance(a, Whole | Length | Device | Starts)):
            raise _Refused(by_type=False)
        if (parts := next((a for a in about if isinstance(a, Parts)), None)) and (fault := parts.fault(value)):
            raise _Refused(False, fault)
        return int(value) if Whole() in about and not math.isinf(value) else value
    if annotation is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(value, arguments, bounds)
    if origin is Literal:
        return _choice(_plain(value), arguments)
    if origin is tuple:
        return _tuple(value, arguments, bounds)
    if origin is Mapping and arguments[1] is not Any:
        return _mapping(value, arguments, bounds)
    if annotation in _PLAIN:
        return _PLAIN[annotation](_plain(value), bounds)
    kind = type(None) if annotation is None else origin or annotation
    if not isinstance(kind, type):
        raise TypeError(f"settings of the kind {annotation} cannot be checked")
    if callable(value) if kind is Callable else isinstance(value, kind):
        return value
    raise _Refused(by_type=True)


def _one_of(value: Any, arms: tuple[Any, ...], bounds: Range) -> Any:
    refusals = []
    for arm in arms:
        try:
            return _converted(value, arm, bounds)
        except _Refused as refused:
            refusals.append(refused)
    raise _Refused(all(r.by_type for r in refusals), next((r.why for r in refusals if r.why), ""))


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise _Refused(by_type=not isinstance(value, str))


def _tuple(value: Any, kinds: tuple[Any, ...], bounds: Range) -> tuple[Any, ...]:
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 1:
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise _Refused(by_type=True)
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise _Refused(by_type=False)
    return tuple(_converted(entry, kind, bounds) for entry, kind in zip(value, kinds))


def _mapping(value: Any, kinds: tuple[Any, ...], bounds: Range) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _Refused(by_type=True)
    return {_converted(name, kinds[0], Range()): _converted(entry, kinds[1], bounds) for name, entry in value.items()}


def _own(value: Any, own: Own) -> Any:
    try:
        return kept(value, own.setting)
    except TypeError:
        raise _Refused(by_type=not isinstance(value, str)) from None


def _boolean(value: Any, bounds: Range) -> bool:
    if not isinstance(value, bool):
        raise _Refused(by_type=True)
    return value


def _integer(value: Any, bounds: Range) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise _Refused(by_type=True)
    if not bounds.holds(int(value)):
        raise _Refused(by_type=False)
    return int(value)


def _number(value: Any, bounds: Range) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise _Refused(by_type=True)
    try:
        number = float(value)
    except OverflowError:
        raise _Refused(by_type=False) from None
    if not bounds.holds(number):
        raise _Refused(by_type=False)
    return number


def _text(value: Any, bounds: Range) -> str:
    if not isinstance(value, str):
        raise _Refused(by_type=True)
    return str(value)


_PLAIN: dict[Any, Callable[[Any, Range], Any]] = {bool: _boolean, int: _integer, float: _number, str: _text}


def _schedule(value: Any, bounds: Range) -> Any:
    """A number, ``"linear_<number>"``, or a function, by its name where it has one."""
    value = by_name(_plain(value))
    if isinstance(value, str) and not is_name(value):
        try:
            _number(start_of(value), bounds)
        except ValueError:
            raise _Refused(by_type=False) from None
        return value
    if not isinstance(value, str) and not callable(value):
        return _number(value, bounds)
    for progress in (0.0, 0.5, 1.0):  # at its end it may be 0, as the linear ones
        try:
            number = value_at(value, progress)
        except Exception as error:  # the user's own
            raise _Refused(False, f" ({error})") from None
        if number > bounds.high or (progress == 0.0 and not bounds.holds(number)):
            raise _Refused(False, f" ({number} at progress {progress})")
    return value


def expectation(annotation: Any, bounds: Any = "") -> str:
    """What an annotation asks for, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *about = arguments
        if own := next((a for a in about if isinstance(a, Own)), None):
            return own.expected
        words = " ".join(str(a) for a in about if not isinstance(a, Scheduled | Whole)) or bounds
        if Whole() in about:
            return f"a whole number {words}".rstrip()
        if Scheduled() in about:
            number = expectation(float, words)
            return f"{number} or 'linear_<number>' or a function of a module (as it is, or as 'module:function')"
        return str(words) if any(isinstance(a, Device | Starts) for a in about) else expectation(base, words)
    if origin in (Union, types.UnionType):
        return " or ".join(expectation(arm, bounds) for arm in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else repr(arguments[0])
    if origin is Mapping and arguments and arguments[1] is not Any:
        return f"a mapping{f' {bounds}' if bounds else ''}, each entry {expectation(arguments[1])}"
    if origin is tuple:
        if arguments[-1] is not Ellipsis:
            return f"({', '.join(map(expectation, arguments))})"
        return f"a tuple{f' {bounds}' if bounds else ''}, each entry {expectation(arguments[0])}"
    if annotation is float and bounds == "above 0":
        return "a positive number"
    names = {bool: "True or False", int: "an integer", float: "a number", str: "text", type(None): "None", Callable: "a function"}
    names |= {Mapping: "a mapping", Path: "a path"}
    described = getattr(annotation, "described", getattr(annotation, "__name__", annotation))
    name = names.get(origin or annotation) or str(described)
    return f"{name} {bounds}" if bounds and annotation in (int, float) else name
