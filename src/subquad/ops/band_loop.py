"""The loop behind the band engine: walks the pieces, forward and backward.

Axes: B batch, N queries, M keys, H heads, X pieces of a tile, T queries, S keys, D head width.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from subquad.ops.lowering import parse
from subquad.ops.partial import EMPTY, factors, wide
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.patterns import Window
from subquad.ops.pieces import Piece, pieces
from subquad.ops.tiles import Tile, diagonals, skew, tile_backward, tile_forward

__all__ = ["Loop"]


@dataclass
class Loop:
    """One call of the band op; the fields are its arguments."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_where: Tensor
    k_where: Tensor
    valid: Tensor | None
    seed: Tensor | None
    rel_query: Tensor | None
    rel_table: Tensor | None
    rel_bias: Tensor | None
    behind: int
    ahead: int
    dilation: int
    rest: str
    scale: float
    dropout: float
    zero: int
    _memo: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.pattern = _parsed(self.rest) if self.rest else None
        self.plain = _contiguous(self.q_where[0], self.k_where[0])
        if not self.plain and (self.rel_table is not None or self.rel_bias is not None):
            raise ValueError(
                "the band engine scores distances only where positions run on by one and queries "
                "stand at the last keys; use the dense engine"
            )
        if not self.plain:
            inside = Window(self.behind, self.ahead, self.dilation)
            self.pattern = inside if self.pattern is None else inside & self.pattern

    @torch.no_grad()
    def forward(self) -> tuple[Tensor, Tensor]:
        """out (B, H, N, Dv) laid out (B, N, H, Dv), and lse (B, H, N)."""
        b, h, n, _ = self.q.shape
        out = self.v.new_zeros(b, n, h, self.v.shape[-1]).transpose(1, 2)
        lse = torch.full((b, h, n), EMPTY, dtype=wide(self.q.dtype), device=self.q.device)
        with torch.autocast(self.q.device.type, enabled=False):
            for piece in self._pieces():
                part, part_lse = tile_forward(self._tile(piece))
                piece.add_queries(out, part)
                piece.add_queries(lse, part_lse)
        return out, lse

    @torch.no_grad()
    def backward(self, grad: Tensor, lse: Tensor, delta: Tensor) -> tuple[Tensor, ...]:
        """Gradients of q, k, v, rel_query, rel_table and rel_bias (empty where there is none)."""
        kind = lse.dtype
        dq, dk, dv = torch.zeros_like(self.q), _sums(self.k, kind), _sums(self.v, kind)
        rel = [_sums(t if t is not None else self.q[:0], kind) for t in self._relative()]
        with torch.autocast(self.q.device.type, enabled=False):
            for piece in self._pieces():
                tile = self._tile(piece)
                part = [piece.queries(t) for t in (grad, lse, delta)]
                grads = tile_backward(tile, *part)
                piece.add_queries(dq, grads.q.mul_(self.scale))
                piece.add_look(dk, grads.k)
                piece.add_look(dv, grads.v)
                self._add_relative(piece, rel, grads)
        rel = [r.to(self.q.dtype) for r in rel]
        return dq, dk.to(self.k.dtype), dv.to(self.v.dtype), *rel

    def _relative(self) -> tuple[Tensor | None, ...]:
        return self.rel_query, self.rel_table, self.rel_bias

    def _pieces(self):
        b, h, n, _ = self.q.shape
        m = self.k.shape[2]
        if self.plain:
            return pieces(b, h, n, m, self.behind, self.ahead, self.dilation)
        # positions only increase: pairs within reach lie within as many slots, of any residue
        return pieces(b, h, n, m, self.behind * self.dilation, self.ahead * self.dilation, 1)

    def _tile(self, piece: Piece) -> Tile:
        rel_query = rel_rows = None
        if self.rel_query is not None and self.rel_table is not None:
            rel_query = piece.queries(self.rel_query)
            rows = self.rel_table[:, self._rows(piece)]
            rel_rows = _of_heads(rows, piece, self.q.shape[0])
        drop = None
        if self.seed is not None:
            lanes = piece.lanes(*self.q.shape[:2], self.q.device)
            drop = factors(self.seed, self.dropout, lanes[:, None, None], *piece.slots(self.seed))
        return Tile(
            piece.queries(self.q) * self.scale,
            piece.look(self.k),
            piece.look(self.v),
            self._bias(piece),
            rel_query,
            rel_rows,
            drop,
        )

    def _rows(self, piece: Piece) -> Tensor:
        """The table rows of a tile's distances, falling: (L,)."""
        count = piece.rows + piece.keys - 1
        fall = torch.arange(count, device=self.q.device)
        d = (piece.rows - 1 - fall + piece.lead) * self.dilation + self.zero
        table = self.rel_table if self.rel_table is not None else self.rel_bias
        return d.clamp(0, table.shape[1] - 1)

    def _bias(self, piece: Piece) -> Tensor:
        """What is added to the scores of a tile, EMPTY where not allowed: (X or 1, T, S)."""
        fixed = self.plain and (self.pattern is None or self.pattern.by_distance)
        heads = piece.h0 if self.rel_bias is not None and self.rel_bias.shape[0] > 1 else 0
        key = (heads, piece.rows, piece.keys, piece.lead) if piece.b is not None else None
        if key is not None and fixed and key in self._memo:
            bias = self._memo[key]
        else:
            bias = self._allowed_bias(piece, fixed) + self._distance_bias(piece)
            if key is not None and fixed:
                self._memo = {key: bias}
        if self.valid is None:
            return bias
        some = self.valid[:, None].expand(-1, self.q.shape[1], -1)
        return torch.where(piece.look(some)[:, None], bias, EMPTY)

    def _allowed_bias(self, piece: Piece, fixed: bool) -> Tensor:
        d = piece.distances(self.q.device)
        if fixed or self.pattern is None:
            allowed = (d <= self.behind * self.dilation) & (d >= -self.ahead * self.dilation)
            if self.pattern is not None:
                allowed &= self.pattern.allowed(Coords(d), Coords(torch.zeros_like(d)))
            allowed = allowed[None]
        else:
            allowed = self.pattern.allowed(
                Coords(
                    *(self._spread(c, piece.queries)[..., None] for c in self._coords(self.q_where))
                ),
                Coords(*(self._spread(c, piece.look)[:, None] for c in self._coords(self.k_where))),
            )
            if self.plain:
                allowed &= (d <= self.behind * self.dilation) & (d >= -self.ahead * self.dilation)
        kind = wide(self.q.dtype)
        return torch.zeros((), dtype=kind, device=d.device).where(allowed, EMPTY)

    def _coords(self, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return where[0], where[1], where[2].bool()

    def _spread(self, c: Tensor, cut) -> Tensor:
        return cut(c.expand(*self.q.shape[:2], -1))

    def _distance_bias(self, piece: Piece) -> Tensor | float:
        if self.rel_bias is None:
            return 0.0
        rows = self.rel_bias[:, self._rows(piece)]
        fall = _of_heads(rows[:, None].expand(-1, piece.rows, -1), piece, self.q.shape[0])
        return skew(fall.contiguous(), piece.keys)

    def _add_relative(self, piece: Piece, rel: list[Tensor], grads) -> None:
        batch = self.q.shape[0]
        if grads.rel_query is not None:
            piece.add_queries(rel[0], grads.rel_query)
            _add_rows(rel[1], self._rows(piece), grads.rel_rows, piece, batch)
        if self.rel_bias is not None:
            _add_rows(rel[2], self._rows(piece), diagonals(grads.scores), piece, batch)


@lru_cache(maxsize=256)
def _parsed(text: str) -> Pattern:
    return parse(text)


def _contiguous(q: Tensor, k: Tensor) -> bool:
    """Do positions run on by one, the last query standing at the last key?"""
    if q.numel() == 0 or k.numel() == 0:
        return True
    steps = ((k.diff() == 1).all() & (q.diff() == 1).all()).item()
    return bool(steps and (q[..., -1] == k[..., -1]).all())


def _sums(t: Tensor, kind: torch.dtype) -> Tensor:
    return torch.zeros(t.shape, dtype=kind, device=t.device)


def _of_heads(rows: Tensor, piece: Piece, batch: int) -> Tensor:
    """What belongs to a piece of (H or 1, ...): (X or 1, ...)."""
    if rows.shape[0] == 1:
        return rows
    mine = rows[piece.h0 : piece.h1]
    return mine if piece.b is not None else mine.repeat(batch, *[1] * (rows.dim() - 1))


def _add_rows(total: Tensor, index: Tensor, part: Tensor, piece: Piece, batch: int) -> None:
    """Add (X, L, ...) to rows `index` of (H or 1, S, ...)."""
    heads = piece.h1 - piece.h0
    part = (
        part.sum(0, keepdim=True)
        if piece.b is not None
        else part.unflatten(0, (batch, heads)).sum(0)
    )
    if total.shape[0] == 1:
        total.index_add_(1, index, part.sum(0, keepdim=True).to(total.dtype))
    else:
        total[piece.h0 : piece.h1].index_add_(1, index, part.to(total.dtype))
