"""pyrl.adapters.sb3 in the hands of Stable-Baselines3's own code, and row by row against its own buffers."""

from __future__ import annotations

import pickle
from copy import deepcopy
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_settings import off_policy, small

stable_baselines3 = pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed (pyrl[sb3])")

from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3  # noqa: E402
from stable_baselines3.common import buffers as host  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

from pyrl.adapters import sb3  # noqa: E402
from pyrl.errors import CheckpointError, DeviceError, DTypeError, NonFiniteError, ShapeError, SpaceError  # noqa: E402

BOX, DISCRETE = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(4)
DICT = spaces.Dict({"a": BOX, "b": spaces.Discrete(7), "c": spaces.MultiBinary(5)})


def steps(space: spaces.Space, action_space: spaces.Space, count: int, num_envs: int, seed: int = 0) -> list[tuple[Any, ...]]:
    """What the host's loop gives to `add`: random episodes, ended either way."""
    rng = np.random.default_rng(seed)
    space.seed(seed)
    action_space.seed(seed)

    def draw() -> Any:
        rows = [space.sample() for _ in range(num_envs)]
        if isinstance(space, spaces.Dict):
            return {key: np.stack([row[key] for row in rows]) for key in space.spaces}
        return np.stack(rows)

    stream, obs = [], draw()
    for _ in range(count):
        next_obs, following = draw(), draw()
        terminated, truncated = rng.random(num_envs) < 0.1, rng.random(num_envs) < 0.1
        done = terminated | truncated
        infos = [{"TimeLimit.truncated": bool(c and not t)} for t, c in zip(terminated, truncated)]
        action = np.stack([action_space.sample() for _ in range(num_envs)])
        stream.append((obs, next_obs, action, rng.standard_normal(num_envs).astype(np.float32), done, infos))
        pick = lambda new, old: np.where(done.reshape(-1, *[1] * (new.ndim - 1)), new, old)  # noqa: E731, B023
        obs = {k: pick(following[k], next_obs[k]) for k in next_obs} if isinstance(next_obs, dict) else pick(following, next_obs)
    return stream


def filled(buffer: Any, stream: list[tuple[Any, ...]]) -> Any:
    for step in stream:
        buffer.add(*deepcopy(step))
    return buffer


def our_index(stream: list[tuple[Any, ...]], num_envs: int) -> np.ndarray:
    """int64 [T, N]: the record of each step: an ended episode takes a slot more."""
    done = np.array([step[4] for step in stream])
    before = np.cumsum(done, 0) - done
    return (np.arange(len(stream))[:, None] + before) * num_envs + np.arange(num_envs)


def normalizer(space: spaces.Space, num_envs: int) -> VecNormalize:
    class Nothing(gym.Env):
        observation_space, action_space = space, DISCRETE

    env = VecNormalize(DummyVecEnv([Nothing] * num_envs), clip_reward=0.7, norm_obs_keys=["a"] if isinstance(space, spaces.Dict) else None)
    moments = env.obs_rms["a"] if isinstance(space, spaces.Dict) else env.obs_rms
    moments.mean, moments.var, env.ret_rms.var = np.full(3, 0.5), np.full(3, 4.0), np.array(2.0)
    return env


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("space", [BOX, DICT, spaces.Discrete(9)], ids=["box", "dict", "discrete"])
@pytest.mark.parametrize("action_space", [DISCRETE, spaces.Box(-1, 1, (2, 3), np.float32), spaces.MultiDiscrete([3, 4])], ids=str)
def test_each_sample_is_the_hosts(space: Any, action_space: Any, n_steps: int, normalized: bool) -> None:
    num_envs, count = 3, 40
    if normalized and isinstance(space, spaces.Discrete):
        return  # VecNormalize takes Boxes
    stream = steps(space, action_space, count, num_envs)
    options = {"device": "cpu", "n_envs": num_envs}
    returns = {"n_steps": n_steps, "gamma": 0.9} if n_steps > 1 else {}
    ours = filled(sb3.ReplayBuffer(600, space, action_space, **options, **returns), stream)
    if isinstance(space, spaces.Dict):
        if n_steps > 1:
            return  # the host refuses; see test_n_step_returns_of_dicts
        theirs = filled(host.DictReplayBuffer(600, space, action_space, **options), stream)
    else:
        theirs = filled(
            (host.NStepReplayBuffer if n_steps > 1 else host.ReplayBuffer)(600, space, action_space, **options, **returns), stream
        )
    env = normalizer(space, num_envs) if normalized else None
    index = our_index(stream, num_envs)
    with pytest.MonkeyPatch.context() as patch:
        for lane in range(num_envs):
            patch.setattr(np.random, "randint", lambda *args, size, lane=lane, **options: np.full(size, lane))
            wanted, got = theirs._get_samples(np.arange(count), env), ours._get_samples(index[:, lane], env)
            assert type(wanted) is type(got)
            for name, want, have in zip(wanted._fields, wanted, got):
                if name == "discounts" and want is not None:
                    want, have = want * (1 - wanted.dones), have * (1 - got.dones)  # all that an end leaves of it
                pairs = [(want[key], have[key]) for key in want] if isinstance(want, dict) else [(want, have)]
                for a, b in pairs:
                    assert (a is None) == (b is None)
                    if a is not None:
                        assert (name, a.dtype, a.shape) == (name, b.dtype, b.shape)
                        torch.testing.assert_close(b, a)


def test_n_step_returns_of_dicts() -> None:
    """Entry "a" of a dict, by the host's n-step buffer of that entry alone."""
    stream = steps(DICT, DISCRETE, 40, 1)
    alone = [(obs["a"], next_obs["a"], *rest) for obs, next_obs, *rest in stream]
    options = {"device": "cpu", "n_steps": 3, "gamma": 0.9}
    ours = filled(sb3.DictReplayBuffer(100, DICT, DISCRETE, **options), stream)
    theirs = filled(host.NStepReplayBuffer(100, BOX, DISCRETE, **options), alone)
    got, wanted = ours._get_samples(our_index(stream, 1)[:, 0]), theirs._get_samples(np.arange(40))
    torch.testing.assert_close(got.next_observations["a"], wanted.next_observations)
    torch.testing.assert_close(got.rewards + got.discounts, wanted.rewards + (1 - wanted.dones) * wanted.discounts)


def test_without_timeouts_every_end_is_an_end() -> None:
    stream = steps(BOX, DISCRETE, 40, 2)
    for handled in (True, False):
        buffer = filled(sb3.ReplayBuffer(200, BOX, DISCRETE, "cpu", 2, handle_timeout_termination=handled), stream)
        ended = buffer._get_samples(our_index(stream, 2).ravel()).dones.numpy().reshape(40, 2)
        cut = np.array([[info["TimeLimit.truncated"] for info in step[5]] for step in stream])
        done = np.array([step[4] for step in stream])
        assert cut.any()
        np.testing.assert_array_equal(ended, done & ~cut if handled else done)


# -- the host's algorithms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("returns", [{}, {"n_steps": 3, "gamma": 0.99}], ids=["1-step", "3-step"])
@pytest.mark.parametrize("algorithm", [DQN, DDPG, TD3, SAC], ids=lambda a: a.__name__)
def test_off_policy_algorithms_learn(algorithm: Any, returns: dict[str, Any]) -> None:
    env = make_vec_env("CartPole-v1" if algorithm is DQN else "Pendulum-v1", 2, seed=0)
    model = algorithm("MlpPolicy", env, replay_buffer_class=sb3.ReplayBuffer, replay_buffer_kwargs=returns, **off_policy())
    model.learn(80)
    assert (model._n_updates, len(model.replay_buffer.replay)) == (7 if algorithm is DQN else 25, 80)


def test_a_normalized_environment_and_memory_optimization() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0))
    model = TD3("MlpPolicy", env, replay_buffer_class=sb3.ReplayBuffer, optimize_memory_usage=True, **off_policy())
    model.learn(60)
    with pytest.warns(UserWarning, match="last trajectory in the replay buffer will be truncated"):
        model.learn(60)  # the host writes the cut into `dones`
    raw = model.replay_buffer.replay.get(model.replay_buffer.replay.draw(50)).reward
    assert raw.min() < -1  # as given; VecNormalize's are small


@pytest.mark.parametrize("algorithm", [PPO, A2C], ids=lambda a: a.__name__)
def test_on_policy_algorithms_learn_as_with_the_hosts_buffer(algorithm: Any) -> None:
    """With one minibatch there is no order of rows but that of sums."""
    n_steps = {"n_steps": 32, **({"batch_size": 64, "n_epochs": 2} if algorithm is PPO else {})}
    weights = []
    for made in (None, sb3.RolloutBuffer):
        torch.manual_seed(0)
        env = make_vec_env("CartPole-v1", 2, seed=0)
        model = algorithm("MlpPolicy", env, rollout_buffer_class=made, **n_steps, **small()).learn(128)
        weights.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)


def test_rollouts_are_the_hosts() -> None:
    T, N = 16, 3
    rng = np.random.default_rng(0)
    for space, theirs_class, ours_class in (
        (BOX, host.RolloutBuffer, sb3.RolloutBuffer),
        (DICT, host.DictRolloutBuffer, sb3.DictRolloutBuffer),
    ):
        both = [made(T, space, DISCRETE, "cpu", gae_lambda=0.9, gamma=0.95, n_envs=N) for made in (theirs_class, ours_class)]
        for obs, _, action, reward, done, _ in steps(space, DISCRETE, T, N):
            row = (
                action,
                reward,
                done,
                torch.from_numpy(rng.standard_normal((N, 1), np.float32)),
                torch.from_numpy(rng.standard_normal(N, np.float32)),
            )
            for buffer in both:
                buffer.add(deepcopy(obs), *row)
        last = torch.from_numpy(rng.standard_normal((N, 1), np.float32)), np.array([True, False, True])
        for buffer in both:
            buffer.compute_returns_and_advantage(*last)
        theirs, ours = both
        for name in ("advantages", "returns", "values", "log_probs"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-5)
        rows = []
        for buffer in both:
            (batch,) = buffer.get()
            order = batch.old_log_prob.argsort()
            rows.append({k: v[order] for k, v in batch._asdict().items() if torch.is_tensor(v)})
            if isinstance(batch.observations, dict):
                rows[-1] |= {k: v[order].reshape(T * N, -1) for k, v in batch.observations.items()}
        for name, want in rows[0].items():
            torch.testing.assert_close(rows[1][name], want, rtol=1e-5, atol=1e-5)
        sizes = [len(batch.actions) for batch in ours.get(20)]
        assert sizes == [20, 20, 8]


@pytest.mark.parametrize("block", [1, 300, 2**20])  # bytes: one minibatch, some, all of them by one call
def test_minibatches_have_every_row_once(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrl.adapters.sb3.rollout._BLOCK_BYTES", block)

    class Own(sb3.RolloutBuffer):
        def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
            return len(batch_inds), super()._get_samples(batch_inds, env)

    for made in (sb3.RolloutBuffer, Own):
        buffer = made(16, spaces.Box(0, 99, (1,), np.float32), DISCRETE, "cpu", n_envs=3)
        for t in range(16):
            row = np.arange(3 * t, 3 * t + 3, dtype=np.float32)
            buffer.add(row[:, None], np.zeros(3, np.int64), row, np.zeros(3), torch.from_numpy(row + 100), torch.from_numpy(row + 200))
        batches: list[Any] = list(buffer.get(10))
        if made is Own:  # a subclass's hook is called
            assert [count for count, _ in batches] == [10, 10, 10, 10, 8]
            batches = [batch for _, batch in batches]
        assert [len(batch.actions) for batch in batches] == [10, 10, 10, 10, 8]
        found = torch.cat([batch.observations[:, 0] for batch in batches])
        assert found.sort()[0].tolist() == list(range(48))
        assert found.tolist() != list(range(48))
        assert torch.equal(torch.cat([batch.old_values for batch in batches]), found + 100)
        assert torch.equal(torch.cat([batch.old_log_prob for batch in batches]), found + 200)


# -- time limits ------------------------------------------------------------------------------------------------------------------


class Clock(gym.Env):
    """One observation, a reward of 1 a step, over after five: by its nature, or by a limit from outside."""

    observation_space, action_space = spaces.Box(0, 1, (1,), np.float32), spaces.Discrete(2)

    def __init__(self, limited: bool) -> None:
        self.limited = limited

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.t = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.ones(1, np.float32), 1.0, self.t == 5 and not self.limited, self.t == 5 and self.limited, {}


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("prioritized", [False, True])
def test_the_learned_value_tells_a_limit_from_an_end(prioritized: bool, n_steps: int) -> None:
    """gamma = 0.8: the value of a life without end is 5. Where one step in five ends it and the observation does not say which, values
    are below 4 (the mean's fixed point is 2.8, that of the host's Huber loss 3.8)."""
    algorithm, made = (sb3.PrioritizedDQN, sb3.PrioritizedReplayBuffer) if prioritized else (DQN, sb3.ReplayBuffer)
    values = {}
    for limited in (False, True):
        returns = {"n_steps": n_steps, "gamma": 0.8, **({"beta": 1.0} if prioritized else {})}
        model = algorithm(
            "MlpPolicy", Clock(limited), gamma=0.8, learning_rate=0.02, replay_buffer_class=made, replay_buffer_kwargs=returns,
            train_freq=1, target_update_interval=10, exploration_fraction=1.0, **off_policy(()),
        ).learn(400)  # fmt: skip
        values[limited] = model.q_net(torch.ones(1, 1)).mean().item()
    assert abs(values[True] - 5) < 0.3
    assert values[False] < 4.2


def test_the_value_of_a_rollout_bootstraps_a_limit_once() -> None:
    """A2C adds gamma V to the reward at a limit itself."""
    values = {}
    for limited in (False, True):
        model = A2C(
            "MlpPolicy", Clock(limited), gamma=0.8, learning_rate=0.05, n_steps=10, rollout_buffer_class=sb3.RolloutBuffer,
            **small((), optimizer_class=torch.optim.Adam, optimizer_kwargs={}),
        ).learn(1500)  # fmt: skip
        values[limited] = model.policy.predict_values(torch.ones(1, 1)).item()
    assert abs(values[True] - 5) < 0.3
    assert abs(values[False] - 2.8) < 0.5


# -- files ------------------------------------------------------------------------------------------------------------------------


def test_the_hosts_file_holds_our_checked_bytes(tmp_path: Any) -> None:
    model = sb3.PrioritizedDQN("MlpPolicy", "CartPole-v1", **off_policy())
    model.learn(80)
    model.save_replay_buffer(tmp_path / "replay")
    model.save(tmp_path / "model")
    draws = [model.replay_buffer.sample(8) for _ in range(2)]
    loaded = sb3.PrioritizedDQN.load(tmp_path / "model", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "replay")
    for draw in draws:
        again = loaded.replay_buffer.sample(8)
        for name in ("observations", "weights", "indices"):
            torch.testing.assert_close(getattr(again, name), getattr(draw, name), rtol=0, atol=0)
    loaded.learn(40, reset_num_timesteps=False)
    path = tmp_path / "replay.pkl"
    data = bytearray(path.read_bytes())
    at = data.index(model.replay_buffer.replay.state_dict()["column.observation"].tobytes()[:64])
    data[at + 5] ^= 1
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(CheckpointError, match="SHA-256"):
        loaded.load_replay_buffer(file)


def test_copies_share_nothing() -> None:
    stream = steps(BOX, DISCRETE, 30, 1)
    buffer = filled(sb3.ReplayBuffer(100, BOX, DISCRETE, "cpu"), stream)
    for copied in (deepcopy(buffer), pickle.loads(pickle.dumps(buffer))):
        torch.testing.assert_close(copied.sample(4).observations, deepcopy(buffer).sample(4).observations)
        copied.add(*stream[0])
        assert len(buffer.replay) == 30


def test_the_seed_of_the_host_is_ours() -> None:
    draws = []
    for seed in (1, 1, 2):
        model = DQN(
            "MlpPolicy", "CartPole-v1", replay_buffer_class=sb3.ReplayBuffer, **{**off_policy(), "seed": seed, "learning_starts": 1000}
        )
        model.learn(40)
        draws.append(model.replay_buffer.replay.draw(64))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


# -- mistakes ---------------------------------------------------------------------------------------------------------------------


ROW = np.zeros(BOX.shape, np.float32)
ONE = (np.zeros(1, np.int64), np.zeros(1), np.zeros(1, bool), torch.zeros(1), torch.zeros(1))  # action ... log_prob of a rollout's step


def rolled(buffer: Any, reward: float = 0.0) -> Any:
    for _ in range(2):
        buffer.add(ROW[None], ONE[0], np.full(1, reward), *ONE[2:])
    return buffer


class TestMistakes:
    made: ClassVar[dict[str, Any]] = {"observation_space": BOX, "action_space": DISCRETE, "device": "cpu"}

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"buffer_size": 2.5}, DTypeError, "buffer_size is 2.5, expected an integer"),
            ({"buffer_size": 0}, ValueError, "buffer_size is 0, expected at least 1"),
            ({"buffer_size": 3, "n_envs": 2}, ValueError, r"buffer_size is 3, expected at least n_envs \* \(n_steps \+ frame_stack\) = 4"),
            ({"n_steps": 3}, ValueError, "n_steps is 3 and gamma is missing"),
            ({"n_steps": 0, "gamma": 0.9}, ValueError, "n_steps is 0"),
            ({"n_steps": 2, "gamma": 1.5}, ValueError, "gamma is 1.5"),
            ({"frame_stack": 2}, SpaceError, "frame_stack is 2, and observation_space is"),
            ({"observation_space": spaces.Tuple([BOX, BOX])}, SpaceError, "observation_space is"),
            ({"action_space": spaces.Tuple([DISCRETE])}, SpaceError, "action_space is"),
            ({"gamma": "0.9"}, DTypeError, "gamma is '0.9', expected a number"),
            ({"device": "gpu"}, DeviceError, "device is 'gpu', expected a device of torch"),
            ({"optimize_memory_usage": "no"}, DTypeError, "optimize_memory_usage is 'no', expected True or False"),
            ({"handle_timeout_termination": "no"}, DTypeError, "handle_timeout_termination is 'no', expected True or False"),
            ({"n_step": 3}, TypeError, "unexpected keyword argument 'n_step'"),
        ],
    )  # fmt: skip
    def test_of_the_constructor(self, options: dict[str, Any], error: Any, message: str) -> None:
        with pytest.raises(error, match=message):
            sb3.ReplayBuffer(**{"buffer_size": 100, **self.made, **options})

    @pytest.mark.parametrize(
        ("position", "value", "error", "message"),
        [
            (0, np.zeros((1, 5), np.float32), ShapeError, r"obs has shape \[1, 5\], expected"),
            (1, np.zeros((1, 4), np.float32), ShapeError, r"next_obs has shape \[1, 4\], expected"),
            (2, np.zeros(1, np.float32), DTypeError, "action has dtype float32, expected int64"),
            (3, np.array([np.nan], np.float32), NonFiniteError, "reward"),
            (4, np.zeros(2, bool), ShapeError, "done has shape"),
            (4, np.ones(2, bool), ShapeError, r"done has shape \[2\], expected \[1\]"),
            (5, {}, DTypeError, "infos is {}, expected a list of 1 dicts, for handle_timeout_termination"),
            (5, [{}, {}], DTypeError, "expected a list of 1 dicts"),
        ],
    )
    def test_of_add(self, position: int, value: Any, error: Any, message: str) -> None:
        buffer = sb3.ReplayBuffer(100, **self.made)
        step = list(steps(BOX, DISCRETE, 1, 1)[0])
        step[4] = np.ones_like(step[4])
        step[position] = value if position != 4 else ~value
        with pytest.raises(error, match=message):
            buffer.add(*step)
        assert (len(buffer.replay), buffer.pos) == (0, 0)

    def test_images_with_their_channels_last_are_not_taken_for_others(self) -> None:
        image, last = spaces.Box(0, 255, (3, 8, 8), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)
        rows = (np.zeros(1, np.int64), np.zeros(1, np.float32), np.zeros(1, bool), [{}])
        for options in ({}, {"frame_stack": 3}):
            with pytest.raises(ShapeError, match=r"add: obs has shape \[1, 8, 8, 3\], expected \[1, 3, 8, 8\]"):
                sb3.ReplayBuffer(100, image, DISCRETE, "cpu", **options).add(last, last, *rows)
        with pytest.raises(ShapeError, match=r"add: obs has shape \[1, 8, 8, 3\]"):
            sb3.RolloutBuffer(4, image, DISCRETE, "cpu").add(last, rows[0], rows[1], rows[2], torch.zeros(1), torch.zeros(1))
        both = spaces.Dict({"a": image})
        with pytest.raises(ShapeError, match=r"obs\['a'\] has shape \[1, 8, 8, 3\]"):
            sb3.ReplayBuffer(100, both, DISCRETE, "cpu").add({"a": last}, {"a": last}, *rows)
        with pytest.raises(DTypeError, match=r"obs is a ndarray, expected a dict with \['a'\]"):
            sb3.ReplayBuffer(100, both, DISCRETE, "cpu").add(last, last, *rows)

    def test_lists_and_numbers_are_taken(self) -> None:
        buffer = sb3.ReplayBuffer(100, **self.made)
        buffer.add([[0.0] * len(ROW)], [[1.0] * len(ROW)], [1], [0.5], [False], [{}])
        buffer.add([[1.0] * len(ROW)], [[2.0] * len(ROW)], 1, 0.5, True, [{}])
        assert len(buffer.replay) == 2

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda b: b.add(ROW[None, :2], *ONE), ShapeError, "add: obs has shape"),
            (lambda b: b.add(ROW[None], np.zeros(2), *ONE[1:]), ShapeError, r"add: action has shape \[2\], expected \[1, 1\]"),
            (lambda b: b.add(ROW[None], ONE[0], np.zeros(2), *ONE[2:]), ShapeError, "add: reward has shape"),
            (lambda b: b.add(ROW[None], *ONE[:3], np.zeros(1), ONE[4]), ShapeError, "add: value is a ndarray, expected a tensor"),
            (lambda b: b.add(ROW[None], *ONE[:3], torch.zeros(2), ONE[4]), ShapeError, r"add: value has shape \[2\]"),
            (lambda b: rolled(b).compute_returns_and_advantage(torch.zeros(3), np.zeros(1, bool)), ShapeError, "last_values has shape"),
            (lambda b: rolled(b).compute_returns_and_advantage(ONE[4], np.zeros(3, bool)), ShapeError, r"dones has shape \[3\]"),
            (lambda b: rolled(b, np.nan).compute_returns_and_advantage(ONE[4], ONE[2]), NonFiniteError, "reward 0 of environment 0 is nan"),
            (lambda b: next(rolled(b).get(0)), ValueError, "get: batch_size is 0, expected at least 1"),
            (lambda b: next(rolled(b).get(2.5)), DTypeError, "get: batch_size is 2.5, expected an integer"),
            (lambda b: sb3.RolloutBuffer(0, BOX, DISCRETE), ValueError, "n_steps is 0"),
            (lambda b: sb3.RolloutBuffer(4, BOX, DISCRETE, gamma="x"), DTypeError, "gamma is 'x', expected a number"),
        ],
    )  # fmt: skip
    def test_of_rollout_calls(self, call: Any, error: Any, message: str) -> None:
        with pytest.raises(error, match=message):
            call(sb3.RolloutBuffer(2, BOX, DISCRETE, "cpu"))

    def test_of_rollouts(self) -> None:
        with pytest.raises(ValueError, match="gae_lambda is 2"):
            sb3.RolloutBuffer(4, BOX, DISCRETE, "cpu", gae_lambda=2)
        buffer = sb3.RolloutBuffer(4, BOX, DISCRETE, "cpu")
        for call in (lambda: next(buffer.get()), lambda: buffer.compute_returns_and_advantage(torch.zeros(1), np.zeros(1, bool))):
            with pytest.raises(ValueError, match="0 of n_steps = 4 rows are written"):
                call()
