"""Where experience is kept: the replay's record stream, and rollouts. NumPy only; torch is imported where it is asked for."""

from pyrl.buffers.hindsight import Hindsight
from pyrl.buffers.prioritized import PrioritizedReplayBuffer
from pyrl.buffers.replay import ReplayBuffer, Window
from pyrl.buffers.rollout import RolloutBuffer

__all__ = ["Hindsight", "PrioritizedReplayBuffer", "ReplayBuffer", "RolloutBuffer", "Window"]
