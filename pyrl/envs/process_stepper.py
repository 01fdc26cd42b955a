"""Environments shared out over a few processes, one for each core: a message each way and a step, whatever the number of environments.

Each process steps its share as `LeanStepper` does in this one, with the same checks and the same words when something fails. Actions and
results are in memory that all of them map; over the pipes go only the word to step and, where episodes ended, which.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import CloudpickleWrapper

from pyrl.envs.factory import EnvFactory
from pyrl.envs.guard import failure
from pyrl.envs.inline import LeanStepper
from pyrl.envs.observations import ObservationBuffer
from pyrl.envs.processes import PATIENCE, Home, end_of, enter_worker, late_in_words, poll_function
from pyrl.envs.stepper import Stepper
from pyrl.errors import EnvError, SpaceError
from pyrl.seeding import stream_seed
from pyrl.spaces import difference
from pyrl.trees import zeros_for
from pyrl.types import Array, Observation, StepResult

_STEP = b""  # all other requests are pickles of (name, arguments)
_NOTHING = b""  # the answer to a step in which no episode ended, of environments that give no masks
_ALIGNMENT = 64


class Memory:
    """Arrays [N, ...] that parent and processes share: of N environments the actions, what they show (``shown``, and ``begun`` where an
    episode ended), reward and flags. At each moment either the parent or a row's process writes to it: the messages say which."""

    def __init__(self, observation_space: Any, action: np.ndarray, num_envs: int, make: Callable[[int], Any]) -> None:
        leaves = [(leaf.array.shape, leaf.array.dtype) for leaf in ObservationBuffer(observation_space, num_envs).leaves]
        flags = [((num_envs,), np.dtype(bool))] * 4
        self.layout = [*leaves, *leaves, (action.shape, action.dtype), ((num_envs,), np.dtype(np.float64)), *flags]
        self.raw = make(sum(map(_room, self.layout)))
        self._map()

    def _map(self) -> None:
        arrays, at = [], 0
        for shape, dtype in self.layout:
            count = math.prod(shape)
            arrays.append(np.frombuffer(self.raw, dtype, count, at).reshape(shape))
            at += _room((shape, dtype))
        observations = arrays[:-6]
        self.shown, self.begun = observations[: len(observations) // 2], observations[len(observations) // 2 :]
        self.action, self.reward, self.terminated, self.truncated, self.valid, self.first = arrays[-6:]

    def __getstate__(self) -> dict[str, Any]:
        return {"layout": self.layout, "raw": self.raw}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()


def _room(of: tuple[tuple[int, ...], np.dtype]) -> int:
    """Bytes of an array in the memory, up to where the next one begins."""
    shape, dtype = of
    return -(-max(1, math.prod(shape) * dtype.itemsize) // _ALIGNMENT) * _ALIGNMENT


@dataclass
class Share:
    """What one process must know."""

    factory: Any  # CloudpickleWrapper of an EnvFactory
    begin: int  # environments begin to end - 1 of all
    end: int
    name: str
    spaces: tuple[Any, Any]  # of all
    memory: Memory
    parent: int  # process id


class ShareStepper(LeanStepper):
    """Some of many environments: seeds and messages count from the first of all."""

    def __init__(self, share: Share) -> None:
        self.first_index = share.begin
        factory: EnvFactory = share.factory.fn
        envs = [factory.build(index) for index in range(share.begin, share.end)]
        for kind, space in zip(("observation_space", "action_space"), share.spaces):
            text = difference(space, getattr(envs[0], kind))
            if text is not None:
                raise SpaceError(f"{share.name}: the {kind} of environment {share.begin} differs from that of environment 0: {text}")
        super().__init__(envs, seed=0, name=share.name, spec=None)
        self.episodic_life, self.fires = factory.episodic_life, factory.fires
        self._rows = slice(share.begin, share.end)
        self._memory = share.memory

    def _seeds_of(self, seed: int) -> list[int]:
        return [stream_seed(seed, "env", self.first_index + i) for i in range(self.num_envs)]

    def answer_reset(self, seed: int | None) -> list[Any]:
        self.reset(seed)
        self._show(self._memory.shown, self._buffers[self._current])
        return self._given_masks()

    def answer_step(self) -> bytes:
        memory, rows = self._memory, self._rows
        step = self.step(memory.action[rows].copy())
        for view, leaf in zip(memory.shown, self._buffers_of(step.next_observation).leaves):
            view[rows] = leaf.array
        memory.reward[rows], memory.terminated[rows], memory.truncated[rows] = step.reward, step.terminated, step.truncated
        memory.valid[rows], memory.first[rows] = step.valid, self.first
        if step.episodes:
            self._show(memory.begun, self._buffers[self._current])
        if not step.episodes and self._masks is None:
            return _NOTHING
        ended = [(self.first_index + episode.env_index, episode.success) for episode in step.episodes]
        return pickle.dumps((True, (ended, step.next_action_mask, self.action_mask)))

    def _buffers_of(self, observation: Observation) -> ObservationBuffer:
        return next(buffer for buffer in self._buffers if buffer.value is observation)

    def _show(self, views: list[np.ndarray], buffer: ObservationBuffer) -> None:
        for view, leaf in zip(views, buffer.leaves):
            view[self._rows] = leaf.array

    def answer_state(self) -> tuple[dict[str, Any], Array, Array]:
        return self._environment_states(), self._lives, self._lost

    def answer_load(self, state: Mapping[str, Any]) -> None:
        self.load_state_dict(state)

    def answer_render(self) -> Any:
        return self.render()

    def answer_close(self) -> None:
        self.close()


def serve(share: Share, pipe: Any) -> None:
    """The life of a process."""
    enter_worker(share.parent)
    stepper: ShareStepper | None = None

    def answered(what: str, call: Callable[[], Any]) -> bytes:
        try:
            value = call()
            return value if type(value) is bytes else pickle.dumps((True, value))
        except BaseException as error:
            text, cause, trace = failure(what, error if error.__cause__ is None else error.__cause__)
            told = error if isinstance(error, EnvError | SpaceError) else None
            if told is None and stepper is not None and stepper.num_envs == 1:  # a KeyboardInterrupt of its own
                told = stepper._error(0, text)
            elif told is None:
                text = f"{share.name}: environments {share.begin} to {share.end - 1}: {text}"
            text = text if told is None else str(told)
            about = getattr(told, "index", None), getattr(told, "seed", None)
            return pickle.dumps((False, (type(told) is SpaceError, text, cause, trace, *about)))

    def make() -> None:
        nonlocal stepper
        stepper = ShareStepper(share)

    pipe.send_bytes(answered("make", make))
    while stepper is not None:
        request = pipe.recv_bytes()
        name, arguments = ("step", ()) if request == _STEP else pickle.loads(request)
        pipe.send_bytes(answered(name, lambda: getattr(stepper, f"answer_{name}")(*arguments)))  # noqa: B023
        if name == "close":
            return


class ProcessStepper(Stepper):
    """See the module."""

    autoreset = AutoresetMode.SAME_STEP
    overlaps = True

    def __init__(self, factory: EnvFactory, num_envs: int, *, seed: int, timeout: float | None, processes: int | None = None) -> None:
        env = factory.build(0)  # it tells the spaces
        env.close()
        super().__init__(env.observation_space, env.action_space, num_envs, seed, factory.name, factory.env_spec)
        self.timeout = math.inf if timeout is None else timeout
        self._failure: EnvError | None = None
        self._home = Home()
        self._render_mode = factory.render_mode if factory.render_mode is not None else env.render_mode
        context = multiprocessing.get_context()
        spaces = self.single_observation_space, self.single_action_space
        self._memory = Memory(spaces[0], zeros_for(self._border.stored, num_envs), num_envs, lambda size: context.RawArray("B", size))
        count = min(num_envs, processes or cores())
        bounds = [num_envs * i // count for i in range(count + 1)]
        self._shares = list(zip(bounds, bounds[1:]))
        self._pipes, self._processes, self._polls = list[Any](), list[Any](), list[Any]()
        self._asked: set[int] = set()  # processes that have not answered
        for begin, end in self._shares:
            ours, theirs = context.Pipe()
            share = Share(CloudpickleWrapper(factory), begin, end, factory.name, spaces, self._memory, os.getpid())
            process: Any = context.Process(target=serve, args=(share, theirs), name=f"environments {begin} to {end - 1}", daemon=True)  # type: ignore[attr-defined]
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
            self._polls.append(poll_function(ours, process))
        self._asked = set(range(count))
        try:
            self._answers("make")
        except BaseException:
            self._end()
            raise

    def _reset(self, seeds: list[int] | None, buffer: ObservationBuffer) -> list[Any]:
        self._ask("reset", None if seeds is None else self.seed)
        masks = [mask for given in self._answers("reset") for mask in given]
        self._copy(self._memory.shown, buffer)
        return masks

    def step(self, action: Array) -> StepResult:
        self.send(action)
        return self.receive()

    def _send(self, action: Array) -> None:
        action = self._border.check(action)
        self._border.batch(action)  # refuses what no environment takes
        self._memory.action[...] = action
        self._ask("step")

    def _receive(self, action: Array) -> StepResult:
        observation, first, mask = self.observation, self.first, self.action_mask
        answers, memory = self._answers("step"), self._memory
        current = (self._current + 1) % 3
        following = after = self._buffers[current]
        self._copy(memory.shown, following)
        for name in ("reward", "terminated", "truncated", "valid"):
            getattr(self, f"_{name}")[:] = getattr(memory, name)
        self._book.step(None)
        next_mask = after_mask = None
        ended: list[tuple[int, bool | None]] = []
        if any(answers):
            told: list[Any] = [answer or ([], None, None) for answer in answers]
            ended = [pair for answer in told for pair in answer[0]]
            if self._masks is not None:
                next_mask, after_mask = (self._joined([answer[k] for answer in told]) for k in (1, 2))
        if ended:
            current = (current + 1) % 3
            after = self._buffers[current]
            after.copy_from(following)
            indices = [i for i, _ in ended]
            for leaf, begun in zip(after.leaves, memory.begun):
                leaf.array[indices] = begun[indices]
        episodes = [self._finish(i, self._book.clock, success) for i, success in ended]
        self._current = current
        self.observation, self.action_mask = after.value, after_mask
        self.first = memory.first.copy() if np.count_nonzero(memory.first) else self._nowhere
        return StepResult(
            observation, action, self._reward, following.value, self._terminated, self._truncated, self._valid, episodes, mask, next_mask,
            first=first,
        )  # fmt: skip

    def _joined(self, masks: list[Any]) -> Array:
        """Masks of all; of the shares that give none, anything goes."""
        assert self.action_mask is not None
        width = self.action_mask.shape[1]
        return np.concatenate([np.ones((end - begin, width), bool) if m is None else m for m, (begin, end) in zip(masks, self._shares)])

    def _copy(self, views: list[np.ndarray], buffer: ObservationBuffer) -> None:
        for leaf, view in zip(buffer.leaves, views):
            np.copyto(leaf.array, view)

    def _ask(self, name: str, *arguments: Any) -> None:
        self._ask_each(name, [arguments] * len(self._pipes))

    def _ask_each(self, name: str, arguments: list[tuple[Any, ...]]) -> None:
        self._home.require(self.name)
        if self._asked:  # before an interrupt: nobody wants the answers
            with contextlib.suppress(EnvError):
                self._answers("step")
        if self._failure is not None:
            raise self._failure
        for i, (pipe, told) in enumerate(zip(self._pipes, arguments)):
            try:
                pipe.send_bytes(_STEP if name == "step" else pickle.dumps((name, told)))
            except OSError as error:
                raise self._gone(i, f"{name}: its process {end_of(self._processes[i])}") from error
            self._asked.add(i)

    def _answers(self, phase: str) -> list[Any]:
        """What each process answers; EnvError where one fails, dies or is late."""
        self._home.require(self.name)
        deadline = time.monotonic() + self.timeout
        answers: list[Any] = []
        failed: Any = None
        for i in sorted(self._asked):
            left = deadline - time.monotonic()
            ready = self._polls[i](None if left == math.inf else max(left, 0.0))
            if not ready:
                raise self._gone(i, late_in_words(phase, self.timeout))
            try:
                data = self._pipes[i].recv_bytes()
            except (EOFError, OSError) as error:
                raise self._gone(i, f"{phase}: its process {end_of(self._processes[i])}") from error
            self._asked.discard(i)
            good, value = (True, None) if data == _NOTHING else pickle.loads(data)
            answers.append(value)
            failed = failed or (None if good else value)
        if failed is not None:
            if phase in ("reset", "step"):  # elsewhere the episodes go on
                self.observation = None
            raise self._told(*failed)
        return answers

    def _told(self, by_space: bool, text: str, cause: BaseException, trace: str, index: int | None, seed: int | None) -> Exception:
        """The error of a process, here."""
        error = SpaceError(text) if by_space else EnvError(text)
        if isinstance(error, EnvError):
            error.index, error.seed = index, seed
        error.__cause__ = cause
        cause.__cause__ = RuntimeError(f"in the environment's process:\n{trace}")
        return error

    def _gone(self, index: int, text: str) -> EnvError:
        """A process that died or hangs: from here on every call raises this."""
        begin, end = self._shares[index]
        if end - begin == 1:
            error = self._error(begin, text)
        else:
            error = EnvError(f"{self.name}: environments {begin} to {end - 1} (seed {self.seed}, in one process): {text}")
        self.observation, self._failure = None, error
        self._end()
        self._asked.clear()
        return error

    def _environment_states(self) -> dict[str, Any]:
        self._ask("state")
        states: dict[str, Any] = {}
        for (begin, end), (share, lives, lost) in zip(self._shares, self._answers("state")):
            states |= {str(begin + int(i)): state for i, state in share.items()}
            self._lives[begin:end], self._lost[begin:end] = lives, lost
        return states

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loading = state
        super().load_state_dict(state)

    def _set_environment_states(self, states: Mapping[str, Any]) -> None:
        self._ask_each("load", [(self._part(self._loading, begin, end),) for begin, end in self._shares])
        self._answers("load")

    def _part(self, state: Mapping[str, Any], begin: int, end: int) -> dict[str, Any]:
        """The state of a share, of a checked state of all."""
        columns = {name: state[name][begin:end] for name in (*self._columns(), "action_mask") if name in state}
        environments = {str(i - begin): state["environments"][str(i)] for i in range(begin, end)}
        observation = {i: array[begin:end] for i, array in state["observation"].items()}
        return {**state, **columns, "env_seeds": state["env_seeds"][begin:end], "environments": environments, "observation": observation}

    def render(self) -> Any:
        if self._render_mode is None:
            raise ValueError(f"{self.name}: render needs make(..., render_mode='rgb_array')")
        self._ask_each("render", [()])
        return self._answers("render")[0]

    def _close(self) -> None:
        if self._failure is not None or not self._home.is_here:
            return  # it was said; or it is another process's to close
        try:
            self._ask("close")
            self._answers("close")
        finally:
            self._end()

    def _end(self) -> None:
        """No process is left."""
        for process, pipe in zip(self._processes, self._pipes):
            process.join(0.0 if self._failure is not None or self._asked else PATIENCE)
            if process.is_alive():
                process.kill()
            process.join()
            pipe.close()


def cores() -> int:
    """Cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
