"""From torch modules to the native engine: the same weights, seen by `pyrl.ops`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pyrl import ops
from pyrl.engine.arena import Arena
from pyrl.engine.optimizers import TensorFlowRMSprop, optimizer_state
from pyrl.nets.encoder import Encoder
from pyrl.ops import Layer, Network
from pyrl.types import Array

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.SiLU: "silu", nn.GELU: "gelu", nn.Identity: "identity"}


class Native:
    """The networks of an arena as the native engine takes them, while it can.

    It can while ``network`` says what its plain MLPs are (`parts_of`), the arena holds no other layers (which would never learn),
    and is on the CPU in float32 or float64.

    >>> native = Native(arena, actor)
    >>> if native.sync():
    ...     action = native.networks[0].infer(native.parameters, observation)
    """

    def __init__(self, arena: Arena, network: nn.Module) -> None:
        self.arena = arena
        self.network = network
        self.networks: tuple[Network, ...] = ()
        self._build()

    @property
    def supported(self) -> bool:
        return self._usable

    @property
    def parameters(self) -> torch.Tensor:
        return self.arena.values

    @property
    def gradients(self) -> torch.Tensor:
        return self.arena.gradients

    def sync(self) -> bool:
        """Whether the networks may be used now; they hold the modules' latest weights then."""
        self.arena.sync()
        if self._version != self.arena.version:
            self._build()
        return self._usable

    def sync_to_learn(self) -> bool:
        """`sync`, and no parameter of a network that learns is frozen."""
        arena = self.arena
        if arena.optimizer is None:
            return self.sync()
        if arena.ready and self._version == arena.version:
            return self._usable
        return self.sync() and arena.trainable

    def infer(self, *inputs: Array) -> np.ndarray:
        """The output [B, out] of a single network, for no backward pass."""
        (network,) = self.networks
        return network.infer(self.parameters, *inputs)

    def step(self, max_grad_norm: float | None) -> float:
        """What `Arena.step` does, in one kernel, on the state of the same optimiser."""
        optimizer = self.arena.optimizer
        assert optimizer is not None
        return optimizer_step(optimizer, optimizer_state(optimizer), self.parameters, self.gradients, max_grad_norm)

    def _build(self) -> None:
        self._version = self.arena.version
        values = self.arena.values
        self.encoder: Encoder | None = getattr(self.network, "encoder", None)  # here, as torch's modules take long to find an attribute
        self.dtype = np.float64 if values.dtype == torch.float64 else np.float32
        parts = parts_of(self.network)
        precision = getattr(self.network, "precision", "float32")
        networks = [native_network(self.arena, part, precision) for part in parts or ()]
        self.networks = tuple(network for network in networks if network is not None)
        complete = parts is not None and len(self.networks) == len(networks) and self._covers_arena(parts)
        self._usable = complete and values.dtype in (torch.float32, torch.float64) and values.is_cpu
        log_std = getattr(self.network, "log_std", None)
        self.log_std: torch.Tensor | None = None  # [A], of a Gaussian that does not depend on the observation
        self.d_log_std: torch.Tensor | None = None  # its gradient
        if self._usable and isinstance(log_std, nn.Parameter) and log_std.numel():
            at = self.arena.offset(log_std)
            self.log_std, self.d_log_std = (flat.detach()[at : at + log_std.numel()] for flat in (values, self.arena.gradients))

    def _covers_arena(self, parts: Sequence[nn.Module]) -> bool:
        """Whether the parts own every parameter, except for those that belong to a root of the arena itself (log_std)."""
        known = {id(p) for part in parts for p in part.parameters()}
        known |= {id(p) for root in self.arena.modules for p in root.parameters(recurse=False)}
        return all(id(p) in known for root in self.arena.modules for p in root.parameters())


def parts_of(network: nn.Module) -> Sequence[nn.Module] | None:
    """The plain MLPs that ``network.native_parts()`` names, None where its class does not say; a Sequential, or those of a ModuleList.

    A subclass must declare them again: the native engine would not see what it overrides in torch.
    """
    if type(network) in (nn.Sequential, nn.ModuleList):
        return (network,) if isinstance(network, nn.Sequential) else tuple(network)  # type: ignore[arg-type]
    encoder = getattr(network, "encoder", None)
    if "native_parts" not in type(network).__dict__ or type(encoder) not in (Encoder, type(None)):
        return None
    if encoder is not None and encoder.own is not None:
        return None
    return network.native_parts()  # type: ignore[operator]


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    state: dict[str, torch.Tensor],
    values: torch.Tensor,
    gradients: torch.Tensor,
    max_grad_norm: float | None,
) -> float:
    """One step of ``optimizer``'s kind and settings; returns the gradient's norm."""
    group = optimizer.param_groups[0]
    shared = {"lr": group["lr"], "eps": group["eps"], "weight_decay": group["weight_decay"], "max_grad_norm": max_grad_norm}
    if isinstance(optimizer, torch.optim.Adam):
        return ops.adam(
            values, gradients, state["exp_avg"], state["exp_avg_sq"], state["step"],
            betas=group["betas"], decoupled=isinstance(optimizer, torch.optim.AdamW), **shared,
        )  # fmt: skip
    assert isinstance(optimizer, TensorFlowRMSprop)
    return ops.rmsprop(values, gradients, state["square_avg"], state["step"], alpha=group["alpha"], epsilon_inside=True, **shared)


def native_network(arena: Arena, module: nn.Module, precision: str = "float32") -> Network | None:
    """The native form of a plain MLP whose parameters are in ``arena``; None for anything else.

    A plain MLP is a Sequential of Linear layers, each followed by a LayerNorm or not, and by an activation or not.
    """
    layers: list[Layer] = []
    previous: nn.Module | None = None
    for part in _flattened(module):
        if not _is_plain(part):
            return None
        if type(part) is nn.Linear:
            bias = None if part.bias is None else arena.offset(part.bias)
            layers.append(Layer(part.in_features, part.out_features, arena.offset(part.weight), bias))
        elif type(part) is nn.LayerNorm:
            affine = part.elementwise_affine and part.bias is not None and part.eps == 1e-5
            if not (type(previous) is nn.Linear and affine and part.normalized_shape == (previous.out_features,)):
                return None
            layers[-1] = replace(layers[-1], gain=arena.offset(part.weight), shift=arena.offset(part.bias))
        elif type(part) in _ACTIVATIONS and type(previous) in (nn.Linear, nn.LayerNorm) and getattr(part, "approximate", "none") == "none":
            layers[-1] = replace(layers[-1], activation=_ACTIVATIONS[type(part)])
        else:
            return None
        previous = part
    return Network(layers, str(arena.values.dtype).removeprefix("torch."), precision) if layers else None


def _flattened(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is nn.Sequential and _is_plain(module):
        for part in module:
            yield from _flattened(part)
    else:
        yield module


def _is_plain(module: nn.Module) -> bool:
    """Whether calling the module computes its class's forward and nothing else: no hooks, no forward of its own."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not hooks and "forward" not in module.__dict__


def native_q(native: Native, observation: Array, *, keep: bool = True) -> np.ndarray:
    """`QNetwork.forward` of encoded observations [B, D]; ``keep``: to be differentiated."""

    def run(network: Network, x: np.ndarray) -> np.ndarray:
        return network.forward(native.parameters, x) if keep else network.infer(native.parameters, x)

    if len(native.networks) == 1:
        return run(native.networks[0], observation)
    value, advantage, *trunk = native.networks
    hidden = run(trunk[0], observation) if trunk else observation
    return ops.dueling(run(value, hidden), run(advantage, hidden))


def native_q_backward(native: Native, d_q: np.ndarray) -> None:
    """The gradients of the latest `native_q` that kept, from that w.r.t. Q [B, A]."""
    w, g = native.parameters, native.gradients
    if len(native.networks) == 1:
        native.networks[0].backward(w, g, d_q)
        return
    value, advantage, *trunk = native.networks
    d_value, d_advantage = ops.dueling_backward(d_q)
    if not trunk:
        value.backward(w, g, d_value)
        advantage.backward(w, g, d_advantage)
        return
    by_value, by_advantage = (np.empty((len(d_q), trunk[0].num_outputs), d_q.dtype) for _ in range(2))
    value.backward(w, g, d_value, by_value)
    advantage.backward(w, g, d_advantage, by_advantage)
    by_value += by_advantage
    trunk[0].backward(w, g, by_value)
