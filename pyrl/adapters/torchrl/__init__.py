"""TorchRL's samplers, a storage, generalized advantages and V-trace (0.14).

Samplers and the storage go to TorchRL's replay buffers by ``sampler=`` and ``storage=``; the functions take the place of those in
``torchrl.objectives.value.functional``. docs/coming_from/torchrl.md has what differs.
"""

from pyrl.adapters.hosts import imported_for

with imported_for("torchrl"):
    from pyrl.adapters.torchrl.returns import generalized_advantage_estimate, vtrace_advantage_estimate
    from pyrl.adapters.torchrl.samplers import PrioritizedSampler, RandomSampler
    from pyrl.adapters.torchrl.storage import RecordStorage

__all__ = ["PrioritizedSampler", "RandomSampler", "RecordStorage", "generalized_advantage_estimate", "vtrace_advantage_estimate"]
