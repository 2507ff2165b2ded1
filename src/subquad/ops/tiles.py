"""One tile of attention, forward and backward: the arithmetic that the blocked engines share.

A tile is X independent pieces of T queries against S keys. Scores, maxima and sums are float32 (or
float64); the two large products run in the dtype of the inputs. Scores are kept as logarithms to
base 2: on a CPU exp2 takes a third of the time of exp, and far less where results underflow.

    forward    p = exp(s - lse),  out = p v
    backward   ds = p * (do v^T - delta),   delta_i = do_i . out_i - dlse_i
               dq = ds k,  dk = ds^T q,  dv = p^T do

Axes: X pieces, T queries, S keys, D head width, L = T + S - 1 distances.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops.partial import EMPTY, wide

__all__ = ["LOG2_E", "Tile", "TileGrads", "diagonals", "skew", "tile_backward", "tile_forward"]

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)


class Tile(NamedTuple):
    """Inputs of a tile. `q` comes scaled; `bias` (X or 1, T, S) holds EMPTY where not allowed.

    The bias is a logarithm to base 2 as well: the caller multiplies by LOG2_E.

    `rel_query` (X, T, D) with `rel_rows` (X or 1, L, D): rows in order of falling distance, so the
    pair (t, s) reads row T - 1 - t + s. `factors` (X, T, S) are those of dropout.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    rel_query: Tensor | None = None
    rel_rows: Tensor | None = None
    factors: Tensor | None = None


class TileGrads(NamedTuple):
    """Gradients of a tile's q, k, v, of its relative query and rows, and of its scores."""

    q: Tensor
    k: Tensor
    v: Tensor
    rel_query: Tensor | None
    rel_rows: Tensor | None
    scores: Tensor


def tile_forward(tile: Tile) -> tuple[Tensor, Tensor]:
    """out (X, T, Dv) in the dtype of v and lse (X, T); rows without keys give zeros and EMPTY."""
    s = _scores(tile, tile.bias)
    top = s.amax(-1, keepdim=True)
    p = s.sub_(top).exp2_()
    total = p.sum(-1, keepdim=True)
    lse = total.log2().add_(top).mul_(LN_2)
    empty = top < EMPTY / 2
    if tile.factors is not None:
        p *= tile.factors.to(p.dtype)
    out = torch.bmm(p.to(tile.v.dtype), tile.v)
    out = torch.div(out, total).masked_fill_(empty, 0.0)
    return out.to(tile.v.dtype), lse.masked_fill_(empty, EMPTY).squeeze(-1)


def tile_backward(tile: Tile, grad: Tensor, lse: Tensor, delta: Tensor) -> TileGrads:
    """Gradients from those of the output, `grad` (X, T, Dv), with lse and delta (X, T)."""
    # an empty row has lse = EMPTY = its scores: exp(0) there must not count
    less = (lse * -LOG2_E).masked_fill_(lse < EMPTY / 2, EMPTY).unsqueeze(-1)
    p = _scores(tile, less if tile.bias is None else tile.bias + less).exp2_()
    low = tile.q.dtype
    if tile.factors is None and low == p.dtype:
        # dp - delta in one product: the sum starts at -delta
        start = (-delta).unsqueeze(-1).expand(p.shape)
        weights, ds = p, torch.baddbmm(start, grad, tile.v.mT).mul_(p)
    else:
        kept = 1.0 if tile.factors is None else tile.factors.to(p.dtype)
        dp = torch.bmm(grad, tile.v.mT).to(p.dtype).mul_(kept)
        weights, ds = (p * kept).to(low), dp.sub_(delta.unsqueeze(-1)).mul_(p)
    dv = torch.bmm(weights.mT, grad)
    small = ds.to(low)
    rel_query = rel_rows = None
    if tile.rel_query is not None and tile.rel_rows is not None:
        fall = skew_back(small.to(tile.rel_query.dtype))
        rel_query = torch.bmm(fall, tile.rel_rows.expand(len(fall), -1, -1))
        rel_rows = torch.bmm(fall.mT, tile.rel_query)
    dk = torch.bmm(small.mT, tile.q)
    return TileGrads(torch.bmm(small, tile.k), dk, dv, rel_query, rel_rows, ds)


def skew(fall: Tensor, keys: int) -> Tensor:
    """Values by (query, falling distance), (X, T, L) contiguous, as a view by (query, key)."""
    x, t, length = fall.shape
    return fall.as_strided((x, t, keys), (t * length, length - 1, 1), fall.storage_offset() + t - 1)


def skew_back(scores: Tensor) -> Tensor:
    """The transpose of `skew`: (X, T, S) to (X, T, T + S - 1), zeros elsewhere."""
    x, t, keys = scores.shape
    fall = scores.new_zeros(x, t, t + keys - 1)
    skew(fall, keys).copy_(scores)
    return fall


def diagonals(scores: Tensor) -> Tensor:
    """Sums of (X, T, S) over equal distances, in order of falling distance: (X, T + S - 1)."""
    return skew_back(scores).sum(1)


def _scores(tile: Tile, start: Tensor | None) -> Tensor:
    """Scores (X, T, S) as logarithms to base 2, beginning at `start` (X or 1, T, S or 1)."""
    q, keys = tile.q * LOG2_E, tile.k.mT
    shape = len(q), q.shape[1], keys.shape[2]
    kind = wide(q.dtype)
    if start is not None and q.dtype == kind:
        # the sum begins at the bias, which spares a pass over the tile
        s = torch.baddbmm(start.expand(shape), q, keys)
    else:
        s = torch.bmm(q, keys).to(kind)
        s = s if start is None else s.add_(start)
    if tile.rel_query is not None and tile.rel_rows is not None:
        rows = tile.rel_rows.expand(len(q), -1, -1)
        s += skew(torch.bmm(tile.rel_query * LOG2_E, rows.mT), s.shape[-1])
    return s
