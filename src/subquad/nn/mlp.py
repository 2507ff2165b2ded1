"""Feed-forward parts: what happens at each position by itself.

Axes: B batch, N tokens, C model width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MLP", "Chunked", "GatedMLP"]


class MLP(nn.Module):
    """Two linear maps with a nonlinearity between: y = W2 f(W1 x)."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        activation: Callable[[Tensor], Tensor] = F.gelu,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return self.down(self.dropout(self.activation(self.up(x))))


class GatedMLP(nn.Module):
    """A gated pair: y = W2 (f(Wg x) * W1 x) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        activation: Callable[[Tensor], Tensor] = F.silu,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate = nn.Linear(dim, hidden, bias=bias)
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return self.down(self.dropout(self.activation(self.gate(x)) * self.up(x)))


class Chunked(nn.Module):
    """Any part that treats positions alone, evaluated `size` positions at a time.

    Same result; the hidden activations of one chunk are held instead of all (Reformer, section 3).
    """

    def __init__(self, inner: nn.Module, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"chunks need at least 1 position, not {size}")
        self.inner, self.size = inner, size

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        if x.shape[1] <= self.size:
            return self.inner(x)
        return torch.cat([self._one(part) for part in x.split(self.size, 1)], 1)

    def _one(self, part: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and part.requires_grad):
            return self.inner(part)
        return torch.utils.checkpoint.checkpoint(self.inner, part, use_reentrant=False)
