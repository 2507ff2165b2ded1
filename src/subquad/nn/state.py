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
    pos, valid (B, M), label (B, 1, M) and mark (B, M) or None. Real tokens stand at the right.
    """

    k: Tensor
    v: Tensor
    pos: Tensor
    valid: Tensor
    label: Tensor | None = None
    mark: Tensor | None = None

    @classmethod
    def empty(cls, batch: int, heads: int, widths: tuple[int, int], like: Tensor) -> "KV":
        """A state without tokens, in dtype and device of `like`."""
        k, v = (like.new_zeros(batch, heads, 0, width) for width in widths)
        pos = torch.zeros(batch, 0, dtype=torch.int64, device=like.device)
        return cls(k, v, pos, pos.bool())

    def coords(self) -> Coords:
        """The coordinates of the kept tokens."""
        return Coords(
            self.pos[:, None], self.label, None if self.mark is None else self.mark[:, None]
        )

    def append(self, k: Tensor, v: Tensor, at: Coords, valid: Tensor | None) -> "KV":
        """This state followed by new tokens (B, G, N, ...) at coordinates `at`."""
        b, n = k.shape[0], k.shape[2]
        pos = at.pos[:, 0].expand(b, n)
        some = torch.ones_like(pos, dtype=torch.bool) if valid is None else valid
        return KV(
            torch.cat((self.k, k), 2),
            torch.cat((self.v, v), 2),
            torch.cat((self.pos, pos), 1),
            torch.cat((self.valid, some), 1),
            _join(self.label, at.label, self.pos),
            _join(self.mark, None if at.mark is None else at.mark[:, 0], self.pos.bool()),
        )

    def trim(self, behind: int | None) -> "KV":
        """What later queries may need: the last `behind` real tokens (None: all), marked ones."""
        m = self.pos.shape[1]
        if bool(self.valid.all()) and self.mark is None:
            return self if behind is None or behind >= m else self._take(slice(m - behind, m))
        keep = self.valid
        if behind is not None:
            rank = self.valid.flip(1).cumsum(1).flip(1)
            recent = rank <= behind
            keep = keep & (recent if self.mark is None else recent | self.mark)
        width = int(keep.sum(1).max()) if keep.numel() else 0
        order = keep.to(torch.int8).argsort(dim=1, stable=True)[:, m - width :]
        return self._take(order)._renumber(keep.gather(1, order))

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

    def _renumber(self, valid: Tensor) -> "KV":
        """Empty slots, all at the left, get positions that run on to the first real token's."""
        m = self.pos.shape[1]
        slots = torch.arange(m, device=self.pos.device)
        first = (~valid).sum(1, keepdim=True).clamp(max=max(m - 1, 0))
        lead = self.pos.gather(1, first) - first if m else self.pos
        pos = torch.where(valid, self.pos, lead + slots)
        mark = None if self.mark is None else self.mark & valid
        return replace(self, pos=pos, valid=valid, mark=mark)


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


def _join(old: Tensor | None, new: Tensor | None, like: Tensor) -> Tensor | None:
    """Kept and new labels or marks on the last axis; tokens without any count as 0 or unmarked."""
    if old is None and new is None:
        return None
    if new is None:
        raise ValueError("this stream began with labels or marks; every call must give them")
    if old is None:
        blank = torch.zeros_like(like) if new.dim() == 2 else torch.zeros_like(like)[:, None]
        old = blank.to(new.dtype)
    return torch.cat((old.expand(*new.shape[:-1], -1), new.expand(len(like), *new.shape[1:])), -1)
