"""The settings of all algorithms as keywords, for type checkers: what `pyrl.train` and `pyrl.make_agent` take beside their own.

The algorithm's config says which of them it has and what each means. Agents of other packages, whose settings are others, take
theirs as ``**settings`` with a ``dict[str, Any]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from pyrl.agents.base import Engine
    from pyrl.nets.convolutional import FeaturesExtractor, Precision
    from pyrl.nets.encoder import MakeFeatures
    from pyrl.nets.mlp import Activation, MakeActivation, NetArch
    from pyrl.nets.noise import NoiseType
    from pyrl.schedules import Schedule


class AgentOptions(TypedDict, total=False):
    """One key for each field of any algorithm's config."""

    # every algorithm
    gamma: float
    normalize_observation: bool
    clip_observation: float | None
    normalize_reward: bool
    clip_reward: float | None
    features_extractor: FeaturesExtractor | MakeFeatures
    precision: Precision
    engine: Engine
    device: str
    learning_rate: Schedule
    net_arch: NetArch
    activation: Activation | MakeActivation
    network: Callable[[Any, Any, Any], Any] | None
    optimizer: Literal["adam", "rmsprop", "sgd"] | type[Optimizer] | None
    optimizer_kwargs: Mapping[str, bool | int | float | Sequence[float] | None] | None
    # on-policy
    n_steps: int
    gae_lambda: float
    normalize_advantage: bool
    ent_coef: Schedule
    vf_coef: float
    max_grad_norm: float | None
    log_std_init: float
    use_rms_prop: bool
    rms_prop_eps: float
    rho_bar: float
    c_bar: float
    n_epochs: int
    clip_range: Schedule
    clip_range_vf: float | None
    target_kl: float | None
    # off-policy
    buffer_size: int
    buffer_device: str
    learning_starts: int
    random_steps: int | None
    batch_size: int
    tau: float
    train_freq: int
    gradient_steps: int
    n_step: int
    noise_type: NoiseType
    noise_std: Schedule
    # dqn
    target_update_interval: int
    exploration: Schedule | None
    exploration_fraction: float
    exploration_initial_eps: float
    exploration_final_eps: float
    exploration_decay: float | None
    double: bool
    dueling: bool
    prioritized: bool
    priority_alpha: float
    priority_beta: float
    priority_beta_final: float
    her: Literal["none", "future", "final", "episode"]
    n_sampled_goal: float
    loss: Literal["huber", "mse"]
    # sac, svg, td3, tqc, crossq
    target_entropy: float | str
    n_critics: int
    n_quantiles: int
    top_quantiles_to_drop_per_net: int
    std_min: float
    policy_delay: int
    target_policy_noise: float
    target_noise_clip: float
