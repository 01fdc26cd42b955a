"""RLlib's episode buffers and advantages on pyrl's, by RLlib's own code (ray 2.60.0).

RLlib pins a Gymnasium of its own, so it has an environment of its own; without it only these tests skip:

    python3 -m venv /opt/venv-rllib
    /opt/venv-rllib/bin/pip install torch==2.13.0 'ray[rllib]==2.60.0' safetensors pytest pytest-timeout hypothesis
    PYTHONPATH=$PWD /opt/venv-rllib/bin/python -m pytest tests/adapters/test_rllib_adapter.py tests/adapters/test_rllib_host.py
"""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from pyrl.errors import CheckpointError, DTypeError, NonFiniteError, SettingError, ShapeError, SpaceError

try:
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.utils import replay_buffers as host

    from pyrl.adapters import rllib
except ModuleNotFoundError as missing:
    pytest.skip(f"{missing.name} has an environment of its own: the docstring of {__name__} says how", allow_module_level=True)

BUFFERS = [rllib.EpisodeReplayBuffer, rllib.PrioritizedEpisodeReplayBuffer]


class Environment:
    """Episodes in pieces, as an EnvRunner gives them, with the truth beside: by id, every step (observation, action, reward)."""

    def __init__(self, seed: int, name: str, dictionary: bool = False) -> None:
        self.rng, self.name, self.dictionary, self.count = np.random.default_rng(seed), name, dictionary, 0
        self.truth: dict[str, dict[str, Any]] = {}
        self.id: str | None = None

    def observe(self) -> Any:
        row = self.rng.normal(size=3).astype(np.float32)
        return {"a": row, "b": (np.int64(self.rng.integers(100)), row[:2])} if self.dictionary else row

    def piece(self, steps: int, arrays: bool) -> SingleAgentEpisode:
        if self.id is None:
            self.id, self.count = f"{self.name}{self.count}", self.count + 1
            self.truth[self.id] = {"observations": [self.observe()], "actions": [], "rewards": [], "infos": [{"t": 0}], "end": None}
            self.length = int(self.rng.integers(1, 40))
        told = self.truth[self.id]
        started = len(told["actions"])
        for _ in range(min(steps, self.length - started)):
            told["observations"].append(self.observe())
            told["actions"].append(int(self.rng.integers(4)))
            told["rewards"].append(float(np.float32(self.rng.normal())))
            told["infos"].append({"t": len(told["actions"])})
        done = len(told["actions"]) == self.length
        told["end"] = ("terminated" if self.rng.random() < 0.5 else "truncated") if done else None
        episode = SingleAgentEpisode(
            id_=self.id, observations=told["observations"][started:], actions=told["actions"][started:], rewards=told["rewards"][started:],
            infos=told["infos"][started:], terminated=told["end"] == "terminated", truncated=told["end"] == "truncated",
            extra_model_outputs={"logp": [float(action) for action in told["actions"][started:]]}, t_started=started, len_lookback_buffer=0,
        )  # fmt: skip
        if done:
            self.id = None
        return episode.to_numpy() if arrays else episode


def same(one: Any, other: Any) -> None:
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in other:
            same(one[key], other[key])
    elif isinstance(other, tuple):
        for a, b in zip(one, other, strict=True):
            same(a, b)
    else:
        np.testing.assert_array_equal(one, other)


def check_against_the_truth(episode: SingleAgentEpisode, told: dict[str, Any], stored: int, n_step: int, gamma: float) -> None:
    """One drawn transition, where ``stored`` steps of its episode are in the buffer."""
    t, k = episode.t_started, episode.get_extra_model_outputs("n_step", 0)
    assert len(episode) == 1
    assert episode.t == t + 1
    assert k == min(n_step, stored - t)
    same(episode.get_observations(0), told["observations"][t])
    same(episode.get_observations(1), told["observations"][t + k])
    assert episode.get_actions(0) == told["actions"][t]
    assert episode.get_rewards(0) == pytest.approx(sum(gamma**i * told["rewards"][t + i] for i in range(k)), rel=1e-5, abs=1e-5)
    last = t + k == len(told["actions"])
    assert episode.is_terminated == (last and told["end"] == "terminated")
    assert episode.is_truncated == (last and told["end"] == "truncated")
    assert type(episode.is_terminated) is type(episode.is_truncated) is bool


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize(("envs", "steps", "n_step"), [(1, 1, 1), (1, 64, 3), (4, 1, 3), (3, 5, 1), (3, 30, 2)])
@pytest.mark.parametrize("made", BUFFERS)
def test_draws_are_what_was_added(made: Any, envs: int, steps: int, n_step: int, dictionary: bool) -> None:
    """Pieces of several environments in turns, past the capacity: every drawn transition is one of the newest episodes."""
    running = [Environment(at, f"e{at}-", dictionary) for at in range(envs)]
    buffer = made(300, num_envs=envs, seed=1, store_infos=True, store_extra_model_outputs=True)
    options = {"n_step": n_step, "gamma": 0.9, "beta": 0.5, "sample_episodes": True}
    added = 0
    for turn in range(1200 // (envs * steps) + 2):
        pieces = [env.piece(steps, arrays=turn % 2 == 0) for env in running]
        buffer.add(pieces)
        added += sum(map(len, pieces))
        if turn % 7 == 0:
            for episode in buffer.sample(16, include_infos=True, include_extra_model_outputs=True, **options):
                id_ = episode.id_.rpartition("_")[0]
                told = next(env.truth[id_] for env in running if id_ in env.truth)
                check_against_the_truth(episode, told, len(told["actions"]), n_step, 0.9)
                t, k = episode.t_started, episode.get_extra_model_outputs("n_step", 0)
                assert episode.get_infos() == [{"t": t}, {"t": t + k}]
                assert episode.get_extra_model_outputs("logp", 0) == told["actions"][t]
    assert buffer.get_added_timesteps() == added
    assert 300 - 2 * 40 <= buffer.get_num_timesteps() <= 300
    told = {id_: len(truth["actions"]) for env in running for id_, truth in env.truth.items()}
    assert buffer.get_num_timesteps() == sum(told[episode.id_] for episode in buffer.episodes), "only whole episodes leave"
    assert buffer.get_num_episodes() + buffer.get_num_episodes_evicted() == len(told)
    drawn = {(e.id_.rpartition("_")[0], e.t_started) for _ in range(30) for e in buffer.sample(200, **options)}
    assert drawn == {(episode.id_, t) for episode in buffer.episodes for t in range(told[episode.id_])}


def test_lengths_of_returns_are_drawn_for_each_transition() -> None:
    env = Environment(0, "e")
    buffer = rllib.EpisodeReplayBuffer(1000, seed=3)
    for _ in range(40):
        buffer.add(env.piece(10, True))
    found = buffer.sample(2000, n_step=(2, 5), gamma=0.9, sample_episodes=True)
    lengths = [episode.get_extra_model_outputs("n_step", 0) for episode in found]
    whole = [k for episode, k in zip(found, lengths) if episode.t_started + 4 <= len(env.truth[episode.id_.rpartition("_")[0]]["actions"])]
    assert np.bincount(whole)[2:].min() > 0.25 * len(whole)
    assert len(np.bincount(whole)) == 5
    for episode, k in zip(found, lengths):
        told = env.truth[episode.id_.rpartition("_")[0]]
        check_against_the_truth(episode, told, len(told["actions"]), k, 0.9)


def frames_of(rng: np.random.Generator, steps: int, zero: bool = False) -> np.ndarray:
    """Stacks [T + 1, 5, 5, 3 * 2] of 3 frames with 2 channels, newest last."""
    single = rng.integers(1, 255, (steps + 1, 5, 5, 2), np.uint8)
    padded = np.concatenate([np.zeros((2, 5, 5, 2), np.uint8) if zero else np.repeat(single[:1], 2, 0), single])
    return np.concatenate([padded[i : i + steps + 1] for i in range(3)], -1)


def plain(observations: Any, id_: str, started: int = 0, terminated: bool = False, truncated: bool = False) -> SingleAgentEpisode:
    steps = len(observations) - 1
    return SingleAgentEpisode(
        id_=id_, observations=observations, actions=np.zeros(steps, np.int64), rewards=np.arange(1.0, steps + 1), t_started=started,
        terminated=terminated, truncated=truncated, len_lookback_buffer=0, infos=[{}] * (steps + 1),
    )  # fmt: skip


@pytest.mark.parametrize("padding", ["repeat", "zero"])
def test_stacked_frames_are_stored_once(padding: str) -> None:
    rng = np.random.default_rng(0)
    stacks = {f"e{at}": frames_of(rng, 20, padding == "zero") for at in range(4)}
    buffer = rllib.EpisodeReplayBuffer(200, frame_stack=3, stack_padding=padding, seed=0, num_envs=1)
    for id_, observations in stacks.items():
        buffer.add([plain(observations[:9], id_), plain(observations[8:], id_, 8, terminated=True)])
    assert buffer.replay.observation_space.shape == (5, 5, 2)
    for n_step in (1, 3):
        for episode in buffer.sample(200, n_step=n_step, sample_episodes=True):
            told, t = stacks[episode.id_.rpartition("_")[0]], episode.t_started
            np.testing.assert_array_equal(episode.get_observations(0), told[t])
            np.testing.assert_array_equal(episode.get_observations(1), told[min(t + n_step, 20)])
    wrong = frames_of(rng, 3, padding != "zero")
    with pytest.raises(ValueError, match=f"episode w: stack_padding is '{padding}'"):
        buffer.add(plain(wrong, "w"))
    with pytest.raises(ValueError, match="episode w: frame_stack is 3, but an observation is not the last moved on by a frame"):
        buffer.add(plain(wrong[::-1].copy(), "w"))
    with pytest.raises(ValueError, match="episode w starts at step 5, and with frame_stack its beginning must be stored"):
        buffer.add(plain(wrong, "w", 5))
    assert buffer.get_num_episodes() == 4


def test_more_episodes_than_lanes_are_cut_and_said_so() -> None:
    running = [Environment(at, f"e{at}-") for at in range(2)]
    buffer = rllib.EpisodeReplayBuffer(400, num_envs=1, seed=0)

    def fill() -> None:
        for _ in range(20):
            buffer.add([env.piece(3, True) for env in running])

    with pytest.warns(UserWarning, match='num_envs is 1, and more episodes grow at once.*give replay_buffer_config "num_envs"'):
        fill()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        fill()
    for episode in buffer.sample(300, n_step=1, sample_episodes=True):
        id_ = episode.id_.rpartition("_")[0]
        told = next(env.truth[id_] for env in running if id_ in env.truth)
        check_against_the_truth(episode, told, len(told["actions"]), 1, 0.9)


@pytest.mark.parametrize("lanes", [1, 2])
def test_an_episode_does_not_go_on_in_another_that_begins_alike(lanes: int) -> None:
    """The first observation of one is the last of another that never ended: they are two."""
    zeros = np.zeros((5, 2), np.float32)
    buffer = rllib.EpisodeReplayBuffer(100, num_envs=lanes, seed=0)
    for id_ in "abc":
        buffer.add(plain(zeros, id_))
    assert {e.get_rewards(0) for e in buffer.sample(200, n_step=9, gamma=1.0, sample_episodes=True)} == {10.0, 9.0, 7.0, 4.0}


@pytest.mark.parametrize("made", BUFFERS)
def test_a_state_goes_on_alike(made: Any) -> None:
    env = Environment(0, "e")
    buffer, other = made(200, seed=1, store_infos=True), made(200, seed=2, store_infos=True)
    for _ in range(60):
        buffer.add(env.piece(7, True))
    other.set_state(pickle.loads(pickle.dumps(buffer.get_state())))
    again = copy.deepcopy(buffer)
    for _ in range(3):
        piece = env.piece(7, True)
        drawn = []
        for each in (buffer, other, again):
            each.add(piece)
            sample = each.sample(20, n_step=(1, 4), beta=0.3, include_infos=True, sample_episodes=True)
            drawn.append([(e.id_, e.t_started, e.get_rewards(0), e.get_infos(), e.get_extra_model_outputs("weights", 0)) for e in sample])
        assert drawn[0] == drawn[1] == drawn[2]
    for name in ("get_num_episodes", "get_num_timesteps", "get_num_episodes_evicted", "get_added_timesteps", "get_sampled_timesteps"):
        assert getattr(buffer, name)() == getattr(other, name)() > 0
    with pytest.raises(ValueError, match="capacity 200, this one has 300"):
        made(300, store_infos=True).set_state(buffer.get_state())
    with pytest.raises(ValueError, match="store_infos True, this one has False"):
        made(200).set_state(buffer.get_state())
    with pytest.raises(DTypeError, match="state is not what get_state of this buffer gives"):
        made(200).set_state(host.EpisodeReplayBuffer().get_state())


def entries(state: dict[str, Any], path: tuple[str, ...] = ()) -> Any:
    for name, value in state.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from entries(value, (*path, name))


@pytest.mark.parametrize("made", BUFFERS)
def test_a_damaged_state_is_refused(made: Any) -> None:
    """One entry lost or another at a time: an error of ours, and nothing has changed."""
    buffer, env = made(200), Environment(0, "a")
    for _ in range(10):
        buffer.add(env.piece(7, True))
    state, refused = buffer.get_state(), 0
    for path in list(entries(state)):
        for value in (None, "x", -7, [], np.zeros(2), KeyError):
            damaged = copy.deepcopy(state)
            inner: Any = damaged
            for name in path[:-1]:
                inner = inner[name]
            if value is KeyError:
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            other = made(200)
            try:
                other.set_state(damaged)
            except (CheckpointError, ValueError, DTypeError):
                refused += 1
                assert other.replay is None
    assert refused > 100


def alike(one: Any, other: Any) -> None:
    """Two columns of the host's, whatever kinds of numbers are in them."""
    assert vars(one).keys() == vars(other).keys()
    for row, expected in zip(one.data, other.data, strict=True):
        same(row, expected)
    assert (one.lookback, one.finalized, one.space, one.space_struct) == (other.lookback, other.finalized, other.space, other.space_struct)


def test_drawn_episodes_have_every_slot_of_the_hosts() -> None:
    """`_write` does what the host's constructor does: the same slots, and none forgotten."""
    space, actions = spaces.Dict({"a": spaces.Box(0, 1, (2,))}), spaces.Discrete(3)
    observations = [{"a": np.full(2, at, np.float32)} for at in range(3)]
    source = SingleAgentEpisode(
        id_="e", observations=observations, actions=[0, 1], rewards=[1.0, 2.0], observation_space=space, action_space=actions,
        len_lookback_buffer=0, agent_id="agent", module_id="module",
    )  # fmt: skip
    buffer = rllib.EpisodeReplayBuffer(10, store_infos=True)
    buffer.add(source)
    (drawn,) = buffer.sample(1, n_step=1, sample_episodes=True)
    t = drawn.t_started
    expected = SingleAgentEpisode(
        id_="e_0", observations=observations[t : t + 2], actions=[t], rewards=[t + 1.0], observation_space=space, action_space=actions,
        extra_model_outputs={"weights": [1.0], "n_step": [1]}, t_started=t, len_lookback_buffer=0, agent_id="agent", module_id="module",
    )  # fmt: skip
    drawn.validate()
    for slot in SingleAgentEpisode.__slots__:
        one, other = getattr(drawn, slot), getattr(expected, slot)
        if slot in ("observations", "actions", "rewards"):
            alike(one, other)
        elif slot == "extra_model_outputs":
            assert one.keys() == other.keys()
            for key in other:
                alike(one[key], other[key])
        elif slot != "infos":
            assert one == other, slot
    assert drawn.infos.data == [{}, {}]
    assert drawn.to_numpy().get_observations(slice(0, 1))["a"].shape == (1, 2)


def test_metrics_are_the_hosts() -> None:
    env = Environment(3, "e")
    pieces = [[env.piece(9, True)] for _ in range(60)]
    found = []
    for made in (rllib.EpisodeReplayBuffer, host.EpisodeReplayBuffer):
        buffer = made(100)
        for piece in pieces:
            buffer.add(piece)
        buffer.sample(32, n_step=1, sample_episodes=True, batch_length_T=0)
        metrics = buffer.get_metrics()
        found.append({name: metrics[name].peek() if hasattr(metrics[name], "peek") else metrics[name] for name in metrics})
    assert found[0].keys() == found[1].keys()
    for name in ("num_env_steps_added", "num_env_steps_added_lifetime", "num_episodes_added", "num_env_steps_sampled", "actual_n_step"):
        assert found[0][name] == found[1][name], name
    assert found[0]["num_env_steps_evicted"] == found[1]["num_env_steps_evicted"] > 0


@pytest.mark.parametrize("made", BUFFERS)
def test_draws_follow_the_seed(made: Any) -> None:
    def drawn(**options: Any) -> list[int]:
        buffer = made(1000, **options)
        buffer.add(plain(np.zeros((501, 1), np.float32), "e"))
        return [e.t_started for e in buffer.sample(20, n_step=1, sample_episodes=True)]

    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)
    np.random.seed(3)  # noqa: NPY002
    first, second = drawn(), drawn()
    assert first != second
    np.random.seed(3)  # noqa: NPY002
    assert drawn() == first


def test_priorities_decide_what_is_drawn() -> None:
    buffer = rllib.PrioritizedEpisodeReplayBuffer(100, alpha=0.5, seed=0)
    buffer.add(plain(np.arange(11.0)[:, None], "e"), weight=4.0)
    drawn = buffer.sample(10, n_step=1)
    assert {episode.get_extra_model_outputs("weights", 0) for episode in drawn} == {1.0}
    t = np.array([episode.t_started for episode in drawn])
    assert sorted(t) == list(range(10))  # stratified: of equal priorities each once
    buffer.update_priorities((t + 1.0) ** 2, "default_policy")
    counts, weights = np.zeros(10), np.zeros(10)
    for _ in range(200):
        for episode in buffer.sample(50, n_step=1, beta=1.0):
            counts[episode.t_started] += 1
            weights[episode.t_started] = episode.get_extra_model_outputs("weights", 0)
    np.testing.assert_allclose(counts / counts.sum(), np.arange(1, 11) / 55, atol=0.01)
    np.testing.assert_allclose(weights, 1 / np.arange(1, 11), rtol=1e-5)


def test_memory_is_what_was_forecast() -> None:
    space, actions = spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Discrete(18)
    assert rllib.EpisodeReplayBuffer.forecast(1_000_000, space, actions, frame_stack=4) < 7.3e9
    buffer = rllib.PrioritizedEpisodeReplayBuffer(500, frame_stack=4)
    buffer.add(plain(np.zeros((4, 84, 84, 4), np.uint8), "e"))
    assert buffer.nbytes == rllib.PrioritizedEpisodeReplayBuffer.forecast(500, space, actions, frame_stack=4)


def test_gae_is_the_hosts() -> None:
    from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets

    rng = np.random.default_rng(0)
    for steps in (1, 2, 500):
        call = (
            rng.normal(size=steps).astype(np.float32), rng.normal(size=steps).astype(np.float32),
            (rng.random(steps) < 0.1).astype(np.float32), (rng.random(steps) < 0.1).astype(np.float32), 0.97, 0.9,
        )  # fmt: skip
        mine = rllib.compute_value_targets(*call)
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, compute_value_targets(*call), rtol=2e-5, atol=2e-5)


EPISODE = np.zeros((3, 2), np.float32)


def filled(made: Any = rllib.EpisodeReplayBuffer, **options: Any) -> Any:
    buffer = made(100, **options)
    buffer.add(plain(EPISODE, "e", terminated=True))
    return buffer


def with_reward(value: float) -> SingleAgentEpisode:
    episode = plain(EPISODE, "w")
    episode.rewards.data[1] = value
    return episode


PRIORITIZED = rllib.PrioritizedEpisodeReplayBuffer


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rllib.EpisodeReplayBuffer(1.5), DTypeError, "EpisodeReplayBuffer: capacity is 1.5, expected an integer"),
        (lambda: rllib.EpisodeReplayBuffer(1), ValueError, "capacity is 1, expected at least 2"),
        (lambda: rllib.EpisodeReplayBuffer(10, prefetch=3), SettingError, 'replay_buffer_config has "prefetch"'),
        (lambda: rllib.EpisodeReplayBuffer(10, num_envs=0), ValueError, "num_envs is 0, expected at least 1"),
        (lambda: rllib.EpisodeReplayBuffer(10, stack_padding="x"), ValueError, "stack_padding is 'x'"),
        (lambda: rllib.EpisodeReplayBuffer(10, store_infos=1), DTypeError, "store_infos is 1, expected True or False"),
        (lambda: PRIORITIZED(10, alpha=2), ValueError, r"PrioritizedEpisodeReplayBuffer: alpha is 2, expected a number in \[0, 1\]"),
        (lambda: PRIORITIZED(10, beta="x"), DTypeError, "beta is 'x', expected a number"),
        (lambda: filled().add(MultiAgentEpisode()), DTypeError, "episodes has a MultiAgentEpisode, expected SingleAgentEpisode"),
        (lambda: filled().add({"obs": EPISODE}), DTypeError, "episodes has a dict"),
        (lambda: filled().add(plain(np.zeros((3, 3), np.float32), "w")), ShapeError, r"shape \[3\] a step, expected \[2\]"),
        (lambda: filled().add(plain([{"a": 1}, {"a": 1}], "w")), ShapeError, "episode w: observations have shape dict"),
        (lambda: filled().add(plain(EPISODE.astype(complex), "w")), DTypeError, "observations have dtype complex128, expected float32"),
        (lambda: filled().add(with_reward(np.nan)), NonFiniteError, "episode w: reward 1 is nan"),
        (lambda: filled().add(with_reward(1e300)), NonFiniteError, "episode w: reward 1 is inf"),
        (lambda: filled().add(plain(EPISODE, "e", 2)), ValueError, "episode e has ended, and a piece of it that starts at 2 came"),
        (lambda: filled().add([plain(EPISODE, "w"), plain(EPISODE, "w", 3)]), ValueError, "episode w goes on at step 2, and a piece"),
        (lambda: rllib.EpisodeReplayBuffer().add(plain(np.array(["a", "b"]), "w")), SpaceError, "observations of dtype <U1, expected"),
        (lambda: rllib.EpisodeReplayBuffer().sample(3, n_step=1, sample_episodes=True), ValueError, "sample: nothing is stored"),
        (lambda: filled().sample(3), SettingError, "sample_episodes is False, expected True"),
        (lambda: filled().sample(0, sample_episodes=True), ValueError, "num_items is 0, expected at least 1"),
        (lambda: filled().sample(3, batch_size_B=3, sample_episodes=True), ValueError, "num_items and batch_size_B are both given"),
        (lambda: filled().sample(3, batch_length_T=20, sample_episodes=True), SettingError, "batch_length_T is 20, expected 0"),
        (lambda: filled().sample(3, lookback=1, sample_episodes=True), SettingError, "lookback is 1, expected 0"),
        (lambda: filled().sample(3, n_step=(3, 3), sample_episodes=True), ValueError, r"n_step is \(3, 3\), expected a number, or \(low"),
        (lambda: filled().sample(3, n_step=1.5, sample_episodes=True), DTypeError, "n_step is 1.5, expected an integer"),
        (lambda: filled().sample(3, gamma=2, sample_episodes=True), ValueError, "gamma is 2, expected"),
        (lambda: filled().sample(3, include_infos=True, sample_episodes=True), SettingError, 'not stored; give .* "store_infos": True'),
        (lambda: filled().sample(3, sample_episodes=True)[0].get_infos(), SettingError, "infos are not stored"),
        (lambda: filled().sample(3, include_extra_model_outputs=True, sample_episodes=True), SettingError, 'store_extra_model_outputs": T'),
        (lambda: filled(PRIORITIZED).sample(3, beta=None), SettingError, 'beta is None, .* give replay_buffer_config "beta"'),
        (lambda: filled(PRIORITIZED).sample(3, beta=1.5), ValueError, r"beta is 1.5, expected a number in \[0, 1\]"),
        (lambda: filled(PRIORITIZED).update_priorities([1.0]), ValueError, "no sample waits for priorities"),
        (lambda: filled(PRIORITIZED).add(plain(EPISODE, "w"), weight=-1), ValueError, "weight is -1, expected"),
        (lambda: rllib.compute_value_targets(*EPISODE.T, np.zeros(3), np.zeros(2), 0.9, 0.9), ShapeError, r"truncateds have shape \[2\]"),
        (lambda: rllib.compute_value_targets(*EPISODE.T, np.zeros(3), np.zeros(3), 0.9, 2), ValueError, "lambda_ is 2, expected"),
    ],
)  # fmt: skip
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("priorities", [np.ones(2), np.array([1.0, np.nan, 1.0]), -np.ones(3)])
def test_refused_priorities_change_nothing(priorities: Any) -> None:
    buffer = filled(PRIORITIZED, seed=0)
    buffer.sample(3, n_step=1)
    before = buffer.replay.priorities(buffer.replay.indices())
    with pytest.raises(ValueError, match=r"priorit"):
        buffer.update_priorities(priorities)
    np.testing.assert_array_equal(buffer.replay.priorities(buffer.replay.indices()), before)
    buffer.update_priorities(np.ones(3))


def test_a_refused_add_changes_nothing() -> None:
    buffer = rllib.EpisodeReplayBuffer(10)
    buffer.add(plain(np.zeros((10, 2), np.float32), "e"))
    with pytest.raises(NonFiniteError):
        buffer.add([plain(EPISODE, "x"), with_reward(np.inf)])
    assert [episode.id_ for episode in buffer.episodes] == ["e"]
    assert buffer.get_num_timesteps() == 9
    buffer.add(plain(EPISODE, "e", 9))
