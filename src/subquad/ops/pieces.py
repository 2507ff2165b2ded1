"""How a band of an attention matrix is cut into tiles.

Query i stands at key slot i + shift. Blocks of T queries look at T + behind + ahead keys. Blocks
whose keys all exist are alike: many blocks of one head form one batch of overlapping views, without
a copy. The others, at the edges or where the reach covers everything, are cut one by one, all heads
together.

Axes: B batch, N queries, M keys, H heads, X pieces of a tile, T queries, S keys, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Piece", "loose_pieces", "pieces"]

#: scores in a tile: 2 MiB of float32, what the two cores of a small machine keep in their caches
BUDGET = 1 << 19


@dataclass(frozen=True)
class Piece:
    """`blocks` tiles of `rows` queries from `i0` against `keys` keys from `j0`.

    Several blocks belong to one head (`b`, `h0`); a single block spans heads h0..h1, all rows of
    the batch (`b` is None). `lead` is the distance of query 0 and key 0 of a tile.
    """

    b: int | None
    h0: int
    h1: int
    blocks: int
    rows: int
    keys: int
    i0: int
    j0: int
    lead: int

    def queries(self, t: Tensor) -> Tensor:
        """Rows of `t` (B or 1, H or 1, N, ...): (B or 1, H or 1, T, ...), or (X, T, ...)."""
        return self._view(t, self.i0, self.rows)

    def look(self, t: Tensor) -> Tensor:
        """Columns of `t` (B or 1, H or 1, M, ...), likewise."""
        return self._view(t, self.j0, self.keys)

    def _view(self, t: Tensor, start: int, count: int) -> Tensor:
        if self.b is None:
            heads = slice(None) if t.shape[1] == 1 else slice(self.h0, self.h1)
            return t[:, heads, start : start + count]
        one = t[self.b if t.shape[0] > 1 else 0, self.h0 if t.shape[1] > 1 else 0]
        s = one.stride(0)
        size = (self.blocks, count, *one.shape[1:])
        stride = (self.rows * s, s, *one.stride()[1:])
        return one.as_strided(size, stride, one.storage_offset() + start * s)

    def flat(self, part: Tensor) -> Tensor:
        """What `queries` or `look` gave of a whole (B, H, ...) tensor as (X, T or S, ...)."""
        return part.flatten(0, 1) if self.b is None else part

    def spread(self, part: Tensor, batch: int) -> Tensor:
        """(B or 1, H or 1, T, S), or (X, T, S), as (X or 1, T, S)."""
        if self.b is not None:
            return part
        if part.shape[:2] != (1, 1):
            part = part.expand(batch, self.h1 - self.h0, -1, -1)
        return part.flatten(0, 1)

    def put_queries(self, total: Tensor, part: Tensor) -> None:
        """Write (X, T, D) to its rows of `total`; rows of different pieces never meet."""
        target = self.queries(total)
        target.copy_(part.view(target.shape))

    def add_look(self, total: Tensor, part: Tensor) -> None:
        """Add (X, S, D) to its columns of `total`; blocks overlap, so a block's width at a time."""
        if self.b is None:
            target = self.look(total)
            target += part.view(target.shape)
            return
        for c in range(0, self.keys, self.rows):
            width = min(self.rows, self.keys - c)
            self._view(total, self.j0 + c, width).add_(part[:, c : c + width])

    def of_heads(self, rows: Tensor, batch: int) -> Tensor:
        """What belongs to this piece of (H or 1, ...): (X or 1, ...)."""
        if rows.shape[0] == 1:
            return rows
        mine = rows[self.h0 : self.h1]
        return mine if self.b is not None else mine.repeat(batch, *[1] * (rows.dim() - 1))

    def add_rows(self, total: Tensor, index: Tensor, part: Tensor, batch: int) -> None:
        """Add (X, L, ...) to rows `index` of (H or 1, S, ...)."""
        if self.b is not None:
            part = part.sum(0, keepdim=True)
        else:
            part = part.unflatten(0, (batch, self.h1 - self.h0)).sum(0)
        into = total if total.shape[0] == 1 else total[self.h0 : self.h1]
        part = part.sum_to_size(len(into), *part.shape[1:])
        into.index_add_(1, index, part.to(total.dtype))

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

    def lanes(self, batch: int, heads: int, device: torch.device) -> Tensor:
        """The number b * H + h of each of the X pieces."""
        if self.b is not None:
            return torch.full((self.blocks,), self.b * heads + self.h0, device=device)
        rows = torch.arange(batch, device=device)[:, None] * heads
        return (rows + torch.arange(self.h0, self.h1, device=device)).flatten()


def pieces(batch: int, heads: int, n: int, m: int, behind: int, ahead: int) -> Iterator[Piece]:
    """The pieces that cover the band of an (n, m) matrix, reaching `behind` and `ahead`."""
    shift = m - n
    behind, ahead = min(behind, n - 1 + shift), min(ahead, m - 1 - shift)
    if n == 0 or behind < -ahead:
        return
    rows = _block_rows(behind + ahead + 1, n)
    first = -(-max(0, behind - shift) // rows)
    last = min(n // rows, (m - ahead - shift) // rows)
    if last - first < 4:
        first = last = -(-n // rows)
    for block in (*range(first), *range(last, -(-n // rows))):
        i0 = block * rows
        i1 = min(n, i0 + rows)
        j0, j1 = max(0, i0 + shift - behind), min(m, i1 + shift + ahead)
        yield from _across(batch, heads, (i0, i1), (j0, j1), i0 + shift - j0)
    width = rows + behind + ahead
    together = max(1, BUDGET // (rows * width))
    for b in range(batch):
        for h in range(heads):
            for block in range(first, last, together):
                blocks, i0 = min(together, last - block), block * rows
                yield Piece(b, h, h + 1, blocks, rows, width, i0, i0 + shift - behind, behind)


def loose_pieces(
    batch: int, heads: int, q_pos: Tensor, k_pos: Tensor, behind: int, ahead: int
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
        yield from _across(batch, heads, (i0, i1), (min(starts[i0:i1]), max(stops[i0:i1])), 0)


def _across(
    batch: int, heads: int, rows: tuple[int, int], keys: tuple[int, int], lead: int
) -> Iterator[Piece]:
    """One block of queries against a run of keys, in all rows of the batch."""
    (i0, i1), (j0, j1) = rows, keys
    if j1 <= j0:
        return
    together = max(1, BUDGET // ((i1 - i0) * (j1 - j0) * max(1, batch)))
    for h in range(0, heads, together):
        h1 = min(heads, h + together)
        yield Piece(None, h, h1, 1, i1 - i0, j1 - j0, i0, j0, lead)


def _block_rows(reach: int, n: int) -> int:
    """Queries in a block: a power of two near a quarter of the reach."""
    rows = 16
    while rows < 128 and rows * 8 <= reach:
        rows *= 2
    return min(rows, n)
