"""Optimisers that torch does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class TensorFlowRMSprop(torch.optim.RMSprop):
    """RMSprop with epsilon inside the root, ``g / sqrt(v + eps)``, and v starting at one, as TensorFlow had it.

    The settings published for A2C mean this form: with torch's, small v give steps that are far too long.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            state["step"] = state["step"].to(parameter.device)  # torch leaves it on the host, where no graph counts

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(initial_state(parameter))
                gradient = parameter.grad + group["weight_decay"] * parameter
                state["step"] += 1
                state["square_avg"].mul_(group["alpha"]).addcmul_(gradient, gradient, value=1 - group["alpha"])
                parameter.addcdiv_(gradient * -group["lr"], (state["square_avg"] + group["eps"]).sqrt())  # lr may be a tensor


def initial_state(parameter: Tensor) -> dict[str, Tensor]:
    return {"step": torch.zeros((), device=parameter.device), "square_avg": torch.ones_like(parameter)}
