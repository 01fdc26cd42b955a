"""Where experience lies: the replay's record stream, and rollouts. NumPy only; torch is imported where it is asked for."""

from pyrl.buffers.prioritized import PrioritizedReplayBuffer
from pyrl.buffers.replay import ReplayBuffer
from pyrl.buffers.rollout import RolloutBuffer

__all__ = ["PrioritizedReplayBuffer", "ReplayBuffer", "RolloutBuffer"]
