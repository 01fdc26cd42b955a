"""Networks of the user's own: what they compute, what they are given, and the modules that wrap them in an agent.

``network=`` is called as ``network(observation_space, action_space, config)`` and returns torch modules that follow one of the
protocols below. They are given a batch of observations as the environment's space has them, dict and tuple spaces as dicts and tuples:

    Box of floats                   float32 [B, *shape] (normalised and clipped, where the config says so)
    Box of integers or bytes        its own dtype [B, *shape]: uint8 images are 0 to 255
    Discrete, MultiDiscrete         int64 [B], [B, *shape]: the number itself, as an embedding takes it (from ``space.start`` on)
    MultiBinary                     int8 [B, *shape]

Where an output is not what the protocol says, a NetworkError says so when the agent is made.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from pyrl.errors import NetworkError
from pyrl.nets.distributions import DiagonalGaussian, distribution_for
from pyrl.own import name_of
from pyrl.trees import first_leaf, map_space
from pyrl.types import Observation, map_observation

PROBED = 2  # observations for the trial call of a network
_INTERNAL = set(vars(nn.Module()))  # attributes that every module has


class FeaturesModule(Protocol):
    """``features_extractor=`` makes one from the observation space, in place of pyrl's encoder."""

    features_dim: int

    def __call__(self, observation: Observation) -> Tensor:
        """float32 [B, features_dim]"""
        ...


class ActorCriticModule(Protocol):
    """What ``network=`` makes for ppo, a2c, a3c, impala and appo.

    ``output`` [B, size] is what the action distribution reads: the logits of a Discrete action, of all components of a MultiDiscrete
    side by side, one logit for each number of a MultiBinary, the mean of each number of a Box.

    Optional: ``log_std``, a parameter float32 [A] of Box actions (pyrl adds one that starts at ``config.log_std_init``); ``policy`` and
    ``value``, which give one of the two alone for acting and for the values of a rollout, where `forward` would compute both.
    """

    def __call__(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """(output float32 [B, size], V float32 [B])"""
        ...


class QModule(Protocol):
    """What ``network=`` makes for dqn."""

    def __call__(self, observation: Observation) -> Tensor:
        """Q(observation, .) float32 [B, A], one for each action."""
        ...


class ActorModule(Protocol):
    """The first of the two that ``network=`` makes for ddpg and td3: ``(actor, critics)``."""

    def __call__(self, observation: Observation) -> Tensor:
        """float32 [B, A] in [-1, 1], whatever the Box (tanh is its last layer, as a rule); beyond that it is clipped."""
        ...


class GaussianActorModule(Protocol):
    """The first of the two that ``network=`` makes for sac, tqc, crossq and svg: ``(actor, critics)``."""

    def __call__(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """(mean, log_std), each float32 [B, A], of a Gaussian that pyrl squashes by tanh; it bounds log_std."""
        ...


class CriticsModule(Protocol):
    """The second of the two: one critic for ddpg and svg, two for td3, sac and crossq, ``n_critics`` for tqc, whose values are
    ``[count, B, n_quantiles]``. They share no parameter with the actor.

    Optional: ``first(observation, action) -> Q_1`` [B] alone, for the actor's loss of ddpg and td3.
    """

    def __call__(self, observation: Observation, action: Tensor) -> Tensor:
        """Q float32 [count, B] of actions float32 [B, A] in [-1, 1]."""
        ...


class Inputs:
    """Observations in the form that the user's networks get; see the module."""

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        self._indices = map_space(lambda leaf: isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete), space)

    def __call__(self, observation: Observation, dtype: torch.dtype) -> Observation:
        """``dtype`` is that of the network's parameters: that of floats."""
        return map_observation(
            lambda x, index: x.long() if index else x.to(dtype) if x.is_floating_point() else x, observation, self._indices
        )

    def samples(self, device: torch.device) -> Observation:
        """[PROBED, ...] observations of the space, raw, the same each time."""
        space = copy.deepcopy(self.space)
        space.seed(0)
        drawn = [space.sample() for _ in range(PROBED)]
        return map_observation(lambda *leaf: torch.as_tensor(np.stack(leaf)).to(device), *drawn)


class OwnModule(nn.Module):
    """What the wrappers of `features_extractor` and `network` share: the user's module as ``own``, and what it is given."""

    what: ClassVar[str]

    def __init__(self, own: Any, space: spaces.Space, made_by: Any) -> None:
        super().__init__()
        self.where = f"{self.what}: {name_of(made_by)}"
        self.own = cast(nn.Module, check_module(own, f"{self.where} made", self.where))
        self.inputs = Inputs(space)

    def seen(self, observation: Observation) -> Observation:
        return self.inputs(observation, next(self.own.parameters()).dtype if self.has_parameters else torch.float32)

    @property
    def has_parameters(self) -> bool:
        return next(self.own.parameters(), None) is not None

    def probe(self, *expected: Sequence[int], actions: int | None = None, method: str | None = None) -> list[Tensor]:
        """The outputs for some observations, each checked for its shape; of ``method`` where it is named."""
        call = self.own if method is None else getattr(self.own, method)
        where = f"{self.where}: {type(self.own).__name__}{f'.{method}' if method else ''}"
        device = next((p.device for p in self.own.parameters()), torch.device("cpu"))
        observation = self.inputs(self.inputs.samples(device), torch.float32)
        action = () if actions is None else (torch.zeros(len(first_leaf(observation)), actions, device=device),)
        modes = {module: module.training for module in self.own.modules()}
        self.own.eval()
        try:
            with torch.random.fork_rng(devices=[]):
                found = call(observation, *action)
        except Exception as error:
            given = f"observations of {self.inputs.space}" + (f" and actions [{PROBED}, {actions}]" if actions else "")
            raise NetworkError(f"{where} raised {type(error).__name__} for {PROBED} {given}: {error}") from error
        finally:
            for module, mode in modes.items():
                module.training = mode
        return _checked_outputs(found, expected, where, learns=any(p.requires_grad and p.numel() for p in self.own.parameters()))


def _checked_outputs(found: Any, expected: Sequence[Sequence[int]], where: str, learns: bool) -> list[Tensor]:
    wanted = " and ".join(f"float32 {list(shape)}" for shape in expected)
    outputs = [found] if len(expected) == 1 else list(found) if isinstance(found, tuple | list) else [found]
    shown = ", ".join(
        f"{str(o.dtype).removeprefix('torch.')} {list(o.shape)}" if isinstance(o, Tensor) else type(o).__name__ for o in outputs
    )
    told = f"{where} gave {shown} for {PROBED} observations, expected {wanted}"
    if len(outputs) != len(expected):
        raise NetworkError(told)
    for output, shape in zip(outputs, expected):
        if not isinstance(output, Tensor) or output.dtype != torch.float32 or list(output.shape) != list(shape):
            raise NetworkError(told)
        if not output.isfinite().all():
            raise NetworkError(f"{where} gave numbers that are not finite")
    if learns and not any(output.requires_grad for output in outputs):
        raise NetworkError(f"{where} gave outputs without a gradient (detached, or under torch.no_grad), so that it could not learn")
    return outputs


def check_module(module: Any, said: str, where: str) -> nn.Module:
    """``module``, if everything in it can be learned, copied and saved; NetworkError says what cannot."""
    if not isinstance(module, nn.Module):
        raise NetworkError(f"{said} a {type(module).__name__}, expected a torch module (torch.nn.Module)")
    known = set(module.modules())
    for path, part in module.named_modules():
        name = f"{where}: {'.'.join(filter(None, (type(module).__name__, path)))}"
        if getattr(part, "sparse", False) and isinstance(part, nn.Embedding | nn.EmbeddingBag):
            raise NetworkError(f"{name} has sparse gradients, expected sparse=False: all parameters are one flat tensor")
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            raise NetworkError(f"{name} has get_extra_state, expected buffers (register_buffer): a checkpoint keeps tensors")
        for attribute, value in vars(part).items():
            held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else (value,)
            for entry in () if attribute in _INTERNAL else held:
                if isinstance(entry, Tensor) and entry.requires_grad and not isinstance(entry, nn.Parameter):
                    raise NetworkError(
                        f"{name}.{attribute} holds a tensor with a gradient, expected a torch.nn.Parameter: nothing would learn it"
                    )
                if isinstance(entry, nn.Module) and entry not in known:
                    raise NetworkError(
                        f"{name}.{attribute} is a {type(value).__name__} with modules in it, expected a torch.nn.ModuleList or ModuleDict: "
                        "nothing would learn them"
                    )
    return module


def check_parameters(network: nn.Module, name: str) -> None:
    """NetworkError unless the arena can hold the parameters of ``network``, and one of them is to be learned."""
    for path, parameter in network.named_parameters():
        if parameter.is_sparse or parameter.dtype != torch.float32:
            raise NetworkError(f"{name}: parameter {path} is {parameter.dtype}, expected torch.float32")
    if not any(parameter.requires_grad and parameter.numel() for parameter in network.parameters()):
        raise NetworkError(f"{name} has no parameter that requires a gradient, expected at least one: it would learn nothing")


def _has(module: nn.Module, method: str) -> bool:
    """Whether its class has this method: a layer may have the same name."""
    return callable(getattr(type(module), method, None))


def called(factory: Any, setting: str, expected: str, *arguments: Any) -> Any:
    """Calls a user's factory. NetworkError where it does not take these arguments."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # built in
        signature = None
    if signature is not None:
        try:
            signature.bind(*arguments)
        except TypeError as error:
            raise NetworkError(f"{setting}: {name_of(factory)}{signature} is called as ({expected}): {error}") from None
    return factory(*arguments)


class OwnFeatures(OwnModule):
    """A feature extractor of the user's own."""

    what = "features_extractor"

    def __init__(self, make: Any, space: spaces.Space) -> None:
        super().__init__(called(make, self.what, "observation_space", space), space, make)
        size = getattr(self.own, "features_dim", None)
        if type(size) is not int or size < 1:
            raise NetworkError(f"{self.where}: {type(self.own).__name__}.features_dim is {size!r}, expected a positive integer")
        self.size = size
        self.probe((PROBED, size))

    def forward(self, observation: Observation) -> Tensor:
        return self.own(self.seen(observation))


class OwnActorCritic(OwnModule):
    """Wraps a user's network as `pyrl.nets.heads.ActorCritic`."""

    what = "network"

    def __init__(self, make: Any, observation_space: spaces.Space, action_space: spaces.Space, config: Any) -> None:
        super().__init__(_made(make, observation_space, action_space, config), observation_space, make)
        self.encoder = None
        self.distribution = distribution_for(action_space)
        size = self.distribution.size
        self.probe((PROBED, size), (PROBED,))
        for method, shape in (("policy", (PROBED, size)), ("value", (PROBED,))):
            if _has(self.own, method):
                self.probe(shape, method=method)
        width = size if isinstance(self.distribution, DiagonalGaussian) else 0
        self._brings_std = width > 0 and hasattr(self.own, "log_std")
        if self._brings_std and (not isinstance(self.log_std, Tensor) or list(self.log_std.shape) != [width]):
            shown = list(self.log_std.shape) if isinstance(self.log_std, Tensor) else type(self.log_std).__name__
            raise NetworkError(f"{self.where}: {type(self.own).__name__}.log_std is {shown}, expected a parameter [{width}]")
        if not self._brings_std:
            self.spread = nn.Parameter(torch.full((width,), float(config.log_std_init)))

    @property
    def log_std(self) -> Tensor:
        return cast(Tensor, self.own.log_std if self._brings_std else self.spread)

    def policy(self, observation: Observation) -> Tensor:
        seen = self.seen(observation)
        return self.own.policy(seen) if _has(self.own, "policy") else self.own(seen)[0]  # type: ignore[operator]

    def value(self, observation: Observation) -> Tensor:
        seen = self.seen(observation)
        return self.own.value(seen) if _has(self.own, "value") else self.own(seen)[1]  # type: ignore[operator]

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        output, value = self.own(self.seen(observation))
        return output, value


class OwnQNetwork(OwnModule):
    """Wraps a user's network as `pyrl.nets.heads.QNetwork`."""

    what = "network"

    def __init__(self, make: Any, observation_space: spaces.Space, action_space: Any, config: Any) -> None:
        super().__init__(_made(make, observation_space, action_space, config), observation_space, make)
        self.encoder = None
        self.probe((PROBED, int(action_space.n)))

    def forward(self, observation: Observation) -> Tensor:
        return self.own(self.seen(observation))


class OwnActor(OwnModule):
    """Wraps a user's network as `pyrl.nets.actor_critic_continuous.Actor`, or, with a ``log_std_range``, for its GaussianActor."""

    what = "network"

    def __init__(self, own: Any, make: Any, space: spaces.Space, action_size: int, log_std_range: tuple[float, float] | None) -> None:
        super().__init__(own, space, make)
        self.encoder, self.log_std_range = None, log_std_range
        shape = (PROBED, action_size)
        outputs = self.probe(shape) if log_std_range is None else self.probe(shape, shape)
        if log_std_range is None and outputs[0].abs().max() > 1.0:
            raise NetworkError(f"{self.where}: {type(self.own).__name__} gave actions up to {outputs[0].abs().max():.3g}, expected [-1, 1]")

    def forward(self, observation: Observation) -> Tensor | tuple[Tensor, Tensor]:
        output = self.own(self.seen(observation))
        if self.log_std_range is None:
            return output.clamp(-1.0, 1.0)
        mean, log_std = output
        return mean, F.hardtanh(log_std, *self.log_std_range)


class OwnCritics(OwnModule):
    """Wraps a user's network as `pyrl.nets.actor_critic_continuous.Critics`."""

    what = "network"

    def __init__(self, own: Any, make: Any, space: spaces.Space, action_size: int, count: int, num_outputs: int | None = None) -> None:
        super().__init__(own, space, make)
        self.encoder = None
        shape = (PROBED,) if num_outputs is None else (PROBED, num_outputs)
        self.probe((count, *shape), actions=action_size)
        if _has(self.own, "first"):
            self.probe(shape, actions=action_size, method="first")

    def forward(self, observation: Observation, action: Tensor) -> Tensor:
        return self.own(self.seen(observation), action)

    def first(self, observation: Observation, action: Tensor) -> Tensor:
        seen = self.seen(observation)
        return self.own.first(seen, action) if _has(self.own, "first") else self.own(seen, action)[0]  # type: ignore[operator]


def own_actor_and_critics(
    config: Any,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    size: int,
    count: int,
    log_std_range: Any,
    num_outputs: int | None = None,
) -> tuple[OwnActor, OwnCritics]:
    """The two of ``config.network``, for actions [B, size] and ``count`` critics of ``num_outputs`` numbers each."""
    made = _made(config.network, observation_space, action_space, config)
    if not isinstance(made, tuple | list | nn.ModuleList) or len(made) != 2:
        raise NetworkError(f"network: {name_of(config.network)} made a {type(made).__name__}, expected (actor, critics), two torch modules")
    actor, critics = made
    return (
        OwnActor(actor, config.network, observation_space, size, log_std_range),
        OwnCritics(critics, config.network, observation_space, size, count, num_outputs),
    )


def _made(make: Any, observation_space: spaces.Space, action_space: spaces.Space, config: Any) -> Any:
    return called(make, "network", "observation_space, action_space, config", observation_space, action_space, config)
