"""Scenes: small pictures of one to three things, each with the one caption that says what is there.

A thing is a shape or a digit, small or large, in one of eight colours on black, in a cell of its
own of a grid of 16 x 16 pixels; where in the cell is drawn too. The caption names the things in
reading order (rows from above, a row from the left), each with its place towards the next:

    a large red circle above and left of a small blue three
    thing  = "a" size colour name
    place  = "left of" in one row, "above" in one column, else "above and left of" or "above and
             right of"

so one scene has one caption, and an exact match means that everything was seen. `read` takes a
caption apart again.

Held-out combinations: a tenth of all pairs of a colour and a name, by a hash of the two, never
stand in train and do in valid and test (`held_out`), where things are drawn from all pairs. Every
word occurs in train, so a held-out pair is named by who has learnt colours and names apart.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from subquad.data.documents import by_hash
from subquad.data.glyphs import NAMES, glyph
from subquad.data.made import Made

__all__ = ["COLOURS", "SIZES", "Scenes", "Thing", "caption", "held_out", "read"]

CELL = 16
SIZES = ("small", "large")
COLOURS = {
    "red": (230, 40, 40),
    "orange": (255, 150, 0),
    "yellow": (255, 240, 60),
    "green": (40, 180, 60),
    "cyan": (80, 230, 240),
    "blue": (60, 90, 255),
    "purple": (170, 60, 200),
    "white": (255, 255, 255),
}
# the longer before those that they begin with, as they are looked for in this order
PLACES = ("above and left of", "above and right of", "above", "left of")
_THING = f"a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(NAMES)})"
_PLACE = "|".join(PLACES)
_PAIRS = tuple((colour, name) for name in NAMES for colour in COLOURS)
_HELD = frozenset(
    pair
    for pair, part in zip(_PAIRS, by_hash([" ".join(pair) for pair in _PAIRS]), strict=True)
    if part  # in twentieths: the valid and the test part of a hash
)
_TAUGHT = tuple(pair for pair in _PAIRS if pair not in _HELD)


class Thing(NamedTuple):
    """What stands where; row and column count cells from the upper left."""

    size: str
    colour: str
    name: str
    row: int
    column: int


def held_out(colour: str, name: str) -> bool:
    """True for what never stands in train. ValueError for a pair that stands nowhere."""
    if (colour, name) not in _PAIRS:
        raise ValueError(
            f"no thing is called {colour!r} {name!r}; colours are {', '.join(COLOURS)}, and names "
            f"{', '.join(NAMES)}"
        )
    return (colour, name) in _HELD


@dataclass(frozen=True)
class Scenes(Made):
    """Rows {"image": uint8 (side, side, 3), "caption": str, "objects": list of Thing}."""

    side: int = 48
    most: int = 3  # things

    def __post_init__(self) -> None:
        super().__post_init__()
        cells = (self.side // CELL) ** 2
        if self.side % CELL or not 1 <= self.most <= cells:
            raise ValueError(
                f"{self.most} things do not fit into {self.side} x {self.side} pixels; a side is "
                f"a multiple of {CELL}, each thing has a cell of {CELL} x {CELL}, and 1 is the "
                "least"
            )

    def row(self, draw: np.random.Generator, index: int) -> dict[str, Any]:
        pairs = _TAUGHT if self.part == "train" else _PAIRS
        across = self.side // CELL
        count = int(draw.integers(1, self.most + 1))
        cells = np.sort(draw.choice(across**2, count, replace=False)).tolist()
        things = []
        for cell in cells:
            size, pair = SIZES[draw.integers(len(SIZES))], pairs[draw.integers(len(pairs))]
            things.append(Thing(size, *pair, *divmod(cell, across)))
        image = np.zeros((self.side, self.side, 3), np.uint8)
        for thing in things:
            shape = glyph(thing.name, large=thing.size == "large")
            free = np.subtract(CELL - 1, shape.shape)  # a line stays black below and on the right
            y, x = CELL * np.asarray(thing[3:]) + draw.integers(free + 1)
            image[y : y + shape.shape[0], x : x + shape.shape[1]][shape] = COLOURS[thing.colour]
        return {"image": image, "caption": caption(things), "objects": things}


def caption(things: list[Thing]) -> str:
    """The one caption of things in reading order."""
    words = [f"a {thing.size} {thing.colour} {thing.name}" for thing in things]
    for number, (one, other) in enumerate(pairwise(things)):
        words[number] += f" {_place(one, other)}"
    return " ".join(words)


def _place(one: Thing, other: Thing) -> str:
    if one.row == other.row:
        return "left of"
    if one.column == other.column:
        return "above"
    return "above and left of" if one.column < other.column else "above and right of"


def read(text: str) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(size, colour, name) of each thing of a caption, and the places between them.

    ValueError for what is no caption.
    """
    if not re.fullmatch(f"{_THING}(?: (?:{_PLACE}) {_THING})*", text):
        raise ValueError(
            f"{text!r} is no caption; a caption is 'a size colour name', and behind a place "
            f"({', '.join(PLACES)}) the next: sizes are {', '.join(SIZES)}, colours "
            f"{', '.join(COLOURS)}, names {', '.join(NAMES)}"
        )
    return re.findall(_THING, text), re.findall(_PLACE, text)
