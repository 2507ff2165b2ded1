"""Longformer: a window for every token, and a few global tokens for all.

Beltagy, Peters, Cohan, 2020, https://arxiv.org/abs/2004.05150
    an ordinary token looks at its window and at the marked tokens, in one softmax;
    a marked token looks at all tokens, through projections of its own
Time O(N (window + marks)), memory O(N).  Causal: streams exactly; the state holds the window and
the marked tokens, whose queries see what is kept when they come (mark tokens of the prompt).
Ours differs: any length and any window; marked tokens anywhere, per example; dilation per head in
both directions; the causal form shares one set of projections; positions are rotary.
"""

from dataclasses import dataclass

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import of_layer, position, stack
from subquad.nn.marked import MarkedAttention
from subquad.nn.mixer import Mixer
from subquad.nn.stacks import Stack
from subquad.ops.pattern import Pattern, PerHead
from subquad.ops.patterns import Causal, Marked, SameLabel, Window

__all__ = ["PRESETS", "Config", "build", "window"]


@dataclass(frozen=True)
class Config:
    """`windows` counts tokens on each side: one number for all layers, or one for each.

    `dilations`: likewise, steps of the dilated heads, which are the last `dilated_heads` of a
    layer. (The paper gives two heads of the upper layers dilation, and windows that grow upwards.)

    `wiring`: "reversible" keeps no activations of a layer, as in the Reformer (features are both
    streams then).  `mlp_chunk`: positions of a feed-forward part at a time; None for all.
    """

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    windows: tuple[int, ...] = (256,)
    dilations: tuple[int, ...] = (1,)
    dilated_heads: int = 2
    position: str = "rotary"
    norm: str = "layer"
    mlp: str = "gelu"
    wiring: str = "pre"
    mlp_chunk: int | None = None
    dropout: float = 0.1


PRESETS = {
    "base": Config(),
    "small": Config(
        num_layers=12,
        windows=(16, 16, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512),
        dilations=(1,) * 6 + (2, 2, 3, 3, 4, 4),
        dropout=0.2,
    ),
    "encoder": Config(
        dim=768, num_layers=12, num_heads=12, ffn_dim=3072, causal=False, wiring="post"
    ),
    "tiny": Config(
        dim=32,
        num_layers=2,
        num_heads=4,
        ffn_dim=64,
        windows=(6, 10),
        dilations=(1, 2),
        dilated_heads=1,
        dropout=0.0,
    ),
}


def window(config: Config, layer: int) -> Pattern:
    """What an ordinary token of a layer looks at, marked tokens apart."""
    behind = of_layer("windows", config.windows, layer, config.num_layers)
    step = of_layer("dilations", config.dilations, layer, config.num_layers)
    ahead = 0 if config.causal else behind
    plain = Window(behind, ahead)
    if step == 1 or config.dilated_heads == 0:
        return plain
    dilated = Window(behind, ahead, step)
    others = config.num_heads - config.dilated_heads
    if others < 0:
        raise ValueError(
            f"dilated_heads = {config.dilated_heads} of only num_heads = {config.num_heads}"
        )
    if others == 0:
        return dilated
    return PerHead((others, plain), (config.dilated_heads, dilated))


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    mixers = [_mixer(c, layer) for layer in range(c.num_layers)]
    return stack(
        mixers,
        c.dim,
        c.ffn_dim,
        causal=c.causal,
        norm=c.norm,
        mlp=c.mlp,
        wiring=c.wiring,
        dropout=c.dropout,
        chunk=c.mlp_chunk,
    )


def _mixer(c: Config, layer: int) -> Mixer:
    near = window(c, layer)
    at = position(c.position, c.num_heads, divide(c.dim, c.num_heads))
    if c.causal:
        pattern = Causal() & (near | Marked()) & SameLabel()
        return Attention(c.dim, c.num_heads, pattern, position=at, dropout=c.dropout)
    return MarkedAttention(c.dim, c.num_heads, near, position=at, dropout=c.dropout)
