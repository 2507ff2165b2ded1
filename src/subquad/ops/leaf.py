"""What patterns of plain numbers share. What a pattern is: `subquad.ops.pattern`.

Axes: B batch, N queries, M keys, H heads.
"""

import torch
from torch import Tensor

from subquad.ops.pattern import Coords, Pattern

__all__ = ["Leaf", "at_least", "distance", "everywhere", "whole"]

#: positions are int64, and a reach is added to them
FARTHEST = 1 << 60


class Leaf(Pattern):
    """A pattern of plain numbers. Its text is fixed when it is made: under torch.compile numbers
    may be symbols, and a symbol cannot be printed.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "_text", super().text())

    def text(self) -> str:
        """What `str` prints and `parse` reads."""
        return self.__dict__["_text"]


def at_least(name: str, value: int, least: int) -> None:
    """ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def whole(name: str, value: int, step: int) -> None:
    """ValueError unless `value` is a whole number of steps that positions can be moved by."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if abs(value) * step > FARTHEST:
        raise ValueError(
            f"{name}={value} in steps of {step} is farther than positions reach: {FARTHEST}"
        )


def distance(q: Coords, k: Coords) -> Tensor:
    """Query position minus key position."""
    return q.pos - k.pos


def everywhere(q: Coords, k: Coords, value: bool) -> Tensor:
    """The same answer for every pair."""
    shape = torch.broadcast_shapes(q.pos.shape, k.pos.shape)
    return torch.full(shape, value, dtype=torch.bool, device=q.pos.device)
