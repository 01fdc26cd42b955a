"""A network and everything that moves its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pyrl.engine.arena import Arena, polyak
from pyrl.engine.native import Native

MakeOptimizer: TypeAlias = Callable[[list[Tensor]], torch.optim.Optimizer]


class Trainable:
    """A network, the arena that holds its parameters, its optimiser, its native form and, if it has one, its target network.

    ``name`` is the network's in a checkpoint, ``target`` that of its target network. ``make_optimizer`` gets ``[values]``, all parameters
    as one flat tensor; without it the network does not learn. The target is a copy of the network that only `average` moves.
    """

    def __init__(self, name: str, network: nn.Module, make_optimizer: MakeOptimizer | None = None, *, target: str | None = None) -> None:
        self.name = name
        self.network = network
        self.target = None if target is None else Trainable(target, copy.deepcopy(network).requires_grad_(False))
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
        """theta' <- (1 - tau) theta' + tau theta: the target follows; 1 copies."""
        assert self.target is not None
        polyak(self.target.arena, self.arena, tau)

    def family(self) -> Iterator[Trainable]:
        """This one and, if it has one, its target."""
        yield self
        if self.target is not None:
            yield self.target
