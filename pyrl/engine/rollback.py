"""Several optimisers' steps as one: all of them happen, or none."""

from __future__ import annotations

import copy
import operator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from pyrl import ops
from pyrl.engine.arena import Arena
from pyrl.engine.optimizers import is_known, optimizer_state

PIECE = 1 << 14  # elements; one launch takes 64 pieces


class Rollback:
    """Puts back the weights and the optimisers' states of ``arenas`` where its body raises.

    An update that makes more than one step (a critic's, then an actor's) finds out at the last of them that a gradient is not
    finite; the earlier ones are undone then. Costs one copy of both.

    >>> with atomic:
    ...     critic_step()
    ...     actor_step()
    """

    def __init__(self, *arenas: Arena) -> None:
        self.arenas = arenas
        self.with_buffers = True  # of the modules; the native engine, which never calls a module, cannot change one
        self._live: list[Tensor] = []
        self._versions: list[int] = []  # of the arenas whose tensors were copied last
        self._saved: list[Tensor] = []
        self._strangers = [arena.optimizer for arena in arenas if arena.optimizer is not None and not is_known(arena.optimizer)]
        self._states: list[Any] = []  # theirs

    def _tensors(self) -> list[Tensor]:
        found = []
        for arena in self.arenas:
            known = is_known(arena.optimizer)
            found += [arena.values, *(optimizer_state(arena.optimizer).values() if known and arena.optimizer is not None else ())]
            if self.with_buffers:
                found += [buffer for module in arena.modules for buffer in module.buffers()]
        return found

    def save(self) -> None:
        """What `restore` goes back to. Allocates nothing but the first time: a CUDA graph may hold it."""
        for arena in self.arenas:
            arena.sync()  # weights that were loaded since are what to go back to
        versions, live = [arena.version for arena in self.arenas], self._tensors()
        if versions != self._versions or len(live) != len(self._live) or not all(map(operator.is_, live, self._live)):
            self._make_room(live)
            self._versions, self._live = versions, live
        _copy(self._saved, live)
        if self._strangers:
            self._states = [copy.deepcopy(dict(optimizer.state[_values(optimizer)])) for optimizer in self._strangers]

    def _make_room(self, live: list[Tensor]) -> None:
        alike = len(self._saved) == len(live) and all(
            s.dtype == t.dtype and s.device == t.device and s.numel() == t.numel() for s, t in zip(self._saved, live)
        )
        if not alike:  # the first time, or after a cast
            self._saved = [torch.empty_like(tensor, requires_grad=False) for tensor in live]

    def restore(self) -> None:
        _copy(self._tensors(), self._saved)
        for optimizer, state in zip(self._strangers, self._states):
            optimizer.state[_values(optimizer)] = state

    def __enter__(self) -> None:
        self.save()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.restore()


def _values(optimizer: torch.optim.Optimizer) -> Tensor:
    """The one parameter of an optimiser."""
    values: Tensor = optimizer.param_groups[0]["params"][0]
    return values


def _copy(to: list[Tensor], source: list[Tensor]) -> None:
    if not to[0].is_cpu:
        # In pieces, as a block of threads gets up to 65536 numbers of one tensor: whole arenas would leave most of a GPU idle.
        pieces, others = ([piece for x in tensors for piece in x.view(-1).split(PIECE)] for tensors in (to, source))
        with torch.no_grad():
            torch._foreach_copy_(pieces, others)
        return
    for a, b in zip(to, source):  # not by torch: its threads would spin for more work while those of the native engine start
        if a.is_contiguous():
            ops.copy_nontemporal(b, a)
        else:
            with torch.no_grad():
                a.copy_(b)
