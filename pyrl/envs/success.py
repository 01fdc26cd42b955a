"""Episode success: from `info`, or inferred from the ending for a few known environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyrl.errors import EnvError

INFO_KEYS = ("is_success", "success")


def _reached_the_goal(terminated: bool, reward: float) -> bool:
    return terminated and reward > 0  # the other terminal states (a hole, a crash) pay nothing or less


def _ended_by_itself(terminated: bool, reward: float) -> bool:
    return terminated  # the goal is the only terminal state


# By the name in the environment's id, without namespace and version.
_RULES: dict[str, Callable[[bool, float], bool]] = {
    "FrozenLake": _reached_the_goal,
    "FrozenLake8x8": _reached_the_goal,
    "LunarLander": _reached_the_goal,
    "LunarLanderContinuous": _reached_the_goal,
    "Acrobot": _ended_by_itself,
    "CliffWalking": _ended_by_itself,
    "MountainCar": _ended_by_itself,
    "MountainCarContinuous": _ended_by_itself,
    "Taxi": _ended_by_itself,
}


def success_rule(env_id: str) -> Callable[[bool, float], bool] | None:
    """``rule(terminated, last_reward)`` for this environment id, None where nothing is known of it."""
    name, _, version = env_id.rpartition("/")[2].rpartition("-v")
    return _RULES.get(name if version.isdigit() else version)


def success_in(info: Mapping[str, Any]) -> bool | None:
    """What the info of an episode's last step says."""
    for key in INFO_KEYS:
        if info.get(key) is not None:
            try:
                return bool(info[key])
            except (TypeError, ValueError) as error:
                raise EnvError(f"step: info[{key!r}] is {info[key]!r}, expected a bool") from error
    return None
