"""Groups: which latents a position thinks with. Numbers only; the stack is in `nn.latent`.

    anchor(p) = 0 for p < L, else the smallest multiple of the stride s that lies above p - L

The latents of position p are anchor(p) .. p: between L - s + 1 and L of them (fewer only before L),
from an anchor that depends on p alone. Positions of one anchor are a group: group 0 is 0 .. L - 1,
group g > 0 the s positions from L + (g - 1) s on, and its anchor is g s.

Axes: B batch, N tokens, R windows (a row and one of its groups).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Groups", "Piece", "Windows"]


class Windows(NamedTuple):
    """The latents of groups: rows of the batch (R,), their group, how many latents exist (R,),
    and whether the row ends in this group."""

    row: Tensor
    group: Tensor
    real: Tensor
    final: Tensor


class Piece(NamedTuple):
    """A piece of a stream, row by row (B,): tokens from position `start` to before `end`, of which
    `stay` belong to the group that the row is in; `more` groups follow, from `first` on."""

    start: Tensor
    end: Tensor
    stay: Tensor
    first: Tensor
    more: Tensor


@dataclass(frozen=True)
class Groups:
    """L `latents` and the `stride` s of anchors. ValueError unless 1 <= stride <= latents."""

    latents: int
    stride: int

    def __post_init__(self) -> None:
        if self.latents < 1:
            raise ValueError(f"there must be at least 1 latent, not {self.latents}")
        if not 1 <= self.stride <= self.latents:
            raise ValueError(
                f"a stride of {self.stride} does not fit {self.latents} latents; "
                f"take 1 to {self.latents}"
            )

    def of(self, pos: Any) -> Any:
        """The group of a position, a tensor or a number."""
        group = (pos - self.latents) // self.stride + 1
        return group.clamp(min=0) if isinstance(group, Tensor) else max(group, 0)

    def anchor(self, pos: Any) -> Any:
        """The first latent of a position, a tensor or a number."""
        return self.of(pos) * self.stride

    def piece(self, start: Tensor, real: Tensor, *, fresh: bool) -> Piece:
        """Where rows that go on from positions `start` (B,) with `real` (B,) tokens cross anchors.

        `fresh`: nothing is known of earlier tokens, so groups begin at the first anchor from
        `start` on; so it is anyhow for rows that start at 0.
        """
        begin = (start == 0) | fresh
        first = torch.where(begin, -(-start // self.stride), self.of(start - 1) + 1)
        left = self.latents + (first - 1) * self.stride - start
        stay = torch.where(begin, 0, left).minimum(real)
        end = start + real
        more = torch.where(real > 0, self.of(end - 1) - first + 1, 0)
        return Piece(start, end, stay, first, more)

    def windows(self, piece: Piece) -> Windows:
        """All groups that a piece enters, row after row."""
        row = torch.arange(len(piece.more)).repeat_interleave(piece.more)
        nth = torch.arange(len(row)) - _before(piece.more)[row]
        group = nth + piece.first[row]
        real = (piece.end[row] - group * self.stride).clamp(max=self.latents)
        return Windows(row, group, real, nth + 1 == piece.more[row])

    def places(self, piece: Piece, length: int, stay: int, width: int) -> Tensor:
        """Where the outputs (B, N) of a piece of `length` slots are among all that are formed:
        `stay` for every row, then `width` for every window, then one for padding."""
        rows, at = torch.arange(len(piece.start))[:, None], torch.arange(length)
        start, end, limit, first, more = (t[:, None] for t in piece)
        pos = start + at
        nth = (self.of(pos) - first).clamp(min=0)
        window = _before(piece.more)[:, None] + nth
        inside = len(rows) * stay + window * width + pos - (first + nth) * self.stride
        place = torch.where(at < limit, rows * stay + at, inside)
        padding = len(rows) * stay + int(more.sum()) * width
        return place.masked_fill(pos >= end, padding)


def _before(count: Tensor) -> Tensor:
    return count.cumsum(0) - count
