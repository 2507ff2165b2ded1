"""Folding: strided patterns are bands in another order of the tokens.

Tokens a whole number of strides apart meet only each other. Laid out by (slot mod stride), as rows
of the batch, they form `stride` short sequences in which the stride is one step, so a strided or
dilated pattern becomes a plain band of N / stride tokens. The band engine folds by itself where
positions run on by one; `fold` is that engine for patterns that hold a stride.

    folded[b * stride + r, h, i] = t[b, h, i * stride + r - front]

Axes: B batch, N queries, M keys, H heads, s stride, D head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.calls import Call

__all__ = ["Fold"]


@dataclass(frozen=True)
class Fold:
    """The order of `queries` queries at the last of `keys` keys, by slot mod `stride`."""

    stride: int
    queries: int
    keys: int

    @property
    def front(self) -> int:
        """Slots before the first query in its row of `stride` slots."""
        return (self.keys - self.queries) % self.stride

    @property
    def back(self) -> int:
        """Slots after the last key in its row of `stride` slots."""
        return -self.keys % self.stride

    def fold_queries(self, t: Tensor, fill: float = 0) -> Tensor:
        """(B, H, N, ...) -> (B * s, H, n, ...), padded with `fill`."""
        return self._fold(t, self.front, fill)

    def fold_keys(self, t: Tensor, fill: float = 0) -> Tensor:
        """(B, H, M, ...) -> (B * s, H, m, ...), padded with `fill`."""
        return self._fold(t, 0, fill)

    def unfold_queries(self, t: Tensor) -> Tensor:
        """(B * s, H, n, ...) -> (B, H, N, ...)."""
        return self._unfold(t)[:, :, self.front : self.front + self.queries]

    def unfold_keys(self, t: Tensor) -> Tensor:
        """(B * s, H, m, ...) -> (B, H, M, ...)."""
        return self._unfold(t)[:, :, : self.keys]

    def inputs(self, call: Call) -> dict[str, Any]:
        """The tensors of a call in this order, by their names."""
        b, m, valid = call.q.shape[0], call.k.shape[2], call.valid
        if valid is None and self.back:
            valid = torch.ones(b, m, dtype=torch.bool, device=call.q.device)
        sides = (self.fold_queries, call.q_where), (self.fold_keys, call.k_where)
        places = [torch.stack([f(c.expand(b, -1, -1)) for c in where]) for f, where in sides]
        loose = {"rel_query": call.rel_query, "span": call.span}
        return {
            "q": self.fold_queries(call.q),
            "k": self.fold_keys(call.k),
            "v": self.fold_keys(call.v),
            "q_where": places[0],
            "k_where": places[1],
            "valid": None if valid is None else self.fold_keys(valid[:, None])[:, 0],
            **{name: None if t is None else self.fold_queries(t) for name, t in loose.items()},
        }

    def _fold(self, t: Tensor, front: int, fill: float) -> Tensor:
        if front or self.back:
            t = F.pad(t, [0, 0] * (t.dim() - 3) + [front, self.back], value=fill)
        return t.unflatten(2, (-1, self.stride)).movedim(3, 1).flatten(0, 1)

    def _unfold(self, t: Tensor) -> Tensor:
        return t.unflatten(0, (-1, self.stride)).movedim(1, 3).flatten(2, 3)
