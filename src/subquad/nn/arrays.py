"""Arrays: every element of an array is a token, with Fourier features of its place.

    x = W_c channels + W_p [place | sin(pi f place) | cos(pi f place)]      place -1 .. 1 per axis

Images, video, sound: whatever has axes, then channels. The paper joins both; a linear map of what
is joined is the sum of two, the second the same for every row of a batch.

Jaegle et al., 2021, Perceiver, https://arxiv.org/abs/2103.03206, section 3.2.

Axes: B batch, N tokens, C model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from subquad.nn.context import Context
from subquad.nn.patches import comes_whole
from subquad.ops.positions import fourier

__all__ = ["ArrayStem", "ArrayStemConfig"]


class ArrayStem(nn.Module):
    """Arrays (B, *axes, channels) to features (B, N, C), the last axis fastest.

    `resolution`: for each axis the most places, whose half is the highest of `bands` frequencies.
    Arrays of other sizes span the same -1 .. 1.
    """

    def __init__(
        self,
        dim: int,
        *,
        resolution: Sequence[int] = (224, 224),
        channels: int = 3,
        bands: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.resolution, self.channels, self.bands = tuple(resolution), channels, bands
        self.project = nn.Linear(channels, dim)
        self.place = nn.Linear(len(self.resolution) * (1 + 2 * bands), dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, array: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context. ValueError for arrays of another form, or given by pieces."""
        comes_whole(valid, start)
        axes = len(self.resolution)
        if array.dim() != axes + 2 or array.shape[-1] != self.channels:
            raise ValueError(
                f"an array is {tuple(array.shape)}; it must be (batch, {axes} axes, "
                f"{self.channels} channels)"
            )
        places = fourier(array.shape[1:-1], self.bands, self.resolution, array.device)
        x = self.project(array.flatten(1, -2)) + self.place(places.to(self.place.weight.dtype))
        return self.dropout(x), Context.of(x)


@dataclass(frozen=True)
class ArrayStemConfig:
    """Fields of an array stem, as `subquad.nn.ArrayStem`."""

    resolution: tuple[int, ...] = (224, 224)
    channels: int = 3
    bands: int = 64
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> ArrayStem:
        """The stem of a model of this width; there are no words."""
        return ArrayStem(
            dim,
            resolution=self.resolution,
            channels=self.channels,
            bands=self.bands,
            dropout=self.dropout,
        )
