"""Objects of the user's own on the command line: ``--network mymodule:factory``. The module of a given name is imported."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyrl.cli.flags import import_from_here
from pyrl.errors import UnknownNameError, closest_names
from pyrl.own import BROUGHT, is_own, missing

if TYPE_CHECKING:
    from pyrl.experiment.runs import RunFolder


def with_objects(settings: Mapping[str, Any], command: str) -> dict[str, Any]:
    """``settings`` with the objects themselves where flags named them."""
    import_from_here()
    return {
        name: object_named(value, f"{command}: --{name.replace('_', '-')}")
        if name in BROUGHT and isinstance(value, str) and is_own(value)
        else value
        for name, value in settings.items()
    }


def objects_of(options: Any, command: str) -> dict[str, Any]:
    """The objects that the flags of eval, play or --resume name, and nothing for the others."""
    given = {name: getattr(options, name) for name in BROUGHT if getattr(options, name) is not None}
    for name, value in given.items():
        if ":" not in value:
            raise ValueError(f"{command}: --{name.replace('_', '-')} is {value!r}, expected MODULE:NAME, as it was for training")
    return with_objects(given, command)


def require_given(run: RunFolder, given: Mapping[str, Any], command: str) -> None:
    """UnknownNameError where a run needs an object of the user's own that no flag names."""
    absent = {name: value for name, value in missing(run.config.get("config", {})).items() if name not in given}
    if absent:
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in absent.items())
        raise UnknownNameError(
            f"{command}: the run was trained with what is not saved with it, and nothing imports it unasked; add {flags}"
        )


def object_named(name: str, flag: str) -> Any:
    """The object ``"module:name"``. UnknownNameError says what was looked for, ModuleNotFoundError which import inside it failed."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ModuleNotFoundError(f"{flag}: importing {module} failed: {error}", name=error.name) from error
        raise UnknownNameError(f"{flag} is {name!r}, but there is no module {module!r} here or in sys.path") from error
    for part in path.split("."):
        if not hasattr(found, part):
            near = closest_names(part, [known for known in vars(found) if not known.startswith("_")])
            raise UnknownNameError(f"{flag} is {name!r}, but {module} ({getattr(found, '__file__', found)}) has no {part!r}{near}")
        found = getattr(found, part)
    if not callable(found):
        raise UnknownNameError(f"{flag} is {name!r}, a {type(found).__name__}, expected a function or class")
    return found
