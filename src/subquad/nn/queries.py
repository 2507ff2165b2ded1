"""Queries: heads that ask a backbone which answers, and map the answers to outputs.

    y_o = W answer(query_o)        as many outputs as queries, whatever the length of the input

`subquad.model.run` hands `queries` to the backbone as `Context.queries`.

Jaegle et al., 2021, Perceiver IO, https://arxiv.org/abs/2107.14795, section 3.2.

Axes: B batch, O queries, C model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subquad.ops.positions import fourier

__all__ = [
    "FieldHead",
    "FieldHeadConfig",
    "QueryHead",
    "QueryHeadConfig",
    "QueryLabelHead",
    "QueryLabelHeadConfig",
    "asked",
]


def asked(head: nn.Module | None, backbone: nn.Module) -> Tensor | None:
    """What a head asks, if it asks. ValueError for a backbone that answers its own tokens alone."""
    queries: Tensor | None = getattr(head, "queries", None)
    if queries is not None and not getattr(backbone, "answers", False):
        raise ValueError(
            f"{type(head).__name__} asks queries and this backbone answers none; take perceiver_io"
        )
    return queries


class QueryHead(nn.Module):
    """A learned query for each of `outputs`: one for a label, several for several labels."""

    def __init__(self, dim: int, outputs: int, out_dim: int) -> None:
        super().__init__()
        self.asked = nn.Embedding(outputs, dim)
        self.final = nn.Linear(dim, out_dim)

    @property
    def queries(self) -> Tensor:
        """(1, O, C)."""
        slots = torch.arange(self.asked.num_embeddings, device=self.asked.weight.device)
        return self.asked(slots)[None]

    def forward(self, answers: Tensor) -> Tensor:
        """(B, O, C) to (B, O, out_dim)."""
        return self.final(answers)


class QueryLabelHead(QueryHead):
    """One learned query, whose answer is the label of a row."""

    def __init__(self, dim: int, num_labels: int) -> None:
        super().__init__(dim, 1, num_labels)

    def forward(self, answers: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, 1, C) to logits (B, L); valid, of the inputs, does not matter any more."""
        return super().forward(answers)[:, 0]


class FieldHead(nn.Module):
    """A query for each place of an output grid of `shape`, made from its Fourier features.

    So that a dense field (optical flow, a picture, a sound) is asked for where it is wanted. The
    highest of `bands` frequencies is half of `resolution`, by default `shape`; with the resolution
    kept, weights serve any shape.
    """

    def __init__(
        self,
        dim: int,
        shape: Sequence[int],
        out_dim: int,
        *,
        bands: int = 16,
        resolution: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.shape, self.bands = tuple(shape), bands
        self.resolution = tuple(resolution) or self.shape
        self.asked = nn.Linear(len(self.resolution) * (1 + 2 * bands), dim)
        self.final = nn.Linear(dim, out_dim)

    @property
    def queries(self) -> Tensor:
        """(1, O, C), O places of the grid, its last axis fastest."""
        weight = self.asked.weight
        places = fourier(self.shape, self.bands, self.resolution, weight.device)
        return self.asked(places.to(weight.dtype))[None]

    def forward(self, answers: Tensor) -> Tensor:
        """(B, O, C) to (B, *shape, out_dim)."""
        return self.final(answers).unflatten(1, self.shape)


@dataclass(frozen=True)
class QueryHeadConfig:
    """Fields of a query head: how many outputs, and how wide each (the number of classes)."""

    outputs: int = 1
    out_dim: int = 2

    def build(self, dim: int, vocab_size: int) -> QueryHead:
        """The head on features of this width."""
        return QueryHead(dim, self.outputs, self.out_dim)


@dataclass(frozen=True)
class QueryLabelHeadConfig:
    """Fields of a head that asks for the label of a row."""

    num_labels: int = 2

    def build(self, dim: int, vocab_size: int) -> QueryLabelHead:
        """The head on features of this width."""
        return QueryLabelHead(dim, self.num_labels)


@dataclass(frozen=True)
class FieldHeadConfig:
    """Fields of a head for dense fields, as `subquad.nn.FieldHead`."""

    shape: tuple[int, ...] = (64, 64)
    out_dim: int = 2
    bands: int = 16
    resolution: tuple[int, ...] = ()

    def build(self, dim: int, vocab_size: int) -> FieldHead:
        """The head on features of this width."""
        return FieldHead(
            dim, self.shape, self.out_dim, bands=self.bands, resolution=self.resolution
        )
