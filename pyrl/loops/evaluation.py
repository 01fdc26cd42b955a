"""Evaluation: episodes of their own, on seeds of their own, deterministic by default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from gymnasium.vector import VectorEnv

from pyrl.agents.base import Agent
from pyrl.agents.checks import Count, Elsewhere, NumEnvs, Seed, checks_arguments
from pyrl.envs import EnvSource, Stepper, make
from pyrl.envs.notices import mask_is_ignored
from pyrl.errors import SpaceError
from pyrl.seeding import fresh_seed
from pyrl.spaces import difference
from pyrl.types import Episode


@dataclass(frozen=True)
class Evaluation:
    """Scores of K episodes. ``success_rate`` is None where the environment says nothing about success."""

    returns: np.ndarray  # float64 [K]
    lengths: np.ndarray  # int64 [K]
    success_rate: float | None = None

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        return float(self.returns.std())

    def metrics(self) -> dict[str, float]:
        """The row of an evaluation table."""
        scores = {"return_mean": self.mean, "return_std": self.std, "return_min": self.returns.min(), "return_max": self.returns.max()}
        scores["length_mean"] = self.lengths.mean()
        if self.success_rate is not None:
            scores["success_rate"] = self.success_rate
        return {f"evaluation/{name}": float(score) for name, score in scores.items()}

    def __repr__(self) -> str:
        success = "" if self.success_rate is None else f", success {self.success_rate:.1%}"
        return f"Evaluation({self.mean:.1f} +- {self.std:.1f} over {len(self.returns)} episodes, length {self.lengths.mean():.0f}{success})"


@checks_arguments
def evaluate(
    agent: Agent,
    env: Annotated[EnvSource | Stepper, Elsewhere()],
    episodes: Count = 20,
    *,
    seed: Seed | None = 10_000,
    deterministic: bool = True,
    num_envs: NumEnvs | None = None,
    stop: Callable[[], bool] | None = None,
    **make_options: Any,
) -> Evaluation:
    """Run ``episodes`` episodes; ``env`` is an id, a callable, a vector environment or a `Stepper` (the last two stay open),
    ``make_options`` are those of `pyrl.envs.make`.

    The episodes are shared out over the environments beforehand (counting whichever end first would favour short ones), so
    the start states depend on ``seed`` only, and every agent meets the same. Nothing is learned; the agent's normaliser and
    random streams are left as they were. ``stop`` is asked after each step; when it says True, the episodes so far are the result.
    ``seed=None`` draws one.
    """
    seed = fresh_seed() if seed is None else seed
    if isinstance(env, Stepper | VectorEnv):
        lent, count = True, env.num_envs
    else:
        lent, count = False, min(episodes, 20)
    if isinstance(env, Stepper):
        given = {**make_options, **({} if num_envs is None else {"num_envs": num_envs})}
        if given:
            raise ValueError(f"evaluate: {', '.join(given)} cannot be applied to a Stepper, which is made already")
        stepper = env
    else:
        stepper = make(env, count if num_envs is None else num_envs, seed=seed, **make_options)
    states = {name: stream.state for name, stream in agent.streams().items()}
    try:
        finished = _run(agent, stepper, episodes, seed, deterministic, stop)
    finally:
        for name, stream in agent.streams().items():
            stream.state = states[name]
        if not lent:
            stepper.close()
    successes = [e.success for e in finished if e.success is not None]
    return Evaluation(
        returns=np.array([e.episode_return for e in finished]),
        lengths=np.array([e.length for e in finished]),
        success_rate=float(np.mean(successes)) if successes else None,
    )


def _run(agent: Agent, stepper: Stepper, episodes: int, seed: int, deterministic: bool, stop: Callable[[], bool] | None) -> list[Episode]:
    for kind in ("observation_space", "action_space"):
        found = difference(getattr(agent, kind), getattr(stepper, f"single_{kind}"))
        if found is not None:
            raise SpaceError(f"evaluate: the agent learned elsewhere than in {stepper.name}: in its {kind}, {found}")
    quota = [len(range(i, episodes, stepper.num_envs)) for i in range(stepper.num_envs)]
    finished: list[list[Episode]] = [[] for _ in quota]
    stepper.reset(seed=seed)
    if stepper.action_mask is not None and not agent.honours_masks:
        mask_is_ignored(stepper.name, f"{agent.name} does not honour masks")
    player = agent.player(stepper.num_envs, deterministic=deterministic)
    while any(len(done) < share for done, share in zip(finished, quota)) and not (stop is not None and stop()):
        choice = player.choose(stepper.observation, stepper.first, stepper.action_mask)
        for episode in stepper.step(choice.action).episodes:
            if len(finished[episode.env_index]) < quota[episode.env_index]:
                finished[episode.env_index].append(episode)
    return [episode for done in finished for episode in done]
