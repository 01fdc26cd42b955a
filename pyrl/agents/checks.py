"""Checks of configs and spaces that agents share."""

from __future__ import annotations

import dataclasses
import re
from numbers import Integral, Real
from typing import Any

import numpy as np
from gymnasium import spaces

from pyrl.errors import SpaceError


def check_numbers(config: Any) -> None:
    """TypeError where a field that is annotated as a number holds something else."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        wanted = {"int": Integral, "float": Real}.get(str(field.type))
        if wanted is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            kind = "an integer" if wanted is Integral else "a number"
            raise TypeError(f"{type(config).__name__}: {field.name} is {value!r}, expected {kind}")


def check_count(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is an integer of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least 1")


def check_range(config: Any, name: str, low: float | None, high: float | None, *, open_low: bool = False) -> None:
    """Raise ValueError unless ``low <= config.name <= high`` (``<`` below if ``open_low``)."""
    value = getattr(config, name)
    too_low = low is not None and (not value > low if open_low else not value >= low)
    if too_low or (high is not None and not value <= high):
        bounds = f"{'(' if open_low else '['}{low if low is not None else '-inf'}, {high if high is not None else 'inf'}]"
        raise ValueError(f"{type(config).__name__}: {name} is {value}, expected a value in {bounds}")


def check_layers(config: Any) -> None:
    """Raise ValueError unless every hidden layer of ``config.net_arch`` has a width."""
    widths = config.net_arch
    if not isinstance(widths, tuple) or not all(isinstance(width, int | np.integer) and width >= 1 for width in widths):
        raise ValueError(f"{type(config).__name__}: net_arch is {widths!r}, expected widths of at least 1, such as (64, 64)")


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"{type(config).__name__}: {name} is {value!r}, expected one of {', '.join(choices)}")


def check_device(config: Any, name: str, *others: str) -> None:
    """Raise ValueError unless the field is one of ``others``, or names a GPU."""
    value = getattr(config, name)
    if value not in others and not re.fullmatch(r"cuda(:\d+)?", str(value)):
        raise ValueError(f"{type(config).__name__}: {name} is {value!r}, expected {', '.join(others)}, cuda or cuda:<index>")


def check_spaces(name: str, action_space: spaces.Space, allowed: tuple[type, ...]) -> None:
    """Raise SpaceError unless the algorithm can act in ``action_space``."""
    if not isinstance(action_space, allowed):
        raise SpaceError(f"{name}: action_space is {action_space}, expected {' or '.join(t.__name__ for t in allowed)}")
