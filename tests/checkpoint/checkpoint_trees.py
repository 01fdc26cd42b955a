"""What the tests of checkpoints save, compare and break."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

EXAMPLES = int(os.environ.get("PYRL_EXAMPLES", "1"))  # multiplies the number of kills, flips and random trees


def small_tree(generation: int = 0) -> dict[str, Any]:
    return {
        "model": {"actor.0.weight": torch.full((4, 3), float(generation)), "log_std": torch.zeros(())},
        "optimizer": {"adam": {"0.step": torch.tensor(7.0), "0.exp_avg": torch.ones(4, 3)}},
        "normalizer": {"mean": np.full(3, generation, np.float64), "active": True},
        "random": {"agent": [2**64 - 1, 3, 5]},
        "counters": {"env_steps": generation},
    }


def assert_same(saved: Any, loaded: Any) -> None:
    if isinstance(saved, dict):
        assert set(saved) == set(loaded)
        for key in saved:
            assert_same(saved[key], loaded[key])
    elif isinstance(saved, torch.Tensor):
        assert isinstance(loaded, torch.Tensor)
        assert (saved.dtype, saved.shape) == (loaded.dtype, loaded.shape)
        bits = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (saved, loaded)]
        assert torch.equal(*bits)
    elif isinstance(saved, np.ndarray):
        assert isinstance(loaded, np.ndarray)
        assert (saved.dtype, saved.shape) == (loaded.dtype, loaded.shape)
        assert saved.tobytes() == loaded.tobytes()
    else:
        assert type(saved) is type(loaded)
        assert saved == loaded


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def flip(file: Path, byte: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[byte] ^= 1 << bit
    file.write_bytes(data)
