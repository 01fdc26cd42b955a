"""The half of an agent that acts. It can live in another process, to which weights come and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrl.engine.native import Native
from pyrl.engine.standard import in_standard_state
from pyrl.engine.trainable import Trainable
from pyrl.errors import NonFiniteError, ShapeError
from pyrl.nets.encoder import Encoder
from pyrl.ops.acting import Moments
from pyrl.ops.environments import NativePolicy
from pyrl.ops.random import RandomStream
from pyrl.types import Choice, Observation, PolicyInput, Progress

if TYPE_CHECKING:
    from pyrl.agents.base import Agent

START = Progress()
NO_STATISTICS = np.zeros(0)


class Weights(NamedTuple):
    """All that acts, as it travels: the parameters, one flat blob, and the few numbers beside them that no gradient changes."""

    version: int  # gradient steps that made them, or as the sender counts
    values: np.ndarray  # [size], as `pyrl.engine.arena` lays them out
    progress: Progress = START  # of the training, which schedules of exploration read
    updates: int = 0  # the same: gradient steps made
    statistics: np.ndarray = NO_STATISTICS  # float64 [M]: moments of the normaliser, buffers of the network (batch norm's)


LADDER = 7.0  # alpha of Horgan et al. 2018, appendix D: environment i of N explores by its rate to the power 1 + alpha i / (N - 1)


class Actor:
    """Chooses actions by one network, with the agent's normaliser and random streams; it has no optimiser, critic or target.

    In the agent's process it shares them with the agent (`Agent.acting`). A pickle of it is an actor of its own, which begins with the
    weights, moments and streams of its moment, and takes newer weights by `load_weights`:

    >>> payload = pickle.dumps(agent.acting)  # to another process, once
    >>> actor.load_weights(agent.weights())  # there, whenever there are new ones
    >>> choice = actor.choose(PolicyInput(observation, first), progress=progress)
    """

    can_tell_values: ClassVar[bool] = False  # see `tells_values`

    def __init_subclass__(cls) -> None:
        for name in ("choose", "torch_choice", "value"):
            if name in vars(cls):
                setattr(cls, name, in_standard_state(vars(cls)[name]))

    def __init__(self, agent: Agent, trainable: Trainable) -> None:
        self.name, self.config, self.device, self.engine = agent.name, agent.config, agent.device, agent.engine
        self.action_space = agent.action_space
        self.normalizer, self.random = agent.normalizer, agent.random
        self.trainable = trainable
        self.version = self.updates = agent.updates
        self.progress = START  # of the weights that were loaded
        self.rungs: np.ndarray | None = None  # [N] in [0, 1], places of the environments on a ladder of exploration; None: all on its first
        self._unwatched = False
        self.tells_values = False  # whether `choose` stores what collectors compute priorities from: "q", and "value" as `value` gives it

    @property
    def network(self) -> Any:
        return self.trainable.network

    def choose(self, given: PolicyInput, deterministic: bool = False, progress: Progress = START) -> Choice:
        """What `Agent.choose` returns at this ``progress`` of the training, which schedules of exploration read."""
        native = self.native_form()
        if native is not None:
            return self.native_choice(native, given, deterministic, progress)
        return self.torch_choice(given, deterministic, progress)

    def native_choice(self, native: Native, given: PolicyInput, deterministic: bool, progress: Progress) -> Choice:
        """By native kernels, without an operation of torch."""
        raise NotImplementedError(f"{type(self).__name__} defines neither choose nor native_choice")

    def torch_choice(self, given: PolicyInput, deterministic: bool, progress: Progress) -> Choice:
        """By torch."""
        raise NotImplementedError(f"{type(self).__name__} defines neither choose nor torch_choice")

    def native_policy(self, normalizes: bool = False) -> NativePolicy | None:
        """What acts as `choose` does without Python, where there is such a thing. ``normalizes``: whether what takes it normalises
        observations by its moments (`pyrl.envs.Stepper.normalizes`)."""
        return None

    def value(self, given: PolicyInput) -> np.ndarray:
        """max_a Q(o, a), float32 [N]; of actors that `can_tell_values`."""
        raise TypeError(f"{self.name}: its actor has no values")

    def own_noise(self, random: RandomStream) -> Any:
        """Exploration noise like its own, by ``random``; None where it has none."""
        return None

    def explore_by(self, random: RandomStream, noise: Any, rungs: np.ndarray | None) -> None:
        """Act for other environments from here on: ``noise`` is of `own_noise`."""
        self.random, self.rungs = random, rungs

    def native_form(self) -> Native | None:
        """The network as native kernels take it, None where torch is to compute it; NetworkError where its modules were replaced."""
        native = self.trainable.native
        usable = native.supported if self._unwatched else native.sync()
        return native if usable and self.engine == "native" else None

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Within, the network is not looked at again at each choice: for loops that run nothing but environments between choices. What they
        replace of its modules meanwhile counts, or is refused, when the block is left."""
        self.native_form()
        self._unwatched = True
        try:
            yield
        finally:
            self._unwatched = False

    def features(self, observation: Observation, native: Native) -> tuple[np.ndarray, Moments | None]:
        """Observations [N, ...] as native kernels take them, [N, D], and the moments by which the kernel is to normalise them."""
        encoder, normalizer = native.encoder, self.normalizer
        assert encoder is not None
        if encoder.vector and native.dtype is np.float32:
            if normalizer.moments is not None:  # which the kernel takes from float64 too
                return np.ascontiguousarray(observation, np.float32 if encoder.identity else np.float64), normalizer.moments
            if not normalizer.changes_observation:
                return encoder.array(observation), None
        return self.encoded(observation, native), None

    def encoded(self, observation: Observation, native: Native) -> np.ndarray:
        """Observations [N, ...], normalised and as native kernels take them: [N, D]."""
        encoder, observation = native.encoder, self.normalizer.observation(observation)
        assert encoder is not None
        return encoder.array(observation, native.dtype) if encoder.floats else _encoded(encoder, observation, native.dtype)

    def weights(self) -> Weights:
        """A copy of the weights."""
        self.trainable.arena.sync()
        values = self.trainable.arena.values.detach().cpu().numpy().copy()
        return Weights(self.version, values, self.progress, self.updates, self._statistics())

    def load_weights(self, weights: Weights) -> None:
        """Acts with these weights from here on. ShapeError or NonFiniteError, and no change, for weights of another network or of none."""
        # Ray gives read-only arrays, of which torch warns.
        values, statistics = (np.require(numbers, requirements="W") for numbers in (weights.values, weights.statistics))
        arena = self.trainable.arena
        arena.sync()
        if values.shape != tuple(arena.values.shape):
            raise ShapeError(f"load_weights: values has shape {list(values.shape)}, expected {list(arena.values.shape)}")
        places = self._places()
        if statistics.shape != (size := sum(place.numel() for place in places),):
            raise ShapeError(f"load_weights: statistics has shape {list(statistics.shape)}, expected {[size]}")
        if not np.isfinite(values).all():
            raise NonFiniteError("load_weights: values holds a NaN or an infinity")
        with torch.no_grad():
            arena.values.copy_(torch.from_numpy(values))
            for place, numbers in zip(places, np.split(statistics, np.cumsum([place.numel() for place in places])[:-1]) if places else ()):
                place.copy_(torch.from_numpy(numbers).view(place.shape))
        self.version, self.progress, self.updates = int(weights.version), weights.progress, int(weights.updates)

    def _places(self) -> list[Tensor]:
        """Where the statistics are that travel with the weights."""
        moments = self.normalizer.moments_in_use() if self.normalizer.active else []
        return [*map(torch.from_numpy, moments), *self.network.buffers()]

    def _statistics(self) -> np.ndarray:
        places = self._places()
        return np.concatenate([place.detach().cpu().numpy().ravel() for place in places], dtype=np.float64) if places else NO_STATISTICS

    def __getstate__(self) -> dict[str, Any]:
        # Without the agent's arena, whose optimiser and owner stay where they are: each parameter in memory of its own.
        network = copy.deepcopy(self.trainable.network)
        for parameter in network.parameters():
            parameter.data, parameter.grad = parameter.data.clone(memory_format=torch.contiguous_format), None
        return {**self.__dict__, "trainable": (self.trainable.name, network), "_unwatched": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, trainable=Trainable(*state["trainable"]))


@in_standard_state
def _encoded(encoder: Encoder, observation: Observation, dtype: type) -> np.ndarray:
    """By operations of torch, where observations are more than vectors."""
    return encoder.array(observation, dtype)
