"""Episode buffers and advantages for RLlib's new API stack (``pip install pyrl[rllib]``): docs/coming_from/rllib.md.

config.training(replay_buffer_config={"type": "pyrl.adapters.rllib.PrioritizedEpisodeReplayBuffer", "capacity": 10**6, "beta": 0.4})
config.learners(learner_class=PPOTorchLearner)
"""

from pyrl.adapters.hosts import imported_for

with imported_for("rllib"):
    from pyrl.adapters.rllib.advantages import GeneralAdvantageEstimation, PPOTorchLearner, compute_value_targets
    from pyrl.adapters.rllib.prioritized import PrioritizedEpisodeReplayBuffer
    from pyrl.adapters.rllib.replay import EpisodeReplayBuffer, install

__all__ = [
    "EpisodeReplayBuffer",
    "GeneralAdvantageEstimation",
    "PPOTorchLearner",
    "PrioritizedEpisodeReplayBuffer",
    "compute_value_targets",
    "install",
]
