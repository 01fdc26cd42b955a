"""Playing an agent step by step: keeps the agent's memory, if it has one, between the steps of its environments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrl.agents.checks import NumEnvs, checked
from pyrl.errors import ShapeError
from pyrl.trees import first_leaf
from pyrl.types import Array, Choice, Observation, PolicyInput

if TYPE_CHECKING:
    from pyrl.agents.base import Agent


class Player:
    """Plays ``agent`` in N environments. Loops, evaluation and user programs play agents through it; an agent with memory needs it.

    >>> player = agent.player(num_envs=4)
    >>> action = player.act(observation)  # episodes start everywhere
    >>> action = player.act(observation, first=terminated | truncated)  # of the step before
    """

    def __init__(self, agent: Agent, num_envs: int = 1, *, deterministic: bool = True) -> None:
        self.agent = agent
        self.num_envs = checked("Player: num_envs", num_envs, NumEnvs)
        self.deterministic = deterministic
        self.state: Any = None  # of the agent, after its latest choice
        self._begun = False

    def reset(self) -> None:
        """Forget everything: the next step starts an episode in every environment."""
        self.state, self._begun = None, False

    def choose(self, observation: Observation, first: Array, action_mask: Array | None = None) -> Choice:
        """What the agent chooses for a batch [N, ...], in its own units. ``first`` and ``action_mask`` as in `PolicyInput`."""
        choice = self.agent.choose(PolicyInput(observation, first, action_mask, self.state), self.deterministic)
        if type(choice) is not Choice:
            raise TypeError(f"{self.agent.name}: choose returned {type(choice).__name__}, expected Choice(action, state, stored)")
        self.state = choice.state
        return choice

    def act(self, observation: Observation, first: Any = None, action_mask: Any = None) -> Any:
        """Actions of the action space, as `Agent.act` gives them, for one observation (of one environment) or a batch [N, ...].

        ``first``: bool [N], or one; None: everywhere after a `reset`, nowhere else. ``action_mask``: as `Agent.act` takes it.
        """
        observation, single = self.agent.read(observation)
        count = len(first_leaf(observation))
        if count != self.num_envs:
            raise ShapeError(f"act: observation has {count} rows, expected {self.num_envs}, the player's num_envs")
        starts = np.full(count, not self._begun) if first is None else np.asarray(first, bool).reshape(-1)
        if starts.shape != (count,):
            raise ShapeError(f"act: first has shape {list(np.shape(first))}, expected [N] = [{count}]")
        mask = None if action_mask is None else self.agent.read_mask(action_mask, count, single)
        choice = self.choose(observation, starts, mask)
        self._begun = True
        return self.agent.actions.given_out(choice.action, single)
