"""What every agent is.

An agent owns its networks, optimisers, random stream and normaliser, and nothing else: no environment, no storage. The loop
hands it data, it returns actions and metrics. A new algorithm is a new file in this folder (or a package that lists its class
under the entry-point group ``pyrl.agents``).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pyrl.agents.checks import Fraction, NetworkDevice, NumEnvs, Positive, Seed, check_fields, checked
from pyrl.agents.observations import ObservationReader
from pyrl.agents.state import set_state, state_of
from pyrl.engine.native import Native
from pyrl.engine.standard import in_standard_state
from pyrl.engine.step import Step
from pyrl.engine.trainable import Trainable
from pyrl.engine.updater import Engine, Updater
from pyrl.errors import DeviceError, SpaceError
from pyrl.nets.convolutional import FeaturesExtractor, Precision, set_precision
from pyrl.nets.encoder import has_images
from pyrl.nets.normalizer import Normalizer
from pyrl.ops.environments import NativePolicy
from pyrl.ops.random import RandomStream
from pyrl.schedules import value_at
from pyrl.seeding import stream_seed
from pyrl.spaces import check_observation_space
from pyrl.spaces.actions import Actions
from pyrl.types import Array, Observation, map_observation

Loop: TypeAlias = Literal["on_policy", "off_policy", "asynchronous"]
CPU = torch.device("cpu")


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
    features_extractor: FeaturesExtractor = "auto"  # of images; auto: nature where they are large enough, else flatten
    precision: Precision = "float32"  # in which convolutional networks are computed; bfloat16 is what GPUs are fastest at
    engine: Engine = "auto"  # of updates: native kernels, torch, torch.compile, CUDA graphs; auto: graph on a GPU, native where it can
    device: NetworkDevice = "auto"  # of the networks: cpu, cuda, cuda:1; auto: cuda for images, where torch finds one, else cpu

    def __post_init__(self) -> None:
        check_fields(self)


class Agent(ABC):
    """Acts and learns. See `policy` and `learn`; the rest is shared."""

    name: ClassVar[str]
    loop: ClassVar[Loop]
    Config: ClassVar[type[AgentConfig]]
    described: ClassVar[str] = "an agent (of pyrl.make_agent, pyrl.load, or a run's .agent)"  # what functions expect, in their messages

    def __init_subclass__(cls) -> None:
        """What computes with torch does so in `pyrl.engine.standard`, whatever the program has set for itself."""
        for name in ("__init__", "policy", "learn", "gradient", "load_state_dict"):
            if name in vars(cls):
                setattr(cls, name, in_standard_state(vars(cls)[name]))

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, config: AgentConfig, seed: int, num_envs: int) -> None:
        check_observation_space(observation_space, self.name)
        self.observation_space = observation_space
        self.action_space = action_space
        self.actions = Actions(action_space, self.name)
        self._read = ObservationReader(observation_space)
        self.config: Any = config
        self.seed = seed = checked(f"{self.name}: seed", seed, Seed)
        self.num_envs = num_envs = checked(f"{self.name}: num_envs", num_envs, NumEnvs)
        self.progress = 0.0  # share of the run that is done, set by the loop: what schedules read
        self.env_steps = 0  # environment steps seen, set by the loop
        self.updates = 0  # gradient steps made
        self.td_error: Array = None  # [B] of the batch learned last, of its kind, where the agent has one: what prioritized replay draws by
        if config.precision != "float32" and not has_images(observation_space, config.features_extractor):
            what = f"{self.name}: precision is {config.precision!r}, which is for convolutional networks"
            raise SpaceError(f"{what}, but features_extractor {config.features_extractor!r} makes none for {observation_space}")
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
        return torch.optim.Adam(parameters, lr=value_at(self.config.learning_rate, 0.0), fused=True)

    def trainable(self, name: str, network: torch.nn.Module, *, target: str | None = None) -> Trainable:
        """``network`` with an optimiser of its own and, if ``target`` names one, a target network."""
        return Trainable(name, network, self.make_optimizer, target=target)

    def make_updater(self, *steps: Step) -> Updater:
        """What runs the updates of this agent, which make ``steps`` in this order."""
        updater = Updater(self.name, self.device, self.config.engine, *steps)
        for trainable in updater.trainables.values():
            trainable.arena.watch(self)
        return updater

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

    @abstractmethod
    def policy(self, observation: Observation, deterministic: bool = False) -> dict[str, Array]:
        """Choose for a batch: ``{"action": [N, ...]}`` and whatever else the agent wants stored beside it.

        ``observation`` has the leading dimension N. Actions are the agent's own (`pyrl.spaces.actions`): discrete ones count from zero.
        """

    def native_policy(self) -> NativePolicy | None:
        """What acts as `policy` does without Python, where there is such a thing."""
        return None

    @abstractmethod
    def learn(self, data: Any) -> dict[str, float]:
        """Learn from a `Rollout` (on-policy) or a `Batch` (off-policy) and say how it went."""

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
        return {"agent": self.random}

    def counters(self) -> dict[str, int]:
        """The integer attributes a checkpoint keeps, by name."""
        return {"env_steps": self.env_steps, "updates": self.updates}

    def act(self, observation: Observation, deterministic: bool = True) -> Any:
        """Actions of the action space for one observation or a batch [N, ...]: NumPy in, NumPy out.

        ShapeError, DTypeError, NonFiniteError or ValueError names the part of the observation that is not as its space says.
        """
        observation, single = self._read(observation)
        action = np.asarray(self.policy(observation, deterministic)["action"])
        action = self.actions.chosen(action, "act: action of row")
        if not single:
            return action
        return action[0, ...] if isinstance(self.action_space, spaces.Box) else action[0]  # which of a Box () is an array, too

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the agent goes on: tensors, arrays and JSON values only."""
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
    """As torch tensors, on ``device`` if it is given: the same memory where they lie there already."""
    return map_observation(lambda x: torch.as_tensor(x, device=device), observation)
