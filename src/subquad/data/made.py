"""Rows that are made as they are asked for, none of them stored.

Row i of a set depends on (seed, part, i) alone, so the sets train, valid and test never share a
draw, and a set of any size costs nothing until it is read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.data.documents import PARTS

__all__ = ["Made", "draws"]


def draws(seed: int, part: str, index: int) -> np.random.Generator:
    """The draws of one row."""
    # counter-based: the set stands in the counter's upper words, which no row reaches
    bits = np.random.Philox(key=[seed, index], counter=[0, 0, 0, PARTS.index(part)])
    return np.random.Generator(bits)


@dataclass(frozen=True)
class Made:
    """`count` rows of the set train, valid or test of a seed; a kind of row says how in `row`."""

    count: int
    seed: int
    part: str

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"there is no part {self.part!r}; parts are {', '.join(PARTS)}")
        if self.count < 0 or self.seed < 0:
            raise ValueError(f"count {self.count} and seed {self.seed} must not be below 0")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(f"there is no row {index}; rows are 0 to {self.count - 1}")
        return self.row(draws(self.seed, self.part, index), index)

    def row(self, draw: np.random.Generator, index: int) -> dict[str, Any]:
        """Row `index`, from its own draws."""
        raise NotImplementedError
