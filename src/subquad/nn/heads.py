"""Heads: from features to outputs, and the loss of targets where that spares outputs.

Axes: B batch, N tokens, C model width, V vocabulary, L labels, W width of vectors.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.adaptive import AdaptiveHead, Tables, share
from subquad.nn.answers import AnswerHeadConfig
from subquad.nn.choices import choose, normalise
from subquad.nn.ctc import CTCHeadConfig
from subquad.nn.forecast import ForecastHeadConfig
from subquad.nn.joint import JointHeadConfig
from subquad.nn.losses import token_loss
from subquad.nn.masked import Transform
from subquad.nn.pooling import POOLS, Pool, first, mean
from subquad.nn.queries import FieldHeadConfig, QueryHeadConfig, QueryLabelHeadConfig
from subquad.ops.partial import wide

__all__ = [
    "HEADS",
    "AdaptiveHeadConfig",
    "LabelHead",
    "LabelHeadConfig",
    "NoHeadConfig",
    "TagHead",
    "TagHeadConfig",
    "TokenHead",
    "TokenHeadConfig",
    "VectorHead",
    "VectorHeadConfig",
]


class TokenHead(nn.Module):
    """Features (B, N, C) to one logit per word of the vocabulary (B, N, V)."""

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        *,
        bias: bool = False,
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.transform = nn.Identity() if transform is None else transform
        self.project = nn.Linear(dim, vocab_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.transform(x))

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
        """Take the table of an embedding. ValueError for one that has several, or none of words."""
        if isinstance(embedding, Tables):
            raise ValueError(
                "a head of kind 'tokens' cannot share the tables of an adaptive stem: give both "
                "kind 'adaptive', or set tie_word_embeddings to False"
            )
        if not isinstance(embedding, nn.Embedding):
            raise ValueError(
                "a head of kind 'tokens' cannot share the map of patches, which holds no words: "
                "give a head of kind 'labels' or 'none', or set tie_word_embeddings to False"
            )
        share(self.project, embedding)


@dataclass(frozen=True)
class TokenHeadConfig:
    """Fields of a token head. `transform`: "none", or the nonlinearity of `subquad.nn.masked`, and
    `norm` is the norm after it.
    """

    bias: bool = False
    transform: str = "none"
    norm: str = "layer"

    def build(self, dim: int, vocab_size: int) -> TokenHead:
        """The head on features of this width."""
        if self.transform == "none":
            return TokenHead(dim, vocab_size, bias=self.bias)
        first = Transform(dim, self.transform, normalise(self.norm)(dim))
        return TokenHead(dim, vocab_size, bias=self.bias, transform=first)


@dataclass(frozen=True)
class AdaptiveHeadConfig:
    """Fields of an adaptive softmax: where clusters of words begin, and how much narrower each."""

    cutoffs: tuple[int, ...] = ()
    div_val: int = 1

    def build(self, dim: int, vocab_size: int) -> AdaptiveHead:
        """The head on features of this width."""
        return AdaptiveHead(dim, vocab_size, cutoffs=self.cutoffs, div_val=self.div_val)


class TagHead(nn.Module):
    """Features (B, N, C) to one logit per label of each token (B, N, L), dropout before it."""

    def __init__(self, dim: int, num_labels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.label = nn.Linear(dim, num_labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.label(self.dropout(x))


class LabelHead(TagHead):
    """Features (B, N, C) to one logit per label of each row (B, L), by a pool of its tokens."""

    def __init__(
        self,
        dim: int,
        num_labels: int,
        *,
        pool: Pool = first,
        hidden: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, num_labels, dropout=dropout)
        self.pool = pool
        self.hidden = nn.Identity() if hidden is None else hidden

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return super().forward(self.hidden(self.pool(x, valid)))


@dataclass(frozen=True)
class TagHeadConfig:
    """Fields of a head with a few labels for each token."""

    num_labels: int = 2
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> TagHead:
        """The head on features of this width."""
        return TagHead(dim, self.num_labels, dropout=self.dropout)


@dataclass(frozen=True)
class LabelHeadConfig(TagHeadConfig):
    """Fields of a head with a few labels for each row. `pool`: "first", "last", "mean", "max".

    `hidden`: "none", or the nonlinearity of a map between (BERT's pooler has "tanh").
    """

    pool: str = "first"
    hidden: str = "none"

    def build(self, dim: int, vocab_size: int) -> LabelHead:
        """The head on features of this width."""
        pool = choose("pool", self.pool, POOLS)
        hidden = None if self.hidden == "none" else Transform(dim, self.hidden)
        return LabelHead(dim, self.num_labels, pool=pool, hidden=hidden, dropout=self.dropout)


class VectorHead(nn.Module):
    """Features (B, N, C) to a unit vector for each row (B, W), in at least float32."""

    def __init__(self, dim: int, width: int, *, pool: Pool = mean) -> None:
        super().__init__()
        self.pool = pool
        self.vector = nn.Linear(dim, width, bias=False)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        y = self.vector(self.pool(x, valid))
        return F.normalize(y.to(wide(y.dtype)), dim=-1)


@dataclass(frozen=True)
class VectorHeadConfig:
    """Fields of a head with a vector for each row. `pool`: "first", "last", "mean", "max"."""

    width: int = 64
    pool: str = "mean"

    def build(self, dim: int, vocab_size: int) -> VectorHead:
        """The head on features of this width."""
        return VectorHead(dim, self.width, pool=choose("pool", self.pool, POOLS))


@dataclass(frozen=True)
class NoHeadConfig:
    """Features come out as they are."""

    def build(self, dim: int, vocab_size: int) -> None:
        """No head."""


HEADS = {
    "tokens": TokenHeadConfig,
    "adaptive": AdaptiveHeadConfig,
    "labels": LabelHeadConfig,
    "tags": TagHeadConfig,
    "answers": AnswerHeadConfig,
    "vector": VectorHeadConfig,
    "none": NoHeadConfig,
    "query": QueryHeadConfig,
    "query_label": QueryLabelHeadConfig,
    "field": FieldHeadConfig,
    "ctc": CTCHeadConfig,
    "joint": JointHeadConfig,
    "forecast": ForecastHeadConfig,
}
