"""Series: numbers in time as tokens, each the value before it and what is known of its own time.

    x_t = W [z_(t-1), missing_(t-1), covariates_t, position_t + series]

Li et al., 2019, https://arxiv.org/abs/1907.00235, sections 3 and 4.2: positions and series have
vectors 20 wide, which are summed and joined to the covariates. Time and memory O(N).
Ours differs: a value may be missing; positions are sinusoids by default, so that any length runs.

Axes: B batch, N tokens, F inputs of a token, C model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subquad.nn.choices import choose
from subquad.nn.context import Context
from subquad.nn.position import Learned, Sinusoidal

__all__ = ["SeriesStem", "SeriesStemConfig"]


class SeriesStem(nn.Module):
    """Inputs (B, N, F), floating point, to features (B, N, C).

    Column 0 is the value before the token's own time, scaled; NaN says that it is missing, which is
    read as 0 with an indicator of 1. Then come `covariates` columns, standardised, and the number
    of the series as the last column, if `num_series` tells how many there are: a whole number, or
    -1 for a series that is none of them, which has no vector.
    """

    #: it reads series
    series = True

    def __init__(
        self,
        dim: int,
        *,
        covariates: int = 0,
        num_series: int = 0,
        embed_dim: int = 20,
        position: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.covariates, self.num_series = covariates, num_series
        self.position = position
        self.table = nn.Embedding(num_series, embed_dim) if num_series else None
        known = embed_dim if position is not None or num_series else 0
        self.project = nn.Linear(2 + covariates + known, dim)
        self.dropout = nn.Dropout(dropout)

    @property
    def width(self) -> int:
        """F: how many inputs a token has."""
        return 1 + self.covariates + bool(self.num_series)

    def forward(
        self, inputs: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context; rows begin at position `start` (B,), default 0.

        ValueError for inputs of another width, or for a series that there is not.
        """
        if inputs.shape[1] == 0:  # the end of a stream has no columns
            inputs = self.project.weight.new_zeros(len(inputs), 0, self.width)
        self._check(inputs)
        context = Context.of(inputs, valid, start)
        inputs, kind = context.clean(inputs), self.project.weight.dtype
        value = inputs[..., :1]
        missing = value.isnan()
        known = inputs[..., 1 : 1 + self.covariates]
        parts = [value.masked_fill(missing, 0.0), missing, known]
        at = None if self.position is None else self.position(context.pos, valid)
        if self.table is not None:
            named = self._named(inputs[..., -1])
            at = named if at is None else at.to(kind) + named
        if at is not None:
            parts.append(at.expand(*inputs.shape[:2], -1))
        x = self.project(torch.cat([part.to(kind) for part in parts], -1))
        return context.clean(self.dropout(x)), context

    def _named(self, numbers: Tensor) -> Tensor:
        """The vectors (B, N, E) of series by their numbers (B, N)."""
        assert self.table is not None
        # the least whole number that is not exact has more bits than the dtype
        if self.num_series > 2 / torch.finfo(numbers.dtype).eps:
            raise ValueError(
                f"{numbers.dtype} cannot hold the numbers of {self.num_series} series; give "
                "inputs in float32"
            )
        wrong = (numbers < -1) | (numbers >= self.num_series) | (numbers != numbers.floor())
        if not torch.compiler.is_compiling() and bool(wrong.any()):
            raise ValueError(
                f"series number {float(numbers[wrong][0]):g} is not a whole number from 0 to "
                f"{self.num_series - 1}, nor -1 for a series that is none of the {self.num_series}"
            )
        found = self.table(numbers.long().clamp(min=0))
        return found.masked_fill((numbers < 0).unsqueeze(-1), 0.0)

    def _check(self, inputs: Tensor) -> None:
        wrong = not isinstance(inputs, Tensor) or not inputs.is_floating_point()
        if wrong or inputs.dim() != 3 or inputs.shape[-1] != self.width:
            raise ValueError(
                f"series must be floating point (batch, length, {self.width}: a value, "
                f"{self.covariates} covariates{', a series number' if self.num_series else ''}), "
                f"not {inputs.dtype} {tuple(inputs.shape)}; the stem's covariates and num_series "
                "tell the columns"
            )


@dataclass(frozen=True)
class SeriesStemConfig:
    """Fields of a stem for series, as `subquad.nn.SeriesStem`. `position`: absolute ones, "none",
    "sinusoidal" or "learned" up to `max_len`, `embed_dim` wide like the vectors of series.
    """

    covariates: int = 0
    num_series: int = 0
    embed_dim: int = 20
    position: str = "sinusoidal"
    max_len: int = 1024
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> SeriesStem:
        """The stem of a model of this width; there is no vocabulary."""
        make = choose(
            "stem position",
            self.position,
            {
                "none": lambda: None,
                "sinusoidal": lambda: Sinusoidal(self.embed_dim),
                "learned": lambda: Learned(self.embed_dim, self.max_len),
            },
        )
        return SeriesStem(
            dim,
            covariates=self.covariates,
            num_series=self.num_series,
            embed_dim=self.embed_dim,
            position=make(),
            dropout=self.dropout,
        )
