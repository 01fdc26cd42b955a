"""Buffers as pickles and copies: the same contents, the same next draws, nothing shared, and damage is found."""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import json
import pickle
import pickletools
import random
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from pyrl.buffers import PrioritizedReplayBuffer, ReplayBuffer, RolloutBuffer
from pyrl.buffers.pickling import restore
from pyrl.errors import CheckpointError, SpaceError
from pyrl.types import StepResult

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
NESTED = spaces.Dict({"a/b": VECTOR, "~": spaces.Tuple([spaces.Discrete(4), spaces.MultiBinary(3), spaces.Box(0, 255, (2, 2), np.uint8)])})
OBSERVATIONS = {"vector": VECTOR, "nested": NESTED, "bool": spaces.Box(0, 1, (5,), np.bool_)}
ACTIONS = {"discrete": spaces.Discrete(3, start=-1), "box": spaces.Box(-2, 2, (2,), np.float64), "several": spaces.MultiDiscrete([2, 3])}

KINDS = [
    (kind, n_step, frame_stack, lanes, linked)
    for kind, n_step, frame_stack, lanes, linked in itertools.product(
        (ReplayBuffer, PrioritizedReplayBuffer), (1, 3), (1, 2), (1, 3), (True, False)
    )
    if linked or (n_step == 1 and frame_stack == 1)
]


def drawn(space: Any, lanes: int) -> Any:
    values = [space.sample() for _ in range(lanes)]
    if isinstance(space, spaces.Dict):
        return {
            k: np.stack([v[k] for v in values]) if not isinstance(s, spaces.Tuple) else drawn(s, lanes) for k, s in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        return tuple(drawn(s, lanes) for s in space.spaces)
    return np.stack(values)


def feed(buffer: ReplayBuffer, steps: int, seed: int, **extra: Any) -> None:
    chance = np.random.default_rng(seed)
    lanes = buffer.num_envs
    for space in (buffer.observation_space, buffer.action_space):
        space.seed(seed)
    observation = drawn(buffer.observation_space, lanes)
    for _ in range(steps):
        following = drawn(buffer.observation_space, lanes)
        ends = chance.random(lanes) < 0.2
        buffer.add(
            observation,
            drawn(buffer.action_space, lanes),
            chance.normal(size=lanes),
            following,
            ends,
            ~ends & (chance.random(lanes) < 0.1),
            **extra,
        )
        observation = following


def assert_same(a: Any, b: Any) -> None:
    """Bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for pair in zip(a, b):
            assert_same(*pair)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    else:
        assert a == b


def out_of_band(buffer: Any) -> Any:
    pieces: list[pickle.PickleBuffer] = []
    data = pickle.dumps(buffer, 5, buffer_callback=pieces.append)
    assert len(data) < 10_000
    return pickle.loads(data, buffers=[bytes(piece) for piece in pieces])


WAYS = {
    "protocol 2": lambda b: pickle.loads(pickle.dumps(b, 2)),
    "protocol 4": lambda b: pickle.loads(pickle.dumps(b, 4)),
    "protocol 5": lambda b: pickle.loads(pickle.dumps(b, 5)),
    "out of band": out_of_band,
    "copy": copy.copy,
    "deepcopy": lambda b: copy.deepcopy([b])[0],
}


@pytest.mark.parametrize("steps", [0, 5, 40])
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize(("kind", "n_step", "frame_stack", "lanes", "linked"), KINDS)
def test_replay_goes_on_as_the_original(
    kind: Any, n_step: int, frame_stack: int, lanes: int, linked: bool, observation: str, steps: int
) -> None:
    action = list(ACTIONS.values())[(n_step + frame_stack + steps) % 3]
    options = {"n_step": n_step, "frame_stack": frame_stack, "num_envs": lanes, "linked": linked, "gamma": 0.9, "seed": 3}
    own = {"alpha": 0.7, "beta": 0.5, "weights_over": "buffer"} if kind is PrioritizedReplayBuffer else {}
    buffer = kind(30, OBSERVATIONS[observation], action, extra={"log_prob": ((), "float32")}, stack_padding="zero", **options, **own)
    log_prob = np.arange(lanes, dtype=np.float32)
    feed(buffer, steps, seed=steps, log_prob=log_prob)
    if own and len(buffer):
        batch = buffer.sample(min(4, len(buffer)))
        buffer.update_priorities(batch.index, np.linspace(0.1, 2.0, len(batch.index)))
        buffer.beta = 0.9
    copies = {name: way(buffer) for name, way in WAYS.items()}
    for name, other in copies.items():
        assert type(other) is kind, name
        assert_same(buffer.state_dict(), other.state_dict())
        assert_same(
            buffer.arguments() | {"observation_space": 0, "action_space": 0},
            other.arguments() | {"observation_space": 0, "action_space": 0},
        )
    feed(buffer, 3, seed=9, log_prob=log_prob)
    for other in copies.values():
        feed(other, 3, seed=9, log_prob=log_prob)
    if len(buffer):
        batches = [b.sample(len(b)) for b in (buffer, *copies.values())]
        for batch in batches[1:]:
            for field in batches[0].__dataclass_fields__:
                assert_same(getattr(batches[0], field), getattr(batch, field))


def test_a_copy_shares_nothing() -> None:
    buffer = ReplayBuffer(20, VECTOR, ACTIONS["discrete"])
    feed(buffer, 10, seed=1)
    before, other = buffer.state_dict(), copy.copy(buffer)
    feed(other, 15, seed=2)
    assert_same(before, buffer.state_dict())


def rollout_of(observation: str, rows: int, lanes: int) -> RolloutBuffer:
    buffer = RolloutBuffer(6, lanes, OBSERVATIONS[observation], ACTIONS["box"])
    chance = np.random.default_rng(rows)
    for _ in range(rows):
        o, following = (drawn(buffer.observation_space, lanes) for _ in range(2))
        *flags, first = [chance.random(lanes) < 0.4 for _ in range(4)]
        action = drawn(buffer.action_space, lanes)
        step = StepResult(o, action, chance.normal(size=lanes), following, *flags, first=first)
        buffer.add(step, {"log_prob": chance.normal(size=lanes)})
    return buffer


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("rows", [0, 1, 4, 6])
@pytest.mark.parametrize("observation", ["vector", "nested"])
def test_rollout_goes_on_as_the_original(observation: str, rows: int, lanes: int) -> None:
    buffer = rollout_of(observation, rows, lanes)
    last = drawn(buffer.observation_space, lanes)
    copies = {name: way(buffer) for name, way in WAYS.items()}
    for other in copies.values():
        assert_same(buffer.state_dict(), other.state_dict())
    rollout = buffer.take(last)
    for other in copies.values():
        taken = other.take(last)
        for field in rollout.__dataclass_fields__:
            if field != "extra" or rows:
                assert_same(getattr(rollout, field), getattr(taken, field))


def buffers() -> list[Any]:
    replay = ReplayBuffer(20, NESTED, ACTIONS["box"], num_envs=2)
    prioritized = PrioritizedReplayBuffer(20, OBSERVATIONS["bool"], ACTIONS["discrete"], n_step=2)
    for buffer in (replay, prioritized):
        feed(buffer, 7, seed=4)
    return [replay, prioritized, rollout_of("nested", 4, 2)]


@pytest.mark.parametrize("number", range(3))
def test_a_pickle_names_nothing_but_restore(number: int) -> None:
    """Whoever reads it runs our constructor; a restricted unpickler has one name to allow."""
    data = pickle.dumps(buffers()[number], 5)

    class OnlyOurs(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            assert (module, name) == ("pyrl.buffers.pickling", "restore")
            return restore

    assert type(OnlyOurs(io.BytesIO(data)).load()) is type(buffers()[number])
    assert {op.name for op, _, _ in pickletools.genops(data)} & {"BUILD", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ", "GLOBAL"} == set()


@pytest.mark.parametrize("number", range(3))
def test_every_flipped_bit_is_found(number: int) -> None:
    header, *pieces = buffers()[number].__reduce_ex__(4)[1]
    chance = random.Random(number)
    for _ in range(150):
        which = chance.randrange(len(pieces) + 1)
        text = bytearray(header.encode() if which == 0 else pieces[which - 1])
        if not text:
            continue
        text[chance.randrange(len(text))] ^= 1 << chance.randrange(7)
        damaged = (text.decode(), *pieces) if which == 0 else (header, *pieces[: which - 1], bytes(text), *pieces[which:])
        with pytest.raises(CheckpointError):
            restore(*damaged)
    for damaged in ((header, *pieces[1:]), (header, *pieces, b""), (header,), (header.encode(), *pieces), (header, *pieces[::-1])):
        with pytest.raises(CheckpointError):
            restore(*damaged)


def sealed(about: dict[str, Any], pieces: Any) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for piece in pieces:
        digest.update(piece)
    return json.dumps({"sha256": digest.hexdigest(), **about})


STRANGE = (None, -1, 0, 1, 2, 5, 2**62, 2**70, 0.5, 1e300, "x", "float64", [], {}, [1, 2], True, [[]], "object", [2**40], {"type": "Box"})


@pytest.mark.parametrize("number", range(3))
def test_a_forged_pickle_gives_a_buffer_or_a_typed_error(number: int) -> None:
    """Changed behind its checksum: a sound buffer, or CheckpointError; never another error or a crash."""
    header, *pieces = buffers()[number].__reduce_ex__(4)[1]
    chance, refused = random.Random(number), 0
    for _ in range(250):
        about, data = json.loads(header), list(pieces)
        del about["sha256"]
        places = []
        pending = [about]
        while pending:
            node = pending.pop()
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                if isinstance(node[key], dict | list):
                    pending.append(node[key])
        if chance.random() < 0.7:
            node, key = chance.choice(places)
            node[key] = chance.choice(STRANGE)
        else:
            which = chance.randrange(len(data))
            if data[which]:
                text = bytearray(data[which])
                at = chance.randrange(len(text))
                text[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\x00\x00\xc0\x7f", b"\x02", b"\x01", b"\x7f"])[: len(text) - at]
                data[which] = bytes(text)
        try:
            buffer = restore(sealed(about, data), *data)
        except CheckpointError:
            refused += 1
            continue
        buffer.state_dict()
        if isinstance(buffer, ReplayBuffer) and len(buffer):
            buffer.get(buffer.sample(8 if len(buffer) >= 8 else 1).index)
            buffer.episodes()
    assert refused > 50


class Mine(ReplayBuffer):
    pass


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_copied_is_refused_by_name(way: str) -> None:
    with pytest.raises(TypeError, match=r"^Mine: a subclass of a buffer cannot be copied or pickled as it is; define __reduce_ex__"):
        WAYS[way](Mine(5, VECTOR, ACTIONS["box"]))
    if way.startswith("protocol"):

        class Strange:
            shape, dtype = (2,), np.dtype("float32")

            def contains(self, x: Any) -> bool:
                return True

        with pytest.raises(SpaceError, match="expected Box, Discrete"):
            WAYS[way](ReplayBuffer(5, Strange(), ACTIONS["box"]))


def test_a_buffer_on_a_gpu_is_refused_by_name() -> None:
    buffer = ReplayBuffer(5, VECTOR, ACTIONS["box"])
    buffer.device = "cuda:0"  # what the constructor sets where there is one
    for way in WAYS.values():
        with pytest.raises(ValueError, match=r"^ReplayBuffer: one on cuda:0 cannot be copied or pickled; load its state_dict\(\)"):
            way(buffer)
