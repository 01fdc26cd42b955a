"""The loader's fuzzer, in small: the worst of its kinds one by one, and a few hundred of its mutations. All of it: `loader`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader import BATCH, loops, run
from mutations import BASES, BOX, deep_space, read

import pyrl
from pyrl.agents.checkpoints import ALLOWANCE
from pyrl.errors import CheckpointError

MUTATIONS = range(300)


@pytest.fixture(scope="module")
def made() -> dict[Path, Any]:
    return loops()


@pytest.mark.parametrize("first", range(0, len(MUTATIONS), 5 * BATCH))
def test_mutations(made: dict[Path, Any], first: int) -> None:
    """Refused by name or loaded bit for bit; no crash, no other error, no memory beyond the files' and an allowance."""
    results = run(list(MUTATIONS[first : first + 5 * BATCH]), made)
    failed = [f"mutation {r.seed} ({r.what}): {r.outcome}" for r in results if r.outcome.startswith("FAILED")]
    assert not failed, "\n".join(failed)
    assert {r.outcome for r in results} == {"refused", "loaded", "resumed"}


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "int32", "float64"])
def test_memory_at_the_edge_of_the_budget(made: dict[Path, Any], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest spaces that load, one as the observation's, one as the action's, and half of it for both."""
    base = next(base for base in BASES if base.parent.parent.name == "random_continuous")
    whole, infinite = ALLOWANCE // np.dtype(dtype).itemsize - 1000, {"low": "-inf", "high": "inf"} if dtype[0] == "f" else {}
    forms = {"observation": whole, "action": whole, "observation and action": whole // 2, "beyond": whole + 1000}
    cases = [(which, {**BOX, **bounds, "dtype": dtype, "shape": [n]}) for which, n in forms.items() for bounds in ({}, infinite)]

    def mutated(number: int) -> Any:
        draft, (which, box) = read(base), cases[number]
        for name in ("observation", "action") if which == "beyond" else which.split(" and "):
            draft.manifest["metadata"][f"{name}_space"] = box
        return base, draft, which

    monkeypatch.setattr("loader.mutated", mutated)
    results = run(list(range(len(cases))), made)
    assert [(r.what, r.outcome) for r in results] == [(which, "refused" if which == "beyond" else "loaded") for which, _ in cases]


def settings(**changes: Any) -> Any:
    return lambda manifest: manifest["metadata"]["config"].update(changes)


def about(**changes: Any) -> Any:
    return lambda manifest: manifest["metadata"].update(changes)


def space(data: Any) -> Any:
    return about(observation_space=data)


DISCRETE = {"type": "Discrete", "n": 30_000_000, "start": 0, "dtype": "int64"}
CORPUS = {  # run, change of its manifest, what the message says
    "wide layers": ("ppo", settings(net_arch=[20000, 20000]), r"ask for parameters of \d+ bytes"),
    "wider than memory": ("sac", settings(net_arch=[2**40]), "net_arch is"),
    "many layers": ("ppo", settings(net_arch=[1] * 3000), "net_arch is"),
    "very many layers": ("dqn", settings(net_arch=[1] * 200_000), "net_arch is"),
    "another width": ("td3", settings(net_arch=[4, 6]), r"tensor torch.float32 \[\d+, \d+\], expected"),
    "no layers": ("svg", settings(net_arch=[]), r"tensor torch.float32 \[\d+, \d+\], expected"),
    "large box": ("random", space({**BOX, "shape": [1 << 28]}), r"values of 1073741824 bytes each, expected at most \d+"),
    "larger box": ("random", space({**BOX, "shape": [10**60] * 30}), "its shape is"),
    "many boxes": ("random", space({"type": "Dict", "spaces": {str(i): {**BOX, "shape": [1 << 17]} for i in range(300)}}), "bytes each"),
    "very many boxes": ("random", space({"type": "Tuple", "spaces": [BOX] * 6000}), "more than 4096 entries"),
    "deep boxes": ("random", space(deep_space(31)), "nested deeper"),
    "rank": ("random", space({**BOX, "shape": [1] * 40}), "its shape is"),
    "void dtype": ("ppo", space({**BOX, "dtype": "V1000000000"}), "its dtype is 'V1000000000'"),
    "string dtype": ("ppo", space({**BOX, "dtype": "S1000000000"}), "its dtype is"),
    "wide binary": ("random", space({"type": "MultiBinary", "n": 1 << 33}), "bytes each"),
    "one-hot": ("ppo", space(DISCRETE), "30000000 choices"),
    "many actions": ("dqn", about(action_space=DISCRETE), "30000000 choices"),
    "many environments": ("ppo", about(num_envs=10**9), "num_envs at most"),
    "no such algorithm": ("ppo", about(algo="x" * 60_000), "unknown algorithm"),
    "steps before the first": ("ppo", lambda m: m["values"]["counters"].update(env_steps=-1), "counters/env_steps is -1"),
    "steps for ever": ("ppo", lambda m: m["values"]["counters"].update(env_steps=10**19), "counters/env_steps is 1"),
    "fractional steps": ("ppo", lambda m: m["values"]["counters"].update(env_steps=96.0), "is a float, expected a int"),
    "a word of text": ("ppo", lambda m: m["values"]["random"].update(agent=["1", 0, 0]), "random/agent holds other things"),
    "a fractional word": ("ppo", lambda m: m["values"]["random"].update(agent=[1.5, 0, 0]), "random"),
    "no paths of noise": ("ddpg_noise", lambda m: m["values"]["random"].update(noise=[1, 0, 0, 0, 1.0]), "expected finite paths"),
}


@pytest.mark.parametrize("case", CORPUS)
def test_worst_settings(tmp_path: Path, case: str) -> None:
    name, change, message = CORPUS[case]
    draft = read(next(base for base in BASES if base.parent.parent.name == name))
    change(draft.manifest)
    draft.write(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        pyrl.load(tmp_path)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("1e999", "beyond the largest float"),
        ("9" * 10_000, "an integer has 10000 digits"),
        ("9" * 65, "65 digits"),
        ("[" * 70 + "]" * 70, "nested deeper than 64"),
        ("[" + "{}," * 300_000 + "{}]", "values, expected at most"),
        ('"' + "x" * 70_000 + '"', "a string has 70000 characters"),
    ],
    ids=["infinite", "long", "longer than 64", "deep", "many", "text"],
)
def test_worst_json(tmp_path: Path, number: str, message: str) -> None:
    draft = read(BASES[0])
    steps = f'"env_steps": {draft.manifest["values"]["counters"]["env_steps"]}'
    draft.text = lambda text: text.replace(steps, f'"env_steps": {number}')
    draft.write(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        pyrl.load(tmp_path)
