"""Heads: from features to outputs, and the loss of targets where that spares outputs.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from subquad.nn.adaptive import AdaptiveHead, Tables, share
from subquad.nn.losses import token_loss

__all__ = ["HEADS", "AdaptiveHeadConfig", "NoHeadConfig", "TokenHead", "TokenHeadConfig"]


class TokenHead(nn.Module):
    """Features (B, N, C) to one logit per word of the vocabulary (B, N, V)."""

    def __init__(self, dim: int, vocab_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(dim, vocab_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x)

    def loss(self, x: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The mean loss in nats of targets (B, N), -100 where not scored (`subquad.nn.losses`)."""
        return token_loss(
            x,
            self,
            targets,
            vocab_size=self.project.out_features,
            label_smoothing=label_smoothing,
        )

    def tie(self, embedding: nn.Embedding | Tables) -> None:
        """Take the table of an embedding. ValueError for one that has several."""
        if isinstance(embedding, Tables):
            raise ValueError(
                "a head of kind 'tokens' cannot share the tables of an adaptive stem: give both "
                "kind 'adaptive', or set tie_word_embeddings to False"
            )
        share(self.project, embedding)


@dataclass(frozen=True)
class TokenHeadConfig:
    """Fields of a token head."""

    bias: bool = False

    def build(self, dim: int, vocab_size: int) -> TokenHead:
        """The head on features of this width."""
        return TokenHead(dim, vocab_size, bias=self.bias)


@dataclass(frozen=True)
class AdaptiveHeadConfig:
    """Fields of an adaptive softmax: where clusters of words begin, and how much narrower each."""

    cutoffs: tuple[int, ...] = ()
    div_val: int = 1

    def build(self, dim: int, vocab_size: int) -> AdaptiveHead:
        """The head on features of this width."""
        return AdaptiveHead(dim, vocab_size, cutoffs=self.cutoffs, div_val=self.div_val)


@dataclass(frozen=True)
class NoHeadConfig:
    """Features come out as they are."""

    def build(self, dim: int, vocab_size: int) -> None:
        """No head."""


HEADS = {"tokens": TokenHeadConfig, "adaptive": AdaptiveHeadConfig, "none": NoHeadConfig}
