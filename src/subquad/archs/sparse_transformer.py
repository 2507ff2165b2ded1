"""Sparse Transformer: two short hops that together reach everything, in place of one long one.

Child, Gray, Radford, Sutskever, 2019, https://arxiv.org/abs/1904.10509
    strided   j in i - l .. i                      and   (i - j) mod l = 0
    fixed     floor(j / l) = floor(i / l)          and   j mod l in the last c of l
    combined  by layers in turn, merged in one softmax, or by heads
    H + a + b,  a = drop(attention(norm H)),  b = drop(ff(norm(H + a)))
Time O(N sqrt(N)) for l near sqrt(N), by a band and a fold or a few columns; memory O(N).  Streams
exactly; the state grows with N: all keys, or where heads share columns those and the block begun.
Ours differs: positions are rotary, not learned tables of rows and columns, so any length runs; the
wiring is plain pre-norm, which the paper's equations 9 to 14 are; logits begin at 0 only where they
do not share the embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from subquad.nn.attention import Attention, divide
from subquad.nn.blocks import PreNorm
from subquad.nn.choices import MLPS, choose, normalise, position
from subquad.nn.init import Init
from subquad.nn.stacks import Decoder, Encoder, Stack
from subquad.ops.pattern import Pattern, PerHead
from subquad.ops.patterns import Blocks, Causal, Columns, SameLabel, Strided, Window

__all__ = ["PRESETS", "Config", "build", "pattern"]


@dataclass(frozen=True)
class Config:
    """`kind`: "strided" (images) or "fixed" (text), in steps of `stride`.

    `columns` (fixed): how many places of a block later ones see, c; heads differ in which.
    `combine`: "alternate" (by layers), "merged" (one softmax) or "heads" (half of them each).
    `key_dim`: width of all queries, and of all keys; None is `dim`.
    """

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    kind: str = "fixed"
    combine: str = "merged"
    stride: int = 128
    columns: int = 32
    key_dim: int | None = None
    position: str = "rotary"
    norm: str = "layer"
    mlp: str = "quick_gelu"
    dropout: float = 0.1


PRESETS = {
    "base": Config(),
    # how the image models combine their two patterns is not told: the first way that it names
    "cifar10": Config(
        dim=256,
        num_layers=128,
        num_heads=2,
        ffn_dim=512,
        kind="strided",
        combine="alternate",
        stride=96,
        key_dim=128,
        dropout=0.25,
    ),
    "enwik8": Config(num_layers=30, dropout=0.4),
    "imagenet64": Config(
        num_layers=48, num_heads=16, kind="strided", combine="alternate", dropout=0.01
    ),
    "tiny": Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64, stride=8, columns=2, dropout=0.0),
}


def pattern(config: Config, layer: int) -> Pattern:
    """What the heads of a layer look at, the future and other documents apart."""
    near, far = choose("kind of pattern", config.kind, KINDS)
    if config.stride < 1:
        raise ValueError(f"stride is {config.stride}; it must be at least 1 token")
    if config.kind == "fixed" and not 1 <= config.columns <= config.stride:
        raise ValueError(
            f"columns is {config.columns}; of a block of stride {config.stride}, later ones see 1 "
            f"to {config.stride} places"
        )
    return choose("way to combine", config.combine, COMBINED)(config, near, far, layer)


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    keys = divide(c.dim if c.key_dim is None else c.key_dim, c.num_heads)
    blocks = [
        PreNorm(
            c.dim,
            [
                Attention(
                    c.dim,
                    c.num_heads,
                    _seen(pattern(c, layer), c) & SameLabel(),
                    position=position(c.position, c.num_heads, keys),
                    head_dim=keys,
                    value_dim=divide(c.dim, c.num_heads),
                )
            ],
            choose("mlp", c.mlp, MLPS)(c.dim, c.ffn_dim),
            norm=normalise(c.norm),
            dropout=c.dropout,
        )
        for layer in range(c.num_layers)
    ]
    made = (Decoder if c.causal else Encoder)(blocks, c.dim, normalise(c.norm)(c.dim))
    made.drawn = Init(0.125, by_inputs=True, head=0.0)
    return made


def _seen(p: Pattern, c: Config) -> Pattern:
    return Causal() & p if c.causal else p


# --- the two hops: what each of so many heads looks at ------------------------------------------


def _window(c: Config, heads: int) -> list[Pattern]:
    return [Window(c.stride, 0 if c.causal else c.stride)] * heads


def _strides(c: Config, heads: int) -> list[Pattern]:
    return [Strided(c.stride)] * heads


def _blocks(c: Config, heads: int) -> list[Pattern]:
    return [Blocks(c.stride)] * heads


def _columns(c: Config, heads: int) -> list[Pattern]:
    """From the end of a block backwards, until it is used up or every head has its own."""
    several = max(1, min(heads, c.stride // c.columns))
    return [Columns(c.stride, c.columns, h * several // heads * c.columns) for h in range(heads)]


KINDS = {"strided": (_window, _strides), "fixed": (_blocks, _columns)}

Hop = Callable[[Config, int], list[Pattern]]


def _alternate(c: Config, near: Hop, far: Hop, layer: int) -> Pattern:
    return _by_head((far if layer % 2 else near)(c, c.num_heads))


def _merged(c: Config, near: Hop, far: Hop, layer: int) -> Pattern:
    both = zip(near(c, c.num_heads), far(c, c.num_heads), strict=True)
    return _by_head([a | b for a, b in both])


def _heads(c: Config, near: Hop, far: Hop, layer: int) -> Pattern:
    half = c.num_heads // 2
    if half == 0:
        raise ValueError(f"combine 'heads' wants at least 2 heads, and num_heads is {c.num_heads}")
    return _by_head(near(c, c.num_heads - half) + far(c, half))


COMBINED = {"alternate": _alternate, "merged": _merged, "heads": _heads}


def _by_head(patterns: list[Pattern]) -> Pattern:
    groups = [(len(list(run)), p) for p, run in groupby(patterns)]
    return groups[0][1] if len(groups) == 1 else PerHead(*groups)
