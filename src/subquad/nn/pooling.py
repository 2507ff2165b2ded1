"""Pools: a row of features as one vector.

    y = sum_i w_i x_i, or the largest of each channel      over the real tokens of a row

A row without any gives zeros.

Axes: B batch, N tokens, C model width.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

__all__ = ["POOLS", "Pool", "first", "largest", "last", "mean"]

#: features (B, N, C) and which tokens are real (B, N), None for all, to vectors (B, C)
Pool = Callable[[Tensor, Tensor | None], Tensor]


def first(x: Tensor, valid: Tensor | None) -> Tensor:
    """The first real token of each row."""
    real = _real(x, valid)
    return _sum(x, real & (real.cumsum(1) == 1))


def last(x: Tensor, valid: Tensor | None) -> Tensor:
    """The last real token of each row, which has seen all others in a causal model."""
    real = _real(x, valid)
    return _sum(x, real & (real.cumsum(1) == real.sum(1, keepdim=True)))


def mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """The mean over the real tokens of each row."""
    real = _real(x, valid)
    return _sum(x, real) / real.sum(1, keepdim=True).clamp(min=1)


def largest(x: Tensor, valid: Tensor | None) -> Tensor:
    """The largest number of each channel over the real tokens of each row: was it ever seen?"""
    real = _real(x, valid)
    if not x.shape[1]:
        return _sum(x, real)
    low = x.masked_fill(~real.unsqueeze(-1), float("-inf")).amax(1)
    return torch.where(real.any(1, keepdim=True), low, 0.0)


def _real(x: Tensor, valid: Tensor | None) -> Tensor:
    """Which outputs (B, N) are real tokens'; fewer outputs than tokens are those of the last."""
    if valid is None:
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if x.shape[1] < valid.shape[1]:
        valid = valid.sort(1).values[:, valid.shape[1] - x.shape[1] :]
    return valid


def _sum(x: Tensor, chosen: Tensor) -> Tensor:
    return x.masked_fill(~chosen.unsqueeze(-1), 0.0).sum(1)


POOLS: Mapping[str, Pool] = MappingProxyType(
    {"first": first, "last": last, "mean": mean, "max": largest}
)
