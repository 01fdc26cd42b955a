"""What an agent's state must be to be loaded: the same entries, dtypes and shapes, finite, and nothing beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import pyrl
from pyrl import checkpoint
from pyrl.errors import CheckpointError, NonFiniteError

GOLDEN = Path(__file__).parent.parent / "golden"
RUNS = sorted(folder.parent.parent.name for folder in GOLDEN.glob("*/checkpoints/last"))


def poisoned(value: float) -> Any:
    def change(array: Any) -> Any:
        array = array.clone() if isinstance(array, torch.Tensor) else array.copy()
        array.reshape(-1)[-1] = value
        return array

    return change


CHANGES = {
    "int32": lambda a: a.to(torch.int32) if isinstance(a, torch.Tensor) else a.astype(np.int32),
    "float64": lambda a: a.to(torch.float64) if isinstance(a, torch.Tensor) else a.astype(np.complex128).real.astype(np.float16),
    "other library": lambda a: a.numpy() if isinstance(a, torch.Tensor) else torch.from_numpy(a),
    "another shape": lambda a: a.reshape(1, *a.shape),
    "cut": lambda a: a.reshape(-1)[:-1],
    "NaN": poisoned(np.nan),
    "no array": lambda a: 1.0,
    "list": lambda a: a.tolist() if a.ndim else [],
}


def arrays_of(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += arrays_of(value, (*path, key))
        elif hasattr(value, "shape") and np.prod(value.shape) > 0:
            found.append((*path, key))
    return found


GROUPS = ("model", "optimizer", "normalizer")


@pytest.mark.parametrize("change", [*CHANGES, "missing", "further"])
@pytest.mark.parametrize("name", RUNS)
def test_a_changed_array_is_refused_by_name(name: str, change: str) -> None:
    """One of every group of the state; nothing of the agent is changed then."""
    agent = pyrl.load(GOLDEN / name / "checkpoints" / "last")
    tree, _ = checkpoint.load(GOLDEN / name / "checkpoints" / "last", groups=agent.state_dict())
    for group in GROUPS:
        places = arrays_of(tree.get(group, {}))
        if not places or (group == "optimizer" and change == "missing"):
            continue
        path = places[len(places) // 2]
        if change == "another shape" and path[-1] == "running_return":
            continue
        state: dict[str, Any] = {k: dict(v) for k, v in tree.items()}
        node = state[group]
        for key in path[:-1]:
            node[key] = dict(node[key])
            node = node[key]
        array = node[path[-1]]
        if change == "NaN" and array.dtype in (np.int64, torch.int64):
            continue
        if change == "cut" and path[-1] == "running_return":
            continue
        if change == "missing":
            del node[path[-1]]
        elif change == "further":
            node["further"] = array
        else:
            node[path[-1]] = CHANGES[change](array)
        before = agent.state_dict()
        with pytest.raises(CheckpointError, match=group):
            agent.load_state_dict(state)
        after = agent.state_dict()
        assert before["random"] == after["random"]
        assert before["counters"] == after["counters"]
        assert all(torch.equal(before["model"][k], after["model"][k]) for k in before["model"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, value: float) -> None:
    agent = pyrl.make_agent("ppo", spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
    agent.save(tmp_path / "a")
    with torch.no_grad():
        agent.network.actor[0].bias[1] = value
    with pytest.raises(NonFiniteError, match=r"save: model/network.actor.0.bias holds 1 numbers that are NaN or infinite"):
        agent.save(tmp_path / "a")
    pyrl.load(tmp_path / "a")


def test_negative_squares_are_refused() -> None:
    """They would make NaNs of the weights at the next step."""
    agent = pyrl.load(GOLDEN / "ppo" / "checkpoints" / "last")
    state = agent.state_dict()
    state["optimizer"]["optimizer"]["0.exp_avg_sq"] = -torch.ones_like(state["optimizer"]["optimizer"]["0.exp_avg_sq"])
    with pytest.raises(CheckpointError, match="exp_avg_sq holds numbers that are negative or NaN"):
        agent.load_state_dict(state)


def test_other_threads_build_networks_meanwhile() -> None:
    """What a checkpoint may ask for is counted in the thread that loads it."""
    import threading

    from pyrl.agents.checkpoints import _parameters_within

    failed: list[BaseException] = []

    def build() -> None:
        try:
            torch.nn.Linear(64, 64)
        except BaseException as error:
            failed.append(error)

    with _parameters_within(1, 100):
        thread = threading.Thread(target=build)
        thread.start()
        thread.join()
        with pytest.raises(CheckpointError, match=r"up to Linear.weight \[64, 64\], expected at most 100"):
            torch.nn.Linear(64, 64)
    torch.nn.Linear(64, 64)
    assert not failed


@pytest.mark.parametrize(
    "error", [StopIteration, MemoryError, RecursionError, OverflowError, AttributeError, AssertionError, KeyError, OSError]
)
def test_every_error_of_an_agent_is_a_checkpoint_error(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    from pyrl.agents import checkpoints

    def broken(*args: Any, **options: Any) -> None:
        raise error("a reason")

    monkeypatch.setattr(checkpoints, "make_agent", broken)
    with pytest.raises(CheckpointError, match="does not make an agent") as caught:
        pyrl.load(GOLDEN / "ppo" / "checkpoints" / "last")
    assert isinstance(caught.value.__cause__, error)
