"""The opened form of training: one object to iterate over, whatever the algorithm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from pyrl.agents.base import Agent
from pyrl.agents.checks import Elsewhere, Goal, Limit, checks_arguments
from pyrl.envs import EnvSource, Stepper, make
from pyrl.envs.notices import hindsight_is_not_applied
from pyrl.errors import SettingError, SpaceError, UnknownNameError
from pyrl.loops.base import Limits, Loop, Window
from pyrl.loops.double_rollout import DoubleRolloutLoop
from pyrl.loops.off_policy import OffPolicyLoop
from pyrl.loops.on_policy import OnPolicyLoop
from pyrl.loops.workers import AsynchronousLoop

LOOPS: dict[str, type[Loop]] = {"on_policy": OnPolicyLoop, "off_policy": OffPolicyLoop, "asynchronous": AsynchronousLoop}
OVERLAPPED: dict[str, Callable[[Agent, Stepper, Limits], Loop]] = {
    "on_policy": DoubleRolloutLoop, "off_policy": partial(OffPolicyLoop, overlap=True),
}  # fmt: skip


@checks_arguments
def iterate(
    agent: Agent,
    env: Annotated[EnvSource | Stepper, Elsewhere()],
    total_steps: Limit | None = None,
    *,
    total_episodes: Limit | None = None,
    stop_at_return: Goal | None = None,
    stop_window: Window = 10,
    overlap: bool = False,
) -> Loop:
    """``for metrics in pyrl.iterate(agent, env, total_steps=100_000): ...``; break when you like.

    ``env`` is a `Stepper`, a Gymnasium vector environment, an id or a callable (the last two give ``agent.num_envs``
    environments). The first limit that is reached ends the iteration: environment steps, episodes, or the mean return of the
    last ``stop_window`` episodes. Callbacks are the body of the ``for``.

    overlap: the environments step while the agent learns, which delays what it acts by: off-policy by one step (`OffPolicyLoop`),
        on-policy by one rollout (`DoubleRolloutLoop`). For environments outside of this thread's interpreter: backends processes,
        async, native, vector and envpool.

    An agent that has lived before (of `pyrl.load`, of another loop) continues to learn: its limits count from here, schedules
    begin anew, and its replay is filled anew before it is drawn from.
    """
    told = {"total_steps": total_steps, "total_episodes": total_episodes, "stop_at_return": stop_at_return}
    said = {name: value for name, value in told.items() if value is not None}
    limits = Limits(**said, stop_window=stop_window, first_step=agent.env_steps)
    stepper = env if isinstance(env, Stepper) else make(env, agent.num_envs, seed=agent.seed)
    for name, theirs, ours in (
        ("observation_space", stepper.single_observation_space, agent.observation_space),
        ("action_space", stepper.single_action_space, agent.action_space),
    ):
        if theirs != ours:
            raise SpaceError(f"iterate: the environment's {name} is {theirs}, expected {ours} (the agent's)")
    if stepper.num_envs != agent.num_envs:
        raise ValueError(f"iterate: env has {stepper.num_envs} environments, expected {agent.num_envs} (the agent's num_envs)")
    if agent.loop not in LOOPS:
        raise UnknownNameError(f"{agent.name}: loop is {agent.loop!r}, expected one of {', '.join(LOOPS)}")
    loop = (_overlapped(agent, stepper) if overlap else LOOPS[agent.loop])(agent, stepper, limits)
    if isinstance(loop, OffPolicyLoop) and loop.hindsight is None:
        hindsight_is_not_applied(stepper.name, agent.name, agent.observation_space)
    return loop


def _overlapped(agent: Agent, stepper: Stepper) -> Callable[[Agent, Stepper, Limits], Loop]:
    """The loop that learns while ``stepper`` steps; SettingError where nothing could."""
    if agent.loop not in OVERLAPPED:
        raise SettingError(f"iterate: overlap is True, but {agent.name}'s workers step and learn by themselves; leave it out")
    if not stepper.overlaps:
        what = f"{stepper.name} steps in this process's interpreter ({type(stepper).__name__}), which learns meanwhile"
        raise SettingError(f"iterate: overlap is True, but {what}; take backend='processes', or leave it out")
    return OVERLAPPED[agent.loop]
