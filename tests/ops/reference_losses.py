"""Calls of the losses with random arguments, and what float64 autograd says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from pyrl import ops

# Mostly small, and around the sixteen rows that are worked on side by side.
BATCHES = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 32, 33, 64, 255, 256, 257]), st.integers(1, 1024))
WIDTHS = st.integers(1, 32)
SEEDS = st.integers(0, 2**32)


@dataclass
class Case:
    """A call: its arrays, its options, and which of the arrays it writes."""

    function: str
    arrays: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)  # optional arguments to write to, and their shapes
    written: tuple[str, ...] = ()  # arrays that are written to anyway

    def __repr__(self) -> str:
        shapes = {name: list(x.shape) for name, x in self.arrays.items()}
        return f"{self.function}({shapes}, {self.options})"

    @property
    def dtype(self) -> np.dtype:
        return next(iter(self.arrays.values())).dtype

    def call(self, **changes: Any) -> Any:
        return getattr(ops, self.function)(**{**self.arrays, **self.options, **changes})

    def leaves(self) -> dict[str, Any]:
        """The arrays in float64, to be followed by autograd; actions as they are."""
        tensors = {name: torch.tensor(x) for name, x in self.arrays.items() if name not in self.written}
        return {name: x if x.dtype == torch.int64 else x.double().requires_grad_() for name, x in tensors.items()}


def away_from(x: np.ndarray, *edges: float) -> np.ndarray:
    """``x``, but for what lies so near to an edge, where the gradient jumps, that rounding could take it across."""
    for edge in edges:
        x = np.where(abs(x - edge) < 2e-3, edge + 4e-3, x)
    return x


@st.composite
def policy_cases(draw, dtype: str = "float32", kind: str | None = None) -> Case:
    kind = kind or draw(st.sampled_from(["categorical", "multi-categorical", "gaussian"]))
    rng, B, A = np.random.default_rng(draw(SEEDS)), draw(BATCHES), draw(WIDTHS)
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    arrays: dict[str, Any] = {"advantage": rng.normal(0.3, 2, B)}
    options: dict[str, Any] = {"ent_coef": draw(st.sampled_from([0.0, 0.01, 0.5])), "normalize_advantage": draw(st.booleans())}
    if kind == "gaussian":
        log_std = rng.uniform(-2, 1, A)
        mean = rng.normal(0, scale, (B, A))
        arrays = {"output": mean, "action": mean + np.exp(log_std) * rng.normal(size=(B, A)), "log_std": log_std, **arrays}
    else:
        nvec = [A] if kind == "categorical" else draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
        options["nvec"] = nvec
        action = rng.integers(0, nvec, (B, len(nvec)))
        arrays = {"output": rng.normal(0, scale, (B, sum(nvec))), "action": action[:, 0] if kind == "categorical" else action, **arrays}
    arrays = {name: x if x.dtype == np.int64 else x.astype(dtype) for name, x in arrays.items()}
    written = ()
    if kind == "gaussian":
        arrays["d_log_std"], written = np.full(A, np.nan, dtype), ("d_log_std",)
    case = Case("policy_loss", arrays, options, {"d_output": arrays["output"].shape}, written)
    if draw(st.booleans()):  # PPO
        clip_range = options["clip_range"] = draw(st.sampled_from([0.05, 0.2, 0.7]))
        ratio = away_from(np.exp(rng.uniform(-1, 1, B) * draw(st.sampled_from([0.0, 0.1, 1.0]))), 1 - clip_range, 1 + clip_range)
        log_prob, _ = distribution(case, case.leaves())
        arrays["log_prob_old"] = (log_prob.detach().numpy() - np.log(ratio)).astype(dtype)
    return case


def distribution(case: Case, leaves: dict[str, Any]) -> tuple[Any, Any]:
    """(log_prob [B], entropy [B])"""
    output, action, nvec = leaves["output"], leaves["action"], case.options.get("nvec")
    if nvec is None:
        normal = torch.distributions.Normal(output, leaves["log_std"].exp(), validate_args=False)
        return normal.log_prob(action).sum(1), normal.entropy().sum(1)
    log_p = [F.log_softmax(logits, 1) for logits in output.split(list(nvec), 1)]
    chosen = [log_p.gather(1, a[:, None])[:, 0] for log_p, a in zip(log_p, action.reshape(len(output), -1).T)]
    return torch.stack(chosen).sum(0), -torch.stack([(log_p.exp() * log_p).sum(1) for log_p in log_p]).sum(0)


def policy_reference(case: Case, leaves: dict[str, Any]) -> dict[str, Any]:
    o, advantage = case.options, leaves["advantage"].detach()
    if o["normalize_advantage"] and len(advantage) > 1:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    log_prob, entropy = distribution(case, leaves)
    log_prob.retain_grad()
    terms, kl, clipped, log_r = advantage * log_prob, torch.zeros(()), torch.zeros(()), torch.zeros(())
    if "log_prob_old" in leaves:
        log_r, epsilon = log_prob - leaves["log_prob_old"].detach(), o["clip_range"]
        r = log_r.exp()
        terms = torch.min(r * advantage, r.clamp(1 - epsilon, 1 + epsilon) * advantage)
        kl, clipped = (r - 1 - log_r).mean(), ((r - 1).abs() > epsilon).double().mean()
    loss = -terms.mean() - o["ent_coef"] * entropy.mean()
    loss.backward()
    slope = log_prob.grad
    sizes = {"loss": terms.abs().mean() + advantage.abs().mean(), "log_prob": (slope * log_prob).detach().abs(), "slope": slope.abs()}
    size = {name: x.detach().numpy() for name, x in sizes.items()}
    report = [x.item() for x in (-terms.mean(), entropy.mean(), kl, clipped)]
    return {"report": report, "finite": math.isfinite(report[0] + report[1] + log_r.mean().item()), "size": size}


@st.composite
def value_cases(draw, dtype: str = "float32") -> Case:
    rng, B = np.random.default_rng(draw(SEEDS)), draw(BATCHES)
    value, scale = rng.normal(0, 3, B), draw(st.sampled_from([0.1, 1.0, 30.0]))
    arrays = {"value": value, "return_": value + rng.normal(0, scale, B)}
    options: dict[str, Any] = {"huber": draw(st.booleans()), "coefficient": draw(st.sampled_from([1.0, 0.5, 0.25]))}
    if draw(st.booleans()):
        options["clip_range"] = draw(st.sampled_from([0.2, 1.0]))
        change = away_from(rng.normal(0, 1, B), options["clip_range"], -options["clip_range"])
        arrays["value_old"] = value - change
    if draw(st.booleans()):
        arrays["weight"] = rng.random(B)
    arrays = {name: x.astype(dtype) for name, x in arrays.items()}
    if draw(st.booleans()):
        arrays["value"] = arrays["value"][:, None]
    return Case("value_loss", arrays, options, {"d_value": (B, 1)})


def penalty(delta: Any, huber: bool) -> Any:
    return F.smooth_l1_loss(delta, torch.zeros_like(delta), reduction="none") if huber else delta**2


def value_reference(case: Case, leaves: dict[str, Any]) -> dict[str, Any]:
    value = leaves["value"].reshape(-1)
    if "value_old" in leaves:
        old, epsilon = leaves["value_old"].detach(), case.options["clip_range"]
        value = old + (value - old).clamp(-epsilon, epsilon)
    elementwise = penalty(value - leaves["return_"].detach(), case.options["huber"])
    loss = (elementwise * leaves["weight"].detach() if "weight" in leaves else elementwise).mean()
    (case.options["coefficient"] * loss).backward()
    return {"report": [loss.item()], "finite": bool(loss.isfinite())}


@st.composite
def q_cases(draw, dtype: str = "float32") -> Case:
    rng, B, A = np.random.default_rng(draw(SEEDS)), draw(BATCHES), draw(WIDTHS)
    scale, ties = draw(st.sampled_from([0.1, 1.0, 30.0])), draw(st.booleans())
    arrays = {
        "q": rng.normal(0, scale, (B, A)), "action": rng.integers(0, A, B), "reward": rng.normal(size=B),
        "discount": 0.99 * (rng.random(B) < 0.9), "next_q_target": rng.normal(0, scale, (B, A)),
    }  # fmt: skip
    if draw(st.booleans()):
        arrays["next_q_online"] = rng.normal(0, scale, (B, A))
    if draw(st.booleans()):
        arrays["weight"] = rng.random(B)
    chooser = "next_q_online" if "next_q_online" in arrays else "next_q_target"
    if ties:
        arrays[chooser] = np.sign(arrays[chooser])
    arrays = {name: x if x.dtype == np.int64 else x.astype(dtype) for name, x in arrays.items()}
    return Case("q_loss", arrays, {"huber": draw(st.booleans())}, {"d_q": (B, A), "td_error": (B,)})


def q_reference(case: Case, leaves: dict[str, Any]) -> dict[str, Any]:
    chooser = leaves.get("next_q_online", leaves["next_q_target"])
    next_q = leaves["next_q_target"].gather(1, chooser.argmax(1, keepdim=True))[:, 0]
    q = leaves["q"].gather(1, leaves["action"][:, None])[:, 0]
    td_error = q - (leaves["reward"] + leaves["discount"] * next_q).detach()
    elementwise = penalty(td_error, case.options["huber"])
    loss = (elementwise * leaves["weight"].detach() if "weight" in leaves else elementwise).mean()
    loss.backward()
    return {"report": [loss.item(), q.mean().item()], "td_error": td_error.detach().numpy(), "finite": bool(loss.isfinite())}


@st.composite
def squashed_cases(draw, dtype: str = "float32") -> Case:
    rng, B, A = np.random.default_rng(draw(SEEDS)), draw(BATCHES), draw(WIDTHS)
    low, high = draw(st.sampled_from([(-20.0, 2.0), (-1.0, 0.5), (-5.0, -5.0)]))
    raw = np.where(rng.random((B, A)) < 0.2, rng.uniform(-25, 4, (B, A)), rng.uniform(-2, 0.5, (B, A)))
    raw.ravel()[::7] = rng.choice([low, high])  # on the edge the gradient passes
    output = np.hstack([rng.normal(0, draw(st.sampled_from([0.1, 1.0, 10.0])), (B, A)), raw])
    return Case(
        "squashed_gaussian",
        {"output": output.astype(dtype), "noise": rng.normal(size=(B, A)).astype(dtype)},
        {"log_std_range": (low, high)},
    )


def squashed_reference(case: Case, leaves: dict[str, Any]) -> dict[str, Any]:
    mean, raw = leaves["output"].chunk(2, 1)
    u = mean + raw.clamp(*case.options["log_std_range"]).exp() * leaves["noise"].detach()
    log_density = -0.5 * leaves["noise"].detach() ** 2 - raw.clamp(*case.options["log_std_range"]) - 0.5 * math.log(2 * math.pi)
    # 1 - tanh(u)^2 = 1 / cosh(u)^2
    log_cosh = u.abs() + torch.log1p(torch.exp(-2 * u.abs())) - math.log(2)
    return {"action": torch.tanh(u), "log_prob": (log_density + 2 * log_cosh).sum(1), "u": u.detach().numpy()}
