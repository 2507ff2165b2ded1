"""Heads: from features to outputs. They hold no loss; the loss belongs to the task.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

from torch import Tensor, nn

__all__ = ["TokenHead"]


class TokenHead(nn.Module):
    """Features (B, N, C) to one logit per word of the vocabulary (B, N, V)."""

    def __init__(self, dim: int, vocab_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(dim, vocab_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x)
