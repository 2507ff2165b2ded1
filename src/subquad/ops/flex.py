"""The flex engine: torch's flex_attention, which compiles a pattern into one GPU kernel.

The pattern's own predicate is the mask: it is traced on the coordinates of one pair, and blocks of
pairs that it forbids are never visited. Distances enter as a bias by distance; a relative query,
dropout and gradients on a CPU are beyond it. Time O(allowed blocks), memory O(N) and the blocks.

Axes: B batch, N queries, M keys, H heads, D head width.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from subquad.ops.partial import EMPTY, Distance, Partial, Scoring, Where, wide
from subquad.ops.pattern import Coords, Pattern

__all__ = ["flex"]


def flex(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv), lse (B, H, N).
    ValueError where weights are dropped, a relative query scores distances, or a gradient is wanted
    on a CPU; there the forward pass alone runs, and holds the N x M scores.
    """
    _check(q, k, v, scoring)
    b, h, n, m = *q.shape[:3], k.shape[2]
    if 0 in (b, n, m):
        lse = torch.full((b, h, n), EMPTY, dtype=wide(q.dtype), device=q.device)
        return Partial(q.new_zeros(b, h, n, v.shape[-1]), lse)
    gpu = q.device.type != "cpu"
    coords = [t for c in (where.q, where.k) for t in c if t is not None]
    batch = b if where.valid is not None or any(t.shape[0] > 1 for t in coords) else None
    heads = h if any(t.shape[1] > 1 for t in coords) else None
    blocks = create_block_mask(
        _allowed(pattern, where), batch, heads, n, m, device=str(q.device), _compile=gpu
    )
    add = None if scoring.distance is None else _addition(scoring.distance, where)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        out, aux = _run(gpu)(
            *(q, k, v), add, blocks, scale=scoring.scale, return_aux=AuxRequest(lse=True)
        )
    some = aux.lse > EMPTY / 2
    return Partial(torch.where(some.unsqueeze(-1), out, 0.0), torch.where(some, aux.lse, EMPTY))


@cache
def _run(compiled: bool) -> Callable[..., Any]:
    attention: Any = flex_attention
    return torch.compile(attention, dynamic=False) if compiled else attention


def _check(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> None:
    d = scoring.distance
    if scoring.dropout > 0:
        raise ValueError(
            f"the flex engine drops no weights, and dropout is {scoring.dropout}; use band"
        )
    if d is not None and (d.query is not None or d.span is not None):
        what = "relative query" if d.query is not None else "span by query"
        raise ValueError(f"the flex engine takes a bias by distance, no {what}; use band")
    given = [q, k, v] if d is None or d.bias is None else [q, k, v, d.bias]
    if q.device.type == "cpu" and torch.is_grad_enabled() and any(t.requires_grad for t in given):
        raise ValueError(
            "the flex engine has no gradient on a CPU; use the band engine, no_grad() or a GPU"
        )


def _allowed(pattern: Pattern, where: Where) -> Callable[..., Tensor]:
    """The predicate of one pair, as flex_attention asks for it."""

    def allowed(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        q, k = _at(where.q, b, h, i), _at(where.k, b, h, j)
        yes = pattern.allowed(q, k)
        return yes if where.valid is None else yes & where.valid[b, j]

    return allowed


def _addition(distance: Distance, where: Where) -> Callable[..., Tensor] | None:
    bias, zero = distance.bias, distance.zero
    if bias is None:
        return None

    def add(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        d = _at(where.q, b, h, i).pos - _at(where.k, b, h, j).pos
        row = (d + zero).clamp(0, bias.shape[1] - 1)
        return score + bias[h if bias.shape[0] > 1 else 0, row]

    return add


def _at(c: Coords, b: Tensor, h: Tensor, n: Tensor) -> Coords:
    """The coordinates of one token."""
    return c.each(lambda t: t[b if t.shape[0] > 1 else 0, h if t.shape[1] > 1 else 0, n])
