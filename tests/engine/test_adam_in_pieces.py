"""Adam in pieces: the same bits as torch's own."""

from __future__ import annotations

import pytest
import torch

from pyrl.engine.optimizers import PIECES, adam_step


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 1024, 5000, 1024 * PIECES, 1024 * PIECES + 1])
def test_adam_in_pieces(size: int, dtype: torch.dtype, settings: dict) -> None:
    torch.manual_seed(size)
    ours, theirs = (torch.zeros(size, dtype=dtype) for _ in range(2))
    in_pieces, whole = (torch.optim.Adam([values], lr=1e-2, fused=True, **settings) for values in (ours, theirs))
    for i in range(4):
        ours.grad = torch.randn(size, dtype=dtype)
        theirs.grad = ours.grad.clone()
        if i == 2:  # a step that is refused, and then left out
            adam_step(in_pieces, torch.ones(()))
        else:
            adam_step(in_pieces, torch.zeros(()) if i else None)
            whole.step()
        assert torch.equal(ours, theirs)
        assert in_pieces.state[ours]["step"] == whole.state[theirs]["step"]
    assert ours.count_nonzero() == size
