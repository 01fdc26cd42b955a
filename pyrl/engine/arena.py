"""The parameters of one optimiser in one flat buffer.

The modules hold views of the buffer, so that torch and the native engine read and write the same weights, an optimiser is one
kernel over one array, and a Polyak average one more. Gradients are in a second buffer of the same layout.

Each tensor starts at a multiple of 64 bytes. The weight of a Linear layer is stored transposed, [in, out]: what the native products
read without packing; torch sees it as a strided [out, in]. Padding is zero and stays zero: it has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pyrl import ops
from pyrl.engine.optimizers import adam_step, is_plain_adam
from pyrl.engine.standard import in_standard_state
from pyrl.errors import NetworkError, NonFiniteError, ShapeError
from pyrl.ops.arenas import ArenaViews

ALIGNMENT = 16  # elements: 64 bytes of float32
_FIXED = "networks are fixed when an agent is made, by network, features_extractor, net_arch and activation"


class Arena:
    """``values`` [size] holds every parameter of ``modules`` once; ``values.grad`` their gradients.

    Modules are free to be copied, cast, moved or loaded: `sync` notices and takes their parameters back in. It refuses modules that
    were replaced by others, added or removed. ``optimizer``, if set, is the optimiser over ``[arena.values]``, whose state follows a
    cast. ``name`` is the network's, for messages.

    >>> arena = Arena(network)
    >>> arena.optimizer = Adam([arena.values], lr=3e-4, fused=True)
    """

    def __init__(self, *modules: nn.Module, name: str = "network") -> None:
        self.modules = modules
        self.optimizer: torch.optim.Optimizer | None = None
        self.name = name
        self._owner: Any = None
        self._attributes: tuple[str, ...] = ()  # of the owner
        self.nonfinite: Tensor | None = None  # see `run_async`
        self.norms: list[Tensor] | None = None
        parameters = [parameter for _, _, parameter in self._entries()]
        self._offsets, size = _layout(parameters)
        self._shapes = [parameter.shape for parameter in parameters]
        self._structure = self._describe()
        self.version = 0  # counts how often the buffer was laid out: only then may dtype and device have changed
        self.values = torch.zeros(size, dtype=parameters[0].dtype, device=parameters[0].device)
        self._adopt()

    @property
    def gradients(self) -> Tensor:
        """[size]"""
        assert self.values.grad is not None
        return self.values.grad

    def offset(self, parameter: Tensor) -> int:
        """Where ``parameter`` starts, in elements."""
        return next(offset for offset, (_, _, ours) in zip(self._offsets, self._entries()) if ours is parameter)

    def views(self, root: nn.Module, values: Tensor) -> dict[str, Tensor]:
        """The parameters of ``root`` by name, as views of ``values`` [size] (for `torch.func.functional_call`)."""
        names = {id(parameter): name for name, parameter in root.named_parameters()}
        return {names[id(p)]: _view(values, at, p, module) for at, (module, _, p) in zip(self._offsets, self._entries())}

    def sync(self) -> None:
        """Make modules and buffer one again, if they are not: the modules' values count.

        They part where parameters are replaced (``load_state_dict(assign=True)``), cast (``.double()``), moved (``.to("cuda")``),
        or the arena was copied or unpickled. ShapeError if a parameter has another shape than before, NetworkError if there are
        other modules than before.
        """
        if self._views is None or not self._views.intact(self.values):
            self._adopt()

    @property
    def ready(self) -> bool:
        """Whether `sync` would change nothing and every parameter requires grad, on the CPU: in one look. No says nothing."""
        return self._views is not None and self._views.intact_and_trainable(self.values)

    @property
    def trainable(self) -> bool:
        """Whether every parameter requires grad. The native engine learns all of an arena or nothing."""
        return self._views is not None and self._views.trainable()

    def differentiate(self, loss: Tensor) -> None:
        """Writes the gradient of ``loss`` [] into the buffer, where accumulating would take a kernel for each parameter."""
        entries = list(self._entries())
        trained = [p for _, _, p in entries if p.requires_grad]
        found = torch.autograd.grad(loss, trained, self._one, materialize_grads=True)
        if self.nonfinite is None:
            if len(trained) < len(entries):
                self.gradients.zero_()  # that of frozen parameters
            torch._foreach_copy_([place for (_, _, p), place in zip(entries, self._gradient_views) if p.requires_grad], found)
        else:  # spread over a GPU, where a copy to each place would be the work of one block of threads
            torch.cat(list(self._pieces(entries, iter(found))), out=self.gradients)

    def _pieces(self, entries: list[tuple[nn.Module, str, nn.Parameter]], gradients: Iterator[Tensor]) -> Iterator[Tensor]:
        """The buffer's parts in their order."""
        for module, _, parameter in entries:
            yield _flat(next(gradients), module) if parameter.requires_grad else parameter.new_zeros(parameter.numel())
            if gap := -parameter.numel() % ALIGNMENT:
                yield self._padding[:gap]

    def zero_grad(self) -> None:
        """Zero gradients, in the buffer: ``module.zero_grad()`` sets them to None, and autograd would then make new ones."""
        self.sync()
        self.gradients.zero_()
        for (_, _, parameter), gradient in zip(self._entries(), self._gradient_views):
            if parameter.requires_grad and parameter.grad is not gradient:
                parameter.grad = gradient

    def zero_frozen(self) -> None:
        """Zero gradients of the parameters that do not require one."""
        for (_, _, parameter), gradient in zip(self._entries(), self._gradient_views):
            if not parameter.requires_grad:
                gradient.zero_()

    def run_async(self, nonfinite: Tensor, norms: list[Tensor] | None = None) -> None:
        """Asynchronous mode: `step` never synchronises. A non-finite gradient sets the flag ``nonfinite`` [] instead of raising, and
        while it is set, steps are skipped; only an Adam can. With a list ``norms`` every step is made and its gradient's norm [] is
        appended, for the list's owner to check (`flag_nonfinite`) and to undo the step."""
        self.nonfinite, self.norms = nonfinite, norms

    @torch.no_grad()
    def step(self, max_grad_norm: float | None = None) -> None:
        """One step of the optimiser, the gradient scaled down to a global norm of ``max_grad_norm``. Frozen parameters stay.

        NonFiniteError, and nothing is changed, if the gradient holds a NaN or an infinity. In asynchronous mode (`run_async`)
        the step is skipped, or left to its owner to undo.
        """
        assert self.optimizer is not None
        norm = torch.linalg.vector_norm(self.gradients)
        if self.nonfinite is None:
            size = float(norm)
            if not math.isfinite(size):
                raise NonFiniteError(self.refusal())
            if max_grad_norm is not None and (shrink := max_grad_norm / (size + 1e-6)) < 1.0:
                self.gradients.mul_(shrink)
        else:
            if self.norms is None:
                flag_nonfinite(self.nonfinite, [norm], self._one)
            else:
                self.norms.append(norm)
            if max_grad_norm is not None:  # fmin ignores a NaN: a refused gradient stays as it is, for `refusal`
                self.gradients.mul_(torch.fmin(max_grad_norm / (norm + 1e-6), self._one))
        # Their gradient is zero, but an optimiser with momentum or weight decay would still move them.
        frozen = [] if self.trainable else [(p, p.clone()) for _, _, p in self._entries() if not p.requires_grad]
        if self.nonfinite is not None and is_plain_adam(self.optimizer):
            adam_step(self.optimizer, self.nonfinite if self.norms is None else None)
        else:
            self.optimizer.step()
        for parameter, value in frozen:
            parameter.copy_(value)

    def refusal(self) -> str | None:
        """Why the gradient that is in the buffer is refused; None if it is finite."""
        if self.gradients.isfinite().all() and torch.linalg.vector_norm(self.gradients).isfinite():
            return None
        names = (f"{type(module).__name__}.{name} {list(parameter.shape)}" for module, name, parameter in self._entries())
        first = next((name for name, gradient in zip(names, self._gradient_views) if not gradient.isfinite().all()), "its norm")
        return f"step: the gradient of {first} is not finite"

    def __getstate__(self) -> dict[str, Any]:
        # Views of one storage do not survive copying and pickling as such.
        return {**self.__dict__, "_views": None, "_gradient_views": []}

    def _entries(self) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
        """(owner, name, parameter) of each parameter that has elements, once."""
        seen: set[int] = set()
        for root in self.modules:
            for module in root.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None and parameter.numel() and id(parameter) not in seen:
                        seen.add(id(parameter))
                        yield module, name, parameter

    @in_standard_state  # as acting asks, which stands outside it
    @torch.no_grad()
    def _adopt(self) -> None:
        self._require_same_modules()
        entries = list(self._entries())
        if len(entries) != len(self._shapes):
            raise NetworkError(
                f"{self.name} has {len(entries)} parameters, expected {len(self._shapes)} as before: some were tied, or are now; {_FIXED}"
            )
        for shape, (module, name, parameter) in zip(self._shapes, entries, strict=True):
            if parameter.shape != shape:
                where = f"{type(module).__name__}.{name}"
                raise ShapeError(f"Arena: {where} has shape {list(parameter.shape)}, expected {list(shape)} as before")
        first = entries[0][2]
        if (first.dtype, first.device) != (self.values.dtype, self.values.device):
            self.values.grad = None
            self.values.data = self.values.to(first.device, first.dtype)
            if self.optimizer is not None:
                self.optimizer.load_state_dict(self.optimizer.state_dict())  # which casts the state as its parameter
        self.values.grad = gradients = torch.zeros_like(self.values)
        self._padding = gradients.new_zeros(ALIGNMENT)
        self._one = torch.ones((), device=gradients.device)
        self._gradient_views = []
        for offset, (module, _, parameter) in zip(self._offsets, entries):
            value, gradient = (_view(flat, offset, parameter, module) for flat in (self.values, gradients))
            if value.data_ptr() != parameter.data_ptr():
                value.copy_(parameter)
            parameter.data = value
            parameter.grad = gradient if parameter.requires_grad else None
            self._gradient_views.append(gradient)
        unit = self.values.element_size()
        places = [(module._parameters, name, at * unit) for at, (module, name, _) in zip(self._offsets, entries)]
        self._views: ArenaViews | None = ArenaViews(places, *self._guards())
        self.version += 1

    def _describe(self) -> dict[str, tuple[type, tuple[str, ...]]]:
        """Every module by its path: its class and the names of its parameters."""
        paths = [
            (f"{i}.{path}" if len(self.modules) > 1 else path, m) for i, root in enumerate(self.modules) for path, m in root.named_modules()
        ]
        return {path: (type(module), tuple(module._parameters)) for path, module in paths}

    def watch(self, owner: Any) -> None:
        """`sync` also refuses another object in an attribute of ``owner`` that holds one of the modules now."""
        self._owner = owner
        self._attributes = tuple(name for name, value in vars(owner).items() if any(value is module for module in self.modules))
        self._adopt()

    def _require_same_modules(self) -> None:
        for name in self._attributes:
            if all(vars(self._owner).get(name) is not module for module in self.modules):
                raise NetworkError(
                    f"attribute {name!r} holds a {type(vars(self._owner).get(name)).__name__} that the agent does not learn; {_FIXED}"
                )
        before, now = self._structure, self._describe()
        if now == before:
            return
        path = next(path for path in {**before, **now} if now.get(path) != before.get(path))
        was, has = (f"{of[path][0].__name__}({', '.join(of[path][1])})" if path in of else "absent" for of in (before, now))
        raise NetworkError(f"{'.'.join(filter(None, (self.name, path)))} was {was} and is {has}; {_FIXED}")

    def _guards(self) -> tuple[list[tuple[dict[str, Any], int]], list[tuple[dict[str, Any], str, Any]]]:
        """What tells that the tree of modules is as it was: sizes of dictionaries, and objects at names in dictionaries."""
        modules = [module for root in self.modules for module in root.modules()]
        watched = ("_modules", "_parameters", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        sizes = [(getattr(module, name), len(getattr(module, name))) for module in modules for name in watched]
        sizes += [(vars(module), len(vars(module))) for module in modules]  # a forward of the instance is one more
        entries = [(module._modules, name, child) for module in modules for name, child in module._modules.items()]
        entries += [(vars(module), "forward", vars(module)["forward"]) for module in modules if "forward" in vars(module)]
        entries += [(vars(self._owner), name, vars(self._owner)[name]) for name in self._attributes]
        return sizes, entries


def flag_nonfinite(nonfinite: Tensor, norms: list[Tensor], one: Tensor) -> None:
    """Writes 1 to the flag ``nonfinite`` [] if one of ``norms`` [] is not finite, and leaves it alone otherwise; ``one`` [] is 1."""
    torch._amp_foreach_non_finite_check_and_unscale_(norms, nonfinite, one)  # what torch's gradient scaler is made of


def polyak(target: Arena, online: Arena, tau: float) -> None:
    """theta' <- (1 - tau) theta' + tau theta, for arenas of networks of the same shape."""
    target.sync()
    online.sync()
    if target.values.is_cpu:
        ops.polyak(target.values, online.values, tau)
    else:
        with torch.no_grad():
            target.values.lerp_(online.values, tau)


def _layout(parameters: list[nn.Parameter]) -> tuple[list[int], int]:
    offsets, size = [], 0
    for parameter in parameters:
        offsets.append(size)
        size += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
    return offsets, size


def _flat(gradient: Tensor, module: nn.Module) -> Tensor:
    """As the buffer holds it."""
    return (gradient.t() if isinstance(module, nn.Linear) and gradient.dim() == 2 else gradient).reshape(-1)


def _view(flat: Tensor, offset: int, parameter: Tensor, module: nn.Module) -> Tensor:
    piece = flat[offset : offset + parameter.numel()]
    if isinstance(module, nn.Linear) and parameter.dim() == 2:
        return piece.view(parameter.shape[::-1]).t()
    return piece.view(parameter.shape)
