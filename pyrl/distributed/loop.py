"""Training with workers, as one more loop: what `pyrl.train(workers=...)` iterates over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from gymnasium.vector import VectorEnv

from pyrl.agents.a2c import AdvantageAgent
from pyrl.agents.base import Agent
from pyrl.agents.storage import ReplaySpec, RolloutSpec
from pyrl.distributed.chunks import joined
from pyrl.distributed.engine_loop import Engine, EngineLoop
from pyrl.distributed.group import LearnerGroup, OwnGroup, TorchrunGroup, follow, torchrun_exchange
from pyrl.distributed.learner import Learner
from pyrl.distributed.local import LocalEngine
from pyrl.distributed.replay_setup import replay_loop
from pyrl.distributed.shared import ChunkLayout
from pyrl.distributed.sync import Environments, SyncEngine
from pyrl.distributed.transitions import TransitionSpec
from pyrl.envs import EnvSource, Stepper
from pyrl.errors import SettingError
from pyrl.loops.base import Limits, Loop
from pyrl.spaces.masks import MaskReader
from pyrl.torchrun import torchrun_rank, torchrun_ranks
from pyrl.types import Learned, Metrics, Progress, map_observation

WorkerEngine: TypeAlias = Literal["local", "sync", "ray"]
MAX_POLICY_LAG = 20  # updates


class DistributedLoop(EngineLoop):
    """One round = one chunk of every worker (``local``) or of every environment (``sync``), and one call of ``agent.learn`` on all of
    them side by side, [n_steps, num_envs], as in the ordinary loop. ``stepper`` is an example of the environments, which is not stepped."""

    def __init__(
        self, agent: Agent, stepper: Stepper, limits: Limits, workers: int, make_engine: Callable[..., Engine], lag: int, learners: int = 1
    ) -> None:
        super().__init__(agent, stepper, limits)
        spec = _checked(agent, workers)
        self.learner = Learner(agent, _group(agent, stepper, spec, learners))
        self.engine = make_engine(self.learner, spec, _mask_size(stepper), lag)

    def close(self) -> None:
        super().close()
        if self.learner.group is not None:
            self.learner.group.stop()

    def update(self, data: Any) -> Learned:
        return self.learner.learn(data)

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
        if not self.engine.in_step:
            release()
        told = {"train/policy_lag": lag, **self.engine.metrics()}
        if self.learner.group is not None:
            told["time/learner_restarts"] = self.learner.group.restarts
        if self.goal_reached:  # by these parameters
            return told
        if self.engine.in_step:
            self.learner.observe_rewards(chunks)
        else:  # some may be of one collector
            for chunk in chunks:
                self.learner.observe_rewards([chunk])
        losses = self.learn(rollout).metrics  # by the moments of the observations that were acted by
        self.agent.normalizer.update(map_observation(lambda leaf: leaf[:-1], rollout.observation))
        self.learner.version += 1
        self.engine.publish()
        if self.engine.in_step:
            release()
        return {**losses, **told}


class FollowingLoop(Loop):
    """Of a rank of torchrun that is not the first: it learns its share until the first one ends."""

    follows = True

    def __init__(self, agent: Agent, stepper: Stepper, limits: Limits, spec: RolloutSpec, learners: int) -> None:
        super().__init__(agent, stepper, limits)
        self.layout = _share_layout(agent, stepper, spec, learners)

    def __iter__(self) -> Iterator[Metrics]:
        follow(self.agent, torchrun_exchange(), self.layout)
        yield from ()

    def round(self) -> dict[str, float]:
        raise NotImplementedError

    def close(self) -> None:
        """It has no environments and no processes."""


def _ray_engine() -> Any:
    """Imported on demand: an extra."""
    try:
        from pyrl.distributed.ray import RayEngine
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":  # ray.exceptions, where a folder is called ray
            raise
        what = "train: worker_engine 'ray' needs a package that is not installed: pip install 'pyrl[ray]'"
        raise ModuleNotFoundError(what, name="ray") from error
    return RayEngine


def _mask_size(stepper: Stepper) -> int:
    """M of the masks that environments like these give; 0: none."""
    if stepper.observation is None:
        stepper.reset(seed=0)
    return 0 if stepper.action_mask is None else sum(MaskReader(stepper.single_action_space).sizes)


def _share_layout(agent: Agent, stepper: Stepper, spec: RolloutSpec, learners: int) -> ChunkLayout:
    """Of what one of ``learners`` learns from. SettingError where they cannot share the work of ``agent``."""
    name, config = agent.name, agent.config
    if not isinstance(agent, AdvantageAgent):
        raise SettingError(
            f"train: learners is {learners}, but they sum one gradient of a whole rollout, as of impala and a2c, not of {name}"
        )
    for setting in ("normalize_observation", "normalize_reward"):
        if getattr(config, setting):
            raise SettingError(f"train: learners is {learners}, but {setting} counts in one of them only; leave it or learners out")
    if next(agent.network.buffers(), None) is not None:
        raise SettingError(f"train: learners is {learners}, but the network has buffers (batch norm), which each would count by itself")
    if config.normalize_advantage:
        raise SettingError(
            f"train: learners is {learners}, but normalize_advantage needs the whole rollout in one place; leave it or learners out"
        )
    if agent.num_envs % learners:
        raise SettingError(f"train: learners is {learners}, expected a divisor of num_envs = {agent.num_envs}: all learn from as many")
    if agent.statistics() is None:
        raise SettingError(
            f"train: learners is {learners}, but their optimiser is Adam or RMSprop, not {type(agent.arena.optimizer).__name__}"
        )
    if agent.updater.captures():
        raise SettingError(f"train: learners is {learners}, but a CUDA graph cannot wait for others; take engine='torch'")
    return ChunkLayout.of(spec, agent.num_envs // learners, agent.observation_space, agent.action_space, _mask_size(stepper))


def _group(agent: Agent, stepper: Stepper, spec: RolloutSpec, learners: int) -> LearnerGroup | None:
    if learners == 1:
        return None
    layout = _share_layout(agent, stepper, spec, learners)
    if ranks := torchrun_ranks():
        if ranks != learners:
            raise SettingError(f"train: learners is {learners}, but torchrun has started {ranks}, expected as many")
        return TorchrunGroup(agent, layout, learners)
    if agent.device.type != "cpu":
        raise SettingError(f"train: learners is {learners}, but those that a run starts itself are on the CPU; start them by torchrun")
    if not hasattr(os, "memfd_create"):
        raise SettingError(f"train: learners is {learners}, but a run starts some itself on Linux only; start them by torchrun")
    return OwnGroup(agent, layout, learners)


def _checked(agent: Agent, workers: int) -> RolloutSpec:
    """What ``agent`` stores; SettingError where workers cannot collect it."""
    spec = agent.storage()
    if agent.loop != "on_policy" or not isinstance(spec, RolloutSpec) or not agent.trainables:
        what = f"train: workers is {workers}, but they collect for agents that learn as impala or dqn do, and {agent.name} does not"
        raise SettingError(what)
    _check_shared(agent, workers)
    return spec


def _check_shared(agent: Agent, workers: int) -> None:
    """SettingError for environments that cannot be shared out."""
    if agent.num_envs % workers:
        raise SettingError(f"train: workers is {workers}, expected a divisor of num_envs = {agent.num_envs}: all collect as many")


def iterate_with_workers(
    agent: Agent, env: EnvSource, stepper: Stepper, told: Mapping[str, Any], limits: Mapping[str, Any], options: Mapping[str, Any]
) -> EngineLoop | FollowingLoop:
    """`pyrl.iterate` for workers. ``told`` holds workers, worker_engine, max_policy_lag, learners, replay_shards, samples_per_insert,
    remote_shards and address; ``limits``: of `pyrl.iterate`; ``options``: of `pyrl.envs.make`."""
    if isinstance(env, VectorEnv):
        raise SettingError("train: workers needs environments of its own, expected env as an id or a callable, got a vector environment")
    bounds = Limits(**{name: value for name, value in limits.items() if value is not None}, first_step=agent.env_steps)
    environments, workers = Environments(env, options), told["workers"]
    engine: WorkerEngine = told["worker_engine"] or "local"
    lag = told["max_policy_lag"]
    learners, address = told.get("learners") or 1, told.get("address")
    if address is not None and engine != "ray":
        raise SettingError(f"train: address is {address!r}, but it is of worker_engine='ray'; leave it out")
    if told.get("remote_shards") and engine != "ray":
        raise SettingError("train: remote_shards is True, but it is of worker_engine='ray'; leave it out")
    of_ray = {"address": address, "remote_shards": bool(told.get("remote_shards"))}

    def make_engine(*roles: Any) -> Engine:
        return _engine(engine, of_ray, environments, workers, *roles)

    if isinstance(agent.storage(), ReplaySpec) and agent.trainables:
        _check_shared(agent, workers)
        return replay_loop(agent, stepper, bounds, told, engine == "sync", make_engine)
    for name in ("replay_shards", "samples_per_insert", "remote_shards"):
        if told.get(name) not in (None, False):
            raise SettingError(f"train: {name} is {told[name]!r}, but {agent.name} learns from no replay; leave it out")
    in_step = engine == "sync" or not agent.corrects_lag
    if in_step and lag is not None:
        who = "with worker_engine='sync'" if engine == "sync" else f"where {agent.name} waits for every collector"
        raise SettingError(f"train: max_policy_lag is {lag}, but nothing lags behind {who}; leave it out")
    if learners > 1 and torchrun_rank() > 0:
        return FollowingLoop(agent, stepper, bounds, _checked(agent, workers), learners)
    return DistributedLoop(agent, stepper, bounds, workers, make_engine, 0 if in_step else lag or MAX_POLICY_LAG, learners)


def _engine(
    name: WorkerEngine, of_ray: Mapping[str, Any], environments: Environments, workers: int, learner: Learner,
    spec: RolloutSpec | TransitionSpec, mask_size: int, lag: int,
) -> Engine:  # fmt: skip
    """What runs the collectors. ``lag``: in updates, as of `Pool`."""
    if name == "sync":
        return SyncEngine(learner, environments, spec, workers)
    roles = learner, environments, spec, workers, mask_size, lag
    return LocalEngine(*roles) if name == "local" else _ray_engine()(*roles, **of_ray)
