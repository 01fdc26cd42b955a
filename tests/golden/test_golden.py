"""Run folders that older versions wrote: they load as they were, act as they did, and training goes on from them.

``expected.json`` says what the version that wrote the folder found there (`make.py`). The folders are never written again.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make import RUNS, STEPS, behaviour, digests, env_of

import pyrl

HERE = Path(__file__).parent
NAMES = sorted(folder.parent.name for folder in HERE.glob("*/expected.json"))


def expected(name: str) -> dict[str, Any]:
    return json.loads((HERE / name / "expected.json").read_text())


def test_every_agent_has_a_golden_run() -> None:
    written = {json.loads((HERE / name / "config.json").read_text())["algo"] for name in NAMES}
    assert set(NAMES) == set(RUNS)
    assert {"random", "ppo", "a2c", "a3c", "impala", "dqn", "ddpg", "td3", "sac", "svg"} <= written


@pytest.mark.parametrize("name", NAMES)
def test_old_checkpoint_loads_and_acts_as_it_did(name: str) -> None:
    agent, then = pyrl.load(HERE / name / "checkpoints" / "last"), expected(name)
    # Wherever the state's entries may lie by now: none of their bytes is lost.
    missing = Counter(then["state"].values()) - Counter(digests(agent).values())
    assert not missing, {path for path, digest in then["state"].items() if digest in missing}
    assert agent.env_steps == then["env_steps"]
    for kind, actions in behaviour(agent).items():
        np.testing.assert_allclose(actions, then[kind], rtol=1e-4, atol=1e-5, err_msg=kind)


@pytest.mark.parametrize("name", NAMES)
def test_training_goes_on_from_an_old_run(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(HERE / name, tmp_path / "run")
    algo, env = json.loads((folder / "config.json").read_text())["algo"], env_of(expected(name)["env"])
    run = pyrl.train(algo, env, resume=folder, total_steps=STEPS + 32)
    assert run.agent.env_steps >= STEPS + 32
    assert run.new_steps >= 32
    assert algo == "random" or run.agent.updates > pyrl.load(HERE / name / "checkpoints" / "last").updates
    for name, module in run.agent.modules().items():
        assert all(p.isfinite().all() for p in module.parameters()), name
