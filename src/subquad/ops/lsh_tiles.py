"""How sorted buckets are cut into tiles, and the arithmetic of a batch of tiles.

A bucket is cut into blocks of T tokens from its own beginning. A block of queries meets itself and
up to `behind` tokens before it (and `ahead` after it) in its bucket. Tiles with equally many keys
are batched, always the same number of them (X) in one product. So the row and the columns where a
pair meets, and the shape of the product, follow from the tokens before it: later tokens change no
bit of earlier outputs.

    allowed in this round:      0 < rank(i) - rank(j) <= behind     a fixed band in every tile
    and in no earlier round r:  |c_r(i) - c_r(j)| > behind

where c_r is the place in the order of round r, with gaps of more than `behind` between buckets.
Whole numbers in float32: comparisons that give booleans take six times as long.

Axes: L lanes, M tokens of a lane, N queries (the last tokens), R rounds, X tiles, T queries, S
keys, D head width, F = L M.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from subquad.ops.hashing import Runs

__all__ = ["Batch", "Buffers", "Cut", "band", "coordinates", "tile_rows"]

#: scores in a batch of tiles: half a MiB of float32
BUDGET = 1 << 17
#: float32 counts to here
EXACT = 1 << 24
#: farther apart than any two tokens
FAR = 1e9


class Batch(NamedTuple):
    """X tiles, each of T queries and S keys, `lead` of them before the first query.

    keys (X, S): lane * M + slot of tokens of the block of lanes; F where there is none.
    queries (X, T): lane * N + number of the query; L N where the token is none.
    """

    keys: Tensor
    queries: Tensor
    lead: int

    @property
    def mine(self) -> slice:
        """The columns of the queries."""
        return slice(self.lead, self.lead + self.queries.shape[1])


class Buffers:
    """Memory used again and again, by name: fresh memory costs more than the sums."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.kept: dict[str, Tensor] = {}

    def new(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor of this shape; it lives until the name is asked for again."""
        count = torch.Size(shape).numel()
        if name not in self.kept or self.kept[name].numel() < count:
            self.kept[name] = torch.empty(count, dtype=self.dtype, device=self.device)
        return self.kept[name][:count].view(shape)

    def rows(self, name: str, source: Tensor, index: Tensor) -> Tensor:
        """The rows `index` (X, T) of source (F, D), the last one for any beyond: (X, T, D)."""
        width = source.shape[1]
        flat = index.flatten().clamp(max=len(source) - 1)
        out = self.new(name, len(flat), width)
        # two ways to copy rows, each several times faster than the other on its own kind of source
        if source.is_contiguous():
            torch.gather(source, 0, flat[:, None].expand(-1, width), out=out)
        else:
            torch.index_select(source, 0, flat, out=out)
        return out.view(*index.shape, width)


def tile_rows(behind: int) -> int:
    """Queries in a tile: about half the reach, so that little of a tile lies outside the band."""
    rows = 16
    while rows < 128 and rows * 4 <= behind:
        rows *= 2
    return rows


def coordinates(order: Runs, behind: int) -> Tensor:
    """c (F + 1,) of every token, float32 where that is exact; the last one belongs to no token."""
    count, at = order.token.numel(), order.token.device
    place = torch.arange(count, device=at) + order.number * (behind + 1)
    top = int(place[-1]) if count else 0
    kind = torch.float32 if top < EXACT else torch.float64
    c = torch.zeros(count + 1, dtype=kind, device=at)
    c[order.token] = place.to(kind)
    return c


def band(rows: int, keys: int, lead: int, behind: int, ahead: int, like: Tensor) -> Tensor:
    """Which pairs of a tile are near enough: (T, S), FAR where they are and 0 elsewhere."""
    d = torch.arange(rows, device=like.device)[:, None] + lead
    d = d - torch.arange(keys, device=like.device)
    near = (d <= behind) & (d >= -ahead) & (d != 0)
    return torch.zeros((), dtype=like.dtype, device=like.device).where(~near, FAR)


@dataclass
class Cut:
    """The tiles of one round of a block of lanes, M tokens each, the last N of them queries."""

    order: Runs
    tokens: int
    queries: int
    behind: int
    ahead: int

    def __iter__(self) -> Iterator[Batch]:
        """All tiles, in batches."""
        order, rows = self.order, tile_rows(self.behind)
        count, at = order.token.numel(), order.token.device
        if count == 0 or self.queries == 0:
            return
        rank = torch.arange(count, device=at) - order.first
        begin = ((rank % rows == 0) & order.real).nonzero().squeeze(-1)
        if self.queries < self.tokens:
            last = torch.minimum(begin + rows, order.stop[begin]) - 1
            begin = begin[order.token[last] % self.tokens >= self.tokens - self.queries]
        stop = order.stop[begin]
        lead = rank[begin].clamp(max=self.behind)
        # whole blocks of later keys, whether or not all exist: so there are few kinds of tiles
        tail = ((stop - begin - 1) // rows * rows).clamp(max=self.ahead)
        kind = lead * (self.ahead + 1) + tail
        # a constant of the shapes, small enough that the last batch of each kind wastes little
        most = max(1, count // self.tokens * self.queries // (8 * rows))
        for one in kind.unique().tolist():
            before, after = divmod(one, self.ahead + 1)
            keys = before + rows + after
            together = min(most, max(1, BUDGET // (rows * keys)))
            chosen = (kind == one).nonzero().squeeze(-1)
            columns = torch.arange(keys, device=at) - before
            for group in chosen.split(together):
                missing = together - len(group)
                first, end = (nnf.pad(t[group], (0, missing)) for t in (begin, stop))
                yield self._batch(first[:, None] + columns, end[:, None], before, rows)

    def _batch(self, place: Tensor, stop: Tensor, lead: int, rows: int) -> Batch:
        """The tokens at `place` (X, S) in the order, before `stop` (X, 1)."""
        count = self.order.token.numel()
        here = self.order.token[place.clamp(0, count - 1)]
        keys = here.masked_fill_(place >= stop, count)
        queries = keys[:, lead : lead + rows]
        if self.queries < self.tokens:
            lane, slot = queries // self.tokens, queries % self.tokens
            first = self.tokens - self.queries
            none = count // self.tokens * self.queries
            queries = torch.where(slot < first, none, lane * self.queries + slot - first)
        return Batch(keys, queries, lead)
