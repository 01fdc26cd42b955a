"""Modules and their arena stay one, whatever is done to the modules."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from pyrl.engine.arena import Arena
from pyrl.errors import NonFiniteError, ShapeError
from pyrl.nets.mlp import mlp


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor = mlp((3, 5, 2), "tanh")
        self.critic = nn.Sequential(nn.Linear(3, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 1))
        self.log_std = nn.Parameter(torch.full((2,), -0.5))

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return (self.actor(x).sum(1) * self.log_std.sum() + self.critic(x).squeeze(1)).square().mean()


def make() -> tuple[Policy, Arena]:
    torch.manual_seed(0)
    policy = Policy()
    arena = Arena(policy)
    arena.optimizer = torch.optim.Adam([arena.values], lr=0.01, fused=True)
    return policy, arena


def x_of(policy: Policy) -> torch.Tensor:
    return torch.linspace(-1, 1, 12, dtype=policy.log_std.dtype).view(4, 3)


def train(policy: Policy, arena: Arena, steps: int = 3) -> None:
    for _ in range(steps):
        arena.zero_grad()
        policy.loss(x_of(policy)).backward()
        arena.step(0.5)


def assert_one(policy: Policy, arena: Arena) -> None:
    """Every parameter and gradient is a view of the arena: writing one side shows on the other."""
    arena.sync()
    for parameter in policy.parameters():
        at = arena.offset(parameter)
        assert at % 16 == 0
        assert parameter.data_ptr() == arena.values.data_ptr() + at * arena.values.element_size()
    with torch.no_grad():
        policy.log_std.fill_(0.25)
        at = arena.offset(policy.log_std)
        assert arena.values[at : at + 2].tolist() == [0.25, 0.25]
        arena.values[at] = 0.75
        assert policy.log_std[0].item() == 0.75


def test_values_are_kept_and_linear_weights_lie_transposed() -> None:
    torch.manual_seed(0)
    expected = Policy()
    policy, arena = make()
    for ours, theirs in zip(policy.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    weight = policy.actor[0].weight
    at = arena.offset(weight)
    assert torch.equal(arena.values[at : at + 15].view(3, 5), weight.t())
    used = sum(p.numel() for p in policy.parameters())
    assert arena.values.count_nonzero() <= used < arena.values.numel()
    assert_one(policy, arena)


def test_training_equals_training_without_an_arena() -> None:
    policy, arena = make()
    plain = copy.deepcopy(policy)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    train(policy, arena, 20)
    for _ in range(20):
        optimizer.zero_grad()
        plain.loss(x_of(plain)).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
    for ours, theirs in zip(policy.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def assign(policy: Policy) -> None:
    policy.load_state_dict({k: v.clone() + 1 for k, v in policy.state_dict().items()}, assign=True)


def assign_one(policy: Policy) -> None:
    policy.actor[0].weight = nn.Parameter(torch.full((5, 3), 0.125))


BREAKS = {
    "load_state_dict": lambda p: p.load_state_dict({k: v + 1 for k, v in p.state_dict().items()}),
    "assign": assign,
    "assign one": assign_one,
    "cast and back": lambda p: p.double().float(),
    "cast of a part and back": lambda p: p.actor.double().float(),
    "double": lambda p: p.double(),
    "share_memory": lambda p: p.share_memory(),
    "zero_grad": lambda p: p.zero_grad(set_to_none=True),
    "data": lambda p: setattr(p.critic[0].weight, "data", p.critic[0].weight.data.contiguous() * 2),
}


@pytest.mark.parametrize("name", BREAKS)
def test_breaking_the_sharing(name: str) -> None:
    """After it, the module's values are what both sides hold, and training goes on as a plain copy's does."""
    policy, arena = make()
    train(policy, arena)
    BREAKS[name](policy)
    values = {k: v.clone() for k, v in policy.state_dict().items()}
    arena.sync()
    assert all(torch.equal(v, values[k]) for k, v in policy.state_dict().items())
    before = arena.values.clone()
    train(policy, arena, 1)
    assert not torch.equal(arena.values, before)
    assert arena.values.dtype == policy.log_std.dtype
    assert_one(policy, arena)


@pytest.mark.parametrize("name", ["zero_grad", "cast and back", "share_memory"])
def test_harmless_breaks_do_not_change_training(name: str) -> None:
    (policy, arena), (same, same_arena) = make(), make()
    for _ in range(3):
        train(policy, arena, 2)
        train(same, same_arena, 2)
        BREAKS[name](policy)
    assert torch.equal(arena.values, same_arena.values)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_are_whole_and_independent(duplicate) -> None:
    policy, arena = make()
    train(policy, arena)
    policy2, arena2 = duplicate((policy, arena))
    original = arena.values.clone()
    train(policy2, arena2)
    assert torch.equal(arena.values, original)
    train(policy, arena)
    assert torch.equal(arena.values, arena2.values)  # optimiser state and all
    assert_one(policy2, arena2)


def test_a_copied_module_alone_is_a_plain_module() -> None:
    policy, arena = make()
    other = copy.deepcopy(policy)
    train(policy, arena)
    assert not torch.equal(policy.log_std, other.log_std)
    assert_one(other, Arena(other))
    assert_one(policy, arena)


def test_optimizer_state_follows_a_cast() -> None:
    policy, arena = make()
    train(policy, arena)
    policy.double()
    train(policy, arena)
    assert arena.optimizer is not None
    assert arena.optimizer.state[arena.values]["exp_avg"].dtype == torch.float64
    assert arena.optimizer.state[arena.values]["step"].item() == 6


def test_frozen_parameters_stay() -> None:
    policy, arena = make()
    assert arena.trainable
    train(policy, arena)  # momentum would go on moving them
    policy.actor[0].requires_grad_(False)
    assert not arena.trainable
    weight = policy.actor[0].weight.clone()
    train(policy, arena)
    assert torch.equal(policy.actor[0].weight, weight)


def test_another_shape_is_refused() -> None:
    policy, arena = make()
    policy.actor[0].weight = nn.Parameter(torch.zeros(5, 4))
    with pytest.raises(ShapeError, match=r"Linear.weight has shape \[5, 4\], expected \[5, 3\]"):
        arena.sync()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused(value: float) -> None:
    policy, arena = make()
    train(policy, arena)
    before = arena.values.clone()
    arena.zero_grad()
    policy.log_std.grad[1] = value
    with pytest.raises(NonFiniteError, match=r"gradient of Policy.log_std \[2\] is not finite"):
        arena.step()
    assert torch.equal(arena.values, before)
    assert arena.optimizer.state[arena.values]["step"].item() == 3


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("deferred", [False, True])
def test_a_norm_that_overflows_is_refused(deferred: bool, max_grad_norm: float | None) -> None:
    """Every number is finite, their squares are not: scaled by 0.5 / inf they would be a step of zeros."""
    arena = Arena(nn.Linear(30, 30))
    arena.optimizer = torch.optim.Adam([arena.values], fused=True)
    refused = torch.zeros(())
    arena.gradients.fill_(1e30)
    if deferred:
        arena.run_async(refused)
        arena.step(max_grad_norm)
        assert refused == 1
    else:
        with pytest.raises(NonFiniteError, match="the gradient of its norm is not finite"):
            arena.step(max_grad_norm)
