"""Environments in processes of their own: Gymnasium's `AsyncVectorEnv`, with handling of workers that hang, die or cannot close."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any, TypeVar

from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from pyrl.envs.guard import Failure, Finished
from pyrl.errors import EnvError

T = TypeVar("T")

PATIENCE = 5.0  # seconds that the other workers get to close when one has failed


class Home:
    """The process that made something which a fork of it must not touch: two programs would read each other's answers from one pipe."""

    def __init__(self) -> None:
        self.process = os.getpid()

    @property
    def is_here(self) -> bool:
        return os.getpid() == self.process

    def require(self, name: str) -> None:
        if not self.is_here:
            raise EnvError(
                f"{name}: its environments' processes belong to process {self.process}, of which this is a fork; make new ones here"
            )


class OneThread:
    """A thread for one call at a time; a fork has one of its own, as threads are not forked."""

    def __init__(self, name: str) -> None:
        self._name, self._pool, self._home = name, ThreadPoolExecutor(1, name), Home()

    def submit(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        if not self._home.is_here:
            self._pool, self._home = ThreadPoolExecutor(1, self._name), Home()
        return self._pool.submit(call, *arguments)


class WorkerFailure(Exception):
    """The process of environment ``index`` hangs, died, or could not make its environment."""

    def __init__(self, index: int, text: str, cause: BaseException | None = None) -> None:
        super().__init__(index, text)
        self.index, self.text, self.cause = index, text, cause


class ProcessVector(AsyncVectorEnv):
    """One process per environment; each answer must come within ``timeout`` seconds (None: no limit). ``env_fns`` make `Guard`s.

    After a `WorkerFailure` every call raises it again; `close` leaves how closing failed in ``close_failures``.
    """

    def __init__(self, env_fns: Sequence[Callable[[], Any]], mode: AutoresetMode, timeout: float | None) -> None:
        self.timeout = math.inf if timeout is None else timeout
        self.failure: WorkerFailure | None = None
        self._home = Home()
        self._polls: list[Callable[[float | None], Any]] = []
        self.close_failures: list[tuple[int, Failure]] = []
        # The stepper copies what it is given, so the vector environment need not.
        super().__init__(env_fns, copy=False, autoreset_mode=mode)

    def _check_spaces(self) -> None:
        try:
            for index, failed in enumerate(self.call("made")):
                if failed is not None:
                    raise WorkerFailure(index, *failed[:2])
            super()._check_spaces()
        except BaseException:
            end_processes(self)
            raise

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        return self._ask("reset", lambda: self.reset_async(seed=seed, options=options), self.reset_wait)

    def step(self, actions: Any) -> Any:
        return self._ask("step", lambda: self.step_async(actions), self.step_wait)

    def send(self, actions: Any) -> None:
        """Begin a step, which `receive` ends."""
        self._ask("step", lambda: self.step_async(actions), None)

    def receive(self) -> Any:
        return self._ask("step", None, self.step_wait)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._ask("make" if name == "made" else name, lambda: self.call_async(name, *args, **kwargs), self.call_wait)

    def _ask(self, phase: str, send: Callable[[], None] | None, receive: Callable[[], Any] | None) -> Any:
        """Ask all workers, and what they answered; None leaves out the one or the other."""
        self._home.require("env")
        if self.failure is not None:
            raise self.failure
        try:
            if send is not None:
                send()
            if receive is None:
                return None
            self._await(phase)
            return receive()
        except WorkerFailure as failure:
            self.failure = failure
            self._end(failure.index)
            raise
        except (EOFError, OSError) as error:  # the pipe of one that died
            self.failure = dead_worker(self, phase)
            if self.failure is None:
                raise
            raise self.failure from error

    def _await(self, phase: str) -> None:
        """Until every worker has answered."""
        deadline = time.monotonic() + self.timeout
        if not self._polls:
            self._polls = [poll_function(pipe, process) for pipe, process in zip(self.parent_pipes, self.processes)]
        for index, (poll, process) in enumerate(zip(self._polls, self.processes)):
            left = deadline - time.monotonic()
            ready = poll(None if left == math.inf else max(left, 0.0))
            if not ready:
                raise WorkerFailure(index, late_in_words(phase, self.timeout))
            if ready == [process.sentinel]:  # the pipe may be held open by a process that it started
                raise WorkerFailure(index, f"{phase}: its process {end_of(process)}")

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Every environment's `close`, where its process still answers; then no process is left."""
        if not self._home.is_here:
            return
        disturbed = self.failure is not None or self._state.value != "default"
        deadline = time.monotonic() + (min(PATIENCE, self.timeout) if disturbed else self.timeout)
        asked = [i for i, process in enumerate(self.processes) if not (self.failure and i == self.failure.index)]
        for i in asked:
            with contextlib.suppress(OSError):
                self.parent_pipes[i].send(("_call", ("finish", (), {})))
        for i in asked:
            failed = self._finish(i, deadline)
            if failed is None:
                with contextlib.suppress(OSError):
                    self.parent_pipes[i].send(("close", None))
            else:
                self.close_failures.append((i, failed))
        for i, process in enumerate(self.processes):
            process.join(PATIENCE if all(i != index for index, _ in self.close_failures) else 0.0)
            self._end(i)
            self.parent_pipes[i].close()

    def _finish(self, index: int, deadline: float) -> Failure | None:
        """How closing environment ``index`` failed; answers to what was asked before are left unread."""
        pipe, process = self.parent_pipes[index], self.processes[index]
        while True:
            left = deadline - time.monotonic()
            if not wait([pipe, process.sentinel], None if left == math.inf else max(left, 0.0)):
                return late_in_words("close", self.timeout), TimeoutError("close"), ""
            answer = None
            with contextlib.suppress(EOFError, OSError):
                answer = pipe.recv() if pipe.poll() else None
            if answer is None:
                return f"close: its process {end_of(process)}", EOFError("close"), ""
            if isinstance(answer[0], Finished):
                return answer[0].failure

    def _end(self, index: int) -> None:
        process = self.processes[index]
        if process.is_alive():
            process.kill()
        process.join()


def poll_function(pipe: Any, process: Any) -> Callable[[float | None], list[Any]]:
    """A function that waits, for some seconds at most, for an answer or the end of a process, and tells which came."""
    if not hasattr(select, "poll"):  # Windows
        return lambda seconds: wait([pipe, process.sentinel], seconds)
    poller = select.poll()  # made once, where `wait` makes one at every call
    poller.register(pipe.fileno(), select.POLLIN)
    poller.register(process.sentinel, select.POLLIN)
    return lambda seconds: [fd for fd, _ in poller.poll(None if seconds is None else math.ceil(1000 * seconds))]


def dead_worker(env: Any, phase: str, patience: float = 1.0) -> WorkerFailure | None:
    """The first process of ``env`` that has ended, where it has processes."""
    if not isinstance(env, AsyncVectorEnv):
        return None
    wait([process.sentinel for process in env.processes], patience)  # its pipe may end before it does
    ends = {i: end_of(process) for i, process in enumerate(env.processes) if wait([process.sentinel], 0)}
    if not ends:
        return None
    first = min(ends, key=lambda i: (env.processes[i].exitcode == 0, i))  # others may have been asked to leave
    return WorkerFailure(first, f"{phase}: its process {ends[first]}")


def end_processes(env: AsyncVectorEnv) -> None:
    """Without asking them."""
    for process, pipe in zip(env.processes, env.parent_pipes):
        process.kill()
        process.join()
        if pipe is not None:  # as gymnasium leaves the pipe of a worker that raised
            pipe.close()
    env.closed = True


def end_of(process: Any) -> str:
    """How a process ended that is ending now."""
    process.join(1.0)
    return exit_in_words(process.exitcode)


def leave_signals() -> None:
    """In a new process: signals are handled by the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):  # not the parent's handlers
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def enter_worker(parent: int) -> None:
    """In a new process: `leave_signals`, and the process ends when the parent, with this id, has ended."""
    leave_signals()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def exit_in_words(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"left with exit code {code}"


def late_in_words(phase: str, timeout: float) -> str:
    return f"{phase} did not return within {timeout:g} s (env_timeout)"
