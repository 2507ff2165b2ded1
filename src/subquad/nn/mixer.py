"""Mixer: a module that multiplies values by a matrix over positions, without writing the matrix.

    y, state = mixer(x, context, state)      the call shape of nn.LSTM; state None = not streaming
    output(weights(x, context) @ values(x, context)) == mixer(x, context)[0]      the weights law

`weights` is written from the definition, never by calling what it checks. It is the oracle, the
picture and the documentation of the mixer.

Axes: B batch, N queries, M keys, H heads, R rows asked for, D head width, C model width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from subquad.nn.context import Context

__all__ = ["Mixer", "after_step", "check_state", "merge_heads", "penalty", "split_heads"]


class Mixer(nn.Module):
    """Base of all mixers. A mixer that streams defines `init_state` and says so by `streams`."""

    #: heads of `weights` and `values`, and how wide a query of one is
    num_heads: int
    head_dim: int

    def forward(self, x: Tensor, context: Context, state: Any = None) -> tuple[Tensor, Any]:
        """Mix x (B, N, C) over positions; with a state, x follows what the state has seen."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def hash(self, x: Tensor, context: Context) -> Tensor | None:
        """What `forward` decides by comparing numbers, to be given to it as `labels` when it runs
        again on an x (B, N, C) that differs by rounding; None where it decides nothing.
        """
        return None

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        """The matrix (B, H, N, M) that forward multiplies by, or its rows (R,): (B, H, R, M)."""
        raise NotImplementedError(f"{type(self).__name__} must define weights")

    def values(self, x: Tensor, context: Context) -> Tensor:
        """What the matrix is multiplied with: (B, H, M, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define values")

    def output(self, mixed: Tensor) -> Tensor:
        """From the product (B, H, N, D) to y (B, N, C)."""
        raise NotImplementedError(f"{type(self).__name__} must define output")

    def columns(self, x: Tensor, context: Context) -> Tensor:
        """The slot of the token that each column of `weights` (M,) is; -1 for a blend of many."""
        return torch.arange(self.values(x, context).shape[2], device=x.device)

    @property
    def streams(self) -> bool:
        """Can it be fed piece by piece?"""
        return False

    @property
    def step(self) -> int | None:
        """How many tokens must come together when it is fed piece by piece: 1 for any cut, None if
        it cannot be.
        """
        return 1 if self.streams else None

    def init_state(self, batch: int) -> Any:
        """The state before the first token of `batch` rows. ValueError if it cannot stream."""
        raise ValueError(f"{type(self).__name__} looks ahead, so it cannot stream")

    def init_memory(self, batch: int) -> Any:
        """What training carries from segment to segment, as a constant: by default the state."""
        return self.init_state(batch)


def check_state(module: nn.Module, state: Any, kind: type) -> None:
    """ValueError if a state is not of the kind that this module keeps."""
    if not isinstance(state, kind):
        raise ValueError(
            f"{type(module).__name__} keeps a {kind.__name__} and was given a "
            f"{type(state).__name__}: this state is of another architecture"
        )


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, H * D) to (B, H, N, D), as a view."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, D) to (B, N, H * D)."""
    return x.transpose(1, 2).flatten(2)


def penalty(module: nn.Module) -> Tensor | float:
    """The sum of what modules inside ask to be added to the loss."""
    asked = [getattr(m, "penalty", None) for m in module.modules() if m is not module]
    return sum(ask() for ask in asked if callable(ask))


def after_step(module: nn.Module, step: int) -> None:
    """Tell every module inside that optimizer step `step` (from 1) is done."""
    for m in module.modules():
        tell = None if m is module else getattr(m, "after_step", None)
        if callable(tell):
            tell(step)
