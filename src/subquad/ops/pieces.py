"""How a band of an attention matrix is cut into tiles.

Query i stands at key slot i + shift. Blocks of T queries look at T + behind + ahead keys. Blocks
whose keys all exist are alike: many blocks of one head form one batch of overlapping views, without
a copy. The others, at the edges or where the reach covers everything, are cut one by one, heads
together; so are all of them where a mask of pairs, which heads share, decides and they are large.

Axes: B batch, N queries, M keys, H heads, X pieces of a tile, T queries, S keys, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["ROWS", "Piece", "loose_pieces", "pieces"]

#: scores in a tile: 2 MiB of float32, what the two cores of a small machine keep in their caches
BUDGET = 1 << 19
#: the most queries in a block
ROWS = 128


@dataclass(frozen=True)
class Piece:
    """`blocks` tiles of `rows` queries from `i0` against `keys` keys from `j0`.

    Several blocks belong to one head (`b0`, `h0`); a single block spans rows b0..b1 of the batch
    and heads h0..h1. `lead` is the distance of query 0 and key 0 of a tile.
    """

    b0: int
    b1: int
    h0: int
    h1: int
    blocks: int
    rows: int
    keys: int
    i0: int
    j0: int
    lead: int

    @property
    def single(self) -> bool:
        """Is it one block, of several heads?"""
        return self.blocks == 1

    def queries(self, t: Tensor) -> Tensor:
        """Rows of `t` (B or 1, H or 1, N, ...): (B or 1, H or 1, T, ...), or (X, T, ...)."""
        return self._view(t, self.i0, self.rows)

    def look(self, t: Tensor) -> Tensor:
        """Columns of `t` (B or 1, H or 1, M, ...), likewise."""
        return self._view(t, self.j0, self.keys)

    def _view(self, t: Tensor, start: int, count: int) -> Tensor:
        if self.single:
            lanes = ((self.b0, self.b1), (self.h0, self.h1))
            b, h = (slice(*ab) if t.shape[i] > 1 else slice(None) for i, ab in enumerate(lanes))
            return t[b, h, start : start + count]
        one = t[self.b0 if t.shape[0] > 1 else 0, self.h0 if t.shape[1] > 1 else 0]
        s = one.stride(0)
        size = (self.blocks, count, *one.shape[1:])
        stride = (self.rows * s, s, *one.stride()[1:])
        return one.as_strided(size, stride, one.storage_offset() + start * s)

    def flat(self, part: Tensor) -> Tensor:
        """What `queries` or `look` gave of a whole (B, H, ...) tensor as (X, T or S, ...)."""
        return part.flatten(0, 1) if self.single else part

    def spread(self, part: Tensor) -> Tensor:
        """(B or 1, H or 1, T, S), or (X, T, S), as (X or 1, T, S)."""
        if not self.single:
            return part
        if part.shape[:2] != (1, 1):
            part = part.expand(self.b1 - self.b0, self.h1 - self.h0, -1, -1)
        return part.flatten(0, 1)

    def put_queries(self, total: Tensor, part: Tensor) -> None:
        """Write (X, T, D) to its rows of `total`; rows of different pieces never meet."""
        target = self.queries(total)
        target.copy_(part.view(target.shape))

    def add_look(self, total: Tensor, part: Tensor) -> None:
        """Add (X, S, D) to its columns of `total`; blocks overlap, so a block's width at a time."""
        if self.single:
            target = self.look(total)
            target += part.view(target.shape)
            return
        for c in range(0, self.keys, self.rows):
            width = min(self.rows, self.keys - c)
            self._view(total, self.j0 + c, width).add_(part[:, c : c + width])

    def of_heads(self, rows: Tensor) -> Tensor:
        """What belongs to this piece of (H or 1, ...): (X or 1, ...)."""
        if rows.shape[0] == 1:
            return rows
        mine, batch = rows[self.h0 : self.h1], self.b1 - self.b0
        return mine if batch == 1 else mine.repeat(batch, *[1] * (rows.dim() - 1))

    def add_rows(self, total: Tensor, part: Tensor) -> None:
        """Add (X, L, ...) to (H or 1, L, ...), summed over the rows of the batch and blocks."""
        if self.single:
            part = part.unflatten(0, (self.b1 - self.b0, self.h1 - self.h0)).sum(0)
        else:
            part = part.sum(0, keepdim=True)
        into = total if total.shape[0] == 1 else total[self.h0 : self.h1]
        into += part.sum_to_size(len(into), *part.shape[1:])

    def narrow(self, first: int, last: int) -> "Piece":
        """The same queries against the keys first..last alone, for a piece of a single block."""
        return replace(self, j0=self.j0 + first, keys=last - first, lead=self.lead - first)

    def distances(self, device: torch.device) -> Tensor:
        """Distance of every pair of a tile: (T, S)."""
        t = torch.arange(self.rows, device=device)[:, None]
        return t - torch.arange(self.keys, device=device) + self.lead

    def slots(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Query slots (X or 1, T, 1) and key slots (X or 1, 1, S) of a tile."""
        block = torch.arange(self.blocks, device=device)[:, None] * self.rows
        t = block + torch.arange(self.rows, device=device) + self.i0
        s = block + torch.arange(self.keys, device=device) + self.j0
        return t[:, :, None], s[:, None]

    def lanes(self, heads: int, device: torch.device) -> Tensor:
        """The number b * H + h of each of the X pieces."""
        rows = torch.arange(self.b0, self.b1, device=device)[:, None] * heads
        lanes = (rows + torch.arange(self.h0, self.h1, device=device)).flatten()
        return lanes if self.single else lanes.expand(self.blocks)


def pieces(
    lanes: tuple[int, int], n: int, m: int, reach: tuple[int, int], *, alike: bool
) -> Iterator[Piece]:
    """The pieces that cover the band of an (n, m) matrix, reaching behind and ahead.

    lanes: rows of the batch and heads. alike: does the place of a pair in its block decide whether
    it is allowed?
    """
    (batch, heads), (behind, ahead) = lanes, reach
    shift = m - n
    behind, ahead = min(behind, n - 1 + shift), min(ahead, m - 1 - shift)
    if n == 0 or behind < -ahead:
        return
    rows = _block_rows(behind + ahead + 1, n)
    first = -(-max(0, behind - shift) // rows)
    last = min(n // rows, (m - ahead - shift) // rows)
    width = rows + behind + ahead
    if last - first < 4 or not (alike or rows * width * batch * heads < BUDGET):
        first = last = -(-n // rows)
    for block in (*range(first), *range(last, -(-n // rows))):
        i0 = block * rows
        i1 = min(n, i0 + rows)
        j0, j1 = max(0, i0 + shift - behind), min(m, i1 + shift + ahead)
        yield from _across(lanes, (i0, i1), (j0, j1), i0 + shift - j0)
    together = max(1, BUDGET // (rows * width))
    for b in range(batch):
        for h in range(heads):
            for block in range(first, last, together):
                blocks, i0 = min(together, last - block), block * rows
                yield Piece(
                    b, b + 1, h, h + 1, blocks, rows, width, i0, i0 + shift - behind, behind
                )


def loose_pieces(
    lanes: tuple[int, int], q_pos: Tensor, k_pos: Tensor, behind: int, ahead: int
) -> Iterator[Piece]:
    """Pieces that hold every pair within reach, where positions increase by more than one.

    q_pos (B or 1, H or 1, N), k_pos (B or 1, H or 1, M). Their `lead` means nothing.
    """
    n = q_pos.shape[-1]
    lead = torch.broadcast_shapes(q_pos.shape[:2], k_pos.shape[:2])
    q_pos, k_pos = (t.expand(*lead, -1).contiguous() for t in (q_pos, k_pos))
    starts = torch.searchsorted(k_pos, q_pos - behind).flatten(0, 1).amin(0).tolist()
    stops = torch.searchsorted(k_pos, q_pos + ahead, right=True).flatten(0, 1).amax(0).tolist()
    rows = _block_rows(max((b - a for a, b in zip(starts, stops, strict=True)), default=1), n)
    for i0 in range(0, n, max(1, rows)):
        i1 = min(n, i0 + rows)
        yield from _across(lanes, (i0, i1), (min(starts[i0:i1]), max(stops[i0:i1])), 0)


def _across(
    lanes: tuple[int, int], rows: tuple[int, int], keys: tuple[int, int], lead: int
) -> Iterator[Piece]:
    """One block of queries against a run of keys, in all rows of the batch and all heads."""
    (batch, heads), (i0, i1), (j0, j1) = lanes, rows, keys
    if j1 <= j0 or heads == 0:
        return
    # near the budget, and shared out: threads take 4 and 4 heads sooner than 3, 3 and 2
    together = BUDGET / ((i1 - i0) * (j1 - j0))
    hs, bs = -(-heads // max(1, round(heads / together))), max(1, int(together / heads))
    for b in range(0, batch, bs):
        for h in range(0, heads, hs):
            b1, h1 = min(batch, b + bs), min(heads, h + hs)
            yield Piece(b, b1, h, h1, 1, i1 - i0, j1 - j0, i0, j0, lead)


def _block_rows(reach: int, n: int) -> int:
    """Queries in a block: a power of two near a quarter of the reach."""
    rows = 16
    while rows < ROWS and rows * 8 <= reach:
        rows *= 2
    return min(rows, n)
