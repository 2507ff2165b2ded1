"""One tile of attention, forward and backward: the arithmetic that the blocked engines share.

A tile is X independent pieces of T queries against S keys. Scores, maxima and sums are float32 (or
float64); the two large products run in the dtype of the inputs.

    forward    p = exp(s - lse),  out = p v
    backward   ds = p * (do v^T - delta),   delta_i = do_i . out_i - dlse_i
               dq = ds k,  dk = ds^T q,  dv = p^T do

Axes: X pieces, T queries, S keys, D head width, L = T + S - 1 distances.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops.partial import EMPTY, wide

__all__ = ["Tile", "TileGrads", "diagonals", "skew", "tile_backward", "tile_forward"]


class Tile(NamedTuple):
    """Inputs of a tile. `q` comes scaled; `bias` (X or 1, T, S) holds EMPTY where not allowed.

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
    s = _scores(tile)
    top = s.amax(-1, keepdim=True)
    p = s.sub_(top).exp_()
    total = p.sum(-1, keepdim=True)
    empty = top < EMPTY / 2
    scale = torch.where(empty, 0.0, 1.0 / total)
    lse = torch.where(empty, EMPTY, top + total.log()).squeeze(-1)
    if tile.factors is not None:
        p = p * tile.factors.to(p.dtype)
    out = torch.bmm(p.to(tile.v.dtype), tile.v)
    return (out * scale).to(tile.v.dtype), lse


def tile_backward(tile: Tile, grad: Tensor, lse: Tensor, delta: Tensor) -> TileGrads:
    """Gradients from those of the output, `grad` (X, T, Dv), with lse and delta (X, T)."""
    s = _scores(tile)
    # an empty row has lse = EMPTY = its scores: exp(0) there must not count
    full = torch.where(lse < EMPTY / 2, -EMPTY, lse).unsqueeze(-1)
    p = s.sub_(full).exp_()
    dp = torch.bmm(grad, tile.v.mT).to(p.dtype)
    if tile.factors is None:
        weights = p.to(grad.dtype)
    else:
        kept = tile.factors.to(p.dtype)
        weights, dp = (p * kept).to(grad.dtype), dp * kept
    dv = torch.bmm(weights.mT, grad)
    ds = dp.sub_(delta.unsqueeze(-1)).mul_(p)
    low = ds.to(tile.q.dtype)
    rel_query = rel_rows = None
    if tile.rel_query is not None and tile.rel_rows is not None:
        fall = skew_back(low)
        rel_query = torch.bmm(fall, tile.rel_rows.expand(len(fall), -1, -1))
        rel_rows = torch.bmm(fall.mT, tile.rel_query)
    return TileGrads(torch.bmm(low, tile.k), torch.bmm(low.mT, tile.q), dv, rel_query, rel_rows, ds)


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


def _scores(tile: Tile) -> Tensor:
    s = torch.bmm(tile.q, tile.k.mT).to(wide(tile.q.dtype))
    if tile.rel_query is not None and tile.rel_rows is not None:
        rows = tile.rel_rows.expand(len(tile.q), -1, -1)
        s += skew(torch.bmm(tile.rel_query, rows.mT), s.shape[-1])
    if tile.bias is not None:
        s += tile.bias
    return s
