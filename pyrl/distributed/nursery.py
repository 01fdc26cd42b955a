"""A process that has imported the program and pyrl, and forks collectors or learners in milliseconds: who takes a dead one's place need
not import.

It is spawned as any process of `multiprocessing` is, with the program's `sys.path` and main file. A server of `multiprocessing`'s own
("forkserver") imports by the current folder up to Python 3.11, where another pyrl may lie, and there is one for all of a program.

A fork has the memory of its parent but not its threads, which may have held locks. So the nursery runs nothing but imports and, where those
have started threads, refuses; they are then spawned one by one, as everywhere but on Linux.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import multiprocessing
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import torch.multiprocessing

from pyrl.envs.processes import leave_signals
from pyrl.loops.supervision import START_SECONDS

Work = Callable[..., None]  # a child's life: by its order (bytes), what it shares, and its ends of pipes (Connection)

PATIENCE = 5.0  # seconds until an answer that must come at once is not awaited any more
PIPES = 2  # of a child, at most
TICK = 0.5  # seconds between two looks at whether the program is still there
READY, REFUSED, BEGUN, ENDED = range(4)  # what the nursery says: of itself; of a child, with its process id or exit code
_ANSWER, _REQUEST = struct.Struct("<3q"), struct.Struct("<2q")


class Child:
    """A process that the nursery forks, as `multiprocessing.Process` shows one. Its ``exitcode`` is as `is_alive` saw it last."""

    def __init__(self, nursery: Nursery) -> None:
        self.pid: int | None = None
        self.exitcode: int | None = None
        self._nursery = nursery

    def is_alive(self) -> bool:
        self._nursery.listen()
        return self.exitcode is None

    def kill(self) -> None:
        """It has ended, and been waited for, when this returns."""
        deadline = time.monotonic() + PATIENCE
        while self.pid is None and self.is_alive() and time.monotonic() < deadline:
            self._nursery.await_answer(deadline)
        if self.is_alive() and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, signal.SIGKILL)
        while self.is_alive() and time.monotonic() < deadline:
            self._nursery.await_answer(deadline)
        if self.exitcode is None:
            self._nursery.end()

    def join(self, timeout: float = math.inf) -> None:
        deadline = time.monotonic() + timeout
        while self.is_alive() and (now := time.monotonic()) < deadline:
            self._nursery.await_answer(min(deadline, now + TICK))


class Nursery:
    """``work`` is of a module; child ``index`` gets ``shared[index]``, which is sent once, when the nursery is spawned."""

    def __init__(self, work: Work, shared: list[Any], name: str) -> None:
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._close = Finalize(None, self._socket.close, exitpriority=0)  # before multiprocessing waits for it as the program ends
        arguments = there, modules_of_program(), work, shared
        self._process = torch.multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, name=name)
        with _one_thread_for_linear_algebra():
            self._process.start()
        there.close()
        self._ready: bool | None = None
        self._children: dict[int, Child] = {}
        self._begun = 0

    @property
    def exitcode(self) -> int | None:
        """Its own: 1 where it could not import the program."""
        return self._process.exitcode

    def ready(self) -> bool:
        """Whether it forks; at first this waits until it has imported the program."""
        deadline = time.monotonic() + START_SECONDS
        while self._ready is None and time.monotonic() < deadline:
            self.await_answer(deadline)
            self.listen()
        if self._ready is None:
            self.end()
        return bool(self._ready)

    def begin(self, index: int, order: bytes, *pipes: Connection) -> Child:
        """A child, whose ends of ``pipes`` these are. Does not wait for it."""
        child = Child(self)
        if self._ready is False:
            child.exitcode = -signal.SIGKILL
            return child
        self._children[self._begun] = child
        place = os.memfd_create("pyrl-order")  # of any size, where a socket's buffer would make this wait
        try:
            os.write(place, order)
            fds = [place, *(pipe.fileno() for pipe in pipes)]
            with contextlib.suppress(OSError):  # it is gone: so is the child
                socket.send_fds(self._socket, [_REQUEST.pack(self._begun, index)], fds)
        finally:
            os.close(place)
        self._begun += 1
        return child

    def listen(self) -> None:
        """What it has said, without waiting."""
        while self._ready is not False:
            try:
                answer = self._socket.recv(_ANSWER.size, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                answer = b""
            if not answer:
                self.end()
                return
            what, number, about = _ANSWER.unpack(answer)
            if what in (READY, REFUSED):
                self._ready = what == READY
            elif what == BEGUN:
                self._children[number].pid = about
            else:
                self._children.pop(number).exitcode = about

    def await_answer(self, deadline: float) -> None:
        """Until it says something, ends, or ``deadline``."""
        wait([self._socket, self._process.sentinel], max(deadline - time.monotonic(), 0.0))

    def end(self) -> None:
        """It and all of its children are gone."""
        self._ready = False
        self._close()
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        children, self._children = self._children, {}
        for child in children.values():
            child.exitcode = -signal.SIGKILL
            if child.pid is not None:
                _kill_orphan(child.pid)


def modules_of_program() -> list[str]:
    """What it has imported of pyrl and Gymnasium, and with that what its environments are of."""
    return [name for name in list(sys.modules) if name.partition(".")[0] in ("pyrl", "gymnasium")]


def import_all(modules: list[str]) -> None:
    for name in modules:
        with contextlib.suppress(Exception):  # else who needs it tells of it
            importlib.import_module(name)


def possible() -> bool:
    return sys.platform == "linux" and hasattr(socket, "send_fds")


def _kill_orphan(pid: int) -> None:
    """It has no parent that could wait for it; who waits instead may be slow or nobody."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(OSError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX" and time.monotonic() < deadline:
            time.sleep(0.001)


@contextmanager
def _one_thread_for_linear_algebra() -> Iterator[None]:
    """For processes started meanwhile: NumPy's OpenBLAS starts its threads when it is imported. A collector has one core anyway."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _serve(program: socket.socket, modules: list[str], work: Work, shared: list[Any]) -> None:
    """The life of a nursery: it ends when the program closes its side, or ends."""
    leave_signals()
    parent = os.getppid()
    import_all(modules)
    if len(os.listdir("/proc/self/task")) > 1:
        program.send(_ANSWER.pack(REFUSED, 0, 0))
        return
    program.send(_ANSWER.pack(READY, 0, 0))
    children: dict[int, tuple[int, Any]] = {}  # sentinel: (number, process)
    try:
        while os.getppid() == parent:
            for ready in wait([program, *children], TICK):
                if isinstance(ready, int):
                    number, process = children.pop(ready)
                    process.join()
                    program.send(_ANSWER.pack(ENDED, number, process.exitcode))
                    continue
                request, fds, _, _ = socket.recv_fds(program, _REQUEST.size, PIPES + 1)
                if not request:
                    return
                number, index = _REQUEST.unpack(request)
                process = multiprocessing.get_context("fork").Process(
                    target=_begin, args=(program, work, shared[index], *fds), name=f"{multiprocessing.current_process().name}-{index}"
                )
                process.start()
                for fd in fds:
                    os.close(fd)
                children[process.sentinel] = number, process
                program.send(_ANSWER.pack(BEGUN, number, process.pid))
    except OSError:
        pass  # the program is gone
    finally:
        for _, process in children.values():
            process.kill()
            process.join()


def _begin(program: socket.socket, work: Work, shared: Any, place: int, *pipes: int) -> None:
    """A child."""
    program.close()
    with open(place, "rb") as file:
        file.seek(0)
        order = file.read()
    work(order, shared, *map(Connection, pipes))
