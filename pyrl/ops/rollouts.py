"""The rows of a rollout: the C++ class behind `pyrl.buffers.rollout`."""

from pyrl._core import RolloutRows

__all__ = ["RolloutRows"]
