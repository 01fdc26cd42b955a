"""What every agent is.

An agent owns its networks, optimisers, random stream and normaliser, and nothing else: no environment, no storage. The loop
hands it data, it returns actions and metrics. A new algorithm is a new file in this folder (or a package that lists its class
under the entry-point group ``pyrl.agents``).
"""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pyrl.agents.actor import Actor, Weights
from pyrl.agents.checks import Fraction, NetworkDevice, NumEnvs, OptimizerArguments, Positive, Seed, check_fields, checked
from pyrl.agents.observations import ObservationReader
from pyrl.agents.player import Player
from pyrl.agents.registry import Blueprint
from pyrl.agents.state import set_state, state_of
from pyrl.agents.storage import ReplaySpec, RolloutSpec
from pyrl.engine.native import Native
from pyrl.engine.optimizers import build_optimizer
from pyrl.engine.practice import Practice
from pyrl.engine.standard import in_standard_state
from pyrl.engine.step import Step
from pyrl.engine.trainable import Trainable
from pyrl.engine.updater import Engine, Updater
from pyrl.errors import DeviceError, NetworkError, SettingError, ShapeError, SpaceError
from pyrl.nets.convolutional import FeaturesExtractor, Precision, set_precision
from pyrl.nets.encoder import MakeFeatures, has_images
from pyrl.nets.mlp import ACTIVATIONS, MakeActivation
from pyrl.nets.normalizer import Normalizer
from pyrl.nets.own import check_parameters
from pyrl.ops.environments import NativePolicy
from pyrl.ops.networks import bfloat16_products
from pyrl.ops.random import RandomStream
from pyrl.own import Own, require_here
from pyrl.schedules import value_at
from pyrl.seeding import stream_seed
from pyrl.spaces import check_observation_space
from pyrl.spaces.actions import Actions
from pyrl.spaces.masks import MaskReader
from pyrl.trees import first_leaf
from pyrl.types import Array, Choice, Learned, Observation, PolicyInput, Progress, map_observation

LoopKind: TypeAlias = Literal["on_policy", "off_policy", "asynchronous"]
_RENAMED = {  # what is never called now
    "policy": "choose(PolicyInput, deterministic) -> Choice",
    "native_choose": "make_actor, and its actor native_actor_action",
}
CPU = torch.device("cpu")
OwnFeatures: TypeAlias = Annotated[
    MakeFeatures, Own("features_extractor", "a callable that makes a torch module with features_dim from the observation space")
]
OwnActivation: TypeAlias = Annotated[MakeActivation, Own("activation", "a callable without arguments that makes a torch module")]
OwnNetwork: TypeAlias = Annotated[
    Callable[[Any, Any, Any], Any], Own("network", "a callable that makes torch modules from (observation_space, action_space, config)")
]
OwnOptimizer: TypeAlias = Annotated[Callable[..., Any], Own("optimizer", "a class of optimisers (torch.optim)")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What all agents share. Storage keeps raw values; these apply when a batch is drawn and when the agent acts.

    Every field of a config, those of subclasses too, is checked by its annotation (`pyrl.agents.checks`).
    """

    gamma: Fraction = 0.99  # discount factor, in [0, 1]
    normalize_observation: bool = False  # by running mean and variance
    clip_observation: Positive | None = None  # bound of (normalised) observations
    normalize_reward: bool = False  # by the standard deviation of the running discounted return
    clip_reward: Positive | None = None  # bound of (normalised) rewards
    # of images; auto: nature where they are large enough, else flatten; a callable: features of your own, of any observation
    features_extractor: FeaturesExtractor | OwnFeatures = "auto"
    precision: Precision = "float32"  # of convolutions by torch; of MLPs' products by the native engine, where the CPU has AMX
    engine: Engine = "auto"  # of updates: native kernels, torch, torch.compile, CUDA graphs; auto: graph on a GPU, native where it can
    device: NetworkDevice = "auto"  # of the networks: cpu, cuda, cuda:1; auto: cuda for images, where torch finds one, else cpu

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningConfig(AgentConfig):
    """What agents with networks share, beside their layers; what a user may bring is in docs/your_own_network.md."""

    network: OwnNetwork | None = None  # makes all networks of the agent (`pyrl.nets.own`); None: the algorithm's own
    optimizer: Literal["adam", "rmsprop", "sgd"] | OwnOptimizer | None = None  # of all networks; None: the algorithm's own
    optimizer_kwargs: OptimizerArguments | None = None  # of it, beside the learning rate

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network is None:
            return
        for name, told in (
            ("features_extractor", self.features_extractor not in ("auto", "flatten")),
            ("dueling", getattr(self, "dueling", False)),
        ):
            if told:
                raise SettingError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, but network makes everything; leave it out")


def brings_own(config: AgentConfig) -> bool:
    """Whether modules that pyrl does not know are part of the networks."""
    own = callable(config.features_extractor) or getattr(config, "network", None) is not None
    return own or getattr(config, "activation", "relu") not in ACTIVATIONS


class Agent(ABC):
    """Acts and learns. See `choose` and `learn`; the rest is shared."""

    name: ClassVar[str]
    loop: ClassVar[LoopKind]
    honours_masks: ClassVar[bool] = False  # whether `choose` and `learn` leave out actions that a mask forbids
    corrects_lag: ClassVar[bool] = False  # whether `learn` corrects for rollouts of older weights, which workers make (`pyrl.distributed`)
    Config: ClassVar[type[AgentConfig]]
    described: ClassVar[str] = "an agent (of pyrl.make_agent, pyrl.load, or a run's .agent)"  # what functions expect, in their messages

    def __init_subclass__(cls) -> None:
        """What computes with torch does so in `pyrl.engine.standard`, whatever the program has set for itself."""
        for name, now in _RENAMED.items():
            if name in vars(cls):
                raise TypeError(f"{cls.__name__}.{name} would never be called: an agent defines {now}")
        for name in ("__init__", "choose", "learn", "gradient", "load_state_dict"):
            if name in vars(cls):
                setattr(cls, name, in_standard_state(vars(cls)[name]))

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: AgentConfig, seed: int, num_envs: int) -> None:
        check_observation_space(observation_space, self.name)
        require_here(config, self.name)
        self.observation_space = observation_space
        self.action_space = action_space
        self.actions = Actions(action_space, self.name)
        self.read = ObservationReader(observation_space)
        self.config: Any = config
        self.seed = seed = checked(f"{self.name}: seed", seed, Seed)
        self.num_envs = num_envs = checked(f"{self.name}: num_envs", num_envs, NumEnvs)
        self.progress = Progress()  # replaced by the loop that trains the agent, and when a state is loaded; by nothing else
        self.updates = 0  # gradient steps made
        if config.precision != "float32" and brings_own(config):
            what = f"{self.name}: precision is {config.precision!r}, which is for pyrl's own networks"
            raise SpaceError(f"{what}, expected 'float32' for yours")
        self.device = self.choose_device()  # of the networks; data come and go as NumPy arrays
        self.updater: Updater | None = None  # of agents that learn by gradient steps
        self.random = RandomStream(seed, "agent")
        self.normalizer = Normalizer(
            observation_space,
            normalize_observation=config.normalize_observation,
            clip_observation=config.clip_observation,
            normalize_reward=config.normalize_reward,
            clip_reward=config.clip_reward,
            gamma=config.gamma,
            num_envs=num_envs,
        )

    def __repr__(self) -> str:
        about = f"{self.env_steps:,} steps, {self.updates:,} updates, {self.num_envs} environments, engine {self.engine} on {self.device}"
        return f"{type(self).__name__}({self.observation_space} -> {self.action_space}, {about})"

    def choose_device(self) -> torch.device:
        """What ``config.device`` means here; DeviceError where torch does not find it."""
        count = torch.cuda.device_count()
        if self.config.device == "auto":
            images = has_images(self.observation_space, self.config.features_extractor)
            return torch.device("cuda" if images and count else "cpu")
        device = torch.device(self.config.device)
        if device.type == "cuda" and (device.index or 0) >= count:
            raise DeviceError(f"{self.name}: device is {self.config.device!r}, but torch {torch.__version__} finds {count} CUDA devices")
        return device

    @property
    def threads(self) -> int | None:
        """The threads to learn with: one, where networks are small; None, as many as torch takes, where convolutions are the work."""
        return None if has_images(self.observation_space, self.config.features_extractor) else 1

    def make_optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Over all parameters of a network, one flat tensor [size]."""
        kind, arguments = self.usual_optimizer()
        own = getattr(self.config, "optimizer", None)
        arguments = arguments if own in (None, kind) else {}
        given = getattr(self.config, "optimizer_kwargs", None) or {}
        return build_optimizer(own or kind, parameters, value_at(self.config.learning_rate, 0.0), {**arguments, **given})

    def usual_optimizer(self) -> tuple[str, dict[str, Any]]:
        """(name, arguments) of the algorithm's optimiser."""
        return "adam", {}

    def trainable(self, name: str, network: torch.nn.Module, *, target: str | None = None) -> Trainable:
        """``network`` with an optimiser of its own and, if ``target`` names one, a target network."""
        if brings_own(self.config):
            check_parameters(network, f"{self.name}: {name}")
        return Trainable(name, network, self.make_optimizer, target=target, switches_mode=brings_own(self.config))

    def make_updater(self, *steps: Step) -> Updater:
        """What runs the updates of this agent, which make ``steps`` in this order."""
        updater = Updater(self.name, self.device, self.config.engine, *steps)
        if self.config.precision != "float32":
            self._check_bfloat16(updater.engine)
        owners: dict[int, str] = {}
        for name, trainable in updater.trainables.items():
            for path, parameter in trainable.network.named_parameters():
                if (other := owners.setdefault(id(parameter), name)) != name:
                    raise NetworkError(
                        f"{self.name}: {name} and {other} share the parameter {path}, expected networks of their own: each learns by itself"
                    )
            trainable.arena.watch(self)
        if brings_own(self.config):
            updater.practice = Practice([step.trainable.network for step in steps], RandomStream(self.seed, "modules"), self.device)
        return updater

    def _check_bfloat16(self, engine: str) -> None:
        """SpaceError where nothing is computed in it; a warning where this processor cannot, as the checkpoint may come from another."""
        if engine == "native":
            if not bfloat16_products():
                what = "but this processor has no products in it (pyrl.ops.bfloat16_products): all is computed in float32"
                warnings.warn(f"{self.name}: precision is 'bfloat16', {what}", UserWarning, stacklevel=2)
        elif not has_images(self.observation_space, self.config.features_extractor):
            what = f"{self.name}: precision is 'bfloat16', which is for convolutional networks and for MLPs on the native engine"
            raise SpaceError(f"{what}, but engine is {engine!r} and {self.observation_space} has no image")

    @property
    def trainables(self) -> dict[str, Trainable]:
        """Networks and target networks by their names in a checkpoint, with all that moves their parameters."""
        return {} if self.updater is None else self.updater.trainables

    @cached_property
    def native(self) -> dict[str, Native]:
        """The native forms of networks and target networks."""
        return {name: trainable.native for name, trainable in self.trainables.items()}

    @property
    def engine(self) -> str:
        """What computes the updates: native, torch, compile or graph."""
        return "torch" if self.updater is None else self.updater.engine

    @property
    def env_steps(self) -> int:
        """Environment steps that the agent has learned from."""
        return self.progress.env_steps

    @cached_property
    def acting(self) -> Actor:
        """The half of this agent that acts, and that can be sent to another process."""
        return self.make_actor()

    def make_actor(self) -> Actor:
        """Its actor; for agents that do not define `choose` themselves."""
        raise TypeError(f"{type(self).__name__} defines neither make_actor nor choose(PolicyInput, deterministic) -> Choice")

    def weights(self) -> Weights:
        """A copy of the weights that its actor acts by, for actors in other processes."""
        self.acting.version = self.acting.updates = self.updates
        self.acting.progress = self.progress
        return self.acting.weights()

    def choose(self, given: PolicyInput, deterministic: bool = False) -> Choice:
        """Actions for N environments, and whatever else the agent wants stored beside them.

        An agent with memory returns it as ``state`` and finds it in the next ``given.state``; it starts anew in the rows that
        ``given.first`` marks, and in all of them where the state is None.
        """
        acting = self.acting
        acting.version = acting.updates = self.updates
        return acting.choose(given, deterministic, self.progress)

    def unwatched(self) -> AbstractContextManager[None]:
        """`Actor.unwatched`, where this agent acts by its actor."""
        own = type(self).choose is Agent.choose and "choose" not in vars(self)
        return self.acting.unwatched() if own else nullcontext()

    def deterministic_action(self, observation: Observation) -> Tensor:
        """The action [B, ...] that ``choose`` gives where it is deterministic, for normalised observations, tensors, by operations of
        torch alone: what `pyrl.export` traces. NetworkError for an agent that has none."""
        raise NetworkError(f"export: {self.name} has no deterministic_action by operations of torch, which is what can be exported")

    def native_policy(self, normalizes: bool = False) -> NativePolicy | None:
        """What acts as `choose` does without Python, where there is such a thing; see `Actor.native_policy`."""
        return None

    @abstractmethod
    def learn(self, data: Any) -> Learned:
        """Learn from a `Rollout` (on-policy) or a `Batch` (off-policy) and say how it went."""

    @abstractmethod
    def storage(self) -> RolloutSpec | ReplaySpec:
        """What its loop stores for it, and when it learns."""

    def status(self) -> dict[str, float]:
        """Numbers that every metrics record shows, whether or not there was an update."""
        return {}

    def modules(self) -> dict[str, torch.nn.Module]:
        """The networks a checkpoint keeps, by name."""
        return {name: trainable.network for name, trainable in self.trainables.items()}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers a checkpoint keeps, by the names of their networks; the only one of an agent is called optimizer."""
        found = {name: t.arena.optimizer for name, t in self.trainables.items() if t.arena.optimizer is not None}
        return {"optimizer": next(iter(found.values()))} if len(found) == 1 else found

    def streams(self) -> dict[str, RandomStream]:
        """The random streams a checkpoint keeps, by name."""
        practice = None if self.updater is None else self.updater.practice
        return {"agent": self.random} if practice is None else {"agent": self.random, "modules": practice.random}

    def counters(self) -> dict[str, int]:
        """The integer attributes a checkpoint keeps, by name."""
        return {"env_steps": self.env_steps, "updates": self.updates}

    def act(self, observation: Observation, deterministic: bool = True, action_mask: Any = None) -> Any:
        """Actions of the action space for one observation or a batch [N, ...]: NumPy in, NumPy out.

        ``action_mask``: what may be chosen, as `PolicyInput` has it: [M] of one observation, [N, M] of a batch; None: anything.
        ShapeError, DTypeError, NonFiniteError or ValueError names the part of the observation that is not as its space says.
        ValueError of an agent with memory: it would forget at every call, so a `player` plays it.
        """
        observation, single = self.read(observation)
        count = len(first_leaf(observation))
        mask = None if action_mask is None else self.read_mask(action_mask, count, single)
        choice = self.choose(PolicyInput(observation, starts(count).copy(), mask), deterministic)
        if choice.state is not None:
            raise ValueError(f"act: {self.name} has a memory, which act would lose; play it by agent.player(num_envs).act(observation)")
        return self.actions.given_out(choice.action, single)

    def read_mask(self, given: Any, count: int, single: bool) -> Array:
        """A caller's masks as bool [N, M]; ValueError or ShapeError for what are no masks of the action space, one for each observation."""
        if not self.honours_masks:
            raise ValueError(f"act: action_mask is given, but {self.name} does not honour masks, expected None")
        masks = [given] if single else list(given)
        if len(masks) != count:
            raise ShapeError(f"act: action_mask has {len(masks)} rows, expected {count}, as observation has")
        return MaskReader(self.action_space).rows(masks, "act: action_mask")

    def blueprint(self) -> Blueprint:
        """What makes an untrained agent like this one, in another process too."""
        return Blueprint(self.name, self.observation_space, self.action_space, self.config, self.seed)

    def player(self, num_envs: int = 1, *, deterministic: bool = True) -> Player:
        """What plays this agent in ``num_envs`` environments, keeping its memory between their steps."""
        return Player(self, num_envs, deterministic=deterministic)

    def __getstate__(self) -> dict[str, Any]:
        # The actor shares the networks of the agent: a copy makes its own of its own.
        return {name: value for name, value in self.__dict__.items() if name != "acting"}

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the agent continues: tensors, arrays and JSON values only."""
        for trainable in self.trainables.values():
            trainable.arena.sync()
        return state_of(self)

    @in_standard_state
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """CheckpointError names the first entry that is not as this agent's; nothing is changed then."""
        set_state(self, state)

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint folder: safetensors and JSON, no pickle (`pyrl.checkpoint`)."""
        from pyrl.agents.checkpoints import save_agent

        return save_agent(Path(path), self)


@lru_cache(maxsize=64)
def starts(count: int) -> np.ndarray:
    """bool [count], all True, to be copied: that takes a quarter of the time of np.ones."""
    return np.ones(count, bool)


def seeded_network(
    seed: int, build: Callable[[], torch.nn.Module], device: torch.device = CPU, precision: Precision = "float32"
) -> torch.nn.Module:
    """Build a network whose initial weights depend on ``seed`` only; the process's torch generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "network"))
        network = build().to(device)
    set_precision(network, precision)
    return network


def tensors(observation: Observation, device: torch.device | None = None) -> Observation:
    """As torch tensors, on ``device`` if it is given: the same memory where they are there already."""
    return map_observation(lambda x: torch.as_tensor(x, device=device), observation)
