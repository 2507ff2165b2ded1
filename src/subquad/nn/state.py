"""State: what is kept between two calls, as values.

Every state is a frozen dataclass of tensors with the batch on dim 0, registered as a pytree, so
the functions here serve all of them: `select` (beams, batches), `detach`, `nbytes`.

Axes: B batch, N new tokens, M kept tokens, G key heads, D head width, C model width.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from subquad.ops.pattern import Coords

__all__ = ["KV", "Cross", "ModelState", "detach", "nbytes", "register", "select"]


def register(cls: type) -> type:
    """Make a dataclass of tensors a pytree."""
    pytree.register_dataclass(cls, field_names=[f.name for f in fields(cls)])
    return cls


def select(state: Any, index: Tensor) -> Any:
    """The rows `index` of the batch, in that order; a row may be taken more than once."""
    return pytree.tree_map_only(Tensor, lambda t: t.index_select(0, index.to(t.device)), state)


def detach(state: Any) -> Any:
    """The state as constants: gradients stop here (truncated back-propagation)."""
    return pytree.tree_map_only(Tensor, Tensor.detach, state)


def nbytes(state: Any) -> int:
    """Bytes of all tensors in the state."""
    return sum(t.nbytes for t in pytree.tree_leaves(state) if isinstance(t, Tensor))


@register
@dataclass(frozen=True)
class KV:
    """Keys and values that later queries may look at: k (B, G, M, D), v (B, G, M, Dv), with their
    pos (B, M), and valid (B, M), label (B, 1, M), mark (B, M) or None. Real tokens stand at the
    right, in order; without `valid` all are real.
    """

    k: Tensor
    v: Tensor
    pos: Tensor
    valid: Tensor | None = None
    label: Tensor | None = None
    mark: Tensor | None = None

    @classmethod
    def empty(cls, batch: int, heads: int, widths: tuple[int, int], like: Tensor) -> "KV":
        """A state without tokens, on the device of `like`."""
        k, v = (like.new_zeros(batch, heads, 0, width) for width in widths)
        return cls(k, v, torch.zeros(batch, 0, dtype=torch.int64, device=like.device))

    def coords(self) -> Coords:
        """The coordinates of the kept tokens."""
        return Coords(
            self.pos[:, None], self.label, None if self.mark is None else self.mark[:, None]
        )

    def append(self, k: Tensor, v: Tensor, at: Coords, valid: Tensor | None) -> "KV":
        """This state followed by new tokens (B, G, N, ...) at coordinates `at`."""
        b, m, n = k.shape[0], self.pos.shape[1], k.shape[2]
        new = at.pos[:, 0].expand(b, n)
        mark = None if at.mark is None else at.mark[:, 0].expand(b, n)
        label = None if at.label is None else at.label.expand(b, -1, n)
        if m == 0:
            return KV(k, v, new, valid, label, mark)
        return KV(
            torch.cat((self.k, k), 2),
            torch.cat((self.v, v), 2),
            torch.cat((self._before(new), new), 1),
            _join_valid(self.valid, valid, self.pos, new),
            _join("labels", self.label, label),
            _join("marks", self.mark, mark),
        )

    def trim(self, behind: int | None, ragged: bool) -> "KV":
        """What later queries may need: the last `behind` real tokens (None: all), marked ones.

        `ragged`: the tokens appended last held padding, which must go.
        """
        m = self.pos.shape[1]
        if self.mark is None and not ragged:
            return self if behind is None or behind >= m else self._take(slice(m - behind, m))
        keep = torch.ones_like(self.pos, dtype=torch.bool) if self.valid is None else self.valid
        if behind is not None:
            recent = keep.flip(1).cumsum(1).flip(1) <= behind
            keep = keep & (recent if self.mark is None else recent | self.mark)
        width = int(keep.sum(1).max()) if keep.numel() else 0
        order = keep.to(torch.int8).argsort(dim=1, stable=True)[:, m - width :]
        mark = None if self.mark is None else self.mark & keep
        kept = replace(self, valid=keep, mark=mark)._take(order)
        return replace(kept, pos=kept._before(kept.pos[:, -1:] + 1) if width else kept.pos)

    def _before(self, new: Tensor) -> Tensor:
        """Positions with those of empty slots (all at the left) made to run on to the next token's.

        `new` (B, N) are the positions that follow.
        """
        if self.valid is None:
            return self.pos
        m = self.pos.shape[1]
        slots = torch.arange(m, device=self.pos.device)
        empty = (~self.valid).sum(1, keepdim=True)
        real = self.pos.gather(1, empty.clamp(max=m - 1))
        first = torch.where(empty < m, real, new[:, :1])
        return torch.where(self.valid, self.pos, first - empty + slots)

    def _take(self, index: slice | Tensor) -> "KV":
        """The slots `index`: a slice, or another choice for each row (B, M')."""

        def cut(t: Tensor, axis: int) -> Tensor:
            if isinstance(index, slice):
                return t.narrow(axis, index.start, index.stop - index.start).contiguous()
            shape = [index.shape[0], *[1] * (t.dim() - 1)]
            size = [*t.shape]
            shape[axis] = size[axis] = index.shape[1]
            return t.gather(axis, index.view(shape).expand(size))

        given = {name: (getattr(self, name), axis) for name, axis in _TOKEN_AXES.items()}
        return replace(self, **{n: cut(t, a) for n, (t, a) in given.items() if t is not None})


_TOKEN_AXES = {"k": 2, "v": 2, "pos": 1, "valid": 1, "label": 2, "mark": 1}


@register
@dataclass(frozen=True)
class Cross:
    """Keys and values of a memory, written once: k (B, G, M, D), v (B, G, M, Dv), valid (B, M)."""

    k: Tensor | None = None
    v: Tensor | None = None
    valid: Tensor | None = None


@register
@dataclass(frozen=True)
class ModelState:
    """A model's state: how many tokens each row has seen, length (B,), and its layers' states."""

    length: Tensor
    layers: tuple


def _join(what: str, old: Tensor | None, new: Tensor | None) -> Tensor | None:
    """Kept and new labels or marks, on the last axis."""
    if old is None and new is None:
        return None
    if old is None or new is None:
        raise ValueError(f"{what} came with some calls of a stream only; every call must give them")
    return torch.cat((old, new), -1)


def _join_valid(
    old: Tensor | None, new: Tensor | None, old_pos: Tensor, new_pos: Tensor
) -> Tensor | None:
    """Kept and new validity; None stands for all."""
    if old is None and new is None:
        return None
    old = torch.ones_like(old_pos, dtype=torch.bool) if old is None else old
    new = torch.ones_like(new_pos, dtype=torch.bool) if new is None else new
    return torch.cat((old, new), 1)
