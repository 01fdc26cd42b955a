"""Every field of every agent's config, with values of every wrong type, at both edges of its range, and in NumPy's forms.

The values follow from the field's annotation alone, so that a new field or a new agent is walked over without a line here.
"""

from __future__ import annotations

import dataclasses
import decimal
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import torch
from agent_envs import AGENTS

from pyrl.agents.checks import Device, Length, Range, Starts
from pyrl.agents.registry import agent_class
from pyrl.own import Own
from pyrl.schedules import Scheduled

# What training takes, so that each case is over in milliseconds.
SMALL = {
    "net_arch": (4,),
    "n_steps": 4,
    "batch_size": 4,
    "n_epochs": 1,
    "buffer_size": 32,
    "learning_starts": 4,
    "target_update_interval": 2,
}
NO_SETTINGS = [
    object(),
    b"64",
    1j,
    {},
    {"a": 1},
    set(),
    decimal.Decimal("0.5"),
    np.datetime64("2026-01-01"),
    np.zeros((2, 2)),
    torch.tensor(1.0),
    type,
]
NO_NUMBERS = ["64", "", "nan", [], [1], (1,), np.array([1, 2]), np.array([1]), True, np.bool_(True), np.str_("1")]
NOT_FINITE = [math.nan, math.inf, -math.inf, np.float32("nan"), np.array(np.inf), 10**400, -(10**400), 10**5000]


def half(progress: float) -> float:
    """A schedule of this module."""
    return 0.5 * (1.0 - progress) if progress < 1 else 0.0


class Case(NamedTuple):
    algo: str
    field: str
    value: Any
    expected: Any  # what the config holds; REFUSED


REFUSED = object()


def fields() -> Iterator[tuple[str, str, Any]]:
    for algo in AGENTS:
        config = agent_class(algo).Config
        hints = get_type_hints(config, include_extras=True)
        for field in dataclasses.fields(config):
            yield algo, field.name, hints[field.name]


def small(algo: str) -> dict[str, Any]:
    return {name: value for name, value in SMALL.items() if name in {f.name for f in dataclasses.fields(agent_class(algo).Config)}}


def cases() -> list[Case]:
    return [Case(algo, name, value, expected) for algo, name, hint in fields() for value, expected in values_of(hint)]


def arms_of(hint: Any) -> list[tuple[Any, list[Any]]]:
    """(kind, what is declared about it) for each member of a union."""
    if get_origin(hint) is Annotated:
        base, *about = get_args(hint)
        return [(base, about)]
    if (get_origin(hint) is not None and type(None) in get_args(hint)) or (
        len(get_args(hint)) > 1 and get_origin(hint) not in (tuple, Literal, Mapping)
    ):
        return [arm for member in get_args(hint) for arm in arms_of(member)]
    return [(hint, [])]


def values_of(hint: Any) -> list[tuple[Any, Any]]:
    """(value, what becomes of it), for this annotation."""
    arms = arms_of(hint)
    kinds = [kind for kind, _ in arms]
    own = next((a.setting for _, about in arms for a in about if isinstance(a, Own)), None)
    free = any(get_origin(kind) is Mapping and not about for kind, about in arms)
    taken = ([type] if own not in (None, "optimizer") else []) + ([{}, {"a": 1}] if free else [])
    found: list[tuple[Any, Any]] = [
        (value, value if any(value is t or value == t for t in taken if type(t) is type(value)) else REFUSED) for value in NO_SETTINGS
    ]
    found += [(None, None if type(None) in kinds else REFUSED)]
    for kind, about in arms:
        limits = next((a for a in about if isinstance(a, Range)), Range())
        if Scheduled() in about:
            found += schedules(limits)
            found += numbers(float, limits)
        elif kind in (int, float):
            found += numbers(kind, limits)
        elif own is not None and any(isinstance(a, Own) for a in about):
            found += brought(own)
        elif get_origin(kind) is Mapping and about:
            found += [({"actor": [5], "critic": np.array([3, 4])}, {"actor": (5,), "critic": (3, 4)})]
            found += [
                (v, REFUSED)
                for v in ({"actor": (5,)}, {"pi": (5,), "vf": (5,)}, {"actor": (0,), "critic": (5,)}, {"actor": 5, "critic": 5})
            ]
        elif get_origin(kind) is Mapping:
            found += [({"a": np.float32(0.5), "b": [1, 2]}, {"a": 0.5, "b": (1.0, 2.0)}), ({"a": True}, {"a": True})]
            found += [(v, REFUSED) for v in ({"a": "x"}, {1: 2}, {"a": math.nan}, {"a": {}}, [("a", 1)])]
        elif kind is bool:
            found += [(v, REFUSED) for v in (0, 1, "no", "True", 1.0, np.int64(1), np.array([True]))]
            found += [(np.bool_(True), True), (np.array(False), False), (True, True)]
        elif get_origin(kind) is Literal:
            found += [(choice, choice) for choice in get_args(kind)] + [(np.str_(choice), choice) for choice in get_args(kind)]
            found += [(v, REFUSED) for v in ("", "no such", True, [get_args(kind)[0]])] + [(get_args(kind)[0].upper(), REFUSED)]
        elif get_origin(kind) is tuple:
            found += [
                ([5, 3], (5, 3)),
                (np.array([5, 3]), (5, 3)),
                ((np.int32(5), 3), (5, 3)),
                ((), ()),
                (np.array(5), REFUSED),
                (5, REFUSED),
            ]
            found += [(v, REFUSED) for v in ("64", (0,), (-1,), (2.5,), ("8",), (True,), (64, None), ((4,),), np.array([0.5]), (70_000,))]
            found += [((1,) * (a.most + 1), REFUSED) for a in about if isinstance(a, Length)]
        elif any(isinstance(a, Device) for a in about):
            found += [(np.str_("cpu"), "cpu")] + [(v, REFUSED) for v in ("", "gpu", "cuda:", "cuda:x", "CPU", 0, True, "cuda:0:1")]
        elif any(isinstance(a, Starts) for a in about):
            found += [("auto_0.5", "auto_0.5")] + [(f"auto_{v}", REFUSED) for v in ("", "0", "-1", "nan", "inf", "x")]
    return found


def brought(setting: str) -> list[tuple[Any, Any]]:
    """Objects of the user's own, and names that a checkpoint may hold."""
    from settings_walk import half as function

    found: list[tuple[Any, Any]] = [("a.module:name.of<it>", "a.module:name.of<it>"), ("a module:name", REFUSED), (":name", REFUSED)]
    if setting == "optimizer":
        optim = torch.optim
        found += [(optim.NAdam, "torch.optim:NAdam"), (optim.Adam, "adam"), ("torch.optim:SGD", "sgd"), (optim.LBFGS, optim.LBFGS)]
        return [*found, (function, REFUSED), (torch.nn.Linear, REFUSED)]
    found += [(function, function), (dict, dict)]
    if setting == "activation":
        found += [(torch.nn.Mish, "torch.nn:Mish"), (torch.nn.ReLU, "relu"), ("torch.nn:Tanh", "tanh"), (torch.nn.Linear, torch.nn.Linear)]
    return found


def numbers(kind: type, limits: Range) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = [(v, REFUSED) for v in (*NO_NUMBERS, *NOT_FINITE)]
    step: Callable[[float, float], float] = (lambda x, to: x + (1 if to > x else -1)) if kind is int else math.nextafter
    low, high = limits.low, limits.high
    if math.isfinite(low):
        found += [
            (step(low, -math.inf), REFUSED),
            (kind(low), REFUSED if limits.open_low else kind(low)),
            (step(low, math.inf), step(low, math.inf)),
        ]
    if math.isfinite(high):
        found += [(step(high, math.inf), REFUSED), (kind(high), kind(high))]
    if kind is int:
        found += [(2.5, REFUSED), (4.0, REFUSED), (np.float64(4.0), REFUSED), (np.int64(4), 4), (np.uint8(4), 4), (np.array(4), 4), (4, 4)]
    else:
        found += [
            (np.float32(0.3), float(np.float32(0.3))),
            (np.float64(0.3), 0.3),
            (np.float16(0.5), 0.5),
            (np.array(0.5), 0.5),
            (np.int32(1), 1.0),
        ]
        found += [(np.longdouble(0.5), 0.5), (1, 1.0)]
    return found


def schedules(limits: Range) -> list[tuple[Any, Any]]:
    from settings_walk import half as function  # under the name that it is saved by

    found: list[tuple[Any, Any]] = [("linear_0.5", "linear_0.5"), ("lin_0.5", "lin_0.5"), (function, "settings_walk:half")]
    found += [("settings_walk:half", "settings_walk:half")]
    bad = (
        "linear_",
        "linear_-1",
        "linear_nan",
        "linear_inf",
        "linear_x",
        "constant_1",
        "no_module:f",
        "settings_walk:nothing",
        "settings_walk:AGENTS",
    )
    functions = (lambda: 0.5, lambda p: "x", lambda p: math.nan, lambda p: -1.0, lambda p: None, lambda p: 1 / 0 if False else math.inf)
    return found + [(v, REFUSED) for v in (*bad, *functions)]
