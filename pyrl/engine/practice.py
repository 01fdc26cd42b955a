"""How networks of the user's own are run: as torch trains them inside an update, as torch uses them everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

import torch
from torch import nn

from pyrl.ops.random import RandomStream
from pyrl.ops.sampling import uniform_indices


class Practice:
    """``with practice:`` around an update: ``networks`` are in training mode (dropout, batch normalisation), and what they draw from
    torch's generators follows from ``random``, so that runs repeat and resume. Both are as before afterwards.

    Acting and the values of a rollout are computed outside, in evaluation mode; target networks stay in it, as in Stable-Baselines3.
    """

    def __init__(self, networks: Sequence[nn.Module], random: RandomStream, device: torch.device) -> None:
        self.networks = networks
        self.random = random
        on_gpu = device.type == "cuda"
        index = (device.index if device.index is not None else torch.cuda.current_device()) if on_gpu else 0
        self._generators = [torch.default_generator, *((torch.cuda.default_generators[index],) if on_gpu else ())]

    def __enter__(self) -> None:
        self._states = [generator.get_state() for generator in self._generators]
        seed = int(uniform_indices(1, 1 << 53, self.random)[0])
        for generator in self._generators:
            generator.manual_seed(seed)
        for network in self.networks:
            network.train()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for network in self.networks:
            network.eval()
        for generator, state in zip(self._generators, self._states):
            generator.set_state(state)
