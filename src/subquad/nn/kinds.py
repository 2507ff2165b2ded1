"""Kinds of mixers that configurations call by name, for stacks that mix them layer by layer.

Axes: C model width, H heads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import choose, position
from subquad.nn.features import EluFeatures, PositiveRandomFeatures
from subquad.nn.kernel import KernelAttention
from subquad.nn.mixer import Mixer
from subquad.nn.position import Position
from subquad.ops.linear import FeatureMap
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import Causal, Full, SameLabel, Window

__all__ = ["KINDS", "Sizes", "mixer_of"]


@dataclass(frozen=True)
class Sizes:
    """What the kinds are made from; `window` and `features` serve those that ask.

    position: inside attention, by its name.  seed: random features of layer i are drawn from 1000
    times it, plus i.
    """

    dim: int
    num_heads: int
    causal: bool = False
    window: int = 128
    features: int = 256
    seed: int = 0
    position: str = "none"
    dropout: float = 0.0
    num_kv_heads: int | None = None
    bias: bool = True


def mixer_of(kind: str, sizes: Sizes, layer: int) -> Mixer:
    """The mixer of a layer, by the name of its kind. ValueError with the nearest name."""
    return choose("kind of layer", kind, KINDS)(sizes, layer)


def _full(c: Sizes, layer: int) -> Mixer:
    return _softmax(c, Causal() if c.causal else Full())


def _local(c: Sizes, layer: int) -> Mixer:
    return _softmax(c, Window(c.window, 0 if c.causal else c.window))


def _kernel(c: Sizes, layer: int) -> Mixer:
    width = divide(c.dim, c.num_heads)
    return _features(c, PositiveRandomFeatures(width, c.features, seed=1000 * c.seed + layer))


def _linear(c: Sizes, layer: int) -> Mixer:
    return _features(c, EluFeatures())


def _softmax(c: Sizes, pattern: Pattern) -> Mixer:
    return Attention(
        c.dim,
        c.num_heads,
        pattern & SameLabel(),
        position=_position(c),
        num_kv_heads=c.num_kv_heads,
        bias=c.bias,
        dropout=c.dropout,
    )


def _features(c: Sizes, phi: FeatureMap) -> Mixer:
    return KernelAttention(
        c.dim,
        c.num_heads,
        phi,
        causal=c.causal,
        position=_position(c),
        num_kv_heads=c.num_kv_heads,
        bias=c.bias,
    )


def _position(c: Sizes) -> Position:
    return position(c.position, c.num_heads, divide(c.dim, c.num_heads))


KINDS: Mapping[str, Callable[[Sizes, int], Mixer]] = {
    "full": _full,
    "local": _local,
    "kernel": _kernel,
    "linear": _linear,
}
