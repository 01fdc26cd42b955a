"""Shards of a distributed replay as actors of Ray: each in a process of its own, on any node, so that all machines' memory can be used.

The learner is the only one who speaks to a shard, and Ray runs what it sends in the order in which it was sent. So the learner knows what
the shard's limiter will say, by one of its own that counts the same (`RemoteShard.limiter`), and waits for no answer: inserts and
priorities are sent and confirmed later, a draw is asked for as soon as the limiter allows it, and is there when its turn comes. A draw
counts as drawn when it is asked for; the priorities of the draw before it, of the same shard, were sent before.

Ray restarts nothing and repeats no call. An actor that died, with its process or its node, or that is silent for ANSWER_SECONDS, is lost.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from pyrl import ops
from pyrl.distributed.shard import ReplayShard, ShardLost, ShardSpec
from pyrl.distributed.transitions import Transitions
from pyrl.errors import AccountingError
from pyrl.loops.supervision import DEATHS, ENOUGH, START_SECONDS
from pyrl.trees import leaves, map_tree, zeros_for
from pyrl.types import Batch

ANSWER_SECONDS = 30.0  # that a shard may be silent; START_SECONDS before its first answer
UNDER_WAY = 16  # calls that a shard has not confirmed yet; then it takes no more
PART = 2**20  # bytes of a state that travel at a time
TICK = 0.1  # seconds of one wait; between two of them signals are handled
OPTIONS: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}


@dataclass(frozen=True)
class Place:
    """Of an array in a state that travels in parts."""

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def begins(self) -> range:
        """Of its parts, in bytes; an empty array is one."""
        return range(0, max(1, self.size), PART)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def array(self, memory: np.ndarray) -> np.ndarray:
        """The one whose bytes are ``memory``."""
        return memory.view(self.dtype).reshape(self.shape)


def taken_apart(state: Any) -> tuple[Any, list[np.ndarray]]:
    """``state`` with places for its arrays, and their bytes."""
    memory = list[np.ndarray]()

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        memory.append(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
        return Place(len(memory) - 1, leaf.shape, leaf.dtype)

    return map_tree(place, state), memory


class ShardActor:
    """A shard's side."""

    def __init__(self, path: list[str], payload: bytes) -> None:
        sys.path += [entry for entry in path if entry not in sys.path]  # where the program found its modules
        self._payload = payload
        self._memory: list[np.ndarray | None] = []  # of a state that is read
        self._given: dict[int, np.ndarray] = {}  # of one that is loaded

    def begin(self) -> None:
        ops.set_num_threads(1)
        self._shard = ReplayShard(pickle.loads(self._payload))

    def insert(self, steps: Transitions, first_env: int) -> None:
        if not self._shard.insert(steps, first_env):
            raise AccountingError("a shard refused transitions that its learner had counted")

    def sample(self, beta: float | None) -> Batch:
        """The batches of a draw, one after the other."""
        batches = self._shard.sample(beta)
        if batches is None:
            raise AccountingError("a shard refused a draw that its learner had counted")
        joined: Batch = map_tree(lambda *columns: None if columns[0] is None else np.concatenate(columns), *batches)
        return joined

    def update_priorities(self, index: np.ndarray, priority: np.ndarray) -> None:
        self._shard.update_priorities([index], [priority])

    def stored(self) -> int:
        return self._shard.stored()

    def state(self) -> Any:
        """With places for its arrays, which `read` gives."""
        state, memory = taken_apart(self._shard.state_dict())
        self._memory = [*memory]
        return state

    def read(self, index: int, begin: int, end: int) -> np.ndarray:
        """Bytes of an array, one part after the other."""
        memory = self._memory[index]
        assert memory is not None
        if end >= len(memory):
            self._memory[index] = None
        return memory[begin:end]

    def write(self, place: Place, begin: int, part: np.ndarray) -> None:
        memory = self._given.setdefault(place.index, np.empty(place.size, np.uint8))
        memory[begin : begin + len(part)] = part

    def load(self, state: Any) -> None:
        """With places for the arrays that were written."""
        given, self._given = self._given, {}
        self._shard.load_state_dict(map_tree(lambda leaf: leaf.array(given[leaf.index]) if isinstance(leaf, Place) else leaf, state))


@dataclass
class Sent:
    """A call that is not confirmed."""

    answer: Any  # a reference to it
    when: float
    steps: int  # that it inserts


class RemoteShard:
    """A `pyrl.distributed.shard.Shard` that is an actor. See the module."""

    def __init__(self, spec: ShardSpec) -> None:
        self.spec, self.limiter = spec, spec.limiter()
        self.confirmed = 0  # transitions that it said to have stored
        self.loss: str | None = None  # how it was lost
        self.actor = ray.remote(**OPTIONS)(ShardActor).remote(sys.path, ray.cloudpickle.dumps(spec))
        self._sent = deque[Sent]()
        self._heard, self._started = time.monotonic(), False
        self._asked: Any = None  # a reference to the draw that is under way
        self._drawn: Batch | None = None
        self._parts: Iterator[tuple[Any, ...]] | None = None  # calls that load a state
        self._send("begin")

    def __len__(self) -> int:
        """Transitions that it has been given, and has not overwritten."""
        return min(self.limiter.inserts, self.spec.replay.capacity // self.spec.shards)

    def can_insert(self, steps: Transitions) -> bool:
        self._confirm()
        return self._started and self._parts is None and len(self._sent) < UNDER_WAY and self.limiter.can_insert(steps.steps)

    def insert(self, steps: Transitions, first_env: int = 0) -> bool:
        if not (self.can_insert(steps) and self.limiter.begin_insert(steps.steps)):
            return False
        self._send("insert", steps, first_env, steps=steps.steps)
        self.limiter.end_insert(steps.steps)
        return True

    def can_sample(self, beta: float | None = None) -> bool:
        self._confirm()
        if self._drawn is None and self._asked is None and self._parts is None and self.limiter.sample(self.spec.sample_size):
            self._asked = self._send("sample", beta)
        return self._drawn is not None

    def sample(self, beta: float | None = None) -> list[Batch] | None:
        if not self.can_sample(beta):
            return None
        drawn, self._drawn = self._drawn, None
        mine = map_tree(lambda column: None if column is None else column.copy(), drawn)  # Ray's are read-only
        size = self.spec.replay.batch_size
        begins = range(0, self.spec.sample_size, size)
        return [map_tree(lambda column: None if column is None else column[at : at + size], mine) for at in begins]  # noqa: B023

    def update_priorities(self, index: Sequence[np.ndarray], priority: Sequence[np.ndarray]) -> None:
        self._send("update_priorities", np.concatenate(index), np.concatenate(priority))

    def stop(self) -> None:
        self.limiter.stop()

    def resume(self) -> None:
        self.limiter.resume()

    @property
    def counts(self) -> tuple[int, int]:
        return self.limiter.inserts, self.limiter.samples

    def stored(self) -> int:
        stored: int = self._ask("stored")
        return stored

    def state_dict(self) -> dict[str, Any]:
        """A draw that was not used is none of it."""
        given = self._ask("state")

        def whole(leaf: Any) -> Any:
            if not isinstance(leaf, Place):
                return leaf
            memory = np.empty(leaf.size, np.uint8)
            for begin in leaf.begins:
                memory[begin : begin + PART] = self._ask("read", leaf.index, begin, begin + PART)
            return leaf.array(memory)

        state: dict[str, Any] = map_tree(whole, given)
        state["limiter"]["samples"] = self.limiter.samples - (self.spec.sample_size if self._drawn is not None else 0)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """It is sent as the shard takes it; nothing is inserted or drawn before."""
        self.limiter.load_state_dict(state["limiter"])
        skeleton, memory = taken_apart(state)

        def calls() -> Iterator[tuple[Any, ...]]:
            for place in leaves(skeleton):
                if isinstance(place, Place):
                    for begin in place.begins:
                        yield "write", place, begin, memory[place.index][begin : begin + PART]
            yield "load", skeleton

        self._parts = calls()

    def awaited(self) -> list[Any]:
        """A reference to what is to come next, where something is."""
        return [self._asked] if self._asked is not None else [sent.answer for sent in [*self._sent][:1]]

    def kill(self) -> None:
        ray.kill(self.actor, no_restart=True)

    # -- messages ------------------------------------------------------------------------------------------------------

    def _send(self, method: str, *arguments: Any, steps: int = 0) -> Any:
        answer = getattr(self.actor, method).remote(*arguments)
        self._sent.append(Sent(answer, time.monotonic(), steps))
        return answer

    def _confirm(self) -> None:
        """What it has answered since, without a wait."""
        now = time.monotonic()
        if self._sent:
            under_way = [sent.answer for sent in self._sent]
            done = set(ray.wait(under_way, num_returns=len(under_way), timeout=0)[0])
            while self._sent and self._sent[0].answer in done:
                sent = self._sent.popleft()
                answer = self._get(sent.answer)
                self._heard, self._started = now, True
                self.confirmed += sent.steps
                if sent.answer is self._asked:
                    self._drawn, self._asked = answer, None
        patience = ANSWER_SECONDS if self._started else START_SECONDS
        if self._sent and now - max(self._sent[0].when, self._heard) > patience:
            self._lose(f"its actor did not answer within {patience:g} s")
        while self._parts is not None and self._started and len(self._sent) < UNDER_WAY:
            if (call := next(self._parts, None)) is None:
                self._parts = None
            else:
                self._send(*call)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """The answer, after all that it was told."""
        self._confirm()
        while self._sent:  # a state that is being sent, too
            ray.wait(self.awaited(), timeout=TICK)
            self._confirm()
        return self._get(getattr(self.actor, method).remote(*arguments))

    def _get(self, answer: Any) -> Any:
        try:
            return ray.get(answer, timeout=ANSWER_SECONDS)
        except RayTaskError:  # it raised: with its traceback
            raise
        except RayError as error:
            self._lose(f"its actor died ({type(error).__name__}: {' '.join(str(error).split())})")

    def _lose(self, how: str) -> NoReturn:
        self.loss = how
        raise ShardLost(how)


class RemoteShards:
    """Those of a run. Of DEATHS losses of one shard in a row, each before ENOUGH transitions were stored, the first ends the run."""

    def __init__(self) -> None:
        self._now: dict[int, RemoteShard] = {}
        self._losses: dict[int, list[str | None]] = {}

    def __len__(self) -> int:
        return len(self._now)

    def make(self, spec: ShardSpec) -> RemoteShard:
        """A new one, empty, in the place of one that is lost. ShardLost if another would not help."""
        if (lost := self._now.pop(spec.index, None)) is not None:
            lost.kill()
            losses = self._losses.setdefault(spec.index, [])
            if lost.confirmed >= ENOUGH:
                losses.clear()
            losses.append(lost.loss)
            if len(losses) >= DEATHS:
                others = f"so did {DEATHS - 1} that replaced it, each before it had stored {ENOUGH:,} transitions"
                raise ShardLost(f"shard {spec.index}: {losses[0]}\n{others}")
        self._now[spec.index] = RemoteShard(spec)
        return self._now[spec.index]

    def awaited(self) -> list[Any]:
        """References to what is to come from them next."""
        return [answer for shard in self._now.values() for answer in shard.awaited()]

    def bytes_under_way(self) -> int:
        """The most that the object store has of them at a time."""
        return sum(_bytes_under_way(shard.spec) for shard in self._now.values())

    def close(self) -> None:
        """No actor is left."""
        for shard in self._now.values():
            shard.kill()
        self._now, self._losses = {}, {}


def _bytes_under_way(spec: ShardSpec) -> int:
    """A draw, and calls that are not confirmed."""
    seen, action = (sum(leaf.nbytes for leaf in leaves(zeros_for(space, 1))) for space in (spec.space, spec.action_space))
    drawn = spec.sample_size * (2 * seen * spec.window.get("frame_stack", 1) + action + 32)
    return drawn + UNDER_WAY * max(PART, spec.insert_size * (2 * seen + action + 16))
