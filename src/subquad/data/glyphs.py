"""Glyphs: shapes by their formulas, and the digits in a font of 5 x 7 pixels, each in two sizes."""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

__all__ = ["NAMES", "glyph"]

SMALL, LARGE = 7, 13  # pixels across a shape; odd, so that there is a middle
# one word a digit, a line of 5 pixels after another, from above
_FONT = {
    "zero": "01110 10001 10011 10101 11001 10001 01110",
    "one": "00100 01100 00100 00100 00100 00100 01110",
    "two": "01110 10001 00001 00110 01000 10000 11111",
    "three": "01110 10001 00001 00110 00001 10001 01110",
    "four": "00010 00110 01010 10010 11111 00010 00010",
    "five": "11111 10000 11110 00001 00001 10001 01110",
    "six": "00110 01000 10000 11110 10001 10001 01110",
    "seven": "11111 00001 00010 00100 01000 01000 01000",
    "eight": "01110 10001 10001 01110 10001 10001 01110",
    "nine": "01110 10001 10001 01111 00001 00010 01100",
}
# (x, y) in [-1, 1], y downwards, w the width of a line -> inside
_SHAPES: Mapping[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "circle": lambda x, y, w: x**2 + y**2 <= 1.15,
    "ring": lambda x, y, w: (x**2 + y**2 <= 1.15) & (x**2 + y**2 >= (1 - w) ** 2),
    "square": lambda x, y, w: np.maximum(abs(x), abs(y)) <= 1,
    "frame": lambda x, y, w: np.maximum(abs(x), abs(y)) >= 1 - w / 2,
    "triangle": lambda x, y, w: 2 * abs(x) <= y + 1.01,
    "diamond": lambda x, y, w: abs(x) + abs(y) <= 1.01,
    "plus": lambda x, y, w: np.minimum(abs(x), abs(y)) <= w / 2,
    "cross": lambda x, y, w: abs(abs(x) - abs(y)) <= w / 2,
}
NAMES = (*_SHAPES, *_FONT)


@cache
def glyph(name: str, large: bool) -> np.ndarray:
    """(height, width) bool, True where it is drawn; 5 x 7 or 10 x 14 a digit, else 7 or 13 wide."""
    if name in _FONT:
        bits = np.asarray([[*map(int, line)] for line in _FONT[name].split()], bool)
        bits = bits.repeat(2, 0).repeat(2, 1) if large else bits
    else:
        across = LARGE if large else SMALL
        line = np.linspace(-1, 1, across)
        y, x = np.meshgrid(line, line, indexing="ij")
        bits = _SHAPES[name](x, y, 2 * (3 if large else 1) / across + 0.05)
    bits.flags.writeable = False  # it is kept for all who ask
    return bits
