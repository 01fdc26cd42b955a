"""Rows of bench_adapters.py for RLlib, its learning curve, and its memory. RLlib has an environment of its own (tests/adapters)."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, cycle
from typing import Any

import _data
import numpy as np
from _timing import keep_one

Call = Callable[[], object]
Rows = Iterator[tuple[str, Callable[[], tuple[Call, Call]], float]]
BUFFERS = {False: "EpisodeReplayBuffer", True: "PrioritizedEpisodeReplayBuffer"}
STEPS = {"obs4": 20_000, "obs17": 20_000, "obs376": 20_000, "img4x84x84": 2_000}  # in a buffer: what a draw costs depends little on it
numbers = count()  # of episodes: ids are distinct


def modules() -> tuple[Any, Any]:
    from ray.rllib.utils import replay_buffers

    from pyrl.adapters import rllib

    return replay_buffers, rllib


def episode(columns: tuple[np.ndarray, ...], id_: str, started: int = 0, terminated: bool = False) -> Any:
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    observation, action, reward = columns
    return SingleAgentEpisode(
        id_=id_, observations=observation, actions=action, rewards=reward, terminated=terminated, t_started=started,
        infos=[{}] * len(observation), len_lookback_buffer=0,
    )  # fmt: skip


def whole(kind: str) -> Callable[[], Any]:
    """Gives an episode of 200 steps, another one at each call as far as a buffer can tell: its id is new."""
    steps = _data.EPISODE
    columns = _data.observations(kind, steps + 1), _data.actions(kind, steps), _data.rewards(steps)
    made = episode(columns, "", terminated=True)

    def call() -> Any:
        made.id_ = f"e{next(numbers)}"
        return made

    return call


@keep_one
def pair(kind: str, capacity: int, prioritized: bool = False) -> list[Any]:
    """Full buffers: the host's, ours."""
    made, new = [], whole(kind)
    for module in modules():
        buffer = getattr(module, BUFFERS[prioritized])(capacity, **({"alpha": 0.6} if prioritized else {}))
        for _ in range(capacity // _data.EPISODE):
            buffer.add(new())
        made.append(buffer)
    return made


def sample(kind: str, batch: int, n_step: int = 1) -> tuple[Call, Call]:
    options = {"n_step": n_step, "gamma": 0.99, "sample_episodes": True, "batch_length_T": 0}
    host, ours = (partial(buffer.sample, batch, **options) for buffer in pair(kind, STEPS[kind]))
    return host, ours


def draw_and_update(batch: int) -> tuple[Call, Call]:
    def updating(buffer: Any) -> Call:
        errors = cycle(_data.priorities(batch))

        def call() -> None:
            buffer.sample(batch, n_step=1, gamma=0.99, beta=0.4)
            buffer.update_priorities(next(errors))

        return call

    host, ours = map(updating, pair("obs17", STEPS["obs17"], prioritized=True))
    return host, ours


def add(capacity: int, prioritized: bool) -> tuple[Call, Call]:
    """An episode of 200 steps of 4 numbers into a full buffer: another one leaves."""
    new = whole("obs4")
    host, ours = (lambda buffer=buffer: buffer.add(new()) for buffer in pair("obs4", capacity, prioritized))
    return host, ours


def pieces(capacity: int) -> tuple[Call, Call]:
    """The same in pieces of 4 steps, as DQN adds them."""

    def adding(buffer: Any) -> Call:
        observation, action, reward = _data.observations("obs4", 201), _data.actions("obs4", 200), _data.rewards(200)
        made = [episode((observation[at : at + 5], action[at : at + 4], reward[at : at + 4]), "", at, at == 196) for at in range(0, 200, 4)]
        turns, id_ = cycle(made), ""

        def call() -> None:
            nonlocal id_
            piece = next(turns)
            id_ = piece.id_ = f"p{next(numbers)}" if piece.t_started == 0 else id_
            buffer.add(piece)

        return call

    host, ours = map(adding, pair("obs4", capacity))
    return host, ours


def targets(steps: int) -> tuple[Call, Call]:
    from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

    from pyrl.adapters import rllib

    r = _data.rollout(steps, 1)
    ends = r.terminated[:, 0].astype(np.float32)
    call = (r.value[:, 0].copy(), r.reward[:, 0].copy(), ends, np.zeros_like(ends), 0.99, 0.95)
    return partial(compute_value_targets, *call), partial(rllib.compute_value_targets, *call)


def connector(steps: int) -> tuple[Call, Call]:
    """The whole connector on 200-step episodes, with a module whose values cost nothing."""
    import torch
    from ray.rllib.connectors.learner import GeneralAdvantageEstimation
    from ray.rllib.core.rl_module.apis import ValueFunctionAPI
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    from pyrl.adapters import rllib

    values = torch.from_numpy(_data.rollout(steps, 1).value[:, 0].copy())

    class Module(ValueFunctionAPI):
        def compute_values(self, batch: Any, embeddings: Any = None) -> Any:
            return values

        def is_stateful(self) -> bool:
            return False

        def unwrapped(self) -> Module:
            return self

    class Modules(MultiRLModule):
        framework = "torch"

        def __init__(self) -> None:
            self._rl_modules = {"default_policy": Module()}

    columns = _data.observations("obs4", 201), _data.actions("obs4", 200), _data.rewards(200)
    episodes = [episode(columns, str(at)) for at in range(steps // 200)]
    flags = torch.arange(steps) % 200 == 199
    batch = {"rewards": torch.from_numpy(_data.rewards(steps)), "terminateds": flags, "truncateds": flags & False}
    made = (GeneralAdvantageEstimation, rllib.GeneralAdvantageEstimation)
    pieces = [each(gamma=0.99, lambda_=0.95) for each in made]
    host, ours = (
        lambda piece=piece: piece(rl_module=Modules(), episodes=episodes, batch={"default_policy": dict(batch)}, shared_data={})
        for piece in pieces
    )
    return host, ours


def rllib_rows() -> Rows:
    import ray  # noqa: F401

    for kind in STEPS:
        for batch in (32, 256, 4096):
            yield f"sample {batch}, {kind}", partial(sample, kind, batch), 3
    yield "3-step sample 256, obs17", partial(sample, "obs17", 256, 3), 3
    for batch in (32, 256):
        yield f"prioritized sample + update {batch}, obs17", partial(draw_and_update, batch), 3
    for capacity in (10_000, 100_000, 1_000_000):
        yield f"add 200 steps to {capacity:,}", partial(add, capacity, False), 3
        yield f"add 4 steps to {capacity:,}", partial(pieces, capacity), 3
    for capacity in (10_000, 100_000, 1_000_000):
        yield f"prioritized: add 200 steps to {capacity:,}", partial(add, capacity, True), 3
    for steps in (2000, 10_000):
        yield f"value targets of {steps} steps", partial(targets, steps), 3
        yield f"the whole GAE connector, {steps} steps", partial(connector, steps), 3


# -- memory ---------------------------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(transitions: int, theirs_of: int) -> str:
    """Stacks of four 84 x 84 frames, episodes of 1000 steps; the host's with ``theirs_of`` of them."""
    from gymnasium.spaces import Box, Discrete

    host, ours = (getattr(module, BUFFERS[False]) for module in modules())
    frames = np.random.default_rng(0).integers(0, 256, (1001, 84, 84), np.uint8)
    padded = np.concatenate([np.repeat(frames[:1], 3, 0), frames])
    columns = np.stack([padded[i : i + 1001] for i in range(4)], -1), np.zeros(1000, np.int64), np.ones(1000, np.float32)
    forecast = ours.forecast(transitions, Box(0, 255, (84, 84, 4), np.uint8), Discrete(18), frame_stack=4)
    found = []
    for buffer, steps in ((ours(transitions, frame_stack=4), transitions + transitions // 20), (host(theirs_of), theirs_of)):
        gc.collect()
        before = resident_bytes()
        for at in range(steps // 1000):
            buffer.add(episode(columns, f"e{at}", terminated=True))
        found.append((resident_bytes() - before, buffer.get_num_timesteps()))
        del buffer
    (taken, stored), (theirs, held) = found
    own = f"ours {forecast / 1e9:.3f} GB forecast, {taken / 1e9:.3f} GB measured with {stored:,} transitions in it"
    return f"{transitions:,} Atari-shaped transitions: {own}; the host's {theirs / 1e9 * transitions / held:.3f} GB, measured with {held:,}"


# -- learning -------------------------------------------------------------------------------------------------------------


def draw_whole_windows(buffer: Any, n_step: int) -> None:
    """Our buffer draws as the host's does from here on: only steps that n - 1 others of their episode follow."""

    def draw(size: int, beta: float) -> tuple[Any, Any]:
        buffer.replay.beta = beta
        index = buffer.replay.sample(8 * size).index
        index = index[(buffer.replay.steps(index, n_step) >= 0).all(1)]
        buffer._drawn = np.random.default_rng(int(index[0])).choice(index, size)
        return buffer.replay.get(buffer._drawn), buffer.replay.weight(buffer._drawn)

    buffer._draw = draw


def learning_curve(steps: int, points: int, n_step: int, buffers: tuple[str, str], own: bool, seed: int) -> list[float]:
    """DQN on CartPole: prioritized replay, 64 returns learned from four times in 16 steps, all in this process.

    ``buffers``: in the places of the host's and of ours: "host", "ours" or "whole" (`draw_whole_windows`).
    """
    import ray
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

    if not ray.is_initialized():  # a cluster of its own, which does not take a busy machine for a dead one
        patience = {"health_check_failure_threshold": 1000, "health_check_timeout_ms": 60_000}
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _system_config=patience)
    name = BUFFERS[True]
    made = name if buffers[own] == "host" else f"pyrl.adapters.rllib.{name}"
    config = (
        DQNConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=1, rollout_fragment_length=16)
        .learners(num_learners=0)
        .training(
            lr=1e-3, train_batch_size_per_learner=64, training_intensity=16, n_step=n_step, double_q=True, dueling=True, gamma=0.99,
            target_network_update_freq=250, num_steps_sampled_before_learning_starts=500, epsilon=[(0, 1.0), (3000, 0.04)],
            replay_buffer_config={"type": made, "capacity": 50_000, "alpha": 0.6, "beta": 0.4},
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="relu"))
        .reporting(metrics_num_episodes_for_smoothing=20, min_sample_timesteps_per_iteration=steps // points, min_time_s_per_iteration=0)
        .debugging(seed=seed, log_level="ERROR")
    )  # fmt: skip
    algorithm = config.build_algo()
    if buffers[own] == "whole":
        draw_whole_windows(algorithm.local_replay_buffer, n_step)
    returns: list[float] = []
    for _ in range(points):
        result = algorithm.train()[ENV_RUNNER_RESULTS]
        assert abs(result[NUM_ENV_STEPS_SAMPLED_LIFETIME] - (len(returns) + 1) * steps // points) < 100
        returns.append(float(result["episode_return_mean"]))
    algorithm.stop()
    return returns
