"""Attention over lags: how much of each head's matrix lies how many steps back."""

import numpy as np
import torch
from torch import Tensor, nn

from subquad.nn.lowrank import LowRankAttention
from subquad.viz.seen import Sight, sights

__all__ = ["attention", "by_lag"]


@torch.no_grad()
def attention(
    model: nn.Module, inputs: dict[str, Tensor], rows: int = 24
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Of each mixer its name, lags (M,) from 0 on, and mean weights (H, M) of the last `rows`
    queries.

    The matrix is the one that the mixer multiplies by (`Mixer.weights`); columns that blend many
    positions belong to no lag and are left out. Sums over lags are thus at most 1.
    ValueError if no mixer runs.
    """
    found = []
    for number, sight in enumerate(sights(model, inputs), 1):
        lags = by_lag(sight, range(max(0, sight.queries - rows), sight.queries))
        found.append((f"{sight.kind}, layer {number}", np.arange(sight.keys), lags))
    return found


def by_lag(sight: Sight, rows: range) -> np.ndarray:
    """The mean weights (H, N) of some queries, by how many steps back their keys lie.

    Keys ahead have no lag; nor have blends of all positions: what they get is left out.
    """
    asked = torch.tensor(rows, device=sight.x.device)
    weights = sight.look(asked).double()
    if isinstance(sight.mixer, LowRankAttention):
        weights = torch.zeros_like(weights)
    lag = asked[:, None] - torch.arange(sight.keys, device=asked.device)
    sums = weights.new_zeros(sight.heads, sight.keys)
    for row in range(len(asked)):
        own = lag[row] >= 0
        sums.index_add_(1, lag[row][own], weights[:, row][:, own])
    return (sums / len(asked)).cpu().numpy()
