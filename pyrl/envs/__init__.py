"""Environments: `make` them, and step them through a `Stepper`, whatever runs them and however they reset."""

from pyrl.envs.backends import BACKENDS, Request, backend
from pyrl.envs.make import EnvSource, make
from pyrl.envs.native import NativeEnv
from pyrl.envs.native_library import include_dir, native_env
from pyrl.envs.native_vector import NativeVectorEnv
from pyrl.envs.stepper import Stepper
from pyrl.envs.vector import VectorStepper

__all__ = [
    "BACKENDS", "EnvSource", "NativeEnv", "NativeVectorEnv", "Request", "Stepper", "VectorStepper", "backend", "include_dir", "make",
    "native_env",
]  # fmt: skip
