"""The loop behind the band engine: walks the pieces, forward and backward.

Axes: B batch, N queries, M keys, H heads, X pieces of a tile, T queries, S keys, D head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from subquad.ops.calls import Call, continuous
from subquad.ops.falling import Falling
from subquad.ops.fold import Fold
from subquad.ops.partial import EMPTY, factors, log_ramp, ramp_slope
from subquad.ops.pattern import Coords, Minus, Pattern
from subquad.ops.patterns import Full, Window
from subquad.ops.pieces import Piece, loose_pieces, pieces
from subquad.ops.relative import heads_of, loose
from subquad.ops.tiles import (
    LOG2_E,
    Scratch,
    Tile,
    diagonals,
    skew,
    tile_backward,
    tile_forward,
)

__all__ = ["Loop"]


@dataclass
class Loop(Call):
    """One call of the band op; `numbers` are behind, ahead (in steps) and the tokens of a step.

    `folded` tells that tokens lie by slot mod step, so that a step is one slot.
    """

    folded: Fold | None = None
    spans = True
    _memo: dict = field(default_factory=dict, repr=False)
    _tested: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.behind, self.ahead, self.step = self.numbers
        self.test: Pattern | None = self.pattern
        self.plain = self.folded is not None or continuous(self.q_where[0], self.k_where[0])
        if self.plain:
            if self.folded is None:  # a stride beyond the last key holds distance 0 alone
                self.step = min(self.step, max(1, self.k.shape[2]))
            return
        inside: Pattern = Minus(Full(), Full())
        if self.behind >= -self.ahead:
            inside = Window(self.behind, self.ahead, self.step)
        self.test = inside if self.test is None else inside & self.test

    @property
    def fixed(self) -> bool:
        """Does the place of a pair in its tile decide whether it is allowed?"""
        return self.plain and (self.test is None or self.test.by_distance)

    @cached_property
    def _tables(self) -> list[Falling | None]:
        """rel_table and rel_bias as tiles read them, where positions run on by one."""
        given = self.rel_table, self.rel_bias
        lengths, reach = (self.q.shape[2], self.k.shape[2]), (self.behind, self.ahead)
        told = lengths, reach, self.step, self.zero
        return [Falling(t, *told) if t is not None and self.plain else None for t in given]

    @property
    def _folds(self) -> bool:
        return self.step > 1 and self.plain and self.folded is None

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (B, H, N, Dv) laid out (B, N, H, Dv), and lse (B, H, N)."""
        if self._folds:
            fold, call = self._fold()
            out, lse = (fold.unfold_queries(t) for t in call.forward())
            return out.transpose(1, 2).contiguous().transpose(1, 2), lse.contiguous()
        (out, lse), scratch = self.empty_result(), Scratch()
        for piece, bias in self._pieces():
            part, part_lse = tile_forward(self._tile(piece, bias), scratch)
            piece.put_queries(out, part)
            piece.put_queries(lse, part_lse)
        return out, lse

    def backward(self, grad: Tensor, lse: Tensor, delta: Tensor) -> list[Tensor | None]:
        """Gradients of q, k, v, rel_query, rel_table, rel_bias and span."""
        if self._folds:
            fold, call = self._fold()
            given = (fold.fold_queries(t, f) for t, f in ((grad, 0), (lse, EMPTY), (delta, 0)))
            dq, dk, dv, dr, *tables, ds = call.backward(*given)
            dq, dr, ds = (None if t is None else fold.unfold_queries(t) for t in (dq, dr, ds))
            dk, dv = (None if t is None else fold.unfold_keys(t) for t in (dk, dv))
            return [dq, dk, dv, dr, *tables, ds]
        dq, dk, dv = torch.zeros_like(self.q), self.sums(self.k), self.sums(self.v)
        dr, ds = (None if t is None else torch.zeros_like(t) for t in (self.rel_query, self.span))
        loose_tables = (None, None) if self.plain else (self.rel_table, self.rel_bias)
        tables = [None if t is None else self.sums(t) for t in loose_tables]
        scratch = Scratch()
        for piece, bias in self._pieces():
            tile = self._tile(piece, bias)
            part = (piece.flat(piece.queries(t)) for t in (grad, lse, delta))
            grads = tile_backward(tile, scratch, *part)
            piece.put_queries(dq, grads.q.mul_(self.scale))
            piece.add_look(dk, grads.k)
            piece.add_look(dv, grads.v)
            if dr is not None and grads.rel_query is not None:
                piece.put_queries(dr, grads.rel_query)
            if not self.plain:
                self._add_loose(piece, grads.scores, [dr, *tables, ds])
                continue
            if ds is not None:
                slope = ramp_slope(self._left(piece), self.ramp)
                piece.put_queries(ds, (grads.scores * slope).sum(-1))
            if self._tables[0] is not None and grads.rel_rows is not None:
                self._tables[0].add(piece, grads.rel_rows)
            if self._tables[1] is not None:
                self._tables[1].add(piece, diagonals(grads.scores, scratch))
        if self.plain:
            tables = [None if t is None else t.gradient() for t in self._tables]
        return [dq, dk, dv, dr, *tables, ds]

    def _fold(self) -> tuple[Fold, "Loop"]:
        """The same call with tokens laid out by slot mod step."""
        fold = Fold(self.step, self.q.shape[2], self.k.shape[2])
        return fold, replace(self, **fold.inputs(self), folded=fold, _memo={}, _tested={})

    def _pieces(self) -> Iterator[tuple[Piece, Tensor]]:
        """Pieces and their biases (X or 1, T, S); keys that no query of a piece allows are cut."""
        b, h, n, _ = self.q.shape
        if self.plain:
            reach = self.behind, self.ahead
            every = pieces((b, h), n, self.k.shape[2], reach, alike=self.fixed)
        else:
            reach = self.behind * self.step, self.ahead * self.step
            every = loose_pieces((b, h), self.q_where[0], self.k_where[0], *reach)
        for piece in every:
            some = None
            if not self.fixed or self.valid is not None:
                some, piece = self._allowed(piece)
                if some is None:
                    continue
            bias = self._fixed_bias(piece)
            yield piece, bias if some is None else bias.where(piece.spread(some), EMPTY)

    def _allowed(self, piece: Piece) -> tuple[Tensor | None, Piece]:
        """What coordinates and validity allow, and the piece without the keys at its ends."""
        alike = self.valid is None and self.q_where.shape[1] == self.k_where.shape[1] == 1
        key = (0 if alike else piece.b0, piece.i0, piece.j0, piece.rows, piece.keys)
        shared = piece.single and self.q_where.shape[2] == self.k_where.shape[2] == 1
        if shared and key in self._tested:
            allowed, first, last = self._tested[key]
            return (None if last == 0 else allowed), piece.narrow(first, last)
        allowed = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.q.device)
        if not self.fixed and self.test is not None:
            q = _coords(*(piece.queries(c) for c in self.q_where))
            k = _coords(*(piece.look(c) for c in self.k_where))
            allowed = self.test.allowed(q.queries(), k.keys())
        if self.valid is not None:
            allowed = allowed & piece.look(self.valid[:, None]).unsqueeze(-2)
        if not piece.single:
            return allowed.view(-1, *allowed.shape[-2:]), piece
        columns = allowed.flatten(0, -2).any(0).nonzero()
        first, last = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
        allowed = allowed[..., first:last]
        if shared:  # the heads of one block follow each other
            self._tested = {key: (allowed, first, last)}
        return (None if last == 0 else allowed), piece.narrow(first, last)

    def _fixed_bias(self, piece: Piece) -> Tensor:
        """What distance adds and forbids, to base 2: (X or 1, T, S)."""
        per_head = self.rel_bias is not None and self.rel_bias.shape[0] > 1
        lanes = (piece.b1 - piece.b0, piece.h0, piece.h1) if per_head else None
        key = (lanes, piece.rows, piece.keys, piece.lead)
        if key not in self._memo:
            d = piece.distances(self.q.device)
            allowed = (d <= self.behind) & (d >= -self.ahead) if self.plain else d == d
            if self.fixed and self.test is not None:
                at, zero = Coords(d * self.step), Coords(torch.zeros_like(d))
                allowed = allowed & self.test.allowed(at, zero)
            bias = torch.zeros((), dtype=self.wide, device=d.device).where(allowed, EMPTY)[None]
            if self._tables[1] is not None:
                rows = self._tables[1].rows(piece).to(self.wide)[:, None]
                fall = (rows * LOG2_E).expand(-1, piece.rows, -1).contiguous()
                bias = bias + skew(fall, piece.keys)
            self._memo = {key: bias}
        return self._memo[key]

    def _tile(self, piece: Piece, bias: Tensor) -> Tile:
        rel_query = rel_rows = drop = None
        if not self.plain:
            added = loose(self, piece).scores()
            if isinstance(added, Tensor):
                bias = bias + piece.spread(added).to(self.wide) * LOG2_E
        elif self.rel_query is not None and self._tables[0] is not None:
            rel_query = piece.flat(piece.queries(self.rel_query))
            rel_rows = self._tables[0].rows(piece)
        if self.seed is not None:
            drop = self._factors(piece)
        if self.span is not None and self.plain:
            bias = bias + log_ramp(self._left(piece), self.ramp) * LOG2_E
        q = piece.flat(piece.queries(self.q)) * self.scale
        k, v = piece.flat(piece.look(self.k)), piece.flat(piece.look(self.v))
        return Tile(q, k, v, bias, rel_query, rel_rows, drop)

    def _left(self, piece: Piece) -> Tensor:
        """What is left of the span and the ramp of a query at each of its keys: (X, T, S)."""
        assert self.span is not None
        ends = piece.flat(piece.queries(self.span)).to(self.wide) + self.ramp
        return ends.unsqueeze(-1) - (piece.distances(ends.device) * self.step).abs()

    def _factors(self, piece: Piece) -> Tensor:
        assert self.seed is not None
        heads = self.q.shape[1]
        lanes = piece.lanes(heads, self.q.device)[:, None, None]
        i, j = piece.slots(self.q.device)
        if self.folded is not None:
            s = self.folded.stride
            residue = lanes // heads % s
            lanes = lanes // (heads * s) * heads + lanes % heads
            i, j = i * s + residue - self.folded.front, j * s + residue
        return factors(self.seed, self.dropout, lanes, i, j)

    def _add_loose(self, piece: Piece, scores: Tensor, into: list[Tensor | None]) -> None:
        """Add to the gradients of rel_query, rel_table, rel_bias and span."""
        dr, *tables, ds = into
        lead = piece.b1 - piece.b0, piece.h1 - piece.h0
        relative, scores = loose(self, piece), scores.unflatten(0, lead)
        query = relative.add_grads(scores, *(heads_of(t, piece) for t in tables))
        for total, part in ((dr, query), (ds, relative.span_grad(scores))):
            if total is not None and part is not None:
                piece.queries(total).copy_(part)


def _coords(pos: Tensor, label: Tensor, mark: Tensor) -> Coords:
    return Coords(pos, label, mark.bool())
