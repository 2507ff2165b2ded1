"""Hybrid: a kind of mixer for each layer, so that exact, local and kernel layers work together.

After Reformer's released recipe (three local layers to one of hashing) and Performer's local heads
(https://arxiv.org/abs/2001.04451, https://arxiv.org/abs/2009.14794).
    layer i mixes by kinds[i mod len(kinds)]
Time O(N) for windows and kernels, O(N^2) for each "full" layer.  Streams exactly; the state is that
of its layers.
Ours differs: the kinds are a list in the configuration, and any mixture keeps every law.
"""

from dataclasses import dataclass

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import choose, position, stack
from subquad.nn.features import EluFeatures, PositiveRandomFeatures
from subquad.nn.kernel import KernelAttention
from subquad.nn.mixer import Mixer
from subquad.nn.position import Position
from subquad.nn.stacks import Stack
from subquad.ops.patterns import Causal, Full, SameLabel, Window

__all__ = ["KINDS", "PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """`kinds` of layers, repeated to `num_layers`; `window` and `features` serve those that ask."""

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    kinds: tuple[str, ...] = ("local", "kernel")
    window: int = 128
    features: int = 256
    seed: int = 0
    position: str = "rotary"
    norm: str = "layer"
    mlp: str = "gelu"
    dropout: float = 0.1


PRESETS = {
    "base": Config(),
    "mostly-local": Config(num_layers=8, kinds=("local", "local", "local", "full")),
    "tiny": Config(
        dim=32,
        num_layers=3,
        num_heads=4,
        ffn_dim=64,
        kinds=("local", "kernel", "linear"),
        window=8,
        features=16,
        dropout=0.0,
    ),
}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    if not c.kinds:
        raise ValueError(f"kinds is empty; name at least one of {', '.join(KINDS)}")
    mixers = [
        choose("kind of layer", c.kinds[layer % len(c.kinds)], KINDS)(c, layer)
        for layer in range(c.num_layers)
    ]
    return stack(
        mixers, c.dim, c.ffn_dim, causal=c.causal, norm=c.norm, mlp=c.mlp, dropout=c.dropout
    )


def _full(c: Config, layer: int) -> Mixer:
    pattern = (Causal() if c.causal else Full()) & SameLabel()
    return Attention(c.dim, c.num_heads, pattern, position=_position(c), dropout=c.dropout)


def _local(c: Config, layer: int) -> Mixer:
    pattern = Window(c.window, 0 if c.causal else c.window) & SameLabel()
    return Attention(c.dim, c.num_heads, pattern, position=_position(c), dropout=c.dropout)


def _kernel(c: Config, layer: int) -> Mixer:
    width = divide(c.dim, c.num_heads)
    phi = PositiveRandomFeatures(width, c.features, seed=1000 * c.seed + layer)
    return KernelAttention(c.dim, c.num_heads, phi, causal=c.causal, position=_position(c))


def _linear(c: Config, layer: int) -> Mixer:
    phi = EluFeatures()
    return KernelAttention(c.dim, c.num_heads, phi, causal=c.causal, position=_position(c))


def _position(c: Config) -> Position:
    return position(c.position, c.num_heads, divide(c.dim, c.num_heads))


KINDS = {"full": _full, "local": _local, "kernel": _kernel, "linear": _linear}
