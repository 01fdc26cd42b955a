"""Native environments compiled elsewhere: of a shared library, or of functions (Numba's, ctypes'). docs/native_environments.md
says how to write them.

Code that was never run here gets a first look in a process that may be lost (`_probe`): so a fault in memory ends in a message.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from pyrl.envs.native import NativeEnv, described, tuple_of
from pyrl.errors import EnvError, SettingError, UnknownNameError
from pyrl.ops.environments import Environment

_SUFFIXES = (".so", ".dylib", ".dll")
PROBE_TIMEOUT = 60.0  # seconds
_looked_at: set[Any] = set()


def include_dir() -> str:
    """The folder of ``pyrl_env.h``, for a compiler's -I."""
    return str(Path(__file__).parent.parent / "include")


def is_library(path: str) -> bool:
    return path.endswith(_SUFFIXES)


def library_spec(path: str, name: str) -> EnvSpec:
    """The entry point by which Gymnasium makes the environment ``name`` of a library: it takes the parameters by name."""
    native = _from_library(path, name)
    return EnvSpec(id=f"{name}-v0", entry_point=native, max_episode_steps=native.max_episode_steps or None, disable_env_checker=True)


def _from_library(path: str, name: str) -> NativeEnv:
    file = Path(path)
    if not file.is_file():
        raise UnknownNameError(f"{path}:{name}: there is no file {file.resolve()}")
    if not name.isidentifier():
        raise UnknownNameError(f"{path}:{name}: {name!r} is not the name of an environment, expected what PYRL_ENV was given")
    place = str(file.resolve())
    stat = file.stat()

    def first_look() -> str:
        try:
            description = Environment.load(place, name)
        except ValueError as error:
            return str(error)
        return description.probe([value for _, value in description.parameters])

    _probe(f"{path}:{name}", (place, name, stat.st_mtime_ns, stat.st_size), first_look)
    return replace(described(name, Environment.load(place, name)), library=(place, name))


def reload(path: str, name: str, parameters: np.ndarray) -> NativeEnv:
    """A library's environment, in the process that received it."""
    return replace(_from_library(path, name), parameters=parameters)


def native_env(
    name: str,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    *,
    reset: Any,
    step: Any,
    state_size: int,
    reset_uniforms: int = 0,
    step_uniforms: int = 0,
    max_episode_steps: int = 0,
    parameters: Mapping[str, float] | None = None,
) -> NativeEnv:
    """A `NativeEnv` of two compiled functions, with the signatures of ``pyrl_reset_function`` and ``pyrl_step_function`` in pyrl_env.h.

    reset, step: what has an ``address`` (Numba's ``cfunc``), a function of ctypes, or the address itself.
    state_size: bytes of one environment's state. reset_uniforms, step_uniforms: random numbers that a call gets.
    max_episode_steps: 0: no limit. parameters: by name, with their defaults.

    SettingError for spaces that a native environment cannot have, EnvError for what the functions do that they may not.
    """
    numbers = dict(parameters or {})
    addresses = [_address(function, what) for function, what in ((reset, "reset"), (step, "step"))]
    try:
        description = Environment.from_functions(
            tuple_of(observation_space, "observation_space"), tuple_of(action_space, "action_space"), state_size, reset_uniforms,
            step_uniforms, max_episode_steps, list(numbers), [float(value) for value in numbers.values()], *addresses,
        )  # fmt: skip
    except ValueError as error:
        raise SettingError(f"native_env: {name}: {error}") from error
    _probe(name, None, lambda: description.probe(list(numbers.values())))
    return replace(described(name, description), owner=(reset, step))


def _address(function: Any, what: str) -> int:
    if isinstance(function, int) and not isinstance(function, bool):
        return function
    address = getattr(function, "address", None)
    if isinstance(address, int):
        return address
    import ctypes

    if isinstance(function, getattr(ctypes, "_CFuncPtr")):  # noqa: B009  (of every type that CFUNCTYPE makes)
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise SettingError(f"native_env: {what} is {type(function).__name__}, expected a numba.cfunc, a function of ctypes, or an address")


def _probe(name: str, key: Any, first_look: Any) -> None:
    """EnvError with what ``first_look`` reports, which runs in a forked process, or with how that process ended. ``key``: of what was
    checked before in this process, and is not checked again."""
    if key is not None and key in _looked_at:
        return
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child runs native code, which takes no lock of theirs
        child = os.fork()
    if child == 0:
        _tell(writer, first_look)
    os.close(writer)
    text, status = _listen(reader, child)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        what = "it did not return within" if number == signal.SIGKILL else f"it died of {signal.Signals(number).name}"
        limit = f" {PROBE_TIMEOUT:g} seconds" if number == signal.SIGKILL else ""
        raise EnvError(f"{name}: {what}{limit} in its first steps (open, reset, then 200 times step with random actions)")
    if not text.startswith("ok"):
        raise EnvError(f"{name}: {text or 'it ended its process'}")
    if key is not None:
        _looked_at.add(key)


def _tell(writer: int, first_look: Any) -> None:
    """In the child: writes the findings and ends."""
    faulthandler.disable()
    try:
        text = first_look() or "ok"
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    os.write(writer, text.encode()[:4000])
    os._exit(0)


def _listen(reader: int, child: int) -> tuple[str, int]:
    """What the child wrote, and its status. One that takes too long is killed."""
    parts, end = [], time.monotonic() + PROBE_TIMEOUT
    try:
        while True:
            ready, _, _ = select.select([reader], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                os.kill(child, signal.SIGKILL)
                break
            part = os.read(reader, 4096)
            if not part:
                break
            parts.append(part)
        return b"".join(parts).decode(errors="replace"), os.waitpid(child, 0)[1]
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(reader)
