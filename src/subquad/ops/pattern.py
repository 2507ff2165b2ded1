"""What a pattern is, and its algebra.

A pattern is a frozen dataclass: hashable, comparable, printable, and its text parses back
(`parse(str(p)) == p`), so it can stand in a JSON config. It answers three questions:

    allowed(q, k) -> bool tensor      may query q look at key k? (coordinates broadcast)
    reach() -> (behind, ahead)        farthest allowed distance, None = unbounded
    offsets(limit) / keys(q, total)   the few distances, or the few keys of a query, if they are few

A distance is query position minus key position, so positive distances lie in the past.

    a & b   both        a | b   either (evaluated as a, then b - a)        a - b   a but not b

Axes: B batch, N queries, M keys, H heads, K listed keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["And", "Coords", "Minus", "Or", "Pattern", "PerHead"]


class Coords(NamedTuple):
    """Where tokens are: `pos`, `label` and `mark` (or None), each (B or 1, H or 1, N).

    Without labels all tokens carry the same one; without marks no token is marked.
    """

    pos: Tensor
    label: Tensor | None = None
    mark: Tensor | None = None

    def queries(self) -> "Coords":
        """The coordinates as rows: (B, H, N, 1)."""
        return self.each(lambda t: t.unsqueeze(-1))

    def keys(self) -> "Coords":
        """The coordinates as columns: (B, H, 1, N)."""
        return self.each(lambda t: t.unsqueeze(-2))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Coords":
        """The coordinates, each changed by the same function."""
        label = None if self.label is None else change(self.label)
        return Coords(change(self.pos), label, None if self.mark is None else change(self.mark))


class Pattern:
    """Base of all patterns; subclasses are frozen dataclasses of plain numbers and patterns."""

    #: the names of its numbers, as dataclasses set it
    __match_args__: tuple[str, ...] = ()

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        """May query `q` look at key `k`? Coordinates broadcast: (..., N, 1) against (..., 1, M)."""
        raise NotImplementedError(f"{type(self).__name__} must define allowed(q, k)")

    @property
    def by_distance(self) -> bool:
        """Does the distance between query and key alone decide?"""
        return False

    def reach(self) -> tuple[int | None, int | None]:
        """Farthest allowed distances (behind, ahead), None where unbounded."""
        return None, None

    def offsets(self, limit: int) -> tuple[int, ...] | None:
        """The allowed distances up to `limit`, if distance decides and they are few; else None."""
        return None

    def keys(self, q: Tensor, total: int) -> Tensor | None:
        """Positions (..., K) of the keys of queries at `q` (...) among `total`, -1 where none."""
        distances = self.offsets(total)
        if distances is None:
            return None
        keys = q.unsqueeze(-1) - torch.tensor(distances, dtype=torch.int64, device=q.device)
        return keys.masked_fill((keys < 0) | (keys >= total), -1)

    def text(self) -> str:
        """What `str` prints and `parse` reads, in words that torch.compile can trace."""
        given = [f"{name}={getattr(self, name)}" for name in self.__match_args__]
        return f"{type(self).__name__}({', '.join(given)})"

    def __and__(self, other: "Pattern") -> "Pattern":
        return And(self, other)

    def __or__(self, other: "Pattern") -> "Pattern":
        return Or(self, other)

    def __sub__(self, other: "Pattern") -> "Pattern":
        return Minus(self, other)


@dataclass(frozen=True, repr=False)
class And(Pattern):
    """Pairs allowed by both."""

    a: Pattern
    b: Pattern

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return self.a.allowed(q, k) & self.b.allowed(q, k)

    @property
    def by_distance(self) -> bool:
        return self.a.by_distance and self.b.by_distance

    def reach(self) -> tuple[int | None, int | None]:
        (ab, aa), (bb, ba) = self.a.reach(), self.b.reach()
        return least(ab, bb), least(aa, ba)

    def offsets(self, limit: int) -> tuple[int, ...] | None:
        a, b = self.a.offsets(limit), self.b.offsets(limit)
        if a is not None and b is not None:
            inside = set(b)
            return tuple(d for d in a if d in inside)
        few, other = (a, self.b) if a is not None else (b, self.a)
        if few is None or not other.by_distance:
            return None
        at = torch.tensor(few, dtype=torch.int64)
        allowed = other.allowed(Coords(at), Coords(torch.zeros_like(at)))
        return tuple(d for d, yes in zip(few, allowed.tolist(), strict=True) if yes)

    def text(self) -> str:
        return f"({self.a.text()} & {self.b.text()})"

    __repr__ = text


@dataclass(frozen=True, repr=False)
class Or(Pattern):
    """Pairs allowed by either."""

    a: Pattern
    b: Pattern

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return self.a.allowed(q, k) | self.b.allowed(q, k)

    @property
    def by_distance(self) -> bool:
        return self.a.by_distance and self.b.by_distance

    def reach(self) -> tuple[int | None, int | None]:
        (ab, aa), (bb, ba) = self.a.reach(), self.b.reach()
        return most(ab, bb), most(aa, ba)

    def offsets(self, limit: int) -> tuple[int, ...] | None:
        a, b = self.a.offsets(limit), self.b.offsets(limit)
        return None if a is None or b is None else tuple(sorted(set(a) | set(b)))

    def text(self) -> str:
        return f"({self.a.text()} | {self.b.text()})"

    __repr__ = text


@dataclass(frozen=True, repr=False)
class Minus(Pattern):
    """Pairs allowed by `a` and not by `b`."""

    a: Pattern
    b: Pattern

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return self.a.allowed(q, k) & ~self.b.allowed(q, k)

    @property
    def by_distance(self) -> bool:
        return self.a.by_distance and self.b.by_distance

    def reach(self) -> tuple[int | None, int | None]:
        return (0, 0) if self.a == self.b else self.a.reach()

    def offsets(self, limit: int) -> tuple[int, ...] | None:
        a, b = self.a.offsets(limit), self.b.offsets(limit)
        if a is None or b is None:
            return None
        inside = set(b)
        return tuple(d for d in a if d not in inside)

    def text(self) -> str:
        return f"({self.a.text()} - {self.b.text()})"

    __repr__ = text


@dataclass(frozen=True, init=False, repr=False)
class PerHead(Pattern):
    """A pattern for each group of heads: `PerHead((6, Window(64)), (2, Window(64, 0, 4)))`."""

    groups: tuple[tuple[int, Pattern], ...]

    def __init__(self, *groups: tuple[int, Pattern]) -> None:
        for heads, pattern in groups:
            if heads < 1 or not isinstance(pattern, Pattern):
                raise ValueError(f"PerHead takes (heads, pattern) pairs, not ({heads}, {pattern})")
        object.__setattr__(self, "groups", tuple(tuple(g) for g in groups))

    @property
    def num_heads(self) -> int:
        return sum(heads for heads, _ in self.groups)

    @property
    def by_distance(self) -> bool:
        return all(p.by_distance for _, p in self.groups)

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        parts, first = [], 0
        for heads, pattern in self.groups:
            last = first + heads
            one = pattern.allowed(_heads(q, first, last), _heads(k, first, last))
            parts.append(one.expand(one.shape[0], heads, *one.shape[2:]))
            first = last
        return torch.cat(_same_batch(parts), 1)

    def reach(self) -> tuple[int | None, int | None]:
        behind, ahead = zip(*(p.reach() for _, p in self.groups), strict=True)
        return most(*behind), most(*ahead)

    def text(self) -> str:
        return "PerHead(" + ", ".join([f"({h}, {p.text()})" for h, p in self.groups]) + ")"

    __repr__ = text


def _heads(c: Coords, first: int, last: int) -> Coords:
    """The coordinates of some heads, where they differ by head."""
    return c.each(lambda t: t if t.shape[1] == 1 else t[:, first:last])


def _same_batch(parts: list[Tensor]) -> list[Tensor]:
    batch = max(p.shape[0] for p in parts)
    return [p.expand(batch, *p.shape[1:]) for p in parts]


def least(*values: int | None) -> int | None:
    """The smallest of some reaches, None being unbounded."""
    known = [v for v in values if v is not None]
    return min(known) if known else None


def most(*values: int | None) -> int | None:
    """The largest of some reaches, None being unbounded."""
    known = [v for v in values if v is not None]
    return max(known) if len(known) == len(values) else None
