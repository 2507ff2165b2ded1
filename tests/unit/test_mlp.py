"""Parts that treat positions alone: gated, chunked, and what they refuse."""

import pytest
import torch

from subquad import nn


@pytest.mark.parametrize("length", [0, 1, 7, 8, 30])
@pytest.mark.parametrize("make", [nn.MLP, nn.GatedMLP])
def test_chunked_equals_whole_gradients_too(make, length):
    inner = make(6, 12).double()
    chunked = nn.Chunked(inner, 8)
    found = []
    for part in (inner, chunked):
        x = torch.linspace(-1, 1, 2 * length * 6, dtype=torch.float64).view(2, length, 6)
        x.requires_grad_()
        y = part(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *inner.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gated_by_its_definition():
    part, x = nn.GatedMLP(6, 12).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    gate, up, down = (m.weight for m in (part.gate, part.up, part.down))
    wanted = (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T
    torch.testing.assert_close(part(x), wanted, rtol=1e-12, atol=1e-12)


def test_a_chunk_needs_a_position():
    with pytest.raises(ValueError, match="at least 1 position, not 0"):
        nn.Chunked(nn.MLP(6, 12), 0)
