"""What hindsight needs of an environment: its reward for goals other than the one it pursued."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyrl.envs.stepper import Stepper
from pyrl.errors import EnvError


def reward_function(stepper: Stepper) -> Callable[[Any, Any, Any], Any]:
    """``compute_reward(achieved_goal, desired_goal, info)`` of one of the environments, or of one more like them where they are in other
    processes. EnvError where there is none."""
    envs = getattr(stepper, "envs", None)
    if envs:
        env = envs[0]
    elif stepper.factory is not None:
        env = stepper.factory()
    else:
        raise EnvError(f"{stepper.name}: hindsight (her) needs the compute_reward of an environment, and a vector environment hides them")
    try:
        return env.get_wrapper_attr("compute_reward")
    except AttributeError:
        expected = "expected compute_reward(achieved_goal, desired_goal, info), as those of Gymnasium-Robotics have"
        raise EnvError(f"{stepper.name}: hindsight (her) needs rewards for other goals, {expected}") from None
