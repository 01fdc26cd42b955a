"""The state of an agent, as checkpoints keep it: read and checked as a whole before anything of an agent is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrl.checkpoint import require_alike, require_finite
from pyrl.engine.optimizers import state_after_a_step
from pyrl.errors import CheckpointError
from pyrl.types import Progress

if TYPE_CHECKING:
    from pyrl.agents.base import Agent

_LARGEST = 1 << 62  # of a counter
_SUMS = {"exp_avg_sq", "square_avg", "step", "m2", "count"}  # of squares, or of ones


def state_of(agent: Agent) -> dict[str, Any]:
    """Everything that decides how ``agent`` continues: tensors, arrays and JSON values only."""
    return {
        "model": _weights(agent),
        "optimizer": {k: _flat(o) for k, o in agent.optimizers().items()},
        "normalizer": agent.normalizer.state_dict(),
        "random": {k: list(r.state) for k, r in agent.streams().items()},
        "counters": agent.counters(),
        "progress": {"share": agent.progress.share},
    }


def set_state(agent: Agent, state: Mapping[str, Any]) -> None:
    """Load ``state`` into ``agent``. CheckpointError names the first entry that does not fit; nothing is changed
    then."""
    _check(agent, state)
    _set_streams(agent, state["random"])  # which may still raise
    for name, module in agent.modules().items():
        module.load_state_dict({n.removeprefix(f"{name}."): t for n, t in state["model"].items() if n.startswith(f"{name}.")})
    for name, optimizer in agent.optimizers().items():
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": _nested(state["optimizer"][name]), "param_groups": groups})
    agent.normalizer.load_state_dict(state["normalizer"])
    counters = state["counters"]
    for name in agent.counters().keys() - {"env_steps"}:
        setattr(agent, name, counters[name])
    agent.progress = Progress(counters["env_steps"], _share(state))


def require_sane(tree: Mapping[str, Any], what: str) -> None:
    """CheckpointError names the first array that training cannot produce: NaN or infinite, or negative where squares are added."""
    for name, entry in tree.items():
        where = f"{what}/{name}"
        if isinstance(entry, Mapping):
            require_sane(entry, where)
        elif not hasattr(entry, "shape") or name.rpartition(".")[2] not in _SUMS:
            require_finite(entry, where)
        elif not (entry >= 0).all():  # also for NaN; sums of squares may overflow
            raise CheckpointError(f"{where} holds numbers that are negative or NaN")


def _check(agent: Agent, state: Mapping[str, Any]) -> None:
    """Everything except the streams, whose setters check themselves."""
    for group in ("model", "optimizer", "normalizer", "random", "counters"):
        if not isinstance(state.get(group), Mapping):
            raise CheckpointError(f"the agent's state has no {group!r}")
    require_alike(state["model"], _weights(agent), "model")
    # Before the first step there is no state; after it, the optimiser's state of its one flat parameter.
    optimizers = {k: {} if state["optimizer"].get(k) == {} else _named(state_after_a_step(o)) for k, o in agent.optimizers().items()}
    require_alike(state["optimizer"], optimizers, "optimizer")
    normalizer = agent.normalizer.state_dict()
    if "reward" in normalizer and len(shape := _shape(state["normalizer"], "reward", "running_return")) == 1:
        normalizer["reward"]["running_return"] = np.zeros(shape)  # of another number of environments: the returns start anew
    require_alike(state["normalizer"], normalizer, "normalizer")
    require_alike(state["counters"], agent.counters(), "counters")
    for name, count in state["counters"].items():
        if not 0 <= count < _LARGEST:
            raise CheckpointError(f"counters/{name} is {count}, expected a number in [0, 2^62)")
    for group in ("model", "optimizer", "normalizer"):
        require_sane(state[group], group)
    _share(state)


def _share(state: Mapping[str, Any]) -> float:
    """The share of the run that was done; 0 in the states of older versions, which did not keep it."""
    progress = state.get("progress", {"share": 0.0})
    share: Any = progress.get("share") if isinstance(progress, Mapping) and len(progress) == 1 else None
    if type(share) not in (float, int) or not 0.0 <= share <= 1.0:
        raise CheckpointError(f"progress is {progress!r:.100}, expected a share in [0, 1]")
    return float(share)


def _shape(tree: Any, *keys: str) -> tuple[int, ...]:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tuple(getattr(tree, "shape", ()))


def _set_streams(agent: Agent, states: Mapping[str, Any]) -> None:
    streams = agent.streams()
    require_alike(states, {name: [] for name in streams}, "random")
    for name, state in states.items():
        if not all(type(word) in (int, float) for word in state):
            raise CheckpointError(f"random/{name} holds other things than numbers")
    before = {name: stream.state for name, stream in streams.items()}
    try:
        for name, stream in streams.items():
            stream.state = tuple(states[name])
    except Exception as error:
        for name, stream in streams.items():
            stream.state = before[name]
        raise CheckpointError(f"random: {error}") from error


def _weights(agent: Agent) -> dict[str, torch.Tensor]:
    return {f"{k}.{n}": t for k, m in agent.modules().items() for n, t in m.state_dict().items()}


def _named(slots: Mapping[str, Any]) -> dict[str, Any]:
    """Of the optimiser's only parameter."""
    return {f"0.{name}": value for name, value in slots.items()}


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {f"{i}.{name}": value for i, slots in optimizer.state_dict()["state"].items() for name, value in slots.items()}


def _nested(flat: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return state
