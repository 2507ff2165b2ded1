"""Likelihoods: what a forecast says of a number, and how well a number that came agrees.

Each maps what a head gives to parameters of a distribution of target / scale, and answers in the
target's own units: p(z) of the target itself, samples, quantiles, means.

    nu = 1 + mean |z| over what was observed           the scale of a series (Salinas et al., 2020)

Salinas et al., 2020, DeepAR, https://arxiv.org/abs/1704.04110, sections 3.1 and 3.3; Li et al.,
2019, https://arxiv.org/abs/1907.00235, section 4.2. Direct quantiles: `subquad.nn.quantiles`.

Axes: B rows, N steps, P parameters. A scale (B,) holds for all steps of a row.
"""

from math import log, pi

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from subquad.ops.beta import incomplete_beta
from subquad.ops.partial import wide

__all__ = ["Gaussian", "Likelihood", "NegativeBinomial", "StudentT", "mean_scale", "observed_mean"]

#: the least deviation, in units of the scale: a constant series would ask for none
LEAST = 1e-4


def mean_scale(target: Tensor, observed: Tensor | None = None) -> Tensor:
    """1 + the mean of |target| (B, N) over what was observed (B, N): (B,), in at least float32.

    What is NaN is not observed; 1 where nothing is. Give it the context alone: what is to be
    forecast must not enter.
    """
    size = target.to(wide(target.dtype)).abs()
    return 1.0 + observed_mean(size, _known(target, observed), rows=True)


def observed_mean(t: Tensor, observed: Tensor, rows: bool = False) -> Tensor:
    """The mean of t (B, N) where `observed`, of everything or of each row; 0 where nothing is."""
    kept = torch.where(observed, t, 0.0)
    if rows:
        return kept.sum(1) / observed.sum(1).clamp(min=1)
    return kept.sum() / observed.sum().clamp(min=1)


class Likelihood:
    """Base of all likelihoods; parameters are (B, N, P), in at least float32."""

    #: what the parameters are called, in their order
    names: tuple[str, ...] = ()

    def parameters(self, raw: Tensor) -> Tensor:
        """Parameters (B, N, P) from what a linear map gave, of the same shape."""
        raise NotImplementedError(f"{type(self).__name__} must define parameters")

    def score(self, params: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        """How badly each target (B, N) agrees: -log p(target), or the pinball loss."""
        raise NotImplementedError(f"{type(self).__name__} must define score")

    def sample(self, params: Tensor, scale: Tensor, generator: Generator | None = None) -> Tensor:
        """One target (B, N) for each step, drawn by itself."""
        raise NotImplementedError(f"{type(self).__name__} must define sample")

    def quantile(self, params: Tensor, scale: Tensor, q: float) -> Tensor:
        """What the target of each step stays below with probability q: (B, N)."""
        raise NotImplementedError(f"{type(self).__name__} must define quantile")

    def mean(self, params: Tensor, scale: Tensor) -> Tensor:
        """The expected target of each step: (B, N)."""
        raise NotImplementedError(f"{type(self).__name__} must define mean")

    def check(self, target: Tensor) -> None:
        """ValueError for a target that cannot be. NaN is none."""

    def loss(
        self, params: Tensor, target: Tensor, observed: Tensor | None, scale: Tensor
    ) -> Tensor:
        """The mean of `score` over observed targets (B, N), 0 if there is none.

        Without `observed` (B, N) all targets count that are not NaN; one that is NaN never does.
        """
        observed = _known(target, observed)
        # before the score: a gradient of 0 times NaN would be NaN
        target = torch.where(observed, target, 0.0)
        self.check(target)
        return observed_mean(self.score(params, target, scale), observed)


class Gaussian(Likelihood):
    """A mean and a deviation, softplus(raw) + 0.0001."""

    names = ("mean", "deviation")

    def parameters(self, raw: Tensor) -> Tensor:
        mean, deviation = _wide(raw).unbind(-1)
        return torch.stack((mean, F.softplus(deviation) + LEAST), -1)

    def score(self, params: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        (mean, deviation), s = params.unbind(-1), by_step(scale, params)
        far = (target / s - mean) / deviation
        return 0.5 * far.square() + deviation.log() + s.log() + 0.5 * log(2 * pi)

    def sample(self, params: Tensor, scale: Tensor, generator: Generator | None = None) -> Tensor:
        mean, deviation = params.unbind(-1)
        return (mean + deviation * _normal(mean, generator)) * by_step(scale, params)

    def quantile(self, params: Tensor, scale: Tensor, q: float) -> Tensor:
        mean, deviation = params.unbind(-1)
        far = torch.special.ndtri(torch.full_like(mean, probability(q)))
        return (mean + deviation * far) * by_step(scale, params)

    def mean(self, params: Tensor, scale: Tensor) -> Tensor:
        return params[..., 0] * by_step(scale, params)


class StudentT(Likelihood):
    """Heavier tails: degrees of freedom, 2 + softplus(raw), so that mean and variance exist; a
    place; a width, softplus(raw) + 0.0001.
    """

    names = ("freedom", "place", "width")

    def parameters(self, raw: Tensor) -> Tensor:
        freedom, place, width = _wide(raw).unbind(-1)
        return torch.stack((2.0 + F.softplus(freedom), place, F.softplus(width) + LEAST), -1)

    def score(self, params: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        # in float64: with much freedom two large terms nearly cancel
        (freedom, place, width), s = params.double().unbind(-1), by_step(scale, params).double()
        far = (target / s - place) / width
        peak = torch.lgamma(freedom / 2) - torch.lgamma((freedom + 1) / 2) + 0.5 * log(pi)
        spread = 0.5 * freedom.log() + width.log() + s.log()
        fall = 0.5 * (freedom + 1) * torch.log1p(far.square() / freedom)
        return (peak + spread + fall).to(params.dtype)

    def sample(self, params: Tensor, scale: Tensor, generator: Generator | None = None) -> Tensor:
        freedom, place, width = params.unbind(-1)
        normal = _normal(place, generator)
        chi = torch._standard_gamma((freedom / 2).contiguous(), generator=generator) * 2
        return (place + width * normal * (freedom / chi).sqrt()) * by_step(scale, params)

    def quantile(self, params: Tensor, scale: Tensor, q: float) -> Tensor:
        freedom, place, width = params.double().unbind(-1)
        tail = torch.full_like(freedom, min(probability(q), 1 - q))
        plain = torch.stack((freedom, *(torch.full_like(freedom, x) for x in (0.0, 1.0))), -1)
        half, one = torch.full_like(freedom, 0.5), freedom.new_ones(len(freedom))
        # Newton's steps from the quantile of a normal, which is nearer: they never go too far
        far = -torch.special.ndtri(tail)
        for _ in range(100):
            beyond = incomplete_beta(freedom / 2, half, freedom / (freedom + far.square())) / 2
            step = (beyond - tail) * self.score(plain, far, one).exp()
            far = far + step
            if not bool((step.abs() > 1e-12 * (1 + far)).any()):
                break
        found = (place + (far if q > 0.5 else -far) * width) * by_step(scale, params)
        return found.to(params.dtype)

    def mean(self, params: Tensor, scale: Tensor) -> Tensor:
        return params[..., 1] * by_step(scale, params)


class NegativeBinomial(Likelihood):
    """Counts: a rate, softplus(raw), times the scale nu is the mean mu; a shape alpha,
    softplus(raw) / sqrt(nu), gives the variance mu + alpha mu^2. Both softplus(raw) are at least
    0.0001. A target between counts is scored by the same formula.
    """

    names = ("rate", "shape")

    def parameters(self, raw: Tensor) -> Tensor:
        return F.softplus(_wide(raw)) + LEAST

    def score(self, params: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        # in float64: for counts nearly Poisson large terms nearly cancel
        (mean, size), z = self._of(params, scale), target.double()
        chosen = torch.lgamma(z + 1) + torch.lgamma(size) - torch.lgamma(z + size)
        ratio = mean / size
        found = chosen + (z + size) * torch.log1p(ratio) - torch.xlogy(z, ratio)
        return found.to(params.dtype)

    def sample(self, params: Tensor, scale: Tensor, generator: Generator | None = None) -> Tensor:
        mean, size = self._of(params, scale)
        rate = torch._standard_gamma(size.contiguous(), generator=generator) * (mean / size)
        return torch.poisson(rate, generator=generator).to(params.dtype)

    def quantile(self, params: Tensor, scale: Tensor, q: float) -> Tensor:
        mean, size = self._of(params, scale)
        probability(q)
        chance = size / (size + mean)  # P(Z <= k) = I_chance(size, k + 1)
        low, high = torch.full_like(mean, -1.0), torch.ones_like(mean)
        while bool((less := incomplete_beta(size, high + 1, chance) < q).any()):
            low, high = torch.where(less, high, low), torch.where(less, 2 * high, high)
        while bool((high - low > 1).any()):
            k = ((low + high) / 2).floor()
            less = incomplete_beta(size, k + 1, chance) < q
            inside = high - low > 1
            low = torch.where(inside & less, k, low)
            high = torch.where(inside & ~less, k, high)
        return high.to(params.dtype)

    def mean(self, params: Tensor, scale: Tensor) -> Tensor:
        return self._of(params, scale)[0].to(params.dtype)

    def check(self, target: Tensor) -> None:
        if torch.compiler.is_compiling() or not bool((below := target < 0).any()):
            return
        row, step = (int(i) for i in below.nonzero()[0])
        raise ValueError(
            f"a negative binomial counts, and a target is {float(target[row, step]):g} (row {row}, "
            f"step {step}); take the likelihood gaussian or student_t"
        )

    def _of(self, params: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """mu, and 1 / alpha."""
        (rate, shape), s = params.double().unbind(-1), by_step(scale, params).double()
        return rate * s, s.sqrt() / shape


def probability(q: float) -> float:
    """q. ValueError unless it lies between 0 and 1, both left out."""
    if not 0.0 < q < 1.0:
        raise ValueError(f"a quantile is asked for at {q}; it must lie between 0 and 1")
    return q


def by_step(scale: Tensor, params: Tensor) -> Tensor:
    """A scale (B,) as (B, 1), for all steps of a row."""
    return scale.to(params.dtype).unsqueeze(-1)


def _known(target: Tensor, observed: Tensor | None) -> Tensor:
    known = ~target.isnan()
    return known if observed is None else known & observed.bool()


def _wide(raw: Tensor) -> Tensor:
    return raw.to(wide(raw.dtype))


def _normal(like: Tensor, generator: Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
