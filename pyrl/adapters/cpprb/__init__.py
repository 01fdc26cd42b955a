"""cpprb's replay buffers (11.0) on pyrl's record stream: `from pyrl.adapters.cpprb import ReplayBuffer, PrioritizedReplayBuffer`.

Constructors, methods and the dictionaries of a sample are cpprb's, and cpprb itself is not needed. docs/coming_from/cpprb.md says what
differs; the main things:

- ``indexes`` name records for ever (int64) and are not positions in the ring: a priority that comes after its record was overwritten is
  dropped, as with cpprb's ``check_for_update=True``.
- n-step: ``done`` is that of the whole window, and the last steps of an episode that `on_episode_end` cuts have the last observation as
  their next one. The column ``discounts`` is gamma^k, k <= n the steps that were summed.
- With ``next_of`` an episode's last observation takes a slot of its own: of one stream ``size`` transitions fit, one less for each end of
  an episode among them.
"""

from pyrl.adapters.cpprb.replay import PrioritizedReplayBuffer, ReplayBuffer

__all__ = ["PrioritizedReplayBuffer", "ReplayBuffer"]
