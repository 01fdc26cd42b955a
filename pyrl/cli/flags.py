"""What the commands share: flags from dataclasses, and names checked before anything slow is imported."""

from __future__ import annotations

import ast
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from pyrl.agents.registry import available_agents, check_algorithm
from pyrl.errors import EnvError, UnknownNameError

if TYPE_CHECKING:
    from pyrl.experiment.runs import RunFolder

Options = TypeVar("Options")
_registry = ConstructorRegistry()


@_registry.primitive_rule
def _integers(about: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    """How tyro reads every flag that is an int."""
    if about.type is not int:
        return None
    return PrimitiveConstructorSpec(
        1, "INT", lambda texts: whole_number(texts[0]), lambda value: isinstance(value, int), lambda value: [str(value)]
    )


def whole_number(text: str) -> int:
    """100000 as people write it: 100_000 and 1e5 too."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        if float(text).is_integer():
            return int(float(text))
    raise ValueError(f"{text!r} is no whole number, such as 100000 or 1e5")


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
