"""Direct quantiles: a forecast as a few levels of its distribution function, without a family.

    loss = mean over levels of 2 (level - [z < z_level]) (z - z_level)        z = target / scale

The pinball loss (Koenker and Bassett, 1978), whose sum over series is Li et al.'s R_rho of
https://arxiv.org/abs/1907.00235, section 4.1. It is taken of the target in units of its scale, so
that series of all sizes weigh alike, as they do in the gradient of a log-likelihood.
Monotone by construction: each value is the one before it plus softplus(raw). Between levels the
quantile function is a straight line, and outside them it is constant: samples are drawn through it,
and none lies beyond the outer levels.

Axes: B rows, N steps, P levels.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from subquad.nn.likelihoods import Likelihood, by_step, probability
from subquad.ops.partial import wide

__all__ = ["Quantiles"]


class Quantiles(Likelihood):
    """The values at some levels between 0 and 1, in rising order. ValueError for others."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        rising = all(a < b for a, b in pairwise(levels))
        if not levels or not rising or levels[0] <= 0 or levels[-1] >= 1:
            raise ValueError(
                f"levels are {tuple(levels)}; quantiles need rising ones between 0 and 1, as "
                "(0.1, 0.5, 0.9)"
            )
        self.levels = tuple(levels)
        self.names = tuple(f"{level:g}" for level in levels)

    def parameters(self, raw: Tensor) -> Tensor:
        raw = raw.to(wide(raw.dtype))
        return torch.cat((raw[..., :1], F.softplus(raw[..., 1:])), -1).cumsum(-1)

    def score(self, params: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        levels = torch.tensor(self.levels, dtype=params.dtype, device=params.device)
        above = (target / by_step(scale, params)).unsqueeze(-1) - params
        return 2 * torch.maximum(levels * above, (levels - 1) * above).mean(-1)

    def sample(self, params: Tensor, scale: Tensor, generator: Generator | None = None) -> Tensor:
        like = params[..., 0]
        u = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return self._at(params, u, scale)

    def quantile(self, params: Tensor, scale: Tensor, q: float) -> Tensor:
        return self._at(params, torch.full_like(params[..., 0], probability(q)), scale)

    def mean(self, params: Tensor, scale: Tensor) -> Tensor:
        """The mean of that quantile function: each value by the share of levels nearest to it."""
        levels = torch.tensor(self.levels, dtype=params.dtype, device=params.device)
        ends = torch.cat((-levels[:1], levels, 2 - levels[-1:]))
        return (params * (ends[2:] - ends[:-2]) / 2).sum(-1) * by_step(scale, params)

    def _at(self, params: Tensor, u: Tensor, scale: Tensor) -> Tensor:
        """The quantile function at u (B, N)."""
        levels = torch.tensor(self.levels, dtype=params.dtype, device=params.device)
        after = torch.searchsorted(levels, u.contiguous()).clamp(max=len(levels) - 1)
        before = (after - 1).clamp(min=0)
        low, high = (params.gather(-1, i.unsqueeze(-1)).squeeze(-1) for i in (before, after))
        gap = levels[after] - levels[before]
        share = torch.where(gap > 0, (u - levels[before]) / gap, 0.0).clamp(0.0, 1.0)
        return (low + share * (high - low)) * by_step(scale, params)
