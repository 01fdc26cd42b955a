"""Environments: `make` them, and step them through a `Stepper`, whatever runs them and however they reset."""

from pyrl.envs.make import BACKENDS, Backend, EnvSource, make
from pyrl.envs.stepper import Stepper

__all__ = ["BACKENDS", "Backend", "EnvSource", "Stepper", "make"]
