"""Stable-Baselines3's own tests of its buffers (tests/test_buffers.py, test_her.py, test_n_step_replay.py of 2.9), rewritten for ours.

Left out, with the reason:

- test_buffer_dtypes reads `observations` and `actions` of the buffers and sets `full` of an empty one: internals. What it is about, the
  dtypes of samples, is here, with a transition in the buffer.
- test_custom_rollout_buffer expects an AssertionError for DictRolloutBuffer with a Box: ours takes both.
- test_save_load_replay_buffer and test_truncate_last_trajectory read `observations`, `dones`, `timeouts` and `ep_length`: internals. Here
  the samples before and after are compared. They expect a warning that the last trajectory is truncated; ours never needs to: a stream is
  cut exactly where the next observation does not follow.
- test_nstep_early_truncation reports a time limit without `done`, which no environment of the host does; here with it. The last part of
  test_nstep_no_terminations writes into `dones` of the newest transition: internals.
- test_full_replay_buffer says that the running episode is not sampled: ours samples it, with the goals achieved so far.
- test_import_error, test_save_load of models: nothing of buffers.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed (pyrl[sb3])")

from stable_baselines3 import A2C, DDPG, DQN, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize
from stable_baselines3.her import GoalSelectionStrategy

from pyrl.adapters import sb3


class Counting(gym.Env):
    """Observations 1 to 5 and back to 1, a time limit at 100."""

    def __init__(self, as_dict: bool = False) -> None:
        box = spaces.Box(1, 5, (1,))
        self.as_dict, self.action_space = as_dict, spaces.Box(1, 5, (10, 7) if as_dict else (1,))
        self.observation_space = spaces.Dict({"observation": box, "achieved_goal": box, "desired_goal": box}) if as_dict else box

    def observe(self) -> Any:
        value = np.array([1.0 + self.t % 5], np.float32)
        return dict.fromkeys(self.observation_space, value) if self.as_dict else value

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.observe(), 1.0 + self.t % 5, False, self.t >= 100, {}


def tensors(samples: Any) -> list[torch.Tensor]:
    leaves = [leaf for value in samples for leaf in (value.values() if isinstance(value, dict) else [value])]
    return [leaf for leaf in leaves if leaf is not None]


@pytest.mark.parametrize("as_dict", [False, True])
def test_replay_buffer_normalization(as_dict: bool) -> None:
    env = VecNormalize(make_vec_env(lambda: Counting(as_dict)))
    buffer = (sb3.DictReplayBuffer if as_dict else sb3.ReplayBuffer)(110, env.observation_space, env.action_space, device="cpu")
    env.reset()
    obs = env.get_original_obs()
    for _ in range(100):
        action = env.action_space.sample()
        _, _, done, infos = env.step(action)
        next_obs = env.get_original_obs()
        buffer.add(obs, next_obs, action, env.get_original_reward(), done, infos)
        obs = next_obs
    samples = buffer.sample(50, env)
    for observations in (samples.observations, samples.next_observations):
        for values in observations.values() if as_dict else [observations]:
            assert abs(float(values.mean())) < 1
    assert abs(float(samples.rewards.mean())) < 1


@pytest.mark.parametrize("device", ["cpu", "auto", "meta"])  # "meta": another device, where there is no GPU
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("kind", ["replay", "prioritized", "rollout"])
def test_device_buffer(kind: str, as_dict: bool, device: str) -> None:
    made: Any = {"replay": sb3.ReplayBuffer, "prioritized": sb3.PrioritizedReplayBuffer, "rollout": sb3.RolloutBuffer}[kind]
    env = make_vec_env(lambda: Counting(as_dict))
    buffer = made(100, env.observation_space, env.action_space, device=device)
    obs = env.reset()
    for _ in range(100):
        action = env.action_space.sample()
        next_obs, reward, done, infos = env.step(action)
        if kind == "rollout":
            buffer.add(obs, action, reward, np.zeros(1), torch.zeros(1), torch.ones(1))
        else:
            buffer.add(obs, next_obs, action, reward, done, infos)
        obs = next_obs
    for samples in buffer.get(50) if kind == "rollout" else [buffer.sample(50)]:
        fields = {name: value for name, value in samples._asdict().items() if name != "indices"}
        assert {leaf.device.type for leaf in tensors(fields.values())} == {buffer.device.type}


NUMBERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("action_space", [spaces.Discrete(10), spaces.Box(-1, 1), spaces.Box(-1, 1, dtype=np.float64)], ids=str)
def test_buffer_dtypes(dtype: str, action_space: Any) -> None:
    box = spaces.Box(0, 100, dtype=np.dtype(dtype).type)
    for space in (box, spaces.Dict({"obs": box, "obs_2": spaces.Box(0, 100, dtype=np.uint8)})):
        row = lambda: {k: v[None] for k, v in space.sample().items()} if space is not box else box.sample()[None]  # noqa: E731, B023
        replay = sb3.ReplayBuffer(2, space, action_space)
        replay.add(row(), row(), np.array([action_space.sample()]), np.ones(1), np.zeros(1, bool), [{}])
        rollout = sb3.RolloutBuffer(1, space, action_space)
        rollout.add(row(), np.array([action_space.sample()]), np.ones(1), np.zeros(1), torch.zeros(1), torch.zeros(1))
        ours, theirs = replay.sample(4), next(rollout.get(4))
        assert ours.actions.numpy().dtype == (np.int64 if isinstance(action_space, spaces.Discrete) else np.float32)
        assert theirs.actions.numpy().dtype == np.float32
        for samples in (ours, theirs):
            observations = samples.observations if space is not box else {"obs": samples.observations}
            assert [v.numpy().dtype for v in observations.values()] == [np.dtype(dtype), np.dtype("uint8")][: len(observations)]


def test_custom_rollout_buffer() -> None:
    A2C("MlpPolicy", "Pendulum-v1", device="cpu", rollout_buffer_class=sb3.RolloutBuffer, rollout_buffer_kwargs={})
    for wrong, message in (
        ({"wrong_keyword": 1}, "unexpected keyword argument 'wrong_keyword'"),
        ({"gamma": 1}, "multiple values for keyword argument 'gamma'"),
    ):
        with pytest.raises(TypeError, match=message):
            A2C("MlpPolicy", "Pendulum-v1", device="cpu", rollout_buffer_class=sb3.RolloutBuffer, rollout_buffer_kwargs=wrong)


# -- n-step -----------------------------------------------------------------------------------------------------------------------


def counted(n_steps: int, gamma: float, length: int, done_at: int | None = None, truncated_at: int | None = None) -> Any:
    """Rewards of 1; observation i at step i."""
    buffer = sb3.ReplayBuffer(12, spaces.Box(0, 1, (4,)), spaces.Box(0, 1, (2,)), "cpu", n_steps=n_steps, gamma=gamma)
    for i in range(length):
        obs, next_obs = (np.full((1, 4), k, np.float32) for k in (i, i + 1))
        done = np.array([float(i in (done_at, truncated_at))])
        buffer.add(obs, next_obs, np.zeros((1, 2), np.float32), np.ones(1), done, [{"TimeLimit.truncated": i == truncated_at}])
    return buffer


def sum_of(gamma: float, steps: int) -> float:
    return sum(gamma**k for k in range(steps))


@pytest.mark.parametrize("done_at", [1, 2])
@pytest.mark.parametrize("n_steps", [3, 5])
@pytest.mark.parametrize("truncated", [False, True])
def test_nstep_early_end(done_at: int, n_steps: int, truncated: bool) -> None:
    ends = {"truncated_at": done_at} if truncated else {"done_at": done_at}
    buffer = counted(n_steps, 0.98, 9, **ends)
    for base in (0, done_at, done_at + 1):
        samples = buffer._get_samples(np.array([base + (base > done_at)]))  # the end's last observation has a slot
        steps = min(n_steps, done_at + 1 - base) if base <= done_at else n_steps
        assert samples.rewards.item() == pytest.approx(sum_of(0.98, steps))
        assert samples.dones.item() == float(base <= done_at and not truncated)
        assert samples.next_observations[0, 0].item() == base + steps


@pytest.mark.parametrize("n_steps", [3, 5])
def test_nstep_no_terminations(n_steps: int) -> None:
    buffer = counted(n_steps, 0.99, 10)
    for base, steps in ((3, n_steps), (8, 2)):  # the newest transition is 9
        samples = buffer._get_samples(np.array([base]))
        assert samples.discounts.item() == pytest.approx(0.99**steps)
        assert samples.rewards.item() == pytest.approx(sum_of(0.99, steps))
        assert samples.dones.item() == 0


def test_match_normal_buffer() -> None:
    for base in range(10):
        index = np.array([base])
        one, plain = counted(1, 0.99, 10)._get_samples(index), counted(1, None, 10)._get_samples(index)  # type: ignore[arg-type]
        for a, b in zip(one[:5], plain[:5]):
            torch.testing.assert_close(a, b)


# -- hindsight --------------------------------------------------------------------------------------------------------------------


def her_model(algorithm: Any, n_envs: int = 1, env: dict[str, Any] | None = None, vec_env: Any = None, **options: Any) -> Any:
    environment = make_vec_env(
        lambda: BitFlippingEnv(n_bits=4, continuous=algorithm is not DQN, **(env or {})), n_envs, vec_env_cls=vec_env
    )
    settings = {"train_freq": 4, "learning_starts": 40, "batch_size": 16, "buffer_size": 2000, "device": "cpu", "seed": 0, **options}
    return algorithm("MultiInputPolicy", environment, replay_buffer_class=sb3.HerReplayBuffer, policy_kwargs={"net_arch": [8]}, **settings)


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG, DQN], ids=lambda a: a.__name__)
@pytest.mark.parametrize("image_obs_space", [True, False])
def test_her(algorithm: Any, image_obs_space: bool) -> None:
    kwargs = {"n_sampled_goal": 2, "goal_selection_strategy": "future", "copy_info_dict": True}
    model = her_model(algorithm, 1, {"image_obs_space": image_obs_space}, replay_buffer_kwargs=kwargs)
    model.learn(60)
    assert model._n_updates > 0


def test_multiprocessing() -> None:
    model = her_model(DQN, 2, vec_env=SubprocVecEnv)
    try:
        assert model.learn(80)._n_updates > 0
    finally:
        model.get_env().close()


@pytest.mark.parametrize("strategy", ["final", "episode", "future", *GoalSelectionStrategy], ids=str)
def test_goal_selection_strategy(strategy: Any) -> None:
    noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    model = her_model(SAC, 2, replay_buffer_kwargs={"goal_selection_strategy": strategy, "n_sampled_goal": 2}, action_noise=noise)
    model.learn(60)
    assert model.replay_buffer.goal_selection_strategy.name.lower() == str(getattr(strategy, "name", strategy)).lower()


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("truncate", [False, True])
def test_save_load_replay_buffer(n_envs: int, truncate: bool, tmp_path: Any) -> None:
    model = her_model(SAC, n_envs, replay_buffer_kwargs={"n_steps": 2, "gamma": 0.99, "copy_info_dict": True})
    model.learn(101)
    model.save_replay_buffer(tmp_path / "replay.pkl")
    wanted = [tensors(model.replay_buffer.sample(16)) for _ in range(3)]
    del model.replay_buffer
    model.load_replay_buffer(tmp_path / "replay.pkl", truncate_last_traj=truncate)
    for batch in wanted:
        for want, have in zip(batch, tensors(model.replay_buffer.sample(16))):
            torch.testing.assert_close(have, want, rtol=0, atol=0)
    model.learn(60, reset_num_timesteps=truncate)


def test_full_replay_buffer() -> None:
    model = her_model(SAC, 2, buffer_size=40, learning_starts=8, replay_buffer_kwargs={"n_sampled_goal": 2})
    model.learn(200)
    assert model.replay_buffer.full


def test_truncate_last_trajectory() -> None:
    """A new episode cuts the one that ran: its last transition is no end, and no window crosses the cut."""
    env = make_vec_env(lambda: BitFlippingEnv(n_bits=4, continuous=True), seed=0)
    buffer = sb3.HerReplayBuffer(1000, env.observation_space, env.action_space, env, "cpu", n_sampled_goal=0, n_steps=3, gamma=0.9)
    action = np.zeros((1, 4), np.float32)
    for _ in range(2):
        obs = env.reset()
        obs["observation"][:] = 1 - obs["observation"]  # that no step leads to this observation
        for _ in range(2):
            next_obs, reward, done, infos = env.step(action)
            buffer.add(obs, next_obs, action, reward, done, infos)
            obs = deepcopy(next_obs)
        buffer.truncate_last_trajectory()
    ended = [episode["ended"] for episode in buffer.replay.episodes()]
    assert ended[:1] == ["cut"]
    samples = buffer._get_samples(np.array([0]))
    assert samples.dones.item() == 0
    assert samples.discounts.item() == pytest.approx(0.9 ** len(buffer.replay.episodes()[0]["index"]))


@pytest.mark.parametrize("n_steps", [1, 3])
def test_her_with_normalized_rewards(n_steps: int) -> None:
    """Not the host's. Rewards of -1 become -0.3 one by one, so their sums 0.3 times what they were."""
    env = VecNormalize(make_vec_env(lambda: BitFlippingEnv(n_bits=4)), norm_obs=False, clip_reward=0.3)
    returns = {"n_steps": n_steps, "gamma": 0.9}
    buffer = sb3.HerReplayBuffer(200, env.observation_space, env.action_space, env.venv, "cpu", **returns)
    obs = env.reset()
    for i in range(60):
        action = np.array([i % 4])
        next_obs, _, done, infos = env.step(action)
        buffer.add(obs, next_obs, action, env.get_original_reward(), done, infos)
        obs = next_obs
    env.ret_rms.var = np.array(1.0)
    raw = deepcopy(buffer)
    raw.set_env(env.venv)
    for _ in range(3):
        got, wanted = buffer.sample(64, env), raw.sample(64)
        torch.testing.assert_close(got.observations["desired_goal"], wanted.observations["desired_goal"])
        assert wanted.rewards.min() < -0.9
        torch.testing.assert_close(got.rewards, 0.3 * wanted.rewards)


def test_performance_her() -> None:
    """DQN solves ten bits with hindsight."""
    env = make_vec_env(lambda: BitFlippingEnv(n_bits=10, continuous=False), 2, seed=0)
    model = DQN(
        "MultiInputPolicy", env, replay_buffer_class=sb3.HerReplayBuffer, learning_rate=2e-3, train_freq=1, gradient_steps=2,
        replay_buffer_kwargs={"n_sampled_goal": 5}, learning_starts=20, exploration_final_eps=0.02, target_update_interval=100, seed=0,
        batch_size=32, buffer_size=100_000, stats_window_size=50, device="cpu",
    )  # fmt: skip
    model.learn(2000)
    assert np.mean(model.ep_success_buffer) > 0.9


def test_mistakes() -> None:
    env = make_vec_env(lambda: BitFlippingEnv(n_bits=4))
    made = env.observation_space, env.action_space, env, "cpu"
    for options, message in (
        ({"goal_selection_strategy": "past"}, "goal_selection_strategy is 'past', expected one of"),
        ({"n_sampled_goal": -1}, "n_sampled_goal is -1, expected at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            sb3.HerReplayBuffer(100, *made, **options)
    with pytest.raises(ValueError, match="achieved_goal and desired_goal"):
        sb3.HerReplayBuffer(100, spaces.Dict({"observation": spaces.Box(0, 1)}), *made[1:])
    buffer = sb3.HerReplayBuffer(100, *made)
    buffer.env = None
    obs = env.reset()
    buffer.add(obs, env.step(np.zeros(1, np.int64))[0], np.zeros(1, np.int64), np.ones(1), np.zeros(1, bool), [{}])
    with pytest.raises(RuntimeError, match="it has no env"):
        buffer.sample(32)
