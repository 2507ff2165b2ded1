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
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops.partial import EMPTY, wide

__all__ = [
    "LOG2_E",
    "Scratch",
    "Tile",
    "TileGrads",
    "diagonals",
    "skew",
    "tile_backward",
    "tile_forward",
]

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


class Scratch:
    """Memory that one tile leaves to the next.

    Tiles are as large as what a C library gives back to the system and asks for again, and every
    page of fresh memory costs as much as several passes over it.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def new(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Memory of that name with any content, in the type of `like`."""
        size, key = math.prod(shape), (name, like.dtype)
        if key not in self._kept or self._kept[key].numel() < size:
            self._kept[key] = like.new_empty(size)
        return self._kept[key][:size].view(*shape)


def tile_forward(tile: Tile, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """out (X, T, Dv) in the dtype of v and lse (X, T); rows without keys give zeros and EMPTY."""
    s = _scores(tile, tile.bias, scratch)
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


def tile_backward(
    tile: Tile, scratch: Scratch, grad: Tensor, lse: Tensor, delta: Tensor
) -> TileGrads:
    """Gradients from those of the output, `grad` (X, T, Dv), with lse and delta (X, T).

    Those of k, v and the scores lie in the scratch: read them before the next tile.
    """
    # an empty row has lse = EMPTY = its scores: exp(0) there must not count
    less = (lse * -LOG2_E).masked_fill_(lse < EMPTY / 2, EMPTY).unsqueeze(-1)
    p = _scores(tile, tile.bias, scratch, less).exp2_()
    low = tile.q.dtype
    if tile.factors is None and low == p.dtype:
        # dp - delta in one product: the sum starts at -delta
        dp = scratch.new("slopes", p.shape, p)
        dp.copy_((-delta).unsqueeze(-1).expand(p.shape))
        weights, ds = p, torch.baddbmm(dp, grad, tile.v.mT, out=dp).mul_(p)
    else:
        dp, weights = torch.bmm(grad, tile.v.mT).to(p.dtype), p
        if tile.factors is not None:
            kept = tile.factors.to(p.dtype)
            dp, weights = dp.mul_(kept), p * kept
        weights, ds = weights.to(low), dp.sub_(delta.unsqueeze(-1)).mul_(p)
    dv = _product("values", weights.mT, grad, scratch)
    small = ds.to(low)
    rel_query = rel_rows = None
    if tile.rel_query is not None and tile.rel_rows is not None:
        fall = skew_back(small.to(tile.rel_query.dtype), scratch)
        rel_query = torch.bmm(fall, tile.rel_rows.expand(len(fall), -1, -1))
        rel_rows = torch.bmm(fall.mT, tile.rel_query)
    dk = _product("keys", small.mT, tile.q, scratch)
    return TileGrads(torch.bmm(small, tile.k), dk, dv, rel_query, rel_rows, ds)


def skew(fall: Tensor, keys: int) -> Tensor:
    """Values by (query, falling distance), (X, T, L) contiguous, as a view by (query, key)."""
    x, t, length = fall.shape
    return fall.as_strided((x, t, keys), (t * length, length - 1, 1), fall.storage_offset() + t - 1)


def skew_back(scores: Tensor, scratch: Scratch) -> Tensor:
    """The transpose of `skew`: (X, T, S) to (X, T, T + S - 1), zeros elsewhere."""
    x, t, keys = scores.shape
    fall = scratch.new("fall", (x, t, t + keys - 1), scores).zero_()
    skew(fall, keys).copy_(scores)
    return fall


def diagonals(scores: Tensor, scratch: Scratch) -> Tensor:
    """Sums of (X, T, S) over equal distances, in order of falling distance: (X, T + S - 1)."""
    return skew_back(scores, scratch).sum(1)


def _scores(
    tile: Tile, bias: Tensor | None, scratch: Scratch, less: Tensor | None = None
) -> Tensor:
    """Scores (X, T, S) as logarithms to base 2, plus bias (X or 1, T, S) and less (X, T, 1)."""
    q, keys = torch.mul(tile.q, LOG2_E, out=scratch.new("q", tile.q.shape, tile.q)), tile.k.mT
    shape = len(q), q.shape[1], keys.shape[2]
    parts = [part for part in (bias, less) if part is not None]
    if q.dtype == wide(q.dtype):
        s = scratch.new("scores", shape, q)
        # the sum begins at them, which spares a pass over the tile
        if len(parts) == 2:
            torch.add(*parts, out=s)
        elif parts:
            s.copy_(parts[0].expand(shape))
        if parts:
            torch.baddbmm(s, q, keys, out=s)
        else:
            torch.bmm(q, keys, out=s)
    else:
        s = torch.bmm(q, keys).to(wide(q.dtype))
        for part in parts:
            s = s.add_(part)
    if tile.rel_query is not None and tile.rel_rows is not None:
        rows = tile.rel_rows.expand(len(q), -1, -1)
        fall = _product("fall", tile.rel_query * LOG2_E, rows.mT, scratch)
        s += skew(fall, s.shape[-1])
    return s


def _product(name: str, a: Tensor, b: Tensor, scratch: Scratch) -> Tensor:
    """a @ b, (X, ..), in the scratch of that name."""
    return torch.bmm(a, b, out=scratch.new(name, (len(a), a.shape[1], b.shape[2]), a))
