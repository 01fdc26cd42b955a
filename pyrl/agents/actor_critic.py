"""What on-policy actor-critic agents share: the networks, acting, and the advantages of a rollout. Losses are the agents' own."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pyrl import ops
from pyrl.agents.actor import Actor
from pyrl.agents.base import Agent, LearningConfig, LoopKind, OwnActivation, seeded_network, tensors
from pyrl.agents.checks import Count, Fraction, Layers, NonNegative, PartLayers, Positive, Range, Rate, Weight, check_spaces
from pyrl.agents.storage import RolloutSpec
from pyrl.engine.native import Native
from pyrl.engine.step import LossReport, Step
from pyrl.engine.updater import Updater
from pyrl.nets.distributions import Categorical, DiagonalGaussian, masked
from pyrl.nets.heads import ActorCritic
from pyrl.nets.mlp import Activation
from pyrl.nets.own import OwnActorCritic
from pyrl.ops.acting import act
from pyrl.ops.environments import NativePolicy
from pyrl.trees import first_leaf, map_tree
from pyrl.types import Array, Choice, Observation, PolicyInput, Progress, Record, Rollout, map_observation

_VALUES_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorCriticConfig(LearningConfig):
    """What `ActorCriticAgent` reads; names as in Stable-Baselines3."""

    learning_rate: Rate = 3e-4  # "linear_3e-4" falls to zero over the run
    n_steps: Count = 2048  # T, steps of each environment between two updates
    gae_lambda: Fraction = 0.95  # lambda of GAE, in [0, 1]
    normalize_advantage: bool = True  # to zero mean and unit variance in each batch
    ent_coef: Weight = 0.0  # weight of the entropy
    vf_coef: NonNegative = 0.5  # weight of the value loss
    max_grad_norm: Positive | None = 0.5  # clip of the gradient's global norm; None: off
    net_arch: Layers | PartLayers = (64, 64)  # hidden layers of actor and critic each, on the features; or actor=..., critic=...
    activation: Activation | OwnActivation = "tanh"
    log_std_init: Annotated[float, Range(-20, 20)] = 0.0  # of continuous actions


@dataclasses.dataclass(slots=True, repr=False)
class Samples(Record):
    """The steps of a rollout, each [M, ...]: torch tensors of one device, or NumPy arrays for the native engine."""

    observation: Observation
    action: Array
    log_prob: Array  # log pi_old(a|o)
    value: Array  # V_old(o)
    advantage: Array  # GAE(gamma, lambda)
    return_: Array  # advantage + V_old, the target of V
    action_mask: Array | None = None  # bool [M, sum of choices]: what could be chosen; None: anything

    def __len__(self) -> int:
        return len(self.advantage)

    def rows(self, index: Array) -> Samples:
        """A minibatch; index int64 [B], of the same kind and device."""
        masks = () if self.action_mask is None else (self.action_mask,)
        columns = self.action, self.log_prob, self.value, self.advantage, self.return_, *masks
        here = self.advantage
        if isinstance(here, Tensor) and not (here.is_cpu or (here.is_cuda and ops.cuda_built())):
            return map_tree(lambda x: None if x is None else x[index], self)
        if isinstance(self.observation, dict | tuple):
            return Samples(map_tree(lambda x: ops.take_rows((x,), index)[0], self.observation), *ops.take_rows(columns, index))
        return Samples(*ops.take_rows((self.observation, *columns), index))


def standardized(advantage: Tensor) -> Tensor:
    """Zero mean, unit variance; a single value is left alone. Equal values become 0, whatever their mean is rounded to."""
    if len(advantage) < 2:
        return advantage
    shifted = advantage - advantage[0]
    std, mean = torch.std_mean(shifted)
    return (shifted - mean) / (std + 1e-8)


def explained_variance(return_: np.ndarray, value: np.ndarray, valid: np.ndarray) -> float:
    """1 - Var(R - V) / Var(R) of the valid steps. R and V [M], valid [T, N]."""
    if not valid.all():
        return_, value = return_[valid.ravel()], value[valid.ravel()]
    with np.errstate(over="ignore", invalid="ignore"):  # NaN of returns that are not finite; the update names them
        return 1.0 - _variance(return_ - value) / max(_variance(return_), 1e-8)


def _variance(x: np.ndarray) -> float:
    """Of a vector; a third of the time of ``x.var()`` where it is short."""
    centred = x - np.add.reduce(x) / len(x)
    return float(centred.dot(centred) / len(x))


class ActorCriticActor(Actor):
    """Draws from the distribution, or takes its mode."""

    def native_choice(self, native: Native, given: PolicyInput, deterministic: bool, progress: Progress) -> Choice:
        """log_prob is kept for the loss; V is not: `ActorCriticAgent.samples` computes it for the whole rollout at once, with the same
        weights."""
        features, moments = self.features(given.observation, native)
        distribution = self.network.distribution
        action, log_prob = act(
            native.networks[0], native.parameters, features, moments, given.action_mask, distribution.choices, native.log_std, self.random,
            deterministic,
        )  # fmt: skip
        return Choice(distribution.shaped(action), None, {"log_prob": log_prob})

    def torch_choice(self, given: PolicyInput, deterministic: bool, progress: Progress) -> Choice:
        network = self.network
        observation = self.normalizer.observation(given.observation)
        log_std = None if network.distribution.nvec else network.log_std.detach().cpu()
        with torch.no_grad():
            output = masked(network.policy(tensors(observation, self.device)).cpu(), given.action_mask)
        action, log_prob = network.distribution.sample(output, log_std, self.random, deterministic)
        return Choice(action.numpy(), None, {"log_prob": log_prob.numpy()})

    def native_policy(self, normalizes: bool = False) -> NativePolicy | None:
        native, kind, normalizer = self.native_form(), type(self.network.distribution), self.normalizer
        if native is None or native.dtype is not np.float32 or kind not in (Categorical, DiagonalGaussian):
            return None
        if normalizer.active and not normalizes:
            return None
        assert native.encoder is not None
        if normalizer.changes_observation and (normalizer.moments is None or not native.encoder.vector):
            return None
        log_std = native.log_std if kind is DiagonalGaussian else None
        return NativePolicy(native.networks[0], native.parameters, log_std, self.random, normalizer.moments)


class ActorCriticAgent(Agent):
    """Actions of every space; actor, critic and log_std in one arena."""

    loop: ClassVar[LoopKind] = "on_policy"

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: Any, seed: int, num_envs: int) -> None:
        check_spaces(self.name, action_space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box))
        super().__init__(observation_space, action_space, config, seed, num_envs)

        def build() -> ActorCritic | OwnActorCritic:
            if config.network is not None:
                return OwnActorCritic(config.network, observation_space, action_space, config)
            shape = config.net_arch, config.activation, config.log_std_init, config.features_extractor
            return ActorCritic(observation_space, action_space, *shape)

        self.network = cast(ActorCritic, seeded_network(seed, build, self.device, config.precision))
        self.encoder, self.distribution = self.network.encoder, self.network.distribution
        trainable = self.trainable("network", self.network)
        self.arena = trainable.arena
        native_gradient = getattr(self, "native_gradient", None)  # of agents that have a native form
        self.step = Step(trainable, self.loss, native_gradient, max_grad_norm=config.max_grad_norm)
        self.updater: Updater = self.make_updater(self.step)

    def scalar(self, value: float) -> float | Tensor:
        """A number that changes from update to update, as an update takes it: on torch's engines a tensor [], since captured and
        compiled updates hold all other numbers as constants."""
        return value if self.updater.is_native else torch.tensor(value, dtype=self.arena.values.dtype)

    def usual_optimizer(self) -> tuple[str, dict[str, Any]]:
        return "adam", {"eps": 1e-5}

    @abstractmethod
    def loss(self, *data: Any) -> tuple[Tensor, LossReport]:
        """The loss [] of samples, and its terms to report."""

    def storage(self) -> RolloutSpec:
        return RolloutSpec(n_steps=self.config.n_steps, extra={"log_prob": ((), "float32")})

    def make_actor(self) -> ActorCriticActor:
        return ActorCriticActor(self, self.step.trainable)

    def deterministic_action(self, observation: Observation) -> Tensor:
        return self.distribution.mode(self.network.policy(observation))

    def native_policy(self, normalizes: bool = False) -> NativePolicy | None:
        """What acts as `choose` does, bit for bit, in the kernel of a rollout; None where nothing does."""
        own = type(self).choose is Agent.choose and "choose" not in vars(self) and type(self.acting) is ActorCriticActor
        return self.acting.native_policy(normalizes) if own and self.updater.engine == "native" else None

    def native_distribution(self) -> dict[str, Any]:
        """What `pyrl.ops.policy_loss` must know of the action distribution."""
        native = self.native["network"]
        if native.log_std is None:
            return {"nvec": self.distribution.nvec}
        return {"log_std": native.log_std, "d_log_std": native.d_log_std}

    @torch.no_grad()
    def samples(self, rollout: Rollout, native: bool) -> tuple[Samples, np.ndarray | None, float]:
        """(samples, valid_index, explained_variance) of a rollout: its values, advantages and returns (Schulman et al. 2016, eq. 16), its
        steps side by side, M = T N; NumPy arrays if ``native``, else torch tensors on the networks' device.

        valid_index: int64, the rows that are steps; None: all are. explained_variance: 1 if the critic foresaw the returns, 0 if it
        knew their mean.
        """
        T, N = rollout.reward.shape
        observation = self.normalizer.observation(rollout.observation)
        flat = map_observation(lambda x: x.reshape(-1, *x.shape[2:]), observation)
        if native:
            flat = self.encoder.array(flat, self.native["network"].dtype)
        value = self._values(flat, native).reshape(T + 1, N)
        final_value = np.zeros((T, N), value.dtype)
        if len(rollout.final_step):
            final = self.normalizer.observation(rollout.final_observation)
            final = self.encoder.array(final, self.native["network"].dtype) if native else final
            final_value[rollout.final_step, rollout.final_env] = self._values(final, native)
        reward = np.asarray(self.normalizer.reward(rollout.reward), value.dtype)
        rows = T * N
        action = rollout.action.reshape(rows, *rollout.action.shape[2:])
        continuous = not self.distribution.nvec
        action = action.reshape(rows, -1).astype(value.dtype, copy=False) if continuous else action.astype(np.int64, copy=False)
        log_prob = rollout.extra["log_prob"].reshape(rows).astype(value.dtype, copy=False)
        observation = map_observation(lambda x: x[:rows], flat)
        mask = None if rollout.action_mask is None else rollout.action_mask.reshape(rows, -1)
        samples = Samples(observation, action, log_prob, value[:T].reshape(rows), None, None, mask)
        targets = self.targets(rollout, samples, reward, value, final_value, native)
        samples.advantage, samples.return_ = (target.reshape(rows) for target in targets)
        explained = explained_variance(samples.return_, samples.value, rollout.valid)
        (samples,) = self.updater.to_device(samples)
        return samples, None if rollout.valid.all() else np.flatnonzero(rollout.valid), explained

    def targets(
        self, rollout: Rollout, samples: Samples, reward: Array, value: Array, final_value: Array, native: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """(advantage, return_) [T, N] of a rollout whose steps are ``samples``, as yet without them. ``reward`` and ``final_value`` [T, N],
        ``value`` [T+1, N]: as `pyrl.ops.returns` takes them."""
        return ops.gae(
            reward, value, None, rollout.terminated, rollout.truncated,
            gamma=self.config.gamma, gae_lambda=self.config.gae_lambda, final_value=final_value, valid=rollout.valid,
        )  # fmt: skip

    def _values(self, observation: Observation, native: bool) -> np.ndarray:
        """V [M] of observations [M, ...], encoded ones if ``native``."""
        if native:
            form = self.native["network"]
            return form.networks[1].infer(form.parameters, observation)[:, 0]
        return self.in_pieces(self.network.value, observation).numpy()

    def log_prob(self, samples: Samples, native: bool) -> np.ndarray:
        """log pi(a|o) [M] of the policy of now, for what the one that acted did."""
        network = self.network
        if native:
            form = self.native["network"]
            output = torch.from_numpy(form.networks[0].infer(form.parameters, samples.observation))
        else:
            output = self.in_pieces(network.policy, samples.observation)
        output = masked(output, samples.action_mask)
        log_prob, _ = network.distribution.log_prob_and_entropy(output, network.log_std.cpu(), torch.as_tensor(samples.action))
        return log_prob.numpy().astype(samples.log_prob.dtype, copy=False)

    def in_pieces(self, function: Callable[[Any], Tensor], observation: Observation) -> Tensor:
        """``function`` of observations [M, ...], on the CPU: what convolutions of a whole rollout keep would not fit into memory."""
        starts = range(0, len(first_leaf(observation)), _VALUES_AT_ONCE)
        pieces = (map_observation(lambda x, at=at: x[at : at + _VALUES_AT_ONCE], observation) for at in starts)
        return torch.cat([function(tensors(piece, self.device)).cpu() for piece in pieces])
