"""The band engine: attention over keys at most `behind` before and `ahead` after the query.

The score matrix is formed in tiles of a few hundred kilobytes and never kept: backward forms the
tiles again. O(N reach) time, O(N) memory whatever the reach, so that it also serves full and causal
attention where torch's own kernel cannot (distances, labels, a log-sum-exp to merge by).

Axes: B batch, N queries, M keys, H heads, D head width, S rows of a table of distances.
"""

import torch
from torch import Tensor

from subquad.ops.band_loop import Loop
from subquad.ops.lowering import lower
from subquad.ops.partial import Partial, Scoring, Where, wide
from subquad.ops.pattern import Coords, Pattern

__all__ = ["band"]


def band(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows, tile by tile.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv), lse (B, H, N).
    A pattern of unbounded reach costs O(N M) time, and still O(N) memory.
    """
    behind, ahead, dilation, rest = lower(pattern)
    far = 1 << 40  # positions may run on in any steps, so farther than there are slots
    d = scoring.distance
    out, lse = _band(
        q,
        k,
        v,
        pack(where.q),
        pack(where.k),
        where.valid,
        scoring.seed if scoring.dropout > 0 else None,
        d.query if d else None,
        d.table if d else None,
        d.bias if d else None,
        far if behind is None else behind,
        far if ahead is None else ahead,
        dilation,
        "" if rest is None else str(rest),
        scoring.scale,
        scoring.dropout,
        d.zero if d else 0,
    )
    return Partial(out, lse)


def pack(c: Coords) -> Tensor:
    """Coordinates as one tensor for an op: position, label, mark, (3, B or 1, H or 1, N)."""
    label = torch.zeros_like(c.pos) if c.label is None else c.label
    mark = torch.zeros_like(c.pos) if c.mark is None else c.mark.to(c.pos.dtype)
    return torch.stack(torch.broadcast_tensors(c.pos, label, mark))


@torch.library.custom_op("subquad::band", mutates_args=())
def _band(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_where: Tensor,
    k_where: Tensor,
    valid: Tensor | None,
    seed: Tensor | None,
    rel_query: Tensor | None,
    rel_table: Tensor | None,
    rel_bias: Tensor | None,
    behind: int,
    ahead: int,
    dilation: int,
    rest: str,
    scale: float,
    dropout: float,
    zero: int,
) -> tuple[Tensor, Tensor]:
    job = Loop(
        q, k, v, q_where, k_where, valid, seed, rel_query, rel_table, rel_bias,
        behind, ahead, dilation, rest, scale, dropout, zero,
    )  # fmt: skip
    return job.forward()


@_band.register_fake
def _(q, k, v, *rest):
    return _like(q, v), q.new_empty(q.shape[:3], dtype=wide(q.dtype))


@torch.library.custom_op("subquad::band_backward", mutates_args=())
def _band_backward(
    grad: Tensor,
    lse: Tensor,
    delta: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_where: Tensor,
    k_where: Tensor,
    valid: Tensor | None,
    seed: Tensor | None,
    rel_query: Tensor | None,
    rel_table: Tensor | None,
    rel_bias: Tensor | None,
    behind: int,
    ahead: int,
    dilation: int,
    rest: str,
    scale: float,
    dropout: float,
    zero: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    job = Loop(
        q, k, v, q_where, k_where, valid, seed, rel_query, rel_table, rel_bias,
        behind, ahead, dilation, rest, scale, dropout, zero,
    )  # fmt: skip
    return job.backward(grad, lse, delta)


@_band_backward.register_fake
def _(grad, lse, delta, q, k, v, q_where, k_where, valid, seed, rel_query, rel_table, rel_bias, *_):
    def like(t: Tensor | None) -> Tensor:
        return q[:0].new_empty(q[:0].shape) if t is None else q.new_empty(t.shape)

    return like(q), like(k), like(v), like(rel_query), like(rel_table), like(rel_bias)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:10], *output)
    ctx.numbers = inputs[10:]


def _backward(ctx, grad_out: Tensor, grad_lse: Tensor):
    *inputs, out, lse = ctx.saved_tensors
    delta = (grad_out.to(lse.dtype) * out.to(lse.dtype)).sum(-1) - grad_lse
    grads = _band_backward(grad_out, lse, delta, *inputs, *ctx.numbers)
    given = [g if t is not None else None for g, t in zip(grads[3:], inputs[7:10], strict=True)]
    return (*grads[:3], None, None, None, None, *given, *(None for _ in ctx.numbers))


_band.register_autograd(_backward, setup_context=_setup)


def _like(q: Tensor, v: Tensor) -> Tensor:
    """An empty (B, H, N, Dv) laid out (B, N, H, Dv), as the projection after it wants it."""
    b, h, n, _ = q.shape
    return v.new_empty(b, n, h, v.shape[-1]).transpose(1, 2)
