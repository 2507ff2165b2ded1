"""Stems: from a raw batch to features and a context.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from subquad.nn.adaptive import Tables
from subquad.nn.axial import Axial
from subquad.nn.choices import choose
from subquad.nn.context import Context
from subquad.nn.position import Learned, Sinusoidal

__all__ = ["STEMS", "AdaptiveStemConfig", "TokenStem", "TokenStemConfig"]


class TokenStem(nn.Module):
    """Token numbers (B, N) to features (B, N, C): an embedding, and absolute positions if given.

    `embedding` is an `nn.Embedding`, or a `Tables` of adaptive input. Features (B, N, C) that come
    embedded already take the rest of the way.
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        position: nn.Module | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.position = position
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context; rows begin at position `start` (B,), default 0."""
        context = Context.of(tokens, valid, start)
        x = tokens if tokens.is_floating_point() else self.embedding(tokens) * self.scale
        if self.position is not None:
            x = x + self.position(context.pos, valid).to(x.dtype)
        return context.clean(self.dropout(x)), context


@dataclass(frozen=True)
class TokenStemConfig:
    """Fields of a token stem. `position`: absolute ones, "none", "sinusoidal", "learned", "axial".

    `max_len` is for learned ones; `axial_shape` and `axial_dims` as in `subquad.nn.Axial`, by
    default the grid of Reformer's release for 65,536 tokens.
    """

    position: str = "none"
    max_len: int = 1024
    axial_shape: tuple[int, ...] = (128, 512)
    axial_dims: tuple[int, ...] = ()
    scale: float = 1.0
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> TokenStem:
        """The stem of a model of this width."""
        make = choose(
            "stem position",
            self.position,
            {
                "none": lambda: None,
                "sinusoidal": lambda: Sinusoidal(dim),
                "learned": lambda: Learned(dim, self.max_len),
                "axial": lambda: Axial(dim, self.axial_shape, self.axial_dims),
            },
        )
        embedding = self.embedding(dim, vocab_size)
        return TokenStem(embedding, position=make(), scale=self.scale, dropout=self.dropout)

    def embedding(self, dim: int, vocab_size: int) -> nn.Module:
        """From token numbers to vectors."""
        return nn.Embedding(vocab_size, dim)


@dataclass(frozen=True)
class AdaptiveStemConfig(TokenStemConfig):
    """A token stem whose rarer words have narrower vectors: fields as `subquad.nn.Tables`."""

    cutoffs: tuple[int, ...] = ()
    div_val: int = 1

    def embedding(self, dim: int, vocab_size: int) -> nn.Module:
        """From token numbers to vectors, by clusters."""
        return Tables(vocab_size, dim, cutoffs=self.cutoffs, div_val=self.div_val)


STEMS = {"tokens": TokenStemConfig, "adaptive": AdaptiveStemConfig}
