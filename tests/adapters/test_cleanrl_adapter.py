"""CleanRL's buffer and its loop for advantages, by the contract of its scripts: it is no package, so its side is written out here."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pyrl.adapters.cleanrl import PrioritizedReplayBuffer, ReplayBuffer, gae
from pyrl.errors import DeviceError, DTypeError, NonFiniteError, ShapeError, SpaceError

BOX = spaces.Box(-1, 1, (3,), np.float32)
DISCRETE, CONTINUOUS = spaces.Discrete(4), spaces.Box(-1, 1, (2,), np.float64)


def loop(rewards: Any, values: Any, dones: Any, next_value: Any, next_done: Any, gamma: float, lam: float) -> Any:
    """What the scripts write out, for float64 arrays."""
    advantages, carry = np.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        last = t == len(rewards) - 1
        alive = 1.0 - (next_done if last else dones[t + 1])
        following = next_value if last else values[t + 1]
        carry = rewards[t] + gamma * following * alive - values[t] + gamma * lam * alive * carry
        advantages[t] = carry
    return advantages, advantages + values


@pytest.mark.parametrize(("T", "N"), [(1, 1), (7, 1), (128, 8)])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gae_is_the_loop_of_the_scripts(T: int, N: int, kind: str, dtype: str) -> None:
    rng = np.random.default_rng(T * N)
    rewards, values = rng.normal(size=(2, T, N)).astype(dtype)
    dones = (rng.random((T, N)) < 0.2).astype(dtype)
    next_value, next_done = rng.normal(size=(1, N)).astype(dtype), (rng.random(N) < 0.5).astype(dtype)
    columns: Any = (rewards, values, dones, next_value, next_done)
    expected = loop(*(np.asarray(x, np.float64) for x in columns), 0.97, 0.9)
    given = tuple(map(torch.from_numpy, columns)) if kind == "torch" else columns
    for own, host in zip(gae(*given, 0.97, 0.9), expected):
        assert isinstance(own, torch.Tensor) == (kind == "torch")
        assert str(own.dtype).endswith(dtype)
        np.testing.assert_allclose(np.asarray(own), host, rtol=1e-4, atol=1e-5)


def filled(made: Any, action_space: spaces.Space, n_envs: int = 2, **options: Any) -> tuple[Any, list[tuple[Any, ...]]]:
    """A buffer and its transitions: (obs, action, reward, next_obs, end as sampled)."""
    rng = np.random.default_rng(0)
    buffer, rows = made(400, BOX, action_space, "cpu", n_envs, **options), []
    obs = rng.normal(size=(n_envs, 3)).astype(np.float32)
    for _ in range(40):
        next_obs = rng.normal(size=(n_envs, 3)).astype(np.float32)
        action = np.stack([action_space.sample() for _ in range(n_envs)])
        reward, done, limit = rng.normal(size=n_envs), rng.random(n_envs) < 0.3, rng.random(n_envs) < 0.5
        infos = [{"TimeLimit.truncated": bool(each)} for each in limit]
        buffer.add(obs, next_obs, action, reward, done, infos)
        ends = done & ~limit if buffer.handle_timeout_termination else done
        rows += zip(obs.copy(), np.atleast_2d(action.T).T, reward.astype(np.float32), next_obs.copy(), ends)
        fresh = rng.normal(size=(n_envs, 3)).astype(np.float32)
        obs = np.where(done[:, None], fresh, next_obs)
    return buffer, rows


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("timeouts", [True, False])
def test_samples_are_the_transitions_that_were_added(action_space: spaces.Space, timeouts: bool) -> None:
    buffer, rows = filled(ReplayBuffer, action_space, handle_timeout_termination=timeouts)
    data, seen = buffer.sample(2000), set()
    assert [x.dtype for x in data] == [torch.float32, torch.int64 if action_space is DISCRETE else torch.float32] + 3 * [torch.float32]
    assert [tuple(x.shape) for x in data] == [(2000, 3), (2000, 1 if action_space is DISCRETE else 2), (2000, 3), (2000, 1), (2000, 1)]
    by_obs = {row[0].tobytes(): at for at, row in enumerate(rows)}
    for obs, action, next_obs, done, reward in zip(*(column.numpy() for column in data)):
        at = by_obs[obs.tobytes()]
        seen.add(at)
        np.testing.assert_array_equal(action, rows[at][1].astype(action.dtype))
        np.testing.assert_array_equal(next_obs, rows[at][3])
        assert (reward[0], done[0]) == (rows[at][2], float(rows[at][4]))
    assert seen == set(range(len(rows)))
    assert buffer.size() == 40
    buffer.reset()
    assert buffer.size() == 0


@pytest.mark.parametrize(("timeouts", "limit", "target"), [(True, True, 1 + 0.5 * 8), (True, False, 1), (False, True, 1)])
def test_a_time_limit_is_an_end_only_where_it_is_one(timeouts: bool, limit: bool, target: float) -> None:
    """What the scripts aim at, r + gamma max Q (1 - done), with every next value 8. Without timeouts `done` is taken at its word."""
    for infos in ([{"TimeLimit.truncated": limit}], {"TimeLimit.truncated": np.array([limit])}):
        buffer = ReplayBuffer(10, BOX, DISCRETE, "cpu", handle_timeout_termination=timeouts)
        buffer.add(np.zeros((1, 3)), np.ones((1, 3)), np.array([1]), np.array([1.0]), np.array([True]), infos)
        data = buffer.sample(1)
        assert float(data.rewards + 0.5 * 8 * (1 - data.dones)) == target


def test_the_infos_of_a_vector_environment_are_not_read_where_nobody_needs_them() -> None:
    buffer = ReplayBuffer(10, BOX, DISCRETE, "cpu", handle_timeout_termination=False)
    buffer.add(np.zeros((1, 3)), np.ones((1, 3)), np.array([1]), np.array([1.0]), np.array([True]), {"final_info": None})
    assert buffer.size() == 1


def test_observations_are_stored_once_as_the_space_says() -> None:
    frames, single = spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(7)
    buffer = ReplayBuffer(100, frames, DISCRETE, "cpu", optimize_memory_usage=True, handle_timeout_termination=False)
    assert buffer.replay.nbytes < 1.05 * 100 * 4 * 84 * 84
    picture = np.full((1, 4, 84, 84), 7, np.uint8)
    buffer.add(picture, picture + 1, np.array([3]), [0.5], [False], {})
    data = buffer.sample(2)
    assert data.observations.dtype == torch.uint8
    assert (data.next_observations == 8).all()
    states = ReplayBuffer(100, single, DISCRETE, "cpu", handle_timeout_termination=False)
    states.add(np.array([3]), np.array([4]), np.array([1]), [0.0], [False], {})
    assert states.sample(1).observations.tolist() == [[3]]


def test_prioritized() -> None:
    np.random.seed(0)  # noqa: NPY002
    buffer, _ = filled(PrioritizedReplayBuffer, DISCRETE, alpha=1.0, beta=1.0)
    data = buffer.sample(80)
    assert data.weights.shape == (80, 1)
    assert (data.weights == 1).all()
    error = torch.ones(80, requires_grad=True)
    buffer.update_priorities(data.indices, (error * 0)[:, None])
    wanted = data.indices[0]
    buffer.update_priorities([wanted], np.array([1e6]))
    data = buffer.sample(64)
    assert set(data.indices.tolist()) == {wanted}
    buffer.beta = 0.0
    assert (buffer.sample(8).weights == 1).all()
    again = pickle.loads(pickle.dumps(buffer))
    np.testing.assert_array_equal(again.sample(64).indices, wanted)


ZEROS = np.zeros((2, 3), np.float32)


def one() -> ReplayBuffer:
    return ReplayBuffer(10, BOX, DISCRETE, "cpu", n_envs=2, handle_timeout_termination=False)


def add(**changes: Any) -> None:
    row: dict[str, Any] = {"obs": ZEROS, "next_obs": ZEROS, "action": [0, 1], "reward": [0.0, 1.0], "done": [False, False], "infos": {}}
    one().add(**{**row, **changes})


def ended(infos: Any) -> None:
    ReplayBuffer(10, BOX, DISCRETE, "cpu").add(ZEROS[:1], ZEROS[:1], [0], [0.0], [True], infos)


def advantages(**changes: Any) -> None:
    rows: dict[str, Any] = {"rewards": ZEROS, "values": ZEROS, "dones": ZEROS, "next_value": ZEROS[0], "next_done": ZEROS[0]}
    gae(**{**rows, "gamma": 0.9, "lam": 0.9, **changes})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ReplayBuffer(1, BOX, DISCRETE, n_envs=2), ValueError, r"ReplayBuffer: buffer_size is 1, expected at least 4"),
        (lambda: ReplayBuffer(1e6, BOX, DISCRETE), DTypeError, r"buffer_size is 1000000.0, expected an integer"),
        (lambda: ReplayBuffer(9, BOX, DISCRETE, n_envs=0), ValueError, r"n_envs is 0, expected at least 1"),
        (lambda: ReplayBuffer(9, spaces.Dict({"a": BOX}), DISCRETE), SpaceError, r"observation_space is Dict.*, expected Box"),
        (lambda: ReplayBuffer(9, BOX, None), SpaceError, r"action_space is None, expected Box"),
        (lambda: PrioritizedReplayBuffer(9, BOX, DISCRETE, alpha=2), ValueError, r"alpha is 2, expected a number in \[0, 1\]"),
        (lambda: setattr(PrioritizedReplayBuffer(9, BOX, DISCRETE), "beta", 2), ValueError, r"beta is 2"),
        (lambda: add(obs=np.zeros((3, 3))), ShapeError, r"add: obs has shape \[3, 3\], expected \[2, 3\]"),
        (lambda: add(obs=np.zeros((3, 2))), ShapeError, r"add: obs has shape \[3, 2\], expected \[2, 3\]"),
        (lambda: ReplayBuffer(9, BOX, DISCRETE, "gpu"), DeviceError, r"device is 'gpu', expected a device of torch"),
        (lambda: ReplayBuffer(9, BOX, DISCRETE, handle_timeout_termination="no"), DTypeError, r"termination is 'no', expected True or"),
        (lambda: PrioritizedReplayBuffer(9, BOX, DISCRETE, eps=0), ValueError, r"eps is 0, expected a positive number"),
        (lambda: setattr(PrioritizedReplayBuffer(9, BOX, DISCRETE), "beta", "x"), DTypeError, r"beta is 'x', expected a number"),
        (lambda: advantages(values=torch.zeros(2, 3)), DTypeError, r"gae: values is a Tensor, rewards is a ndarray"),
        (lambda: advantages(next_value=None), DTypeError, r"gae: next_value is None, expected 3 elements"),
        (lambda: add(next_obs=np.zeros(3)), ShapeError, r"add: next_obs has shape \[3\], expected \[2, 3\]"),
        (lambda: add(action=[1]), ShapeError, r"add: action has shape \[1\], expected \[2, 1\]"),
        (lambda: add(done=[True]), ShapeError, r"add: done has 1 flags, .* n_envs is 2"),
        (lambda: ended(None), DTypeError, r"add: infos is None, expected a list of dicts.*handle_timeout_termination=False"),
        (lambda: ended({"final_info": None}), DTypeError, r"infos is a dict without 'TimeLimit.truncated'"),
        (lambda: ended([{}, {}]), ShapeError, r"infos has 2 flags, expected one an environment: n_envs is 1"),
        (lambda: add(reward=[0.0, np.nan]), NonFiniteError, r"reward"),
        (lambda: add(reward=[0.0]), ShapeError, r"reward"),
        (lambda: one().sample(3), ValueError, r"sample: batch_size is 3, but only 0 transitions are stored"),
        (lambda: PrioritizedReplayBuffer(9, BOX, DISCRETE).update_priorities([0, 1], [1.0]), ShapeError, r"priorities has 1 .*has 2"),
        (lambda: advantages(rewards=ZEROS[0]), ShapeError, r"gae: rewards has shape \[3\], expected \[T, N\]"),
        (lambda: advantages(values=ZEROS[:1]), ShapeError, r"gae: values has shape \[1, 3\], expected \[2, 3\], that of rewards"),
        (lambda: advantages(dones=ZEROS[:1]), ShapeError, r"gae: dones has shape \[1, 3\]"),
        (lambda: advantages(next_value=ZEROS[0, :2]), ShapeError, r"gae: next_value has shape \[2\], expected \[3\]"),
        (lambda: advantages(next_done=ZEROS), ShapeError, r"gae: next_done has shape \[2, 3\]"),
        (lambda: advantages(gamma=2), ValueError, r"gamma is 2, expected a number in \[0, 1\]"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
