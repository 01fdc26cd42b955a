"""The half of an agent that acts. It can live in another process, to which weights come and nothing else."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pyrl.engine.native import Native
from pyrl.engine.standard import in_standard_state
from pyrl.engine.trainable import Trainable
from pyrl.errors import NonFiniteError, ShapeError
from pyrl.ops.environments import NativePolicy
from pyrl.types import Choice, Observation, PolicyInput, Progress

if TYPE_CHECKING:
    from pyrl.agents.base import Agent

START = Progress()


class Weights(NamedTuple):
    """All parameters that act, as they travel: one flat blob."""

    version: int  # gradient steps that made them
    values: np.ndarray  # [size], as `pyrl.engine.arena` lays them out


class Actor(ABC):
    """Chooses actions by one network, with the agent's normaliser and random streams; it has no optimiser, critic or target.

    In the agent's process it shares them with the agent (`Agent.acting`). A pickle of it is an actor of its own, which begins with the
    weights, moments and streams of its moment, and takes newer weights by `load_weights`:

    >>> payload = pickle.dumps(agent.acting)  # to another process, once
    >>> actor.load_weights(agent.weights())  # there, whenever there are new ones
    >>> choice = actor.choose(PolicyInput(observation, first), progress=progress)
    """

    def __init_subclass__(cls) -> None:
        if "choose" in vars(cls):
            cls.choose = in_standard_state(vars(cls)["choose"])  # type: ignore[method-assign]

    def __init__(self, agent: Agent, trainable: Trainable) -> None:
        self.name, self.config, self.device, self.engine = agent.name, agent.config, agent.device, agent.engine
        self.action_space = agent.action_space
        self.normalizer, self.random = agent.normalizer, agent.random
        self.trainable = trainable
        self.version = agent.updates

    @property
    def network(self) -> Any:
        return self.trainable.network

    @abstractmethod
    def choose(self, given: PolicyInput, deterministic: bool = False, progress: Progress = START) -> Choice:
        """What `Agent.choose` returns at this ``progress`` of the training, which schedules of exploration read."""

    def native_policy(self) -> NativePolicy | None:
        """What acts as `choose` does without Python, where there is such a thing."""
        return None

    def native_form(self) -> Native | None:
        """The network as native kernels take it, None where torch is to compute it; NetworkError where its modules were replaced."""
        native = self.trainable.native
        return native if native.sync() and self.engine == "native" else None

    def encoded(self, observation: Observation, native: Native) -> np.ndarray:
        """Normalised observations [N, ...] as native kernels take them, [N, D]."""
        assert native.encoder is not None
        return native.encoder.array(observation, native.dtype)

    def weights(self) -> Weights:
        """A copy of the weights."""
        self.trainable.arena.sync()
        return Weights(self.version, self.trainable.arena.values.detach().cpu().numpy().copy())

    def load_weights(self, weights: Weights) -> None:
        """Acts with these weights from here on. ShapeError or NonFiniteError, and no change, for weights of another network or of none."""
        arena, values = self.trainable.arena, np.asarray(weights.values)
        arena.sync()
        if values.shape != tuple(arena.values.shape):
            raise ShapeError(f"load_weights: values has shape {list(values.shape)}, expected {list(arena.values.shape)}")
        if not np.isfinite(values).all():
            raise NonFiniteError("load_weights: values holds a NaN or an infinity")
        with torch.no_grad():
            arena.values.copy_(torch.from_numpy(np.require(values, requirements="W")))  # torch warns of what is read-only, as Ray gives it
        self.version = int(weights.version)

    def __getstate__(self) -> dict[str, Any]:
        # Without the agent's arena, whose optimiser and owner stay where they are: each parameter in memory of its own.
        network = copy.deepcopy(self.trainable.network)
        for parameter in network.parameters():
            parameter.data, parameter.grad = parameter.data.clone(memory_format=torch.contiguous_format), None
        return {**self.__dict__, "trainable": (self.trainable.name, network)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, trainable=Trainable(*state["trainable"]))
