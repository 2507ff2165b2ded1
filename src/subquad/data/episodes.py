"""Episodes: a few classes, a few rows of each to learn from, and other rows of them to be asked.

A fifth of all classes, by a hash of their names alone, is held out: no row of them is ever trained
on, in whichever part it stands. Episode i depends on (seed, part, i) alone.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from subquad.data.documents import PARTS
from subquad.data.examples import Examples

__all__ = ["Episode", "Episodes", "Place", "draws", "held_out", "places"]

#: part and number of a row
Place = tuple[str, int]
_HELD = 5  # one class in so many


def held_out(names: Iterable[str], ways: int) -> list[str]:
    """The classes that are held out: a fifth, and at least `ways`. ValueError if fewer than `ways`
    are left to train on.
    """
    order = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    count = max(ways, math.ceil(len(order) / _HELD))
    if len(order) - count < ways:
        raise ValueError(
            f"episodes of {ways} classes want as many to train on and as many held out, and there "
            f"are {len(order)} classes in all: give data with more, or fewer ways"
        )
    return sorted(order[:count])


def places(
    found: Examples, parts: Iterable[str], classes: Collection[str]
) -> dict[str, list[Place]]:
    """Where the rows of each class stand."""
    at: dict[str, list[Place]] = defaultdict(list)
    for part in parts:
        for number, label in enumerate(found.column("label", part)):
            if label in classes:
                at[label].append((part, number))
    return dict(at)


@dataclass(frozen=True)
class Episode:
    """classes: their names, the number of each being its label.  batches: rows with their labels,
    step by step.  asked: rows with their labels, none of which stands in a batch.
    """

    classes: list[str]
    batches: list[list[tuple[Place, int]]]
    asked: list[tuple[Place, int]]


@dataclass(frozen=True)
class Episodes:
    """Draws episodes of `ways` classes with `shots` rows each.

    taught: class -> the rows to learn from.  asked: class -> those to be asked; may be the same.
    ValueError if fewer than `ways` classes have enough rows.
    """

    taught: Mapping[str, Sequence[Place]]
    asked: Mapping[str, Sequence[Place]]
    ways: int
    shots: int

    def __post_init__(self) -> None:
        if len(self.classes) < self.ways:
            raise ValueError(
                f"episodes want {self.ways} classes of {self.shots} rows to learn from and one "
                f"more to be asked, and only {len(self.classes)} classes have so many: give more "
                "rows, or fewer ways or shots"
            )

    @cached_property
    def classes(self) -> list[str]:
        """Those that an episode may have."""
        return sorted(name for name in self.taught if self._suffices(name))

    def _suffices(self, name: str) -> bool:
        taught, asked = {*self.taught[name]}, {*self.asked.get(name, ())}
        return len(taught) >= self.shots and len(taught | asked) > self.shots and bool(asked)

    def draw(self, draw: np.random.Generator, steps: int, batch: int, queries: int = 0) -> Episode:
        """One episode: `steps` batches of at most `batch` rows, which go through all rows again and
        again, each time in another order; `queries` rows of each class to be asked, or as many as
        there are.
        """
        names = self.classes
        chosen = [names[i] for i in draw.choice(len(names), self.ways, replace=False)]
        taught: list[tuple[Place, int]] = []
        asked: list[tuple[Place, int]] = []
        for label, name in enumerate(chosen):
            rows = self.taught[name]
            mine = [rows[i] for i in draw.choice(len(rows), self.shots, replace=False)]
            others = sorted({*self.asked[name]} - {*mine}) if queries else []
            some = draw.permutation(len(others))[:queries]
            taught += [(place, label) for place in mine]
            asked += [(others[i], label) for i in some]
        order = np.concatenate(
            [draw.permutation(len(taught)) for _ in range(-(-steps * batch // len(taught)))]
        )
        batch = min(batch, len(taught))
        batches = [
            [taught[i] for i in order[step * batch : (step + 1) * batch]] for step in range(steps)
        ]
        return Episode(chosen, batches, asked)


def draws(seed: int, part: str, index: int) -> np.random.Generator:
    """The draws of one episode, none of which is one of a made-up row."""
    bits = np.random.Philox(key=[seed, index], counter=[0, 0, 1, PARTS.index(part)])
    return np.random.Generator(bits)
