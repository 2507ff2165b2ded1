"""Frames: a spectrogram as a row of features, one for every few frames.

    h_1 = relu(conv3x3(frames)),  h_2 = relu(conv3x3(h_1)),  ..      each of stride 2, no padding
    x_j = W [h_j of all channels and bands]      of frames f j .. f j + r - 1

f = 2^halvings frames to a token (4: 10 ms to 40 ms), each of which reads r = 2 f - 1 (7). Gulati et
al., 2020, https://arxiv.org/abs/2005.08100, section 2.1 gives the rate; two convolutions are what
its ports agree on, and reproduce its counts of parameters. Time and memory O(T).
Ours differs: padding is zero before every convolution and makes no tokens; a stream keeps the
frames that tokens to come will read.

Axes: B batch, T frames, N tokens, M frames kept, C model width.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.choices import choose
from subquad.nn.context import Context, take
from subquad.nn.position import Sinusoidal
from subquad.nn.state import register

__all__ = ["FrameStem", "FrameStemConfig", "Held"]

Length = TypeVar("Length", int, Tensor)


@register
@dataclass(frozen=True)
class Held:
    """Frames that tokens to come will read: frames (B, M, bands), of which each row holds its first
    `count` (B,). `step` (B,): so many tokens, or a multiple, come out together.
    """

    frames: Tensor
    count: Tensor
    step: Tensor

    def end(self) -> tuple[Tensor, "Held"]:
        """No more frames, and the state from which every token comes out that there is."""
        return self.frames[:, :0], replace(self, step=torch.ones_like(self.step))


class FrameStem(nn.Module):
    """Frames (B, T, bands), floating point, to features (B, N, C).

    A row of n frames gives `count(n)` tokens, those it gives alone, at the left of its row.
    channels: of the convolutions, by default `dim`. For c of them the last costs about 9 c^2 bands
    / 4 products a token; for a small model that is more than a block costs, and fewer will do.
    """

    #: it reads frames
    frames = True

    def __init__(
        self,
        dim: int,
        *,
        bands: int = 80,
        halvings: int = 2,
        channels: int | None = None,
        position: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.bands, self.halvings = bands, halvings
        channels = dim if channels is None else channels
        if channels < 1:
            raise ValueError(
                f"a stem of {channels} channels reads nothing; channels must be at least 1"
            )
        if halvings < 1 or self.count(bands) < 1:
            raise ValueError(
                f"{bands} bands cannot be halved {halvings} times by 3 x 3 convolutions: halvings "
                f"must be at least 1, and bands at least {self.field}"
            )
        widths = [1, *[channels] * halvings]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2) for a, b in pairwise(widths))
        self.project = nn.Linear(channels * self.count(bands), dim)
        self.position = position
        self.dropout = nn.Dropout(dropout)

    @property
    def factor(self) -> int:
        """How many frames there are to a token."""
        return 2**self.halvings

    @property
    def field(self) -> int:
        """How many frames a token reads, from its first one on."""
        return 2 * self.factor - 1

    def count(self, frames: Length) -> Length:
        """How many tokens a row of so many frames, or rows of such lengths, gives."""
        for _ in range(self.halvings):
            frames = _halved(frames)
        return frames

    def real(self, valid: Tensor) -> Tensor:
        """Which tokens (B, N) are real, from which frames (B, T) are, wherever padding stood."""
        tokens = torch.arange(self.count(valid.shape[1]), device=valid.device)
        return tokens < self.count(valid.sum(1))[:, None]

    def forward(
        self, frames: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context, padding on the right. ValueError for pieces without a state."""
        if start is not None:
            raise ValueError(
                "a stream of frames needs the state of its stem: take one from Model.init_state"
            )
        self._check(frames)
        lengths = None if valid is None else valid.sum(1)
        return self._tokens(frames, lengths, None)

    def follow(
        self, frames: Tensor, valid: Tensor | None, start: Tensor, held: Held
    ) -> tuple[Tensor, Context, Held]:
        """The tokens of `held` and further frames (B, T, bands), as many as come out together, and
        what is held of the frames then. start (B,): the position of the first token.
        """
        self._check(frames)
        new = torch.ones_like(frames[..., 0], dtype=torch.bool) if valid is None else valid
        slots = torch.arange(held.frames.shape[1], device=frames.device)
        real = torch.cat((slots < held.count[:, None], new), 1)
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        joined, lengths = take(torch.cat((held.frames, frames), 1), order), real.sum(1)
        ready = self.count(lengths) // held.step * held.step
        read = (ready + 1) * self.factor - 1
        read = torch.where(ready > 0, read, 0)
        x, context = self._tokens(joined[:, : _most(read)], read, start)
        if context.valid is not None and bool(context.valid.all()):
            context = replace(context, valid=None)
        left = lengths - ready * self.factor
        slots = torch.arange(_most(left), device=frames.device)
        kept = take(joined, (slots + ready[:, None] * self.factor).clamp(max=real.shape[1] - 1))
        kept = kept.masked_fill((slots >= left[:, None]).unsqueeze(-1), 0.0)
        return x, context, replace(held, frames=kept, count=left)

    def init_state(self, batch: int, step: int) -> Held:
        """The state before the first frame of a stream whose tokens come out `step` at a time."""
        weight = self.project.weight
        count = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return Held(weight.new_zeros(batch, 0, self.bands), count, torch.full_like(count, step))

    def _tokens(
        self, frames: Tensor, lengths: Tensor | None, start: Tensor | None
    ) -> tuple[Tensor, Context]:
        """Features and context of the first `lengths` (B,) frames of each row, None for all."""
        tokens = self.count(frames.shape[1])
        # too short for one token: read as one, and then left out
        x = F.pad(frames, (0, 0, 0, max(0, self.field - frames.shape[1]))).unsqueeze(1)
        for conv in self.convs:
            x = F.relu(conv(_first(x, lengths)))
            lengths = None if lengths is None else _halved(lengths)
        x = self.project(x.transpose(1, 2).flatten(2))[:, :tokens]
        valid = None
        if lengths is not None:
            valid = torch.arange(tokens, device=x.device) < lengths[:, None]
        context = Context.of(x, valid, start)
        if self.position is not None:
            x = x + self.position(context.pos, valid).to(x.dtype)
        return context.clean(self.dropout(x)), context

    def _check(self, frames: Tensor) -> None:
        wrong = not isinstance(frames, Tensor) or not frames.is_floating_point()
        if wrong or frames.dim() != 3 or frames.shape[-1] != self.bands:
            given = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
            kind = f"{frames.dtype} " if isinstance(frames, Tensor) else ""
            raise ValueError(
                f"frames must be floating point (batch, frames, {self.bands} bands), not "
                f"{kind}{given}; build with stem bands=... for another number of bands"
            )


@dataclass(frozen=True)
class FrameStemConfig:
    """Fields of a stem for frames, as `subquad.nn.FrameStem`. `position`: absolute ones, "none" or
    "sinusoidal", for architectures without positions of their own.
    """

    bands: int = 80
    halvings: int = 2
    channels: int | None = None
    position: str = "none"
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> FrameStem:
        """The stem of a model of this width; there is no vocabulary."""
        make = choose(
            "stem position",
            self.position,
            {"none": lambda: None, "sinusoidal": lambda: Sinusoidal(dim)},
        )
        return FrameStem(
            dim,
            bands=self.bands,
            halvings=self.halvings,
            channels=self.channels,
            position=make(),
            dropout=self.dropout,
        )


def _halved(length: Length) -> Length:
    """Outputs of a convolution of three taps and stride 2, without padding."""
    less = length - 1
    return less.clamp(min=0) // 2 if isinstance(less, Tensor) else max(less, 0) // 2


def _first(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x (B, S, T, bands) with zeros after the first `lengths` (B,) frames, whatever stood there."""
    if lengths is None:
        return x
    gone = torch.arange(x.shape[2], device=x.device) >= lengths[:, None]
    return x.masked_fill(gone[:, None, :, None], 0.0)


def _most(lengths: Tensor) -> int:
    return int(lengths.max()) if len(lengths) else 0
