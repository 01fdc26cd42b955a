"""Flags into dataclasses, by tyro."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

Options = TypeVar("Options")
_registry = ConstructorRegistry()


@_registry.primitive_rule
def _numbers(about: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """How tyro reads every flag that is a number, or a number or None."""
    arms = list(_arms(about.type))
    optional, kinds = type(None) in arms, [arm for arm in arms if arm is not type(None)]
    if kinds not in ([int], [float]):
        return None
    kind = kinds[0]

    def read(texts: list[str]) -> Any:
        if optional and texts[0] == "None":
            return None
        return whole_number(texts[0]) if kind is int else number(texts[0])

    metavar = ("{None}|" if optional else "") + ("INT" if kind is int else "FLOAT")
    return PrimitiveConstructorSpec(1, metavar, read, lambda value: isinstance(value, int | float | None), lambda value: [str(value)])


@_registry.primitive_rule
def _schedules(about: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """How tyro reads every flag that may be a schedule: a number, or text (a function by its name too)."""
    arms = list(_arms(about.type))
    if not any(get_origin(arm) is Callable for arm in arms):
        return None
    metavar = ("{None}|" if type(None) in arms else "") + "FLOAT|linear_FLOAT|MODULE:FUNCTION"

    def read(texts: list[str]) -> Any:
        if texts[0] == "None" and type(None) in arms:
            return None
        with suppress(ValueError):
            return float(texts[0])
        return texts[0]

    return PrimitiveConstructorSpec(1, metavar, read, lambda value: True, lambda value: [str(value)])


def _arms(annotation: Any) -> Iterator[Any]:
    """The kinds that a union allows."""
    if get_origin(annotation) is Annotated:
        yield from _arms(get_args(annotation)[0])
    elif get_origin(annotation) in (Callable, tuple) or not get_args(annotation):
        yield annotation
    else:
        for arm in get_args(annotation):
            yield from _arms(arm)


def whole_number(text: str) -> int:
    """100000 as people write it: 100_000 and 1e5 too."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        if float(text).is_integer():
            return int(float(text))
    raise ValueError(f"{text!r} is no whole number, such as 100000 or 1e5")


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number, such as 0.5 or 1e-3") from None


def parse(options: type[Options], arguments: list[str], command: str, about: str) -> Options:
    """Flags into a dataclass; tyro prints help and mistakes and leaves with 0 or 2."""
    with _registry:
        return tyro.cli(options, args=arguments, prog=f"pyrl {command}", description=about, config=(tyro.conf.OmitArgPrefixes,))


def parse_known(options: type[Options], arguments: list[str], command: str, about: str) -> tuple[Options, list[str]]:
    """The same, and what no flag took."""
    with _registry:
        return tyro.cli(options, args=arguments, prog=f"pyrl {command}", description=about, return_unknown_args=True)
