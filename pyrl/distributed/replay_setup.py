"""How distributed replay is set up: what is refused, and what follows from an agent's own settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyrl.agents.base import Agent
from pyrl.agents.checks import MOST
from pyrl.agents.storage import ReplaySpec
from pyrl.distributed.engine_loop import Engine
from pyrl.distributed.replay import BATCHES, CHUNK, ReplayLoop
from pyrl.distributed.shard import ShardSpec
from pyrl.envs import Stepper
from pyrl.errors import SettingError
from pyrl.loops.base import Limits
from pyrl.loops.off_policy import stored_space, window_options


def replay_loop(
    agent: Agent, stepper: Stepper, limits: Limits, told: Mapping[str, Any], one_by_one: bool, make_engine: Callable[..., Engine]
) -> ReplayLoop:
    """``told``: workers, max_policy_lag, learners, replay_shards and samples_per_insert of `pyrl.train`. ``one_by_one``: each environment
    has a collector of its own. ``make_engine`` takes the learner, the spec, the size of masks and the lag."""
    spec = agent.storage()
    assert isinstance(spec, ReplaySpec)
    reasons = {
        "max_policy_lag": f"{agent.name} learns from a replay, where experience gets old anyway",
        "learners": f"{agent.name} learns from batches, which learners do not share",
    }
    for name, reason in reasons.items():
        if told.get(name) is not None:
            raise SettingError(f"train: {name} is {told[name]}, but {reason}; leave it out")
    stepper.reset(seed=0)  # which says whether there are masks
    shards = shard_specs(agent, stepper, told, one_by_one)
    return ReplayLoop(agent, stepper, limits, spec, shards, lambda learner, collected: make_engine(learner, collected, 0, MOST))


def shard_specs(agent: Agent, stepper: Stepper, told: Mapping[str, Any], one_by_one: bool) -> list[ShardSpec]:
    """What each shard is; SettingError for what shards cannot do. Arguments as of `replay_loop`."""
    spec, shards, workers = agent.storage(), told.get("replay_shards") or 1, told["workers"]
    assert isinstance(spec, ReplaySpec)
    _check(agent, spec, shards)
    if stepper.frames is not None and agent.config.normalize_observation:
        raise SettingError("train: workers is set and normalize_observation is True, but shards store single frames; leave one out")
    envs = agent.num_envs // shards
    a_chunk = CHUNK * (1 if one_by_one else min(envs, agent.num_envs // workers))
    updates = spec.gradient_steps / spec.train_freq if spec.gradient_steps >= 0 else 1
    masks = agent.honours_masks and stepper.action_mask is not None
    return [
        ShardSpec(
            replay=spec, index=index, shards=shards, envs=envs, space=stored_space(agent, stepper, masks),
            action_space=agent.actions.stored, window=window_options(spec, stepper), seed=agent.seed,
            samples_per_insert=told.get("samples_per_insert") or updates * spec.batch_size, insert_size=a_chunk, batches=BATCHES,
        )
        for index in range(shards)
    ]  # fmt: skip


def _check(agent: Agent, spec: ReplaySpec, shards: int) -> None:
    if agent.num_envs % shards:
        raise SettingError(f"train: replay_shards is {shards}, expected a divisor of num_envs = {agent.num_envs}: all have as many")
    refused = [
        ("her", spec.hindsight is not None, "goals are not relabelled in shards"),
        ("buffer_device", spec.device != "cpu", "shards are in host memory"),
        ("gradient_steps", spec.gradient_steps == 0, "without updates nothing is drawn"),
    ]
    for name, given, reason in refused:
        if given:
            raise SettingError(f"train: workers is set and {name} is {getattr(agent.config, name)!r}, but {reason}; leave one of them out")
    least = max(spec.batch_size, CHUNK * (agent.num_envs // shards), -(-spec.learning_begins // shards))
    if spec.capacity // shards < least:
        raise SettingError(
            f"train: buffer_size is {spec.capacity}, {spec.capacity // shards} a shard, expected at least {least} a shard: "
            "a batch, a chunk of its environments, and what is stored before the first update"
        )
