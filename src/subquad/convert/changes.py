"""The closed set of changes between a tensor there and a tensor here, each with its way back.

A change takes the tensors of one side in the order of a row, and gives those of the other; going
there and back gives the same bits. `Zeros` and `Cut` refuse or fill what the other side lacks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Change",
    "Copy",
    "Cut",
    "Flip",
    "Join",
    "Lead",
    "Reshape",
    "Split",
    "Transpose",
    "Turn",
    "TurnHeads",
]

#: numbers that rows count and shape by, by name: "layer" counts layers
Sizes = Mapping[str, Any]


class Change:
    """Nothing changes but the name."""

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        """Ours, `count` tensors, from theirs."""
        return [*given]

    def back(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        """Theirs, `count` tensors, from ours."""
        return [*given]


@dataclass(frozen=True)
class Transpose(Change):
    """A matrix is kept as (inputs, outputs) there; vectors stay."""

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return [t.mT if t.dim() > 1 else t for t in given]

    back = there


@dataclass(frozen=True)
class Split(Change):
    """One tensor there holds several of ours one after another, in equal parts, or in `parts`."""

    parts: str | None = None

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        (whole,) = given
        if self.parts is not None:
            if len(whole) != sum(sizes[self.parts]):
                raise ValueError(f"{tuple(whole.shape)} does not fall into {sizes[self.parts]}")
            return [*whole.split(sizes[self.parts])]
        if len(whole) % count:
            raise ValueError(f"{tuple(whole.shape)} does not fall into {count} equal parts")
        return [*whole.chunk(count)]

    def back(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return [torch.cat([*given])]


@dataclass(frozen=True)
class Join(Change):
    """Several tensors there are one of ours, one after another, in equal parts, or in `parts`."""

    parts: str | None = None

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return Split(self.parts).back(given, count, sizes)

    def back(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return Split(self.parts).there(given, count, sizes)


@dataclass(frozen=True)
class Flip(Change):
    """Rows stand in the opposite order."""

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return [t.flip(0) for t in given]

    back = there


@dataclass(frozen=True)
class Copy(Change):
    """One tensor there is two or more of ours, which must still be equal on the way back."""

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        (one,) = given
        return [one] * count

    def back(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        if not all(torch.equal(t, given[0]) for t in given):
            raise ValueError("these are one tensor there, and differ here: train with them tied")
        return [given[0]]


@dataclass(frozen=True)
class Lead(Change):
    """Tensors there have so many axes of size 1 before ours."""

    axes: int = 1

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        for t in given:
            if t.shape[: self.axes].numel() != 1:
                raise ValueError(f"{tuple(t.shape)} does not begin with {self.axes} axes of size 1")
        return [t.reshape(t.shape[self.axes :]) for t in given]

    def back(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return [t.reshape(*(1,) * self.axes, *t.shape) for t in given]


@dataclass(frozen=True)
class Reshape(Change):
    """Another shape of the same numbers; sizes by name, or as numbers, -1 for what is left."""

    theirs: tuple[str | int, ...]
    ours: tuple[str | int, ...]

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return [self._as(t, self.ours, self.theirs, sizes) for t in given]

    def back(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return [self._as(t, self.theirs, self.ours, sizes) for t in given]

    @staticmethod
    def _as(t: Tensor, wanted: tuple, found: tuple, sizes: Sizes) -> Tensor:
        want, has = (
            tuple(n if isinstance(n, int) else sizes[n] for n in s) for s in (wanted, found)
        )
        if len(t.shape) != len(has) or any(
            h not in (-1, n) for n, h in zip(t.shape, has, strict=True)
        ):
            raise ValueError(f"a shape of {has} is expected, not {tuple(t.shape)}")
        return t.reshape(want)


@dataclass(frozen=True)
class Turn(Change):
    """Columns alternate there (sine, cosine, sine, ...) and stand in halves in ours."""

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return [t.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2) for t in given]

    def back(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return [t.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2) for t in given]


@dataclass(frozen=True)
class TurnHeads(Change):
    """Rows of every head alternate there, first and second half of a pair, and stand in halves in
    ours: other ways to write down the pairs that rotary positions turn.  heads: their size by name.
    width: how many rows of a head turn, by name, the first ones; by default all.
    """

    heads: str
    width: str | None = None

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return [self._turn(t, sizes, (-1, 2)) for t in given]

    def back(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        return [self._turn(t, sizes, (2, -1)) for t in given]

    def _turn(self, t: Tensor, sizes: Sizes, pairs: tuple[int, int]) -> Tensor:
        heads = sizes[self.heads]
        rows, left = divmod(t.shape[0], heads)
        width = rows if self.width is None else sizes[self.width]
        if left or width % 2 or not 0 < width <= rows:
            raise ValueError(f"{tuple(t.shape)} does not fall into pairs of {heads} heads")
        every = t.unflatten(0, (heads, rows))
        turned = every[:, :width].unflatten(1, pairs).transpose(1, 2).flatten(1, 2)
        return torch.cat((turned, every[:, width:]), 1).flatten(0, 1)


@dataclass(frozen=True)
class Cut(Change):
    """The first `rows` of a table there have no place in ours; they are kept aside.

    A table that never was there gets zeros for them.
    """

    rows: int

    def there(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        (table,) = given
        if len(table) <= self.rows:
            raise ValueError(f"{tuple(table.shape)} has no more than the {self.rows} rows to keep")
        return [table[: self.rows], table[self.rows :]]

    def back(self, given: Sequence[Tensor], count: int, sizes: Sizes) -> list[Tensor]:
        *first, table = given
        first = first or [table.new_zeros(self.rows, *table.shape[1:])]
        return [torch.cat([*first, table])]
