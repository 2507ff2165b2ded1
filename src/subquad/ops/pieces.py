"""How a band of an attention matrix is cut into tiles.

Queries stand at key slots `i + shift`. With dilation the slots fall into residue classes that never
meet, and each class is a sequence of its own, read through strides. Inside a sequence, blocks of T
queries look at T + behind + ahead keys. Blocks whose keys all exist are alike: many blocks of one
head form one batch of overlapping views, without a copy. The others, at the edges or where the
reach covers everything, are cut one by one, all heads together.

Axes: B batch, N queries, M keys, H heads, X pieces of a tile, T queries, S keys, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Piece", "pieces"]

#: scores in a tile: 1 MiB of float32 stays in a core's cache
BUDGET = 1 << 18


@dataclass(frozen=True)
class Piece:
    """`blocks` tiles of `rows` queries from `i0` against `keys` keys from `j0`, in one sequence.

    Several blocks belong to one head (`b`, `h0`); a single block spans heads h0..h1, all rows of
    the batch (`b` is None). Slots are those of the residue class: slot = first + dilation * index.
    """

    b: int | None
    h0: int
    h1: int
    blocks: int
    rows: int
    keys: int
    i0: int
    j0: int
    q_first: int
    k_first: int
    dilation: int
    #: distance in steps between query 0 and key 0 of the tile
    lead: int

    def queries(self, t: Tensor) -> Tensor:
        """Rows of `t` (B, H, N, ...): (X, T, ...)."""
        return self._view(t, self.q_first + self.dilation * self.i0, self.rows)

    def look(self, t: Tensor) -> Tensor:
        """Columns of `t` (B, H, M, ...): (X, S, ...)."""
        return self._view(t, self.k_first + self.dilation * self.j0, self.keys)

    def _view(self, t: Tensor, start: int, count: int) -> Tensor:
        step = self.dilation
        if self.b is None:
            part = t[:, self.h0 : self.h1, start : start + step * (count - 1) + 1 : step]
            return part.flatten(0, 1)
        one = t[self.b, self.h0]
        s = one.stride(0)
        size = (self.blocks, count, *one.shape[1:])
        stride = (self.rows * step * s, step * s, *one.stride()[1:])
        return one.as_strided(size, stride, one.storage_offset() + start * s)

    def add_queries(self, total: Tensor, part: Tensor) -> None:
        """Write (X, T, D) to its rows of `total`; rows of different pieces never meet."""
        if self.b is not None:
            self.queries(total).copy_(part)
            return
        stop = self.q_first + self.dilation * (self.i0 + self.rows - 1) + 1
        start = self.q_first + self.dilation * self.i0
        target = total[:, self.h0 : self.h1, start : stop : self.dilation]
        target.copy_(part.view(target.shape))

    def add_look(self, total: Tensor, part: Tensor) -> None:
        """Add (X, S, D) to its columns of `total`; blocks overlap, so a block's width at a time."""
        if self.b is None:
            start = self.k_first + self.dilation * self.j0
            stop = start + self.dilation * (self.keys - 1) + 1
            target = total[:, self.h0 : self.h1, start : stop : self.dilation]
            target += part.view(target.shape)
            return
        for c in range(0, self.keys, self.rows):
            width = min(self.rows, self.keys - c)
            start = self.k_first + self.dilation * (self.j0 + c)
            self._view(total, start, width).add_(part[:, c : c + width])

    def distances(self, device: torch.device) -> Tensor:
        """Distance in tokens of every pair of a tile: (T, S)."""
        t = torch.arange(self.rows, device=device)[:, None]
        s = torch.arange(self.keys, device=device)
        return (t - s + self.lead) * self.dilation

    def slots(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Query slots (X or 1, T, 1) and key slots (X or 1, 1, S) of a tile."""
        block = torch.arange(self.blocks, device=like.device)[:, None] * self.rows
        t = block + torch.arange(self.rows, device=like.device) + self.i0
        s = block + torch.arange(self.keys, device=like.device) + self.j0
        q, k = self.q_first + self.dilation * t, self.k_first + self.dilation * s
        return q[:, :, None], k[:, None]

    def lanes(self, batch: int, heads: int, device: torch.device) -> Tensor:
        """The number b * H + h of each of the X pieces."""
        if self.b is not None:
            return torch.full((self.blocks,), self.b * heads + self.h0, device=device)
        rows = torch.arange(batch, device=device)[:, None] * heads
        return (rows + torch.arange(self.h0, self.h1, device=device)).flatten()


def pieces(
    batch: int, heads: int, n: int, m: int, behind: int, ahead: int, dilation: int
) -> Iterator[Piece]:
    """The pieces that cover the band of an (n, m) matrix; reaches are in steps of the dilation."""
    shift = m - n
    for k_first in range(min(dilation, m)):
        q_first = (k_first - shift) % dilation
        if q_first >= n:
            continue
        count = -(-(n - q_first) // dilation)
        keys = -(-(m - k_first) // dilation)
        offset = (q_first + shift - k_first) // dilation
        yield from _sequence(
            batch, heads, count, keys, offset, behind, ahead, (q_first, k_first, dilation)
        )


def _sequence(
    batch: int,
    heads: int,
    n: int,
    m: int,
    shift: int,
    behind: int,
    ahead: int,
    slots: tuple[int, int, int],
) -> Iterator[Piece]:
    behind, ahead = min(behind, n - 1 + shift), min(ahead, m - 1 - shift)
    if behind < -ahead:
        return
    rows = _block_rows(behind + ahead + 1, n)
    first = -(-max(0, behind - shift) // rows)
    last = min(n // rows, (m - ahead - shift) // rows)
    if last - first < 4:
        first = last = -(-n // rows)
    edges = [*range(first), *range(last, -(-n // rows))]
    for block in edges:
        i0 = block * rows
        height = min(rows, n - i0)
        j0 = max(0, i0 + shift - behind)
        width = min(m, i0 + height + shift + ahead) - j0
        if width <= 0 or batch == 0:
            continue
        together = max(1, BUDGET // (height * width * batch))
        for h in range(0, heads, together):
            h1 = min(heads, h + together)
            yield Piece(None, h, h1, 1, height, width, i0, j0, *slots, i0 + shift - j0)
    width = rows + behind + ahead
    together = max(1, BUDGET // (rows * width))
    for b in range(batch):
        for h in range(heads):
            for block in range(first, last, together):
                blocks, i0 = min(together, last - block), block * rows
                j0 = i0 + shift - behind
                yield Piece(b, h, h + 1, blocks, rows, width, i0, j0, *slots, behind)


def _block_rows(reach: int, n: int) -> int:
    """Queries in a block: a power of two near a quarter of the reach, where waste and speed meet."""
    rows = 16
    while rows < 128 and rows * 8 <= reach:
        rows *= 2
    return min(rows, n)
