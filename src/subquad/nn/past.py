"""What a stream keeps of its tokens: their keys and values, or what those are made from.

    seen, after = state.extend(x, context, project)     what queries at x may look at; state after

Axes: B batch, N new tokens, M kept tokens, G key heads, D head width, C model width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.nn.context import Context
from subquad.nn.state import register
from subquad.ops.pattern import Coords

__all__ = ["KV", "Memory", "Past", "Project", "Seen"]


class Seen(NamedTuple):
    """What queries may look at: k (B, G, M, D), v (B, G, M, Dv), where they stand, which exist."""

    k: Tensor
    v: Tensor
    at: Coords
    valid: Tensor | None = None


#: from layer inputs (B, N, C) in a context to their k and v
Project = Callable[[Tensor, Context], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Past:
    """Tokens that later queries may look at: pos (B, M), and valid (B, M), label (B, 1, M), mark
    (B, M) or None. Real tokens stand at the right, in order; without `valid` all are real.

    What is kept of a token is up to the subclass, whose tensors have tokens on the axis before
    the last.
    """

    pos: Tensor
    valid: Tensor | None = None
    label: Tensor | None = None
    mark: Tensor | None = None

    #: the names of those tensors
    kept: ClassVar[tuple[str, ...]] = ()

    def extend(self, x: Tensor, context: Context, project: Project) -> tuple[Seen, Self]:
        """What queries at x (B, N, C) may look at, and this state followed by those tokens."""
        raise NotImplementedError(f"{type(self).__name__} must define extend")

    @property
    def count(self) -> int:
        """The slots in use, empty ones among them."""
        return self.pos.shape[1]

    def coords(self) -> Coords:
        """The coordinates of the kept tokens."""
        return Coords(
            self.pos[:, None], self.label, None if self.mark is None else self.mark[:, None]
        )

    def append(self, context: Context, **new: Tensor) -> Self:
        """This state followed by the tokens of a context; `new` is what is kept of them."""
        at = context.coords()
        b, n = next(iter(new.values())).shape[0], at.pos.shape[-1]
        pos, valid = at.pos[:, 0].expand(b, n), context.valid
        mark = None if at.mark is None else at.mark[:, 0].expand(b, n)
        label = None if at.label is None else at.label.expand(b, -1, n)
        for name, t in new.items():
            check_width(name, getattr(self, name), t)
        if n == 0:
            return self
        if self.count == 0:
            return replace(self, pos=pos, valid=valid, label=label, mark=mark, **new)
        return replace(
            self,
            pos=torch.cat((self._before(pos), pos), 1),
            valid=_join_valid(self.valid, valid, self.pos, pos),
            label=_join("labels", self.label, label),
            mark=_join("marks", self.mark, mark),
            **{name: torch.cat((getattr(self, name), t), -2) for name, t in new.items()},
        )

    def trim(self, behind: int | None, ragged: bool, needed: Tensor | None = None) -> Self:
        """What later queries may need: the last `behind` real tokens (None: all), marked ones.

        `ragged`: the tokens appended last held padding, which must go. `needed` (B or 1, M): which
        of the tokens that are not marked may be looked at, where distance alone does not tell.
        """
        m = self.count
        if self.mark is None and not ragged and needed is None:
            return self if behind is None or behind >= m else self._take(slice(m - behind, m))
        keep = self._real()
        if behind is not None:
            recent = keep.flip(1).cumsum(1).flip(1) <= behind
            keep = keep & (recent if self.mark is None else recent | self.mark)
        if needed is not None:
            keep = keep & (needed if self.mark is None else needed | self.mark)
        width = int(keep.sum(1).max()) if keep.numel() else 0
        order = keep.to(torch.int8).argsort(dim=1, stable=True)[:, m - width :]
        mark = None if self.mark is None else self.mark & keep
        kept = replace(self, valid=keep, mark=mark)._take(order)
        return replace(kept, pos=kept._before(kept.pos[:, -1:] + 1) if width else kept.pos)

    def renew(self, rows: Tensor, other: Self) -> Self:
        """This state, its rows `rows` (R,) of the batch being those of `other`, a batch of R."""
        b, m = len(self.pos), max(self.count, other.count)
        a, new = ({**vars(past), "valid": past._real()} for past in (self, other))
        for name, axis in self._axes().items():
            if new[name] is None:
                continue
            part = _fill_left(new[name], m, axis)
            # a state that has seen nothing has no labels yet
            old = a[name] if self.count else part.new_zeros(b, *part.shape[1:])
            a[name] = _fill_left(old, m, axis).index_copy(0, rows, part)
        return replace(self, **a).trim(None, ragged=True)

    def _real(self) -> Tensor:
        """Which slots hold tokens: (B, M)."""
        return torch.ones_like(self.pos, dtype=torch.bool) if self.valid is None else self.valid

    def _axes(self) -> dict[str, int]:
        """The axis of the tokens in each tensor, from the right."""
        return {"pos": -1, "valid": -1, "label": -1, "mark": -1, **dict.fromkeys(self.kept, -2)}

    def _before(self, new: Tensor) -> Tensor:
        """Positions with those of empty slots (all at the left) made to run on to the next token's.

        `new` (B, N) are the positions that follow.
        """
        if self.valid is None:
            return self.pos
        m = self.count
        slots = torch.arange(m, device=self.pos.device)
        empty = (~self.valid).sum(1, keepdim=True)
        real = self.pos.gather(1, empty.clamp(max=m - 1))
        first = torch.where(empty < m, real, new[:, :1])
        return torch.where(self.valid, self.pos, first - empty + slots)

    def _take(self, index: slice | Tensor) -> Self:
        """The slots `index`: a slice, or another choice for each row (B, M')."""

        def cut(t: Tensor, axis: int) -> Tensor:
            axis %= t.dim()
            if isinstance(index, slice):
                return t.narrow(axis, index.start, index.stop - index.start).contiguous()
            shape = [index.shape[0], *[1] * (t.dim() - 1)]
            size = [*t.shape]
            shape[axis] = size[axis] = index.shape[1]
            return t.gather(axis, index.view(shape).expand(size))

        given = {name: (getattr(self, name), axis) for name, axis in self._axes().items()}
        return replace(self, **{n: cut(t, a) for n, (t, a) in given.items() if t is not None})


@register
@dataclass(frozen=True, kw_only=True)
class KV(Past):
    """Keys k (B, G, M, D) and values v (B, G, M, Dv), for inference: each projected once."""

    k: Tensor
    v: Tensor
    kept: ClassVar[tuple[str, ...]] = ("k", "v")

    @classmethod
    def empty(cls, batch: int, heads: int, widths: tuple[int, int], like: Tensor) -> "KV":
        """A state without tokens, on the device of `like`."""
        k, v = (like.new_zeros(batch, heads, 0, width) for width in widths)
        return cls(k=k, v=v, pos=_no_positions(batch, like))

    def extend(self, x: Tensor, context: Context, project: Project) -> tuple[Seen, "KV"]:
        k, v = project(x, context)
        after = self.append(context, k=k, v=v)
        return Seen(after.k, after.v, after.coords(), after.valid), after


@register
@dataclass(frozen=True, kw_only=True)
class Memory(Past):
    """Layer inputs x (B, M, C) as constants, for training: keys and values are projected again in
    every segment, so that their weights get gradient through memory positions as well.

    Dai et al., Transformer-XL, https://arxiv.org/abs/1901.02860, section 3.2.
    """

    x: Tensor
    kept: ClassVar[tuple[str, ...]] = ("x",)

    @classmethod
    def empty(cls, batch: int, width: int, like: Tensor) -> "Memory":
        """A memory without tokens, on the device of `like`."""
        return cls(x=like.new_zeros(batch, 0, width), pos=_no_positions(batch, like))

    def extend(self, x: Tensor, context: Context, project: Project) -> tuple[Seen, "Memory"]:
        after = self.append(context, x=x)
        at = after.coords()
        told = Context(after.pos, after.valid, after.label, after.mark)
        k, v = project(told.clean(after.x), told)
        return Seen(k, v, at, after.valid), replace(after, x=after.x.detach())


def check_width(name: str, kept: Tensor, new: Tensor) -> None:
    """ValueError where what is kept of tokens is not as wide as what comes."""
    old, now = ((*t.shape[:-2], t.shape[-1]) for t in (kept, new))
    if old != now:
        raise ValueError(
            f"the state keeps {name} of {old} (rows, then heads and width) and this model makes "
            f"{now}: it is another model's state"
        )


def _no_positions(batch: int, like: Tensor) -> Tensor:
    return torch.zeros(batch, 0, dtype=torch.int64, device=like.device)


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


def _fill_left(t: Tensor, size: int, axis: int) -> Tensor:
    """t with zeros before it, so that `axis` (counted from the right) has this size."""
    after = (0, 0) * (-axis - 1)
    return F.pad(t, (*after, size - t.shape[axis], 0))
