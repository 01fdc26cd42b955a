"""What the commands share: flags from dataclasses, and names checked before anything slow is imported."""

from __future__ import annotations

import ast
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from pyrl.agents.registry import available_agents, check_algorithm, meant
from pyrl.errors import EnvError, UnknownNameError

if TYPE_CHECKING:
    from pyrl.experiment.runs import RunFolder

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
        return {name: _literal(value) for name, value in pairs.items()}

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


def plain_flags(flags: list[str], *options: Any) -> list[str]:
    """``--flag true`` and ``--flag=false`` of booleans as tyro has them, ``--flag`` and ``--no-flag``. UnknownNameError for a flag
    of none of the dataclasses ``options`` that other libraries have by another name."""
    fields = {field.name: field.default for option in options for field in dataclasses.fields(option)}
    rest, waiting = [], flags[::-1]
    while waiting:
        flag, given, text = waiting.pop().partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if isinstance(fields.get(name), bool) and flag.startswith("--"):
            if not given and waiting and not waiting[-1].startswith("-"):
                given, text = "=", waiting.pop()
            if given and text.lower() not in _TRUTH:
                raise ValueError(f"train: {flag} is {text!r}, expected true or false, or the flag alone, or --no-{flag.removeprefix('--')}")
            rest.append(flag if not given or _TRUTH[text.lower()] else f"--no-{flag.removeprefix('--')}")
            continue
        if flag.startswith("--") and name not in fields and name.removeprefix("no_") not in fields and name != "help":
            near = meant(name, fields)
            flags_near = near.replace("did you mean ", "did you mean --").replace("_", "-") if "did you mean" in near else near
            raise UnknownNameError(f"train: there is no flag {flag}{flags_near} (--help shows them all)")
        rest.append(f"{flag}{given}{text}")
    return rest


_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


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


def split_env_kwargs(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """``--env-kwargs.name value`` (or ``=value``, a Python literal or a word) apart from the other flags."""
    kwargs: dict[str, Any] = {}
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if not argument.startswith("--env-kwargs."):
            rest.append(argument)
            continue
        name, given, text = argument.removeprefix("--env-kwargs.").partition("=")
        text = text if given else next(waiting, "")
        if not name.replace("-", "_").isidentifier() or not text or (not given and text.startswith("--")):
            raise ValueError(f"train: {argument} is not of the form --env-kwargs.NAME VALUE")
        kwargs[name.replace("-", "_")] = _literal(text)
    return kwargs, rest


def _literal(text: str) -> Any:
    named = {"true": True, "false": False, "null": None}
    try:
        return named[text] if text in named else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check_names(algo: str, env: str, env_kwargs: dict[str, Any]) -> None:
    """Unknown names are told before anything slow is imported."""
    check_algorithm(algo, env)
    from pyrl.envs.make import find_spec as find_env
    from pyrl.envs.make import make

    import_from_here()
    find_env(env)
    if env_kwargs:
        try:
            make(env, env_kwargs=env_kwargs).close()
        except (TypeError, EnvError) as error:  # a name that the environment does not take, or a value
            raise ValueError(f"train: {error}") from error


def import_from_here() -> None:
    """Find modules of the current folder, as ``python -m pyrl`` does: ``module:Name-v0`` may be one."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def check_by_id(run: RunFolder, action: str) -> None:
    """UnknownNameError for a run that was trained on a class or an object: only its program can make that environment.

    ``action`` is what to call there, with {env} in it."""
    if not run.config.get("by_id", True):
        env = run.config["env"]
        raise UnknownNameError(f"{run.path} was trained on {env}, an environment of its program: {action.replace('{env}', env)}")


def known_algorithms() -> str:
    return f"algorithms: {', '.join(available_agents())}"
