"""Environments: `make` them, and step them through a `Stepper`, whatever runs them and however they reset."""

from pyrl.envs.make import BACKENDS, Backend, EnvSource, make
from pyrl.envs.native import NativeEnv
from pyrl.envs.native_library import include_dir, native_env
from pyrl.envs.native_vector import NativeVectorEnv
from pyrl.envs.stepper import Stepper

__all__ = ["BACKENDS", "Backend", "EnvSource", "NativeEnv", "NativeVectorEnv", "Stepper", "include_dir", "make", "native_env"]
