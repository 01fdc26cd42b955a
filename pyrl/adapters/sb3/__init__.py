"""Buffers for Stable-Baselines3 (``pip install pyrl[sb3]``), by its own arguments: docs/coming_from/stable_baselines3.md.

DQN("MlpPolicy", env, replay_buffer_class=ReplayBuffer, replay_buffer_kwargs={"n_steps": 3, "gamma": 0.99})
PrioritizedDQN("MlpPolicy", env)
PPO("MlpPolicy", env, rollout_buffer_class=RolloutBuffer)
"""

from pyrl.adapters.hosts import imported_for

with imported_for("sb3"):
    from pyrl.adapters.sb3.her import HerReplayBuffer
    from pyrl.adapters.sb3.prioritized import (
        Prioritized,
        PrioritizedDDPG,
        PrioritizedDQN,
        PrioritizedReplayBuffer,
        PrioritizedSAC,
        PrioritizedTD3,
    )
    from pyrl.adapters.sb3.replay import DictReplayBuffer, ReplayBuffer
    from pyrl.adapters.sb3.rollout import DictRolloutBuffer, RolloutBuffer

__all__ = [
    "DictReplayBuffer",
    "DictRolloutBuffer",
    "HerReplayBuffer",
    "Prioritized",
    "PrioritizedDDPG",
    "PrioritizedDQN",
    "PrioritizedReplayBuffer",
    "PrioritizedSAC",
    "PrioritizedTD3",
    "ReplayBuffer",
    "RolloutBuffer",
]
