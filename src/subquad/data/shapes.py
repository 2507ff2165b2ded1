"""Shapes: pictures of one thing each, labelled with its name, made as they are asked for.

The embedded data of tasks that name what a picture shows: one of eight shapes or ten digits, small
or large, in one of eight colours on black, anywhere in 24 x 24 pixels. All combinations of name,
size and colour stand in every part; where a thing stands is drawn anew for each row.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.data.examples import Examples
from subquad.data.glyphs import NAMES, glyph
from subquad.data.made import Made
from subquad.data.scenes import COLOURS

__all__ = ["ColouredShapes", "Shapes", "coloured_shapes", "shapes"]

SIDE = 24
_COUNTS = {"train": 8_000, "valid": 1_000, "test": 1_000}
_MANY = {"train": 12_000, "valid": 2_000, "test": 2_000}
_VERSION = 1  # of what a row of a number holds


@dataclass(frozen=True)
class Shapes(Made):
    """Rows {"image": uint8 (24, 24, 3), "label": str}."""

    def row(self, draw: np.random.Generator, index: int) -> dict[str, Any]:
        name = NAMES[draw.integers(len(NAMES))]
        shape = glyph(name, large=bool(draw.integers(2)))
        colour = [*COLOURS][draw.integers(len(COLOURS))]
        y, x = draw.integers(np.subtract(SIDE + 1, shape.shape))
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        image[y : y + shape.shape[0], x : x + shape.shape[1]][shape] = COLOURS[colour]
        return {"image": image, "label": self.label(colour, name)}

    def label(self, colour: str, name: str) -> str:
        """What a thing is called."""
        return name


class ColouredShapes(Shapes):
    """The same pictures, each labelled "colour name": 144 classes."""

    def label(self, colour: str, name: str) -> str:
        return f"{colour} {name}"


def shapes() -> Examples:
    """The embedded pictures."""
    return _examples("made-up shapes", "shapes", Shapes, _COUNTS)


def coloured_shapes() -> Examples:
    """The embedded pictures where many classes are wanted."""
    return _examples("made-up coloured shapes", "coloured-shapes", ColouredShapes, _MANY)


def _examples(says: str, key: str, kind: type[Shapes], counts: dict[str, int]) -> Examples:
    rows = {part: kind(count, 0, part) for part, count in counts.items()}
    sizes = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    return Examples(rows, f"{says} ({sizes})", f"{key}-{_VERSION}")
