"""Patches: a picture as a row of features, one for each square of its pixels.

    z = [class_1; ...; class_K; E x_1; ...; E x_N] + positions      x_i: a patch, in raster order

Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929, sections 3.1 and 3.2.

Axes: B batch, S channels, Y and X sides in pixels, P side of a patch, K class tokens, N patches,
C model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.choices import choose
from subquad.nn.context import Context
from subquad.ops.partial import wide

__all__ = ["GridPositions", "PatchStem", "PatchStemConfig", "comes_whole", "grid_of"]


class GridPositions(nn.Module):
    """A learned vector for each class token and each place of a grid (rows, columns).

    On another grid the vectors of places are interpolated, bicubically; those of class tokens stay.
    """

    def __init__(self, dim: int, grid: tuple[int, int], class_tokens: int = 0) -> None:
        super().__init__()
        self.grid, self.class_tokens = grid, class_tokens
        self.table = nn.Embedding(class_tokens + grid[0] * grid[1], dim)

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """(K + rows * columns, C) for a grid of so many rows and columns."""
        table = self.table.weight
        if grid == self.grid:
            return table
        kept, places = table[: self.class_tokens], table[self.class_tokens :]
        plane = places.T.reshape(1, -1, *self.grid).to(wide(table.dtype))
        found = F.interpolate(plane, size=grid, mode="bicubic", align_corners=False)
        return torch.cat((kept, found[0].flatten(1).T.to(table.dtype)))


class PatchStem(nn.Module):
    """Pictures (B, S, Y, X), floating point, to features (B, K + N, C), class tokens first.

    Class tokens are marked, so that patterns with global tokens take them for such. A picture is
    seen whole: it has no padding, and it does not stream. ValueError for pictures of other
    channels, or whose sides the patch does not divide.
    """

    #: it reads pictures
    whole = True

    def __init__(
        self,
        dim: int,
        *,
        patch: int,
        channels: int,
        class_tokens: int = 0,
        position: GridPositions | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch, self.channels, self.class_tokens = patch, channels, class_tokens
        self.embedding = nn.Linear(channels * patch**2, dim)
        self.classes = nn.Embedding(class_tokens, dim) if class_tokens else None
        self.position = position
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, images: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context. ValueError for padding, or if they come in pieces."""
        comes_whole(valid, start)
        grid = self._grid(images)
        p = self.patch
        cut = images.unflatten(3, (grid[1], p)).unflatten(2, (grid[0], p))
        # (B, S, rows, P, columns, P) to (B, rows, columns, S, P, P)
        x = self.embedding(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        if self.classes is not None:
            x = torch.cat((self.classes.weight.expand(x.shape[0], -1, -1).to(x.dtype), x), 1)
        if self.position is not None:
            x = x + self.position(grid).to(x.dtype)
        context = Context.of(x)
        if self.class_tokens:
            marks = context.pos.expand(x.shape[0], -1) < self.class_tokens
            context = replace(context, mark=marks)
        return self.dropout(x), context

    def _grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        if images.dim() != 4 or not images.is_floating_point():
            raise ValueError(
                "pictures must be floating point (batch, channels, height, width), not "
                f"{images.dtype} {tuple(images.shape)}"
            )
        _, channels, height, width = images.shape
        if channels != self.channels:
            raise ValueError(
                f"pictures have {channels} channels and the stem reads {self.channels}; convert "
                f"them, or build with stem channels={channels}"
            )
        return grid_of((height, width), self.patch)


def comes_whole(valid: Tensor | None, start: Tensor | None) -> None:
    """ValueError for padding among, or pieces of, what is read at once and has a shape."""
    if valid is not None:
        raise ValueError("valid tells padding from tokens, and there is none in an image or array")
    if start is not None:
        raise ValueError("an image or array comes whole: it cannot be fed piece by piece")


def grid_of(sides: Sequence[int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches in a picture. ValueError where the patch does not divide it."""
    height, width = sides
    if patch < 1 or height % patch or width % patch or not height * width:
        raise ValueError(
            f"a picture of {height} x {width} pixels is not made of patches of {patch} x {patch}; "
            "crop or resize it, or take a patch that divides both sides"
        )
    return height // patch, width // patch


@dataclass(frozen=True)
class PatchStemConfig:
    """Fields of a patch stem. `image_size`: a side in pixels, or height and width, for which
    positions are learned; pictures of another size have theirs interpolated.

    position: "learned", or "none" for architectures that have positions of their own.
    class_tokens: vectors before the patches that belong to no place; 0 for none.
    """

    image_size: int | tuple[int, ...] = 224
    patch: int = 16
    channels: int = 3
    class_tokens: int = 1
    position: str = "learned"
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> PatchStem:
        """The stem of a model of this width; there is no vocabulary."""
        sides = self.image_size
        sides = (sides, sides) if isinstance(sides, int) else sides
        if len(sides) != 2 or self.channels < 1 or self.class_tokens < 0:
            raise ValueError(
                f"image_size {self.image_size} is a side, or height and width; channels "
                f"{self.channels} must be positive, and class_tokens {self.class_tokens} not "
                "negative"
            )
        grid = grid_of(sides, self.patch)
        make = choose(
            "stem position",
            self.position,
            {"none": lambda: None, "learned": lambda: GridPositions(dim, grid, self.class_tokens)},
        )
        return PatchStem(
            dim,
            patch=self.patch,
            channels=self.channels,
            class_tokens=self.class_tokens,
            position=make(),
            dropout=self.dropout,
        )
