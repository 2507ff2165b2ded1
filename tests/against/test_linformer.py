"""Low-rank attention against linformer 0.2.3, its weights in our parts: equal outputs."""

from __future__ import annotations

import pytest
import torch

from subquad.nn import Context, LowRankAttention, Projection

peer = pytest.importorskip("linformer")

DIM, HEADS, LONGEST, RANK = 24, 4, 65, 7


def both(**options) -> tuple[torch.nn.Module, LowRankAttention]:
    """Their attention and ours with the same weights, in float64."""
    torch.manual_seed(0)
    theirs = peer.LinformerSelfAttention(DIM, LONGEST, k=RANK, heads=HEADS, **options)
    ours = LowRankAttention(DIM, HEADS, Projection(RANK, LONGEST), Projection(RANK, LONGEST))
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.4)
    with torch.no_grad():
        ours.project_keys.weight.copy_(theirs.proj_k.T)
        ours.project_values.weight.copy_(theirs.proj_v.T)
        for part, other in ((ours.query, theirs.to_q), (ours.key, theirs.to_k)):
            part.weight.copy_(other.weight)
            part.bias.zero_()
        ours.value.weight.copy_(theirs.to_v.weight)
        ours.value.bias.zero_()
        ours.out.load_state_dict(theirs.to_out.state_dict())
    return theirs.double().eval(), ours.double().eval()


@pytest.mark.parametrize("n", [1, 6, 7, 33, LONGEST])
def test_equal_outputs_and_gradients(n: int):
    theirs, ours = both()
    x = torch.randn(2, n, DIM, dtype=torch.float64, requires_grad=True)
    found, wanted = ours(x, Context.of(x))[0], theirs(x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(found)
    names = ((ours.project_keys.weight, theirs.proj_k), (ours.project_values.weight, theirs.proj_v))
    for mine, other in names:
        a, b = (
            torch.autograd.grad(y, [x, p], grad, retain_graph=True)
            for y, p in ((found, mine), (wanted, other))
        )
        torch.testing.assert_close(a[0], b[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(a[1], b[1].T, rtol=1e-10, atol=1e-10)
