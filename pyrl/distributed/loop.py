"""Training with workers, as one more loop: what `pyrl.train(workers=...)` iterates over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from gymnasium.vector import VectorEnv

from pyrl.agents.base import Agent
from pyrl.agents.storage import RolloutSpec
from pyrl.distributed.chunks import joined
from pyrl.distributed.learner import Learner
from pyrl.distributed.local import LocalEngine
from pyrl.distributed.pool import Pool
from pyrl.distributed.sync import Environments, SyncEngine
from pyrl.envs import EnvSource, Stepper
from pyrl.errors import SettingError
from pyrl.loops.base import Limits, Loop
from pyrl.spaces.masks import MaskReader
from pyrl.types import Metrics, Progress

WorkerEngine: TypeAlias = Literal["local", "sync", "ray"]
MAX_POLICY_LAG = 20  # updates


class DistributedLoop(Loop):
    """One round = one chunk of every worker (``local``) or of every environment (``sync``), and one call of ``agent.learn`` on all of
    them side by side, [n_steps, num_envs], as in the ordinary loop. ``stepper`` is an example of the environments, which is not stepped."""

    def __init__(
        self, agent: Agent, stepper: Stepper, limits: Limits, environments: Environments, workers: int, engine: WorkerEngine, lag: int,
        address: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(agent, stepper, limits)
        spec = _checked(agent, workers, engine)
        self.learner = Learner(agent)
        self.engine: SyncEngine | Pool[Any]
        if engine == "sync":
            self.engine = SyncEngine(self.learner, environments, spec, workers)
        else:
            stepper.reset(seed=0)
            mask_size = 0 if stepper.action_mask is None else sum(MaskReader(agent.action_space).sizes)
            roles = self.learner, environments, spec, workers, mask_size, lag
            self.engine = LocalEngine(*roles) if engine == "local" else _ray_engine()(*roles, address=address)

    def __iter__(self) -> Iterator[Metrics]:
        failed = True
        try:
            yield from super().__iter__()
            failed = False
        except GeneratorExit:
            failed = False
            raise
        finally:
            if isinstance(self.engine, Pool):
                self.engine.stop()
            if not failed:  # else its error says more
                self.engine.accounts.check()

    def close(self) -> None:
        """No environment and no process is left."""
        self.engine.stop()

    @property
    def can_continue(self) -> bool:
        return self.engine.running

    def reset(self) -> None:
        self.engine.start(self.agent.env_steps)

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

    def _episodes_under_way(self) -> dict[str, Any]:
        return {"collectors": self.engine.state_dict()} if isinstance(self.engine, SyncEngine) and self.engine.running else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rest = dict(state)
        collectors = rest.pop("collectors", None)
        super().load_state_dict(rest)
        if collectors is not None and isinstance(self.engine, SyncEngine):
            self.engine.load_state_dict(collectors, self.agent.env_steps)


def _ray_engine() -> Any:
    """Imported on demand: an extra."""
    try:
        from pyrl.distributed.ray import RayEngine
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        what = "train: worker_engine 'ray' needs a package that is not installed: pip install 'pyrl[ray]'"
        raise ModuleNotFoundError(what, name="ray") from error
    return RayEngine


def _checked(agent: Agent, workers: int, engine: str) -> RolloutSpec:
    """What ``agent`` stores; SettingError where workers cannot collect it."""
    spec, config = agent.storage(), agent.config
    if agent.loop != "on_policy" or not isinstance(spec, RolloutSpec) or not agent.trainables:
        raise SettingError(f"train: workers is {workers}, but they collect for agents that learn as impala does, and {agent.name} does not")
    if engine != "sync" and not agent.corrects_lag:
        what = f"train: workers is {workers}, but {agent.name} does not correct for weights that lag behind"
        raise SettingError(f"{what}; take worker_engine='sync', or impala")
    if agent.num_envs % workers:
        raise SettingError(f"train: workers is {workers}, expected a divisor of num_envs = {agent.num_envs}: all collect as many")
    for name in ("normalize_observation", "normalize_reward"):
        if getattr(config, name):
            raise SettingError(f"train: {name} is True, but workers share weights, not statistics; leave it or workers out")
    if any(True for trainable in agent.trainables.values() for _ in trainable.network.buffers()):
        raise SettingError(f"train: workers is {workers}, but the network has buffers (batch norm), which do not travel; leave it out")
    return spec


def iterate_with_workers(
    agent: Agent, env: EnvSource, stepper: Stepper, told: Mapping[str, Any], limits: Mapping[str, Any], options: Mapping[str, Any]
) -> DistributedLoop:
    """`pyrl.iterate` for workers. ``told`` holds workers, worker_engine, max_policy_lag and address; ``limits``: of `pyrl.iterate`;
    ``options``: of `pyrl.envs.make`."""
    if isinstance(env, VectorEnv):
        raise SettingError("train: workers needs environments of its own, expected env as an id or a callable, got a vector environment")
    said = {name: value for name, value in limits.items() if value is not None}
    environments = Environments(env, options)
    engine: WorkerEngine = told["worker_engine"] or "local"
    lag = told["max_policy_lag"]
    address = told.get("address")  # runs of older versions have none
    if address is not None and engine != "ray":
        raise SettingError(f"train: address is {address!r}, but it is of worker_engine='ray'; leave it out")
    if engine == "sync" and lag is not None:
        raise SettingError(f"train: max_policy_lag is {lag}, but nothing lags behind with worker_engine='sync'; leave it out")
    return DistributedLoop(
        agent, stepper, Limits(**said, first_step=agent.env_steps), environments, told["workers"], engine, lag or MAX_POLICY_LAG, address
    )
