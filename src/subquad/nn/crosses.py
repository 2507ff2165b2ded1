"""What reads a memory in a decoder, by its name in a configuration.

full    softmax attention over all of it; the state holds its keys and values
kernel  by random features (`nn.kernel`); the state is one sum, however long the memory
linear  by features elu + 1; the state is one sum as well
low_rank  softmax attention over learned blends of the memory; the state holds those

Axes: C model width, H heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from subquad.nn.attention import divide
from subquad.nn.cross import CrossAttention
from subquad.nn.features import EluFeatures, PositiveRandomFeatures
from subquad.nn.kernel import KernelCrossAttention
from subquad.nn.lowrank import Projection
from subquad.nn.lowrank_cross import LowRankCrossAttention
from subquad.nn.mixer import Mixer

__all__ = ["CROSSES", "Reading"]


class Reading(NamedTuple):
    """The decoder that reads: its width, its heads, the memory's width, its dropout."""

    dim: int
    num_heads: int
    memory_dim: int
    dropout: float = 0.0


@dataclass(frozen=True)
class FullCross:
    """`num_heads`: by default as many as the decoder has; `dropout`, of attention weights, too."""

    num_heads: int | None = None
    dropout: float | None = None

    def build(self, of: Reading, layer: int) -> Mixer:
        """The mixer of a layer."""
        heads = self.num_heads or of.num_heads
        drop = of.dropout if self.dropout is None else self.dropout
        return CrossAttention(of.dim, heads, memory_dim=of.memory_dim, dropout=drop)


@dataclass(frozen=True)
class KernelCross:
    """`num_heads` as in "full"; `features` of layer i are drawn from 1000 times `seed`, plus
    500 + i: not those of the layer's own attention."""

    num_heads: int | None = None
    features: int = 256
    seed: int = 0

    def build(self, of: Reading, layer: int) -> Mixer:
        """The mixer of a layer."""
        heads = self.num_heads or of.num_heads
        seed = 1000 * self.seed + 500 + layer
        phi = PositiveRandomFeatures(divide(of.dim, heads), self.features, seed=seed)
        return KernelCrossAttention(of.dim, heads, phi, memory_dim=of.memory_dim)


@dataclass(frozen=True)
class LinearCross:
    """`num_heads` as in "full"."""

    num_heads: int | None = None

    def build(self, of: Reading, layer: int) -> Mixer:
        """The mixer of a layer."""
        heads = self.num_heads or of.num_heads
        return KernelCrossAttention(of.dim, heads, EluFeatures(), memory_dim=of.memory_dim)


@dataclass(frozen=True)
class LowRankCross:
    """`num_heads` and `dropout` as in "full"; `rank` blends of a memory of `max_len` tokens at
    most."""

    num_heads: int | None = None
    dropout: float | None = None
    rank: int = 256
    max_len: int = 1024

    def build(self, of: Reading, layer: int) -> Mixer:
        """The mixer of a layer."""
        heads = self.num_heads or of.num_heads
        blends = Projection(self.rank, self.max_len), Projection(self.rank, self.max_len)
        drop = of.dropout if self.dropout is None else self.dropout
        return LowRankCrossAttention(of.dim, heads, *blends, memory_dim=of.memory_dim, dropout=drop)


CROSSES: Mapping[str, Any] = MappingProxyType(
    {"full": FullCross, "kernel": KernelCross, "linear": LinearCross, "low_rank": LowRankCross}
)
