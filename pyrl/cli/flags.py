"""What the commands share: flags as users write them, and names checked before anything slow is imported. `pyrl.cli.parsing` reads
flags into dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

from pyrl.agents.registry import available_agents, check_algorithm, meant
from pyrl.errors import EnvError, UnknownNameError

if TYPE_CHECKING:
    from pyrl.experiment.runs import RunFolder


def plain_flags(flags: list[str], *options: Any) -> list[str]:
    """``--flag true`` and ``--flag=false`` of booleans as tyro has them, ``--flag`` and ``--no-flag``. UnknownNameError for a flag
    that no dataclass of ``options`` has, with pyrl's name where it is another library's."""
    fields = {field.name: field.default for option in options for field in dataclasses.fields(option)}
    rest, waiting = [], flags[::-1]
    while waiting:
        flag, given, text = waiting.pop().partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if isinstance(fields.get(name), bool) and flag.startswith("--"):
            if not given and waiting and not waiting[-1].startswith("-"):
                given, text = "=", waiting.pop()
            if given and text.lower() not in TRUTH:
                raise ValueError(f"train: {flag} is {text!r}, expected true or false, or the flag alone, or --no-{flag.removeprefix('--')}")
            rest.append(flag if not given or TRUTH[text.lower()] else f"--no-{flag.removeprefix('--')}")
            continue
        if flag.startswith("--") and name not in fields and name.removeprefix("no_") not in fields and name != "help":
            near = meant(name, fields)
            flags_near = near.replace("did you mean ", "did you mean --").replace("_", "-") if "did you mean" in near else near
            raise UnknownNameError(f"train: there is no flag {flag}{flags_near} (--help shows them all)")
        rest.append(f"{flag}{given}{text}")
    return rest


def says(flags: list[str], name: str) -> bool:
    """Whether ``flags`` set the boolean flag ``--name``, before the other flags are known."""
    said = False
    for flag, following in zip(flags, [*flags[1:], ""]):
        known, given, text = flag.partition("=")
        if known == f"--{name}":
            said = TRUTH.get((text if given else following).lower(), True)
        elif known == f"--no-{name}":
            said = False
    return said


TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


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
        kwargs[name.replace("-", "_")] = literal(text)
    return kwargs, rest


def literal(text: str) -> Any:
    named = {"true": True, "false": False, "null": None}
    try:
        return named[text] if text in named else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check_names(algo: str, env: str, env_kwargs: dict[str, Any]) -> None:
    """Reports unknown names before anything slow is imported."""
    check_algorithm(algo, env)
    from pyrl.envs.ids import find_spec as find_env
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
