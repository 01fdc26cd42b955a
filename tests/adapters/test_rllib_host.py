"""RLlib's own tests of its buffers (test_episode_replay_buffer.py, test_prioritized_episode_buffer.py of rllib/utils/replay_buffers/tests),
rewritten for ours; and its algorithms with our parts in them. test_rllib_adapter.py says how to run them.

Left out, with the reason:

- Of test_add_and_eviction_logic: that an episode of 200 steps fits whole into a buffer of 100. Our memory is fixed: the newest steps stay.
- test_episode_replay_buffer_sample_logic: rows [B, T] of consecutive steps, which RLlib's DreamerV3 learns from. Ours refuses them by name.
- test_buffer_sample_logic_with_3_step expects that returns which would go beyond the end of an episode are never drawn. Ours are shortened
  there, and say how long they are: the test is the same with that length.
- test_update_priorities reads `_sum_segment` and writes `_last_sampled_indices`: internals. What it is about is here by drawing.
- test_get_state_and_set_state reads `_max_idx`, `_max_priority` and `_tree_idx_to_sample_idx`: internals. Here the draws are compared.
- Rewards are float32 here: sums are compared to 1e-5 instead of 1e-8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

try:
    import ray
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.algorithms.sac import SACConfig
    from ray.rllib.connectors.learner import GeneralAdvantageEstimation as HostAdvantages
    from ray.rllib.core.columns import Columns
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.evaluation.postprocessing import Postprocessing
    from ray.rllib.utils import replay_buffers
    from ray.tune.registry import register_env

    from pyrl.adapters import rllib
except ModuleNotFoundError as missing:
    pytest.skip(f"{missing.name} has an environment of its own: the docstring of test_rllib_adapter says how", allow_module_level=True)

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]  # the host warns at every step
BUFFERS = [rllib.EpisodeReplayBuffer, rllib.PrioritizedEpisodeReplayBuffer]


def episode_of(steps: int | None = None, id_: str | None = None, with_outputs: bool = False) -> SingleAgentEpisode:
    episode = SingleAgentEpisode(id_=id_, observations=[0.0], infos=[{}])
    for t in range(np.random.randint(1, 200) if steps is None else steps):  # noqa: NPY002
        outputs = {key: key for key in range(2)} if with_outputs else None
        episode.add_env_step(float(t + 1), int(t), 0.1 * (t + 1), {}, extra_model_outputs=outputs)
    episode.is_terminated = np.random.random() > 0.5  # noqa: NPY002
    episode.is_truncated = False if episode.is_terminated else np.random.random() > 0.8  # noqa: NPY002
    return episode


@pytest.mark.parametrize("made", BUFFERS)
def test_add_and_eviction_logic(made: Any) -> None:
    buffer = made(capacity=100)

    def state() -> tuple[int, int, set[str]]:
        return buffer.get_num_episodes(), buffer.get_num_timesteps(), {episode.id_ for episode in buffer.episodes}

    buffer.add(episode_of(50, "A"))
    assert state() == (1, 50, {"A"})
    buffer.add(episode_of(25, "B"))
    assert state() == (2, 75, {"A", "B"})
    buffer.add(episode_of(25, "C"))
    assert state() == (3, 100, {"A", "B", "C"})
    buffer.add(episode_of(1, "D"))
    assert state() == (3, 51, {"B", "C", "D"})
    buffer.add(episode_of(200, "E"))
    episodes, steps, ids = state()
    assert (episodes, ids) == (1, {"E"})
    assert 100 <= steps < 200
    buffer.add(episode_of(2, "F"))
    assert state() == (1, 2, {"F"})
    for at in range(10):
        buffer.add(episode_of(10, str(at)))
    assert state()[:2] == (10, 100)
    buffer.add(episode_of(21, "G"))
    assert state() == (8, 91, {*"3456789", "G"})


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("made", BUFFERS)
def test_buffer_sample_logic(made: Any, n_step: int) -> None:
    buffer = made(capacity=10_000)
    lengths = []
    for at in range(200):
        episode = episode_of(id_=str(at))
        lengths.append(len(episode))
        buffer.add(episode)
    for call in range(1000):
        sample = buffer.sample(batch_size_B=16, n_step=n_step, sample_episodes=True)
        assert buffer.get_sampled_timesteps() == 16 * (call + 1)
        for episode in sample:
            obs, next_obs, action = episode.get_observations(0), episode.get_observations(-1), episode.get_actions(-1)
            assert not (episode.is_terminated and episode.is_truncated)
            steps = min(n_step, lengths[int(episode.id_.partition("_")[0])] - int(obs))
            assert obs == action
            assert next_obs == obs + steps
            expected = 0.1 * sum(0.99**at * (obs + 1 + at) for at in range(steps))
            assert episode.get_rewards(-1) == pytest.approx(expected, rel=1e-5)
            assert episode.get_extra_model_outputs("weights", -1) == 1.0
            assert episode.get_extra_model_outputs("n_step", -1) == steps


@pytest.mark.parametrize("made", BUFFERS)
def test_buffer_sample_logic_with_random_n_step(made: Any) -> None:
    buffer = made(capacity=10_000)
    for _ in range(200):
        buffer.add(episode_of())
    for _ in range(200):
        n_steps = [e.get_extra_model_outputs("n_step", -1) for e in buffer.sample(batch_size_B=16, n_step=(1, 5), sample_episodes=True)]
        assert min(n_steps) >= 1
        assert max(n_steps) < 5
        assert np.var(n_steps) > 0


@pytest.mark.parametrize("made", BUFFERS)
def test_buffer_sample_logic_with_infos_and_extra_model_output(made: Any) -> None:
    buffer = made(capacity=10_000, store_infos=True, store_extra_model_outputs=True)
    for _ in range(200):
        buffer.add(episode_of(with_outputs=True))
    options = {"n_step": 1, "include_infos": True, "include_extra_model_outputs": True, "sample_episodes": True}
    for _ in range(100):
        for episode in buffer.sample(batch_size_B=16, **options):
            assert len(episode.get_infos()) == 2
            assert episode.get_extra_model_outputs(0) == [0]
            assert episode.get_extra_model_outputs(1) == [1]


def test_update_priorities() -> None:
    buffer = rllib.PrioritizedEpisodeReplayBuffer(capacity=100)
    for _ in range(200):
        buffer.add(episode_of())
    sample = buffer.sample(batch_size_B=16, n_step=1)
    assert all(episode.get_extra_model_outputs("weights", -1) == pytest.approx(1.0) for episode in sample)
    buffer.update_priorities(priorities=np.array([0.01] * 16))
    low = {(episode.id_.partition("_")[0], episode.t_started) for episode in sample}
    found = [{(e.id_.partition("_")[0], e.t_started) for e in buffer.sample(batch_size_B=16, n_step=1)} & low for _ in range(1000)]
    assert sum(map(bool, found)) / 1000 < 0.3

    buffer = rllib.PrioritizedEpisodeReplayBuffer(capacity=10)
    buffer.add(episode_of(10))
    sample = buffer.sample(10, n_step=1)  # stratified: each of them once
    buffer.update_priorities(np.array([0.7 if episode.t_started == 1 else 0.01 for episode in sample]))
    for _ in range(10):
        assert sum(episode.t_started == 1 for episode in buffer.sample(1000)) > 800


@pytest.mark.parametrize("made", BUFFERS)
def test_get_state_and_set_state(made: Any) -> None:
    buffer = made(capacity=100)
    for _ in range(200):
        buffer.add(episode_of())
    other = made(capacity=100)
    other.set_state(buffer.get_state())
    for name in ("get_num_episodes", "get_num_episodes_evicted", "get_num_timesteps", "get_added_timesteps", "get_sampled_timesteps"):
        assert getattr(buffer, name)() == getattr(other, name)()
    one, two = (each.sample(50, n_step=2, sample_episodes=True) for each in (buffer, other))
    assert [(e.id_, e.t_started, e.get_rewards(0)) for e in one] == [(e.id_, e.t_started, e.get_rewards(0)) for e in two]


# -- in the host's algorithms -------------------------------------------------------------------------------------------------------------


class Constant(gym.Env):
    """A reward of 1 for each step; after three the episode ends: by a time limit, or because it is over."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.limit = config["limit"]
        self.observation_space, self.action_space = (
            spaces.Box(0, 1, (1,)),
            spaces.Box(-1, 1, (1,)) if config.get("box") else spaces.Discrete(2),
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.t = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t == 3
        return np.ones(1, np.float32), 1.0, over and not self.limit, over and self.limit, {}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One of its own, which does not take a busy machine for a dead one; it gives its own start half a minute."""
    patience = {"health_check_failure_threshold": 1000, "health_check_timeout_ms": 60_000}
    for attempt in range(5):
        try:
            ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _system_config=patience)
            break
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == 4:
                raise
            ray.shutdown()
    register_env("constant", Constant)
    yield
    ray.shutdown()


def config_of(made: Any, limit: bool, box: bool = False, **options: Any) -> Any:
    return (
        made()
        .environment("constant", env_config={"limit": limit, "box": box})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2, rollout_fragment_length=8)
        .learners(num_learners=0, **({"learner_class": options.pop("learner_class")} if "learner_class" in options else {}))
        .training(gamma=0.5, **options)
        .reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0)
        .debugging(seed=0, log_level="ERROR")
    )


REPLAY = {"num_steps_sampled_before_learning_starts": 32, "train_batch_size_per_learner": 32}


@pytest.mark.parametrize("kind", ["EpisodeReplayBuffer", "PrioritizedEpisodeReplayBuffer"])
@pytest.mark.parametrize("n_step", [1, 2])
@pytest.mark.parametrize("limit", [False, True])
def test_dqn_learns_beyond_a_time_limit_and_not_beyond_an_end(cluster: None, kind: str, n_step: int, limit: bool) -> None:
    """The observation never changes. With a limit, values are 1 / (1 - gamma) = 2. Else a third of the steps is the last: of returns of
    one step, Q = 1 + gamma Q 2 / 3 = 1.5; of two, a third are 1, a third 1.5, and a third 1.5 + Q / 4: Q = 4 / 3 / (11 / 12)."""
    replay = {"type": f"pyrl.adapters.rllib.{kind}", "capacity": 2000, "beta": 0.4}
    if kind.startswith("P"):
        replay["alpha"] = 0.0
    config = config_of(
        DQNConfig, limit, lr=3e-3, n_step=n_step, training_intensity=32, target_network_update_freq=32, double_q=False, dueling=False,
        replay_buffer_config=replay, epsilon=[(0, 1.0), (1, 1.0)], num_atoms=1, **REPLAY,
    ).rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[16], fcnet_activation="relu"))  # fmt: skip
    algorithm = config.build_algo()
    assert type(algorithm.local_replay_buffer) is getattr(rllib, kind)
    for _ in range(60):
        algorithm.train()
    buffer = algorithm.local_replay_buffer
    assert buffer.replay.num_envs == 2
    assert buffer.get_num_timesteps() == 60 * 16
    import torch

    module = algorithm.get_module()
    with torch.no_grad():
        value = module.compute_q_values({Columns.OBS: torch.ones(1, 1)})["qf_preds"].mean().item()
    algorithm.stop()
    expected = 2.0 if limit else {1: 1.5, 2: 16 / 11}[n_step]
    assert value == pytest.approx(expected, abs=0.12)


def test_sac_takes_our_buffer_once_it_is_installed(cluster: None) -> None:
    before = [getattr(replay_buffers, made.__name__) for made in BUFFERS]
    rllib.install()
    try:
        options = {"type": "PrioritizedEpisodeReplayBuffer", "capacity": 1000, "alpha": 0.6, "beta": 0.4}
        algorithm = config_of(SACConfig, True, box=True, replay_buffer_config=options, **REPLAY).build_algo()
        assert type(algorithm.local_replay_buffer) is rllib.PrioritizedEpisodeReplayBuffer
        for _ in range(5):
            algorithm.train()
        buffer = algorithm.local_replay_buffer
        assert buffer.get_sampled_timesteps() > 0
        assert len(np.unique(buffer.replay.priorities(buffer.replay.indices()))) > 2  # the errors came back
        algorithm.stop()
    finally:
        for made, old in zip(BUFFERS, before):
            setattr(replay_buffers, made.__name__, old)


def test_ppo_learns_by_our_advantages(cluster: None) -> None:
    """The same batch through the host's connector and through ours, within PPO; and values beyond a time limit and an end."""
    import torch

    for limit, expected in ((True, 2.0), (False, (1 + 1.5 + 1.75) / 3)):
        options = {"lr": 5e-3, "train_batch_size_per_learner": 128, "minibatch_size": 64, "num_epochs": 8, "lambda_": 0.9}
        options["vf_clip_param"] = np.inf  # by default a value that is off by more than the root of 10 gets no gradient, and stays there
        algorithm = config_of(PPOConfig, limit, learner_class=rllib.PPOTorchLearner, **options).build_algo()
        learner = algorithm.learner_group._learner
        pieces = [piece for piece in learner._learner_connector.connectors if isinstance(piece, HostAdvantages)]
        assert [type(piece) for piece in pieces] == [rllib.GeneralAdvantageEstimation]
        for _ in range(25):
            algorithm.train()
        module = learner.module["default_policy"]
        with torch.no_grad():
            value = module.compute_values({Columns.OBS: torch.ones(1, 1)}).item()
        assert value == pytest.approx(expected, abs=0.15)

        rng = np.random.default_rng(0)
        steps = [int(n) for n in rng.integers(1, 30, 20)]
        batch = {
            Columns.OBS: torch.from_numpy(rng.random((sum(steps), 1), np.float32)),
            Columns.REWARDS: torch.from_numpy(rng.normal(size=sum(steps)).astype(np.float32)),
            Columns.TERMINATEDS: torch.from_numpy(rng.random(sum(steps)) < 0.1),
            Columns.TRUNCATEDS: torch.from_numpy(rng.random(sum(steps)) < 0.1),
        }
        episodes = [
            SingleAgentEpisode(observations=[np.zeros(1)] * (n + 1), actions=[0] * n, rewards=[0.0] * n, len_lookback_buffer=0)
            for n in steps
        ]
        found = [
            made(gamma=0.9, lambda_=0.8)(rl_module=learner.module, episodes=episodes, batch={"default_policy": dict(batch)}, shared_data={})
            for made in (HostAdvantages, rllib.GeneralAdvantageEstimation)
        ]
        for column in (Postprocessing.ADVANTAGES, Postprocessing.VALUE_TARGETS):
            host, ours = (each["default_policy"][column] for each in found)
            assert host.dtype == ours.dtype == torch.float32
            torch.testing.assert_close(ours, host, rtol=1e-4, atol=1e-4)
        algorithm.stop()
