"""How good forecasts are: sums over windows, from which all numbers of an evaluation follow.

    R_rho = 2 sum D_rho / sum |x|     D_rho = (rho - [x <= x_rho]) (x - x_rho)
    CRPS  = sum crps / sum |x|        crps = E |X - x| - E |X - X'| / 2
    MASE  = mean over windows of mean |x - m| / mean |x_t - x_(t - season)| in what came before
    sMAPE = mean of 2 |x - m| / (|x| + |m|), a fraction

Li et al., 2019, https://arxiv.org/abs/1907.00235 (R); Hyndman and Koehler, 2006 (MASE); M4 (sMAPE).
A forecast is a set of samples: x_rho is their quantile, m their median, and crps that of their
empirical distribution, in which X and X' may be the same sample. MSE is of their mean, MAE of their
median, both in units of the training part's deviation. A target that is NaN does not count.

Axes: S samples, W windows, N steps.
"""

import torch
from torch import Tensor

__all__ = ["SUMS", "crps", "pinball", "quantile", "seasonal_error", "smape", "sums", "totals"]

#: what `sums` gives of each window, in its order
SUMS = ("points", "size", "r50", "r90", "crps", "smape", "mase", "mse", "mae")


def pinball(target: Tensor, quantile: Tensor, rho: float) -> Tensor:
    """2 D_rho of targets and their forecast quantiles, elementwise."""
    gap = target - quantile
    return 2 * torch.maximum(rho * gap, (rho - 1) * gap)


def quantile(ordered: Tensor, rho: float) -> Tensor:
    """The quantile (...) of samples (S, ...) in rising order, on a line between two of them.

    As torch's own, which refuses more than 16 million numbers.
    """
    at = rho * (len(ordered) - 1)
    low = int(at)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], at - low)


def crps(target: Tensor, ordered: Tensor) -> Tensor:
    """The continuous ranked probability score of samples (S, ...) in rising order, for targets
    (...).
    """
    n = len(ordered)
    rank = torch.arange(n, dtype=ordered.dtype, device=ordered.device) + 0.5
    rank = rank.view(-1, *[1] * target.dim())
    below = (target < ordered).to(ordered.dtype)
    return 2 / n**2 * ((ordered - target) * (n * below - rank)).sum(0)


def smape(target: Tensor, median: Tensor) -> Tensor:
    """2 |x - m| / (|x| + |m|), elementwise; 0 where both are 0."""
    size = target.abs() + median.abs()
    return torch.where(size == 0, 0.0, 2 * (target - median).abs() / size)


def seasonal_error(history: Tensor, season: int) -> Tensor:
    """mean |x_t - x_(t - season)| of a history (N,), of what is not missing; NaN if that is none.

    A history that is not longer than a season is compared with the step before.
    """
    season = season if len(history) > season else 1
    return (history[season:] - history[:-season]).abs().nanmean()


def sums(target: Tensor, samples: Tensor, error: Tensor, unit: Tensor) -> Tensor:
    """Sums of targets (W, N) and samples (S, W, N) over the steps of each window: (W, SUMS).

    error: (W,) seasonal errors; where one is 0 or NaN the window has no MASE, which is NaN.
    unit: (W,) deviations of the training part.
    """
    target, samples = target.double(), samples.double()
    there = ~target.isnan()
    x = torch.where(there, target, 0.0)
    ordered = samples.sort(0).values
    median, high = quantile(ordered, 0.5), quantile(ordered, 0.9)
    off = (x - median).abs()
    steps = [
        torch.ones_like(x),
        x.abs(),
        pinball(x, median, 0.5),
        pinball(x, high, 0.9),
        crps(x, ordered),
        smape(x, median),
        off,
        ((x - samples.mean(0)) / unit[:, None]).square(),
        off / unit[:, None],
    ]
    found = torch.stack([torch.where(there, step, 0.0).sum(1) for step in steps], 1)
    error = torch.where(error > 0, error.double(), float("nan"))
    found[:, SUMS.index("mase")] /= error * found[:, 0]
    return found


def totals(found: Tensor, standardised: bool) -> dict[str, float]:
    """The numbers of windows (W, SUMS); those that would be a division by 0 are left out.

    standardised: with MSE and MAE.
    """
    column = dict(zip(SUMS, found.unbind(1), strict=True))
    seen = column["points"] > 0
    size, points = column["size"].sum(), column["points"].sum()
    numbers = {name: column[name].sum() / size for name in ("r50", "r90", "crps")}
    numbers["mase"] = column["mase"][seen].nanmean()
    for name in ("smape", "mse", "mae") if standardised else ("smape",):
        numbers[name] = column[name].sum() / points
    return {name: float(n) for name, n in numbers.items() if bool(n.isfinite())}
