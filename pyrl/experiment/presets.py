"""Tuned settings by (algorithm, environment): what `pyrl train ALGO ENV` uses unless given otherwise. A key's environment may be a
pattern ("ALE/*-v5"), for what has no preset of its own.

A new run of `pyrl.train` and ``pyrl train`` begins with the preset for its algorithm and environment; without one, with pyrl's general
settings for the algorithm; and what neither names is the config's default, as in Stable-Baselines3. `describe` says which, with all
that differs from the config's defaults. `pyrl.make_agent` takes the config's defaults alone.

Sources: rl-baselines3-zoo ``hyperparams/*.yml`` (commit 22e3ff2) unless a comment says otherwise; measured scores are in
docs/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any


@dataclass(frozen=True)
class Preset:
    """How long, with how many environments, and which config fields differ from the algorithm's defaults."""

    total_steps: int | None = 100_000
    total_episodes: int | None = None
    num_envs: int = 1
    config: Mapping[str, Any] = field(default_factory=dict)


_NORMALIZE = {"normalize_observation": True, "clip_observation": 10.0, "normalize_reward": True, "clip_reward": 10.0}

_DEFAULTS: dict[str, Preset] = {
    "ppo": Preset(num_envs=8, config={"n_steps": 256, "batch_size": 256, "n_epochs": 10}),
    "dqn": Preset(config={"learning_starts": 1_000, "batch_size": 64, "target_update_interval": 500, "net_arch": (256, 256)}),
    "a2c": Preset(num_envs=8),
    "ddpg": Preset(config={"learning_starts": 1_000}),
    "td3": Preset(config={"learning_starts": 1_000}),
    "sac": Preset(config={"learning_starts": 1_000}),
    "tqc": Preset(config={"learning_starts": 1_000}),
    "crossq": Preset(config={"learning_starts": 1_000}),
    "svg": Preset(config={"buffer_size": 100_000}),
    "a3c": Preset(total_steps=500_000, num_envs=2),
    "impala": Preset(num_envs=8),
    "appo": Preset(num_envs=8, config={"n_steps": 128, "batch_size": 256}),
    "random": Preset(total_steps=10_000),
}

_PRESETS: dict[tuple[str, str], Preset] = {
    ("ppo", "CartPole-v1"): Preset(
        total_steps=100_000,
        num_envs=8,
        config={
            "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98,
            "learning_rate": "linear_1e-3", "clip_range": "linear_0.2",
        },
    ),
    ("ppo", "Acrobot-v1"): Preset(
        total_steps=1_000_000,
        num_envs=16,
        config={"n_steps": 256, "n_epochs": 4, "gae_lambda": 0.94, "normalize_observation": True, "clip_observation": 10.0},
    ),
    ("ppo", "LunarLander-v3"): Preset(
        total_steps=1_000_000,
        num_envs=16,
        config={"n_steps": 1024, "batch_size": 64, "n_epochs": 4, "gae_lambda": 0.98, "gamma": 0.999, "ent_coef": 0.01},
    ),
    # The zoo's without state-dependent exploration.
    ("ppo", "Pendulum-v1"): Preset(
        total_steps=100_000,
        num_envs=4,
        config={"n_steps": 1024, "batch_size": 64, "n_epochs": 10, "gamma": 0.9, "learning_rate": 1e-3},
    ),
    ("ppo", "MountainCar-v0"): Preset(
        total_steps=1_000_000,
        num_envs=16,
        config={"n_steps": 16, "n_epochs": 4, "gae_lambda": 0.98, **_NORMALIZE},
    ),
    ("a2c", "CartPole-v1"): Preset(total_steps=500_000, num_envs=8),
    # Our own. At a learning rate of 1e-3, Adam, gamma 0.99 and lambda 1, four seeds of twelve ended below 200.
    ("impala", "CartPole-v1"): Preset(
        total_steps=400_000,
        num_envs=8,
        config={
            "n_steps": 16, "learning_rate": "linear_2e-3", "gamma": 0.98, "gae_lambda": 0.9, "ent_coef": 0.0, "max_grad_norm": 0.5,
        },
    ),
    # PPO's, for twice as long: after 100,000 steps one seed in five was at 411.
    ("appo", "CartPole-v1"): Preset(
        total_steps=200_000,
        num_envs=8,
        config={
            "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98,
            "learning_rate": "linear_1e-3", "clip_range": "linear_0.2",
        },
    ),
    # PPO's with shorter rollouts and ten passes, as the learner waits anyway; at its gamma of 0.999 some seeds hover.
    ("appo", "LunarLander-v3"): Preset(
        total_steps=1_000_000,
        num_envs=16,
        config={
            "n_steps": 256, "batch_size": 64, "n_epochs": 10, "gae_lambda": 0.98, "gamma": 0.995, "ent_coef": 0.01,
            "learning_rate": "linear_5e-4",
        },
    ),
    # Our own. Without normalised rewards and observations none of 24 settings got beyond 146.
    ("impala", "LunarLander-v3"): Preset(
        total_steps=3_000_000,
        num_envs=16,
        config={
            "n_steps": 20, "use_rms_prop": False, "learning_rate": "linear_2e-3", "gamma": 0.99, "gae_lambda": 0.95,
            "ent_coef": "linear_0.01", "max_grad_norm": 0.5, "normalize_observation": True, "normalize_reward": True,
        },
    ),
    ("a2c", "FrozenLake-v1"): Preset(total_steps=500_000, num_envs=8, config={"learning_rate": 3e-3, "ent_coef": 0.01}),
    # Our own; judged against the exact optimum 0.744 of the slippery map.
    ("ppo", "FrozenLake-v1"): Preset(
        total_steps=200_000,
        num_envs=8,
        config={
            "n_steps": 128, "batch_size": 256, "n_epochs": 4, "learning_rate": "linear_3e-3", "gamma": 0.999, "ent_coef": 0.03,
        },
    ),
    # Our own: three-step returns at a gamma of 0.98, tuned on seeds of its own (100 to 107). The zoo's (256 steps, then 128 updates,
    # target every 10 steps) ended at 43, 500 and 71 for seeds 0, 1, 2.
    ("dqn", "CartPole-v1"): Preset(
        total_steps=50_000,
        config={
            "learning_rate": "linear_1e-3", "batch_size": 128, "buffer_size": 100_000, "learning_starts": 1_000, "double": True,
            "n_step": 3, "gamma": 0.98, "target_update_interval": 250, "train_freq": 4, "gradient_steps": 2,
            "exploration_fraction": 0.16, "exploration_final_eps": 0.04, "net_arch": (128, 128),
        },
    ),
    ("dqn", "Acrobot-v1"): Preset(
        total_steps=100_000,
        config={
            "learning_rate": 6.3e-4, "batch_size": 128, "buffer_size": 50_000, "learning_starts": 0,
            "target_update_interval": 250, "train_freq": 4, "gradient_steps": -1,
            "exploration_fraction": 0.12, "exploration_final_eps": 0.1, "net_arch": (256, 256),
        },
    ),
    ("dqn", "MountainCar-v0"): Preset(
        total_steps=120_000,
        config={
            "learning_rate": 4e-3, "batch_size": 128, "buffer_size": 10_000, "learning_starts": 1_000, "gamma": 0.98,
            "target_update_interval": 600, "train_freq": 16, "gradient_steps": 8,
            "exploration_fraction": 0.2, "exploration_final_eps": 0.07, "net_arch": (256, 256),
        },
    ),
    # The settings of system S2 (docs/results.md): soft targets, one update a step, epsilon by 5e-4 an update.
    ("dqn", "LunarLander-v3"): Preset(
        total_steps=None,
        total_episodes=500,
        config={
            "learning_rate": 3e-4, "batch_size": 256, "buffer_size": 1_000_000, "learning_starts": 256, "tau": 0.005,
            "target_update_interval": 1, "train_freq": 1, "gradient_steps": 1, "exploration_decay": 5e-4,
            "exploration_final_eps": 0.05, "loss": "mse", "max_grad_norm": None, "net_arch": (256, 256),
        },
    ),
    ("dqn", "FrozenLake-v1"): Preset(
        total_steps=100_000,
        config={
            "learning_rate": 1e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1_000,
            "target_update_interval": 500, "train_freq": 4, "exploration_fraction": 0.5, "double": True,
        },
    ),
    # Our own: a table, that is one layer over the one-hot state. 8x8 is seldom solved by chance, so exploration stays high for long.
    ("dqn", "FrozenLake8x8-v1"): Preset(
        total_steps=300_000,
        num_envs=4,
        config={
            "net_arch": (), "learning_rate": "linear_1e-2", "gamma": 0.999, "batch_size": 128, "buffer_size": 300_000,
            "learning_starts": 2_000, "tau": 0.01, "target_update_interval": 1, "train_freq": 4, "gradient_steps": 1,
            "exploration_fraction": 0.6, "exploration_final_eps": 0.02, "double": False,
        },
    ),
    # The settings of system S4 (docs/results.md): its noise of 0.2 is a tenth of Pendulum's torque of -2 to 2.
    ("ddpg", "Pendulum-v1"): Preset(
        total_steps=10_000,
        config={"learning_rate": 1e-3, "learning_starts": 1_000, "random_steps": 5_000, "noise_std": 0.1, "tau": 0.005, "gamma": 0.99},
    ),
    ("td3", "Pendulum-v1"): Preset(total_steps=20_000, config={"learning_starts": 1_000, "noise_std": 0.1}),
    ("sac", "Pendulum-v1"): Preset(total_steps=20_000, config={"learning_rate": 1e-3}),
    # Small batches and layers, for which one core takes a minute; CrossQ's critics are four times as wide as its actor.
    ("tqc", "Pendulum-v1"): Preset(
        total_steps=10_000, config={"learning_rate": 1e-3, "learning_starts": 1_000, "batch_size": 64, "net_arch": (64, 64)}
    ),
    ("crossq", "Pendulum-v1"): Preset(
        total_steps=10_000,
        config={"learning_starts": 1_000, "batch_size": 64, "net_arch": {"actor": (64, 64), "critic": (256, 256)}},
    ),
    # System S0 stops when the mean return of 10 episodes passes -100: that took 25 to 307 episodes of 200 steps (seeds 0-4).
    ("svg", "Pendulum-v1"): Preset(total_steps=100_000, config={"buffer_size": 100_000}),
    ("ddpg", "MountainCarContinuous-v0"): Preset(
        total_steps=300_000, config={"noise_type": "ornstein-uhlenbeck", "noise_std": 0.5}
    ),
    ("td3", "MountainCarContinuous-v0"): Preset(
        total_steps=300_000, config={"noise_type": "ornstein-uhlenbeck", "noise_std": 0.5}
    ),
    # The zoo's, with Ornstein and Uhlenbeck's noise in place of its state-dependent exploration, and returns of eight steps at a
    # gamma of 0.999: with its single steps at 0.9999, one seed in eight unlearned the way to the goal.
    ("sac", "MountainCarContinuous-v0"): Preset(
        total_steps=50_000,
        config={
            "ent_coef": 0.1, "batch_size": 512, "buffer_size": 50_000, "learning_starts": 0, "train_freq": 32, "gradient_steps": 32,
            "gamma": 0.999, "n_step": 8, "tau": 0.01, "noise_type": "ornstein-uhlenbeck", "noise_std": 1.0, "net_arch": (64, 64),
        },
    ),
    ("ddpg", "LunarLanderContinuous-v3"): Preset(
        total_steps=300_000,
        config={"gamma": 0.98, "buffer_size": 200_000, "learning_starts": 10_000, "noise_std": 0.1},
    ),
    ("td3", "LunarLanderContinuous-v3"): Preset(
        total_steps=300_000,
        config={"gamma": 0.98, "buffer_size": 200_000, "learning_starts": 10_000, "noise_std": 0.1},
    ),
    # The zoo's with a smaller network: (400, 300) takes five times as long.
    ("sac", "LunarLanderContinuous-v3"): Preset(
        total_steps=500_000,
        config={"learning_rate": "linear_7.3e-4", "tau": 0.01, "learning_starts": 10_000, "net_arch": (128, 128)},
    ),
    **{
        (algo, f"{name}-v5"): Preset(total_steps=2_000_000 if name == "Humanoid" else 1_000_000, config={"learning_starts": 10_000})
        for algo in ("ddpg", "td3", "sac", "tqc", "crossq")
        for name in ("Ant", "HalfCheetah", "Hopper", "Humanoid", "Walker2d")
    },
    ("tqc", "Hopper-v5"): Preset(total_steps=1_000_000, config={"learning_starts": 10_000, "top_quantiles_to_drop_per_net": 5}),
    **{
        (algo, "Swimmer-v5"): Preset(total_steps=1_000_000, config={"learning_starts": 10_000, "gamma": 0.9999})
        for algo in ("td3", "sac")
    },
    # 10 million steps are 40 million frames. Heads take the convolutions' features directly; rewards are clipped when learned from.
    ("ppo", "ALE/*-v5"): Preset(
        total_steps=10_000_000,
        num_envs=8,
        config={
            "n_steps": 128, "n_epochs": 4, "batch_size": 256, "learning_rate": "linear_2.5e-4", "clip_range": "linear_0.1",
            "ent_coef": 0.01, "net_arch": (), "clip_reward": 1.0,
        },
    ),
    ("a2c", "ALE/*-v5"): Preset(
        total_steps=10_000_000, num_envs=16, config={"ent_coef": 0.01, "vf_coef": 0.25, "net_arch": (), "clip_reward": 1.0}
    ),
    ("dqn", "ALE/*-v5"): Preset(
        total_steps=10_000_000,
        config={
            "buffer_size": 100_000, "learning_rate": 1e-4, "batch_size": 32, "learning_starts": 100_000, "target_update_interval": 1_000,
            "train_freq": 4, "gradient_steps": 1, "exploration_fraction": 0.1, "exploration_final_eps": 0.01,
            "net_arch": (), "clip_reward": 1.0,
        },
    ),
}  # fmt: skip


def preset(algo: str, env_id: str | None) -> Preset:
    """The preset for this pair, or the general settings of the algorithm."""
    return _PRESETS.get(_key(algo, env_id), _DEFAULTS.get(algo, Preset()))


def preset_name(algo: str, env_id: str | None) -> str | None:
    """What the preset is for: this very environment, or its family; None where there is none."""
    algo, name = _key(algo, env_id)
    return name if (algo, name) in _PRESETS else None


def describe(algo: str, env_id: str | None) -> str:
    """Where the settings of a new run come from, and those that are not the config's defaults: one line."""
    chosen, name = preset(algo, env_id), preset_name(algo, env_id)
    source = f"preset for {name}" if name else f"no preset for {env_id or 'this environment'}, pyrl's general settings for {algo}"
    settings = {"num_envs": chosen.num_envs, **chosen.config}
    return f"{source}: {', '.join(f'{field} {value}' for field, value in settings.items())}"


def _key(algo: str, env_id: str | None) -> tuple[str, str]:
    """The key of this pair's preset, if it has one: its own, else the first pattern that it matches."""
    own = (algo, env_id or "")
    if own in _PRESETS:
        return own
    return next((key for key in _PRESETS if key[0] == algo and fnmatchcase(own[1], key[1])), own)


def available_presets() -> list[tuple[str, str]]:
    """(algorithm, environment) of every preset."""
    return sorted(_PRESETS)
