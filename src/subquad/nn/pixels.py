"""Pixels: every pixel of a picture is a token, its place beside its colours.

    x = [W colours | place]           W may be left out

Jaegle et al., 2021, Perceiver IO, https://arxiv.org/abs/2107.14795, supplement H: the place by its
Fourier features, or by a learned vector that is mapped once more. Time and memory O(N C).

Axes: B batch, S channels, Y and X sides in pixels, N pixels, C model width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subquad.nn.choices import choose
from subquad.nn.context import Context
from subquad.nn.patches import GridPositions, comes_whole
from subquad.ops.positions import fourier

__all__ = ["FourierPlaces", "LearnedPlaces", "PixelStem", "PixelStemConfig"]


class FourierPlaces(nn.Module):
    """Fourier features of the places of a picture: `bands` frequencies, the highest half of
    `resolution` (rows, columns).
    """

    def __init__(self, resolution: tuple[int, int], bands: int) -> None:
        super().__init__()
        self.resolution, self.bands = resolution, bands
        self.width = 2 * (1 + 2 * bands)

    def forward(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """(N, width) for a picture of so many rows and columns."""
        return fourier(grid, self.bands, self.resolution, like.device).to(like.dtype)


class LearnedPlaces(nn.Module):
    """A learned vector for each place of a grid, and a map of it; interpolated on other grids."""

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.width = width
        self.position = GridPositions(width, grid)
        self.project = nn.Linear(width, width)

    def forward(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """(N, width) for a picture of so many rows and columns."""
        return self.project(self.position(grid)).to(like.dtype)


class PixelStem(nn.Module):
    """Pictures (B, S, Y, X), floating point, to features (B, N, C), the last axis fastest.

    place: what stands beside the colours, `place.width` wide; the rest of `dim` is a map of the
    colours, or they as they are where that is just as wide and `mapped` is False. ValueError for a
    width that does not come out so.
    """

    #: it reads pictures
    whole = True

    def __init__(
        self,
        dim: int,
        place: FourierPlaces | LearnedPlaces,
        *,
        channels: int = 3,
        mapped: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        left = dim - place.width
        if left < 1 or (not mapped and left != channels):
            raise ValueError(
                f"a width of {dim} is not that of places, {place.width}, and colours, {channels}"
                f"{' or what they are mapped to' if mapped else ''}"
            )
        self.channels, self.place = channels, place
        self.embedding: nn.Module = nn.Linear(channels, left) if mapped else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, images: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context. ValueError for padding, pieces, or pictures of another form."""
        comes_whole(valid, start)
        if images.dim() != 4 or images.shape[1] != self.channels or not images.is_floating_point():
            raise ValueError(
                f"pictures must be floating point (batch, {self.channels} channels, height, "
                f"width), not {images.dtype} {tuple(images.shape)}"
            )
        x = self.embedding(images.flatten(2).mT)
        height, width = images.shape[2:]
        place = self.place((height, width), x)
        x = torch.cat((x, place.expand(len(x), -1, -1)), -1)
        return self.dropout(x), Context.of(x)


@dataclass(frozen=True)
class PixelStemConfig:
    """Fields of a stem for pixels, as `subquad.nn.PixelStem`. `position`: "fourier", or "learned"
    of `place_dim` channels for pictures of `image_size` (rows, columns), which is also the
    resolution of the first.
    """

    position: str = "fourier"
    image_size: tuple[int, ...] = (224, 224)
    channels: int = 3
    bands: int = 64
    place_dim: int = 256
    mapped: bool = False
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> PixelStem:
        """The stem of a model of this width; there is no vocabulary."""
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image_size {self.image_size} must be rows and columns of pixels")
        rows, columns = self.image_size
        make: Callable[[], FourierPlaces | LearnedPlaces] = choose(
            "stem position",
            self.position,
            {
                "fourier": lambda: FourierPlaces((rows, columns), self.bands),
                "learned": lambda: LearnedPlaces(self.place_dim, (rows, columns)),
            },
        )
        return PixelStem(
            dim, make(), channels=self.channels, mapped=self.mapped, dropout=self.dropout
        )
