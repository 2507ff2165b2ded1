"""The head of forecasts: from features to the parameters of a likelihood.

Axes: B batch, N steps, C model width, P parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from subquad.nn.choices import choose
from subquad.nn.likelihoods import Gaussian, Likelihood, NegativeBinomial, StudentT
from subquad.nn.quantiles import Quantiles

__all__ = ["LIKELIHOODS", "ForecastHead", "ForecastHeadConfig"]

#: likelihoods by their names in a configuration; the levels are for quantiles alone
LIKELIHOODS: Mapping[str, Callable[[tuple[float, ...]], Likelihood]] = {
    "gaussian": lambda levels: Gaussian(),
    "student_t": lambda levels: StudentT(),
    "negative_binomial": lambda levels: NegativeBinomial(),
    "quantiles": Quantiles,
}


class ForecastHead(nn.Module):
    """Features (B, N, C) to parameters (B, N, P) of `likelihood`, for target / scale."""

    def __init__(self, dim: int, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.raw = nn.Linear(dim, len(likelihood.names))

    def forward(self, x: Tensor) -> Tensor:
        return self.likelihood.parameters(self.raw(x))


@dataclass(frozen=True)
class ForecastHeadConfig:
    """Fields of a head of forecasts. `likelihood`: "gaussian", "student_t", "negative_binomial",
    or "quantiles" at `levels`.
    """

    likelihood: str = "gaussian"
    levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    def build(self, dim: int, vocab_size: int) -> ForecastHead:
        """The head on features of this width."""
        make = choose("likelihood", self.likelihood, LIKELIHOODS)
        return ForecastHead(dim, make(self.levels))
