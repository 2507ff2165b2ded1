"""Feed-forward parts: what happens at each position by itself.

Axes: B batch, N tokens, C model width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["MLP", "Chunked", "GatedMLP", "by_chunks", "quick_gelu", "relu_squared"]


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, Primer, arXiv 2109.08668)."""
    return F.relu(x).square()


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the cheap approximation of GELU (arXiv 1606.08415, section 2)."""
    return x * torch.sigmoid(1.702 * x)


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
    """Any part that treats positions alone, evaluated `size` positions at a time (`by_chunks`)."""

    def __init__(self, inner: nn.Module, size: int) -> None:
        super().__init__()
        self.inner, self.size = inner, at_least_one(size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        return by_chunks(self.inner, x, self.size)


def by_chunks(part: Callable[[Tensor], Tensor], x: Tensor, size: int | None) -> Tensor:
    """part(x) for a part that treats positions alone, `size` positions at a time (None: at once).

    Same result; what one chunk's backward needs is held instead of all (Reformer, section 3). A
    graph for every length is not cut: there the compiler decides what is held.
    """
    if size is None or x.shape[1] <= size or torch.compiler.is_compiling():
        return part(x)
    return torch.cat([_one(part, piece) for piece in x.split(size, 1)], 1)


def _one(part: Callable[[Tensor], Tensor], piece: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and piece.requires_grad):
        return part(piece)
    return checkpoint(part, piece, use_reentrant=False)


def at_least_one(size: int) -> int:
    """`size`. ValueError if a chunk of it holds no position."""
    if size < 1:
        raise ValueError(f"chunks need at least 1 position, not {size}")
    return size
