"""Stems: from a raw batch to features and a context.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

from torch import Tensor, nn

from subquad.nn.context import Context

__all__ = ["TokenStem"]


class TokenStem(nn.Module):
    """Token numbers (B, N) to features (B, N, C): an embedding, and absolute positions if given."""

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        position: nn.Module | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        self.position = position
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context; rows begin at position `start` (B,), default 0."""
        context = Context.of(tokens, valid, start)
        x = self.embedding(tokens) * self.scale
        if self.position is not None:
            x = x + self.position(context.pos).to(x.dtype)
        return context.clean(self.dropout(x)), context
