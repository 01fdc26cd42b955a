"""The record stream of `pyrl.buffers`: the C++ class behind it."""

from pyrl._core import ReplayCore

__all__ = ["ReplayCore"]
