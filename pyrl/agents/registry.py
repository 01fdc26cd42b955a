"""Agents by name: those of this package (one file each), of this process (`register`), and of installed extensions.

Importing this file loads neither torch nor any agent, so that the command line can list them at once.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pickle
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Unpack

from pyrl.agents.options import AgentOptions
from pyrl.errors import SettingError, UnknownNameError, closest_names
from pyrl.own import BROUGHT, name_of
from pyrl.seeding import fresh_seed

if TYPE_CHECKING:
    from gymnasium import spaces

    from pyrl.agents.base import Agent, AgentConfig

# Files that are not agents.
SHARED = {
    "actor", "actor_critic", "base", "checkpoints", "checks", "continuous_actors", "entropy", "observations", "off_policy", "options",
    "player", "registry", "sharing", "state", "storage",
}  # fmt: skip
registered: dict[str, Any] = {}  # name -> class, filled by `register`

# What other libraries call it -> what pyrl does.
FOREIGN = {
    **dict.fromkeys(("lr", "alpha", "actor_lr", "critic_lr", "lr_actor", "lr_critic", "pi_lr", "q_lr", "step_size"), "learning_rate"),
    **dict.fromkeys(("lr_schedule", "anneal_lr", "learning_rate_schedule"), "learning_rate='linear_<number>', or a function"),
    **dict.fromkeys(("total_timesteps", "timesteps", "n_timesteps", "max_steps", "num_steps_total", "num_timesteps"), "total_steps"),
    **dict.fromkeys(("episodes", "n_episodes", "num_episodes", "max_episodes"), "total_episodes"),
    **dict.fromkeys(("n_envs", "nenvs", "num_workers", "n_workers", "num_env_runners", "num_processes"), "num_envs"),
    **dict.fromkeys(("policy_kwargs", "hidden_sizes", "hidden_size", "fcnet_hiddens", "layers", "policy"), "net_arch, activation"),
    **dict.fromkeys(("features_extractor_class", "features_extractor_kwargs"), "features_extractor"),
    **dict.fromkeys(("optimizer_class", "optim", "opt"), "optimizer"),
    **dict.fromkeys(("activation_fn", "fcnet_activation"), "activation"),
    **dict.fromkeys(("features_extractor_class", "cnn", "policy"), "features_extractor"),
    **dict.fromkeys(("ent_coeff", "entropy_coeff", "entropy_coef", "entropy", "ent_weight"), "ent_coef"),
    **dict.fromkeys(("vf_coeff", "vf_loss_coeff", "value_coef", "value_loss_coef"), "vf_coef"),
    **dict.fromkeys(("batch", "minibatch_size", "mini_batch_size", "sgd_minibatch_size", "train_batch_size"), "batch_size"),
    **dict.fromkeys(("eps", "epsilon", "eps_train", "epsilon_start", "start_e"), "exploration_initial_eps, exploration"),
    **dict.fromkeys(("epsilon_end", "eps_end", "end_e"), "exploration_final_eps"),
    **dict.fromkeys(("epsilon_decay", "eps_decay"), "exploration_decay"),
    **dict.fromkeys(("clip_param", "clip_coef", "clip_ratio", "eps_clip", "clip_epsilon", "cliprange"), "clip_range"),
    **dict.fromkeys(("vf_clip_param", "clip_vloss"), "clip_range_vf"),
    **dict.fromkeys(("polyak", "soft_tau", "target_tau"), "tau"),
    **dict.fromkeys(("lambda", "lambda_", "lam", "gae_lam"), "gae_lambda"),
    **dict.fromkeys(("discount", "discount_factor"), "gamma"),
    **dict.fromkeys(("epochs", "update_epochs", "num_sgd_iter", "num_epochs", "k_epochs", "noptepochs"), "n_epochs"),
    **dict.fromkeys(("rollout_fragment_length", "rollout_length", "num_steps", "nsteps", "horizon"), "n_steps"),
    **dict.fromkeys(("replay_size", "memory_size", "replay_buffer_size", "buffer_capacity", "capacity"), "buffer_size"),
    **dict.fromkeys(("warmup_steps", "start_steps", "random_timesteps", "start_timesteps", "num_warmup"), "learning_starts"),
    **dict.fromkeys(("target_network_frequency", "target_update_freq", "target_update"), "target_update_interval"),
    **dict.fromkeys(("double_q", "is_double", "double_dqn"), "double"),
    **dict.fromkeys(("grad_clip", "max_norm", "clip_grad", "max_gradient_norm"), "max_grad_norm"),
    **dict.fromkeys(("optimize_memory_usage", "replay_buffer_class", "replay_buffer_kwargs"), "nothing: frames are stored once as it is"),
    **dict.fromkeys(("action_noise", "exploration_noise", "act_noise"), "noise_type, noise_std"),
    **dict.fromkeys(("verbose", "progress_bar", "log_interval"), "on_metrics: pyrl.train prints nothing, pyrl train shows a bar"),
    **dict.fromkeys(("tensorboard_log", "log_dir", "logdir", "save_path", "save_dir"), "run_dir: TensorBoard's files are there too"),
    **dict.fromkeys(("callback", "callbacks"), "on_metrics, or the body of a for over pyrl.iterate"),
    **dict.fromkeys(("eval_freq", "eval_interval", "evaluation_interval"), "eval_every"),
    **dict.fromkeys(("n_eval_episodes", "num_eval_episodes"), "eval_episodes"),
    **dict.fromkeys(("cuda", "use_cuda", "gpu"), "device='cuda'"),
    **dict.fromkeys(("normalize", "norm_obs", "normalize_obs"), "normalize_observation"),
    **dict.fromkeys(("norm_reward", "reward_norm"), "normalize_reward"),
    **dict.fromkeys(("n_step_return", "n_step_returns", "nstep", "multi_step"), "n_step"),
    **dict.fromkeys(("prioritized_replay", "per"), "prioritized"),
}

AgentType = TypeVar("AgentType", bound="type[Agent]")


def own_agents() -> set[str]:
    """Names of the agents of this package."""
    return {m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])} - SHARED


def available_agents() -> list[str]:
    """Names of the agents of this package, of installed extensions, and of this process. Imports nothing heavy."""
    return sorted(own_agents() | set(registered) | {e.name for e in entry_points(group="pyrl.agents")})


def check_algorithm(name: str, env: object = None) -> None:
    """UnknownNameError where there is no agent called ``name``; where ``env`` is one, the two were swapped."""
    known = available_agents()
    if name not in known:
        swapped = isinstance(env, str) and env in known
        meant = f"; did you mean {env} {name}, the algorithm first?" if swapped else closest_names(name, known)
        raise UnknownNameError(f"unknown algorithm {name!r}{meant} (algorithms: {', '.join(known)})")


def register(name: str) -> Callable[[AgentType], AgentType]:
    """Class decorator: ``@register("ppo")``. SettingError for the name of one of pyrl's own agents."""

    def keep(cls: AgentType) -> AgentType:
        if name in own_agents() and cls.__module__ != f"{__package__}.{name}":
            raise SettingError(
                f"register: {name!r} is an agent of pyrl's own, expected another name for {cls.__module__}.{cls.__qualname__}"
            )
        cls.name = name
        registered[name] = cls
        return cls

    return keep


def agent_class(name: str) -> type[Agent]:
    """The class called ``name``; UnknownNameError with the closest names otherwise."""
    if name not in registered:
        check_algorithm(name)
        outside = {e.name: e for e in entry_points(group="pyrl.agents")}
        if name in outside:
            register(name)(outside[name].load())
        else:
            importlib.import_module(f"pyrl.agents.{name}")
    return registered[name]


def make_config(name: str, options: Mapping[str, Any], others: Iterable[str] = ()) -> AgentConfig:
    """The config of algorithm ``name`` with ``options`` set; ValueError for a field it does not have, with the closest names of
    those and of ``others``, which the caller takes beside them."""
    config_type = agent_class(name).Config
    known = [f.name for f in dataclasses.fields(config_type)]
    for option in options:
        if option not in known:
            near = meant(option, [*known, *others])
            raise UnknownNameError(f"{name} has no option {option!r}{near} (options: {', '.join(known)})")
    return config_type(**options)


def meant(option: str, known: Iterable[str]) -> str:
    """``"; did you mean learning_rate?"``: what pyrl calls what others call ``option``, else the closest of ``known``."""
    ours, known = FOREIGN.get(option.lower(), ""), list(known)
    names = [name for name in ours.split(", ") if name in known]
    if names:
        return f"; did you mean {', '.join(names)}?"
    words = "=" in ours or ":" in ours
    return f"; pyrl has {ours}" if words else closest_names(option, known)


def make_agent(
    name: str,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    seed: int | None = 0,
    num_envs: int = 1,
    **options: Unpack[AgentOptions],
) -> Agent:
    """An untrained agent for these (single-environment) spaces; ``options`` are the fields of its config.

    What is not given is the config's default; `pyrl.train` begins with tuned settings instead (`pyrl.experiment.presets`).
    ``seed=None`` draws one, which the agent keeps.
    """
    config = make_config(name, options)
    return agent_class(name)(observation_space, action_space, config, fresh_seed() if seed is None else seed, num_envs)


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """What `make_agent` makes an untrained agent of, by its config as it is: to be sent to another process, by pickle."""

    name: str
    observation_space: spaces.Space
    action_space: spaces.Space
    config: AgentConfig
    seed: int

    def make(self, num_envs: int) -> Agent:
        """An agent of it, for ``num_envs`` environments."""
        return agent_class(self.name)(self.observation_space, self.action_space, self.config, self.seed, num_envs)

    def unpicklable(self) -> str | None:
        """The setting that keeps it from being pickled: an object of the user's own that is not found by its name."""
        for name in BROUGHT:
            try:
                pickle.dumps(getattr(self.config, name, None))
            except Exception:
                return name
        return None


def config_to_json(config: AgentConfig) -> dict[str, Any]:
    """Plain JSON values, to be read back by `make_config`; what a user brought as a name (`pyrl.own`). SettingError for a field that has
    none: a schedule that is a function without a name."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        value = name_of(value) if field.name in BROUGHT and callable(value) else value
        try:
            values[field.name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            expected = "expected what JSON has; a function must be one of a module, found there by its name"
            raise SettingError(f"{type(config).__name__}: {field.name} is {value!r}, which cannot be saved, {expected}") from None
    return values
