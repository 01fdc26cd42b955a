"""Training with workers, as one more loop: what `pyrl.train(workers=...)` iterates over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from gymnasium.vector import VectorEnv

from pyrl.agents.base import Agent
from pyrl.agents.checks import MOST
from pyrl.agents.storage import ReplaySpec, RolloutSpec
from pyrl.distributed.chunks import joined
from pyrl.distributed.engine_loop import Engine, EngineLoop
from pyrl.distributed.learner import Learner
from pyrl.distributed.local import LocalEngine
from pyrl.distributed.replay import ReplayLoop, shard_specs
from pyrl.distributed.sync import Environments, SyncEngine
from pyrl.distributed.transitions import TransitionSpec
from pyrl.envs import EnvSource, Stepper
from pyrl.errors import SettingError
from pyrl.loops.base import Limits
from pyrl.spaces.masks import MaskReader
from pyrl.types import Progress

WorkerEngine: TypeAlias = Literal["local", "sync"]
MAX_POLICY_LAG = 20  # updates


class DistributedLoop(EngineLoop):
    """One round = one chunk of every worker (``local``) or of every environment (``sync``), and one call of ``agent.learn`` on all of
    them side by side, [n_steps, num_envs], as in the ordinary loop. ``stepper`` is an example of the environments, which is not stepped."""

    def __init__(
        self, agent: Agent, stepper: Stepper, limits: Limits, environments: Environments, workers: int, engine: WorkerEngine, lag: int
    ) -> None:  # fmt: skip
        super().__init__(agent, stepper, limits)
        spec = _checked(agent, workers, engine)
        self.learner = Learner(agent)
        self.engine: Engine
        if engine == "sync":
            self.engine = SyncEngine(self.learner, environments, spec, workers)
        else:
            stepper.reset(seed=0)
            mask_size = 0 if stepper.action_mask is None else sum(MaskReader(agent.action_space).sizes)
            self.engine = LocalEngine(self.learner, environments, spec, workers, mask_size, lag)

    def round(self) -> dict[str, float]:
        taken = self.engine.take(lambda: self.stopped)
        if taken is None:
            return self.engine.metrics()
        chunks, release = taken
        lag = sum(map(self.learner.lag, chunks)) / len(chunks)
        for chunk in chunks:
            self._count(chunk.episodes)
        env_steps = self.agent.env_steps + sum(chunk.steps for chunk in chunks)
        self.agent.progress = Progress(env_steps, self.limits.share(env_steps, self.episodes))
        rollout = joined(chunks)
        release()
        told = {"train/policy_lag": lag, **self.engine.metrics()}
        if self.goal_reached:  # by these parameters
            return told
        losses = self.learn(rollout).metrics
        self.learner.version += 1
        self.engine.publish()
        return {**losses, **told}


def _checked(agent: Agent, workers: int, engine: str) -> RolloutSpec:
    """What ``agent`` stores; SettingError where workers cannot collect it."""
    spec = agent.storage()
    if agent.loop != "on_policy" or not isinstance(spec, RolloutSpec) or not agent.trainables:
        what = f"train: workers is {workers}, but they collect for agents that learn as impala or dqn do, and {agent.name} does not"
        raise SettingError(what)
    if engine == "local" and not agent.corrects_lag:
        what = f"train: workers is {workers}, but {agent.name} does not correct for weights that lag behind"
        raise SettingError(f"{what}; take worker_engine='sync', or impala")
    _check_shared(agent, workers)
    return spec


def _check_shared(agent: Agent, workers: int) -> None:
    """SettingError for what no workers can do."""
    if agent.num_envs % workers:
        raise SettingError(f"train: workers is {workers}, expected a divisor of num_envs = {agent.num_envs}: all collect as many")
    for name in ("normalize_observation", "normalize_reward"):
        if getattr(agent.config, name):
            raise SettingError(f"train: {name} is True, but workers share weights, not statistics; leave it or workers out")
    if any(True for trainable in agent.trainables.values() for _ in trainable.network.buffers()):
        raise SettingError(f"train: workers is {workers}, but the network has buffers (batch norm), which do not travel; leave it out")


def iterate_with_workers(
    agent: Agent, env: EnvSource, stepper: Stepper, told: Mapping[str, Any], limits: Mapping[str, Any], options: Mapping[str, Any]
) -> EngineLoop:
    """`pyrl.iterate` for workers. ``told`` holds workers, worker_engine, max_policy_lag, replay_shards and samples_per_insert;
    ``limits``: of `pyrl.iterate`; ``options``: of `pyrl.envs.make`."""
    if isinstance(env, VectorEnv):
        raise SettingError("train: workers needs environments of its own, expected env as an id or a callable, got a vector environment")
    bounds = Limits(**{name: value for name, value in limits.items() if value is not None}, first_step=agent.env_steps)
    environments, workers = Environments(env, options), told["workers"]
    engine: WorkerEngine = told["worker_engine"] or "local"
    lag = told["max_policy_lag"]
    if isinstance(agent.storage(), ReplaySpec) and agent.trainables:
        return _with_replay(agent, stepper, bounds, environments, told, engine)
    for name in ("replay_shards", "samples_per_insert"):
        if told.get(name) is not None:
            raise SettingError(f"train: {name} is {told[name]!r}, but {agent.name} learns from no replay; leave it out")
    if engine == "sync" and lag is not None:
        raise SettingError(f"train: max_policy_lag is {lag}, but nothing lags behind with worker_engine='sync'; leave it out")
    return DistributedLoop(agent, stepper, bounds, environments, workers, engine, lag or MAX_POLICY_LAG)


def _with_replay(
    agent: Agent, stepper: Stepper, limits: Limits, environments: Environments, told: Mapping[str, Any], engine: WorkerEngine
) -> ReplayLoop:
    workers, spec = told["workers"], agent.storage()
    assert isinstance(spec, ReplaySpec)
    if told["max_policy_lag"] is not None:
        what = f"train: max_policy_lag is {told['max_policy_lag']}, but {agent.name} learns from a replay, where experience gets old anyway"
        raise SettingError(f"{what}; leave it out")
    _check_shared(agent, workers)
    stepper.reset(seed=0)
    shards = shard_specs(agent, stepper, workers, told, engine == "sync")

    def make_engine(learner: Learner, collected: TransitionSpec) -> Engine:
        if engine == "sync":
            return SyncEngine(learner, environments, collected, workers)
        return LocalEngine(learner, environments, collected, workers, 0, MOST)

    return ReplayLoop(agent, stepper, limits, spec, shards, make_engine)
