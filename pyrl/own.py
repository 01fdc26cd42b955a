"""What users bring as settings: networks, feature extractors, activations, optimisers.

A config holds the object itself. What pyrl or torch has under a fixed name becomes that name (``torch.nn.Mish``: ``"torch.nn:Mish"``),
and can be made again from a checkpoint. Anything else is remembered there by ``"module:name"``, which says what to hand in again and is
never imported: a checkpoint executes nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyrl.errors import SettingError

BROUGHT = ("network", "features_extractor", "activation", "optimizer")  # the settings that may be a user's own object

_NAME = re.compile(r"[A-Za-z_][\w.]*:\S.*")
# The classes of torch that take no arguments and act on each number alone, and those that step one flat tensor.
_CLASSES = {
    "activation": (
        "torch.nn", "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish",
        "PReLU", "ReLU", "ReLU6", "RReLU", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink",
    ),
    "optimizer": (
        "torch.optim", "ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD",
    ),
}  # fmt: skip
_SHORT = {
    "torch.nn:ReLU": "relu", "torch.nn:Tanh": "tanh", "torch.nn:SiLU": "silu", "torch.nn:GELU": "gelu",
    "torch.optim:Adam": "adam", "torch.optim:SGD": "sgd",
}  # fmt: skip


@dataclass(frozen=True)
class Own:
    """Marks the annotation of such a setting, for the checks; ``expected`` describes in words what may be brought."""

    setting: str
    expected: str


def kept(value: Any, setting: str) -> Any:
    """``value`` as a config holds it: a name, or a callable. TypeError where it is neither, or not an optimiser."""
    if isinstance(value, str):
        if _NAME.fullmatch(value) is None:
            raise TypeError("no name")
        return _SHORT.get(str(value), str(value))
    if not callable(value):
        raise TypeError("not callable")
    if isinstance(value, type):
        name = f"{_CLASSES[setting][0]}:{value.__name__}" if setting in _CLASSES else ""
        if torch_class(name) is value:
            return _SHORT.get(name, name)
    if setting == "optimizer" and not (isinstance(value, type) and hasattr(value, "zero_grad") and hasattr(value, "step")):
        raise TypeError("no class of optimisers")
    return value


def torch_class(name: Any) -> Any:
    """The class of torch under a fixed name, ``"torch.nn:Mish"``; None for any other name."""
    module, _, cls = name.partition(":") if isinstance(name, str) else ("", "", "")
    known = any(module == home and cls in classes for home, *classes in _CLASSES.values())
    return getattr(sys.modules.get(module), cls, None) if known else None


def is_own(value: Any) -> bool:
    """Whether a setting is the user's own object, or the name that stands for one."""
    if isinstance(value, str):
        return _NAME.fullmatch(value) is not None and not any(
            value.startswith(f"{home}:") and value.rpartition(":")[2] in classes for home, *classes in _CLASSES.values()
        )
    return callable(value)


def name_of(value: Any) -> str:
    """``"module:name"`` of an object, as a config in JSON keeps it; names stay as they are."""
    if isinstance(value, str):
        return value
    about = value if hasattr(value, "__qualname__") else type(value)
    return f"{about.__module__}:{about.__qualname__}"


def named(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with names in place of what users brought."""
    return {field: name_of(value) if field in BROUGHT and callable(value) else value for field, value in config.items()}


def missing(config: Mapping[str, Any]) -> dict[str, str]:
    """{setting: name} of the objects that are kept by name only, and so must be passed again."""
    return {field: value for field in BROUGHT if isinstance(value := config.get(field), str) and is_own(value)}


def handed_in(config: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``config``, of a checkpoint or a run, with the objects of ``given`` (None: not given) in place of their names.

    SettingError for one that is missing, and for one that the config does not ask for.
    """
    given = {field: kept(value, field) if callable(value) else value for field, value in given.items() if value is not None}
    asked = missing(config)
    for field, value in given.items():
        if field not in asked and value != config.get(field):
            raise SettingError(f"{field} is {value!r}, but {where} was made with {config.get(field)!r}; leave it out")
    absent = {field: name for field, name in asked.items() if not callable(given.get(field))}
    if absent:
        what = " and ".join(f"{field} {name}" for field, name in absent.items())
        how = ", ".join(f"{field}=..." for field in absent)
        raise SettingError(f"{where} was made with the {what}; only the name is kept, and nothing is imported by it: hand in {how}")
    return {**config, **given}


def require_here(config: Any, where: str) -> None:
    """SettingError if an object of ``config`` is given by its name only."""
    absent = missing({field: getattr(config, field, None) for field in BROUGHT})
    for field, name in absent.items():
        raise SettingError(f"{where}: {field} is {name!r}, a name; expected the object itself, as nothing is imported by its name here")
