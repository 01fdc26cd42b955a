"""Settings of Stable-Baselines3's algorithms that learn in a second."""

from __future__ import annotations

from typing import Any


def small(net_arch: tuple[int, ...] = (8,), **options: Any) -> dict[str, Any]:
    """Settings of any algorithm; the host writes into `policy_kwargs`."""
    return {"policy_kwargs": {"net_arch": list(net_arch), **options}, "device": "cpu", "seed": 0}


def off_policy(net_arch: tuple[int, ...] = (8,)) -> dict[str, Any]:
    return {**small(net_arch), "buffer_size": 500, "learning_starts": 30, "batch_size": 16}
