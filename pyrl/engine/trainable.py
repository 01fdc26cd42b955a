"""A network and everything that moves its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pyrl.engine.arena import Arena, polyak
from pyrl.engine.native import Native
from pyrl.errors import NetworkError

MakeOptimizer: TypeAlias = Callable[[list[Tensor]], torch.optim.Optimizer]


class Trainable:
    """A network, the arena that holds its parameters, its optimiser, its native form and, if it has one, its target network.

    ``name`` is the network's in a checkpoint, ``target`` that of its target network. ``make_optimizer`` gets ``[values]``, all parameters
    as one flat tensor; without it the network does not learn. The target is a copy of the network that only `average` moves.
    ``switches_mode``: the network computes something else in training mode, which is off but in updates (`pyrl.engine.practice`).
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        make_optimizer: MakeOptimizer | None = None,
        *,
        target: str | None = None,
        switches_mode: bool = False,
    ) -> None:
        self.name = name
        self.network = network.eval() if switches_mode else network
        self.target = None if target is None else Trainable(target, _copied(network, name).requires_grad_(False))
        self._has_buffers = next(network.buffers(), None) is not None
        self.arena = Arena(network, name=name)
        if make_optimizer is not None:
            self.arena.optimizer = make_optimizer([self.arena.values])
        self.native = Native(self.arena, network)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        assert self.arena.optimizer is not None
        return self.arena.optimizer

    @property
    def target_network(self) -> Any:
        assert self.target is not None
        return self.target.network

    def average(self, tau: float) -> None:
        """theta' <- (1 - tau) theta' + tau theta: the target follows; 1 copies. Its buffers become those of the network."""
        assert self.target is not None
        polyak(self.target.arena, self.arena, tau)
        if self._has_buffers:  # as they are: the moments of batch normalisation are averages already
            with torch.no_grad():
                for theirs, ours in zip(self.target.network.buffers(), self.network.buffers(), strict=True):
                    theirs.copy_(ours)

    def family(self) -> Iterator[Trainable]:
        """This one and, if it has one, its target."""
        yield self
        if self.target is not None:
            yield self.target


def _copied(network: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except Exception as error:
        raise NetworkError(
            f"{name} cannot be copied ({error}), expected a network that copy.deepcopy copies, for the target network"
        ) from error
