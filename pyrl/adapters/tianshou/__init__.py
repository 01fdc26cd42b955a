"""Tianshou's (2.0) buffers, sum tree, advantages and n-step returns on pyrl's kernels.

- `ReplayBuffer`, `VectorReplayBuffer`, `PrioritizedReplayBuffer` and `PrioritizedVectorReplayBuffer` take the places of the host's.
- `install()` puts `gae` and `nstep_return` into the places of the host's ``_gae`` and ``_nstep_return``, which its algorithms call.

docs/coming_from/tianshou.md has what differs.
"""

from pyrl.adapters.hosts import imported_for

with imported_for("tianshou"):
    from pyrl.adapters.tianshou.prioritized import PrioritizedReplayBuffer, PrioritizedVectorReplayBuffer
    from pyrl.adapters.tianshou.replay import ReplayBuffer, VectorReplayBuffer
    from pyrl.adapters.tianshou.returns import gae, install, nstep_return
    from pyrl.adapters.tianshou.tree import SegmentTree

__all__ = [
    "PrioritizedReplayBuffer",
    "PrioritizedVectorReplayBuffer",
    "ReplayBuffer",
    "SegmentTree",
    "VectorReplayBuffer",
    "gae",
    "install",
    "nstep_return",
]
