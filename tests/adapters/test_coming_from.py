"""The code of docs/coming_from runs: all Python blocks of a page, one after the other, as one program.

What a page takes from the reader's script (an environment, a rollout, a data set) is in `GIVEN`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent.parent / "docs" / "coming_from"
NEEDS = {
    "stable_baselines3": ["stable_baselines3"], "cpprb": ["cpprb"], "torchrl": ["torchrl"], "minari": ["minari", "h5py"],
    "tianshou": ["tianshou"], "rllib": ["ray"],
}  # fmt: skip


def cleanrl() -> dict[str, Any]:
    import torch
    from gymnasium import spaces

    steps, envs = 8, 2
    one = torch.zeros(envs, 1)
    return {
        "args": SimpleNamespace(gamma=0.99, gae_lambda=0.95, buffer_size=1000, batch_size=4), "torch": torch, "device": "cpu",
        "envs": SimpleNamespace(single_observation_space=spaces.Box(-1, 1, (3,)), single_action_space=spaces.Discrete(2)),
        "agent": SimpleNamespace(get_value=lambda obs: torch.ones(1, envs)), "next_obs": torch.zeros(envs, 3),
        "next_done": torch.zeros(envs),
        "rewards": torch.ones(steps, envs), "values": torch.zeros(steps, envs), "dones": torch.zeros(steps, envs),
        "obs": np.zeros((1, 3), np.float32), "real_next_obs": np.ones((1, 3), np.float32), "actions": np.zeros(1, np.int64),
        "terminations": np.zeros(1, bool), "infos": {}, "td_target": one[0].expand(4), "old_val": 1 + one[0].expand(4),
    }  # fmt: skip


def torchrl() -> dict[str, Any]:
    import torch
    from tensordict import TensorDict

    one = torch.ones(4, 10, 1)
    step = TensorDict({"observation": torch.zeros(32, 3), "next": {"observation": torch.ones(32, 3)}}, [32])
    return {
        "gamma": 0.99,
        "lmbda": 0.95,
        "value": one,
        "next_value": one,
        "reward": one,
        "done": one < 0,
        "terminated": one < 0,
        "data": step,
    }


def tianshou() -> dict[str, Any]:
    from tianshou.data import Batch

    rows = np.zeros(8)
    return {"batch": Batch(obs=np.zeros((8, 3)), act=rows, rew=rows, terminated=rows > 0, truncated=rows > 0, obs_next=np.ones((8, 3)))}


def minari() -> dict[str, Any]:
    """A data set in the place of a download."""
    import minari
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    episode = EpisodeBuffer(
        observations=np.zeros((4, 2), np.float32), actions=np.zeros(3, np.int64), rewards=[1.0] * 3, terminations=[False, False, True],
        truncations=[False] * 3,
    )  # fmt: skip
    made = minari.create_dataset_from_buffers(
        "own/own-v0", [episode], observation_space=spaces.Box(-1, 1, (2,)), action_space=spaces.Discrete(2)
    )
    return {"load_dataset": lambda *_, **__: made}


# What another script of the reader's has by a name that is taken: block of a page, names.
LATER: dict[tuple[str, int], dict[str, Any]] = {("cleanrl", 2): {"rewards": np.ones(1, np.float32)}}
GIVEN: dict[str, Callable[[], dict[str, Any]]] = {"cleanrl": cleanrl, "torchrl": torchrl, "tianshou": tianshou, "minari": minari}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", sorted(path.stem for path in FOLDER.glob("*.md")))
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in NEEDS.get(page, []):
        if importlib.util.find_spec(package) is None:
            apart = package in ("ray", "tianshou")  # tests/test_project.py
            pytest.skip(f"{package} {'has an environment of its own' if apart else 'is not installed'}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    names: dict[str, Any] = {"__name__": "page"}
    if page in GIVEN:
        names |= GIVEN[page]()
    if page == "minari":
        monkeypatch.setattr("minari.load_dataset", names["load_dataset"])
    if page == "tianshou":
        from tianshou.algorithm import algorithm_base

        for name in ("_gae", "_nstep_return"):  # which a block of the page replaces
            monkeypatch.setattr(algorithm_base, name, getattr(algorithm_base, name))
    blocks = re.findall(r"^```python\n(.*?)^```", (FOLDER / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        names |= LATER.get((page, number), {})
        exec(compile(block, page, "exec"), names)
