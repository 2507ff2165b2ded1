"""Heads: from features to outputs. They hold no loss; the loss belongs to the task.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["HEADS", "NoHeadConfig", "TokenHead", "TokenHeadConfig"]


class TokenHead(nn.Module):
    """Features (B, N, C) to one logit per word of the vocabulary (B, N, V)."""

    def __init__(self, dim: int, vocab_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(dim, vocab_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x)


@dataclass(frozen=True)
class TokenHeadConfig:
    """Fields of a token head."""

    bias: bool = False

    def build(self, dim: int, vocab_size: int) -> TokenHead:
        """The head on features of this width."""
        return TokenHead(dim, vocab_size, bias=self.bias)


@dataclass(frozen=True)
class NoHeadConfig:
    """Features come out as they are."""

    def build(self, dim: int, vocab_size: int) -> None:
        """No head."""


HEADS = {"tokens": TokenHeadConfig, "none": NoHeadConfig}
