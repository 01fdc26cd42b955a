"""Flags into dataclasses, by tyro."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from pyrl.cli.flags import literal

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
    if not any(get_origin(arm) is Callable for arm in arms) or float not in arms:
        return None
    metavar = ("{None}|" if type(None) in arms else "") + "FLOAT|linear_FLOAT|MODULE:FUNCTION"

    def read(texts: list[str]) -> Any:
        if texts[0] == "None" and type(None) in arms:
            return None
        with suppress(ValueError):
            return float(texts[0])
        return texts[0]

    return PrimitiveConstructorSpec(1, metavar, read, lambda value: True, lambda value: [str(value)])


@_registry.primitive_rule
def _own(about: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """How tyro reads every flag that may name an object of the user's own: text, a name of pyrl's or MODULE:NAME."""
    arms = list(_arms(about.type))
    if not any(get_origin(arm) is Callable for arm in arms) or float in arms:
        return None
    words = [arm for arm in arms if isinstance(arm, str)]
    optional = type(None) in arms
    metavar = "|".join(([f"{{{','.join(words)}}}"] if words else []) + ["MODULE:NAME"])

    def read(texts: list[str]) -> Any:
        if optional and texts[0] == "None":
            return None
        if texts[0] not in words and ":" not in texts[0]:
            raise ValueError(f"{texts[0]!r} is none of {', '.join(words)}{' or' if words else ''} MODULE:NAME")
        return texts[0]

    return PrimitiveConstructorSpec(1, ("{None}|" if optional else "") + metavar, read, lambda value: True, lambda value: [str(value)])


@_registry.primitive_rule
def _mappings(about: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Flags that are a mapping, or None, or numbers for all parts alike: ``--net-arch actor=64,64 critic=256``, ``--net-arch 64 64``."""
    arms = list(_arms(about.type))
    if not any(get_origin(arm) is Mapping for arm in arms):
        return None
    tuples = any(get_origin(arm) is tuple for arm in arms)

    def read(texts: list[str]) -> Any:
        if texts == ["None"]:
            return None
        if tuples and not any("=" in text for text in texts):
            return tuple(whole_number(text) for text in texts)
        if not all(text.partition("=")[1] for text in texts):
            raise ValueError(f"{' '.join(texts)!r} is not of the form NAME=VALUE NAME=VALUE")
        pairs = {name: value for name, _, value in (text.partition("=") for text in texts)}
        if tuples:
            return {name: tuple(whole_number(part) for part in value.split(",") if part) for name, value in pairs.items()}
        return {name: literal(value) for name, value in pairs.items()}

    def written(value: Any) -> list[str]:
        if isinstance(value, Mapping):
            return [f"{name}={','.join(map(str, part)) if isinstance(part, tuple) else part}" for name, part in value.items()]
        return [str(part) for part in value] if isinstance(value, tuple) else [str(value)]

    metavar = "[INT [INT ...]]|[NAME=INT,INT ...]" if tuples else "{None}|[NAME=VALUE ...]"
    return PrimitiveConstructorSpec("*", metavar, read, lambda value: True, written)


def _arms(annotation: Any) -> Iterator[Any]:
    """The kinds that a union allows."""
    if get_origin(annotation) is Annotated:
        yield from _arms(get_args(annotation)[0])
    elif get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Callable, Mapping, tuple) or not get_args(annotation):
        yield annotation
    else:
        for arm in get_args(annotation):
            yield from _arms(arm)


def whole_number(text: str) -> int:
    """100000 as users write it: 100_000 and 1e5 too."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        if float(text).is_integer():
            return int(float(text))
    raise ValueError(f"{text!r} is not a whole number, like 100000 or 1e5")


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number, like 0.5 or 1e-3") from None


def parse(options: type[Options], arguments: list[str], command: str, about: str) -> Options:
    """Flags into a dataclass; tyro prints help and mistakes and exits with 0 or 2."""
    with _registry:
        return tyro.cli(options, args=arguments, prog=f"pyrl {command}", description=about, config=(tyro.conf.OmitArgPrefixes,))


def parse_known(options: type[Options], arguments: list[str], command: str, about: str) -> tuple[Options, list[str]]:
    """The same, and the arguments that no flag took."""
    with _registry:
        return tyro.cli(options, args=arguments, prog=f"pyrl {command}", description=about, return_unknown_args=True)
