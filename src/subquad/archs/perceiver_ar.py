"""Perceiver AR: one causal cross-attention from the last positions to a long input, then a stack
over those positions alone.

Hawthorne et al., 2022, https://arxiv.org/abs/2202.07765
    z = x_last + cross(norm(x_last), norm(x_0 .. x_N));  y = self-attention layers over z
Time O(N L + layers L^2) for a training step, L latents; O(N^2) where all N outputs are wanted, and
O(layers L^2 / stride) more for each.  Streams exactly; the state grows with N by one layer's keys.
Ours differs: outside training the latents of a position begin at an anchor that depends on the
position alone, so any cut of a stream gives the same outputs (`subquad.nn.latent`); rotary angles
go down from 1 by powers of 10,000, not to the context's length; no z-loss; biases as elsewhere
here. The released code lets a latent read its own input, the paper's formula does not: we do. With
read="prefix", as others have it, all N outputs cost O(N^2 L / stride) to read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import blocks, choose, feed_forward, normalise, position
from subquad.nn.latent import LatentStack
from subquad.nn.prefix import PrefixRead, PrefixStack
from subquad.nn.read import Read
from subquad.ops.patterns import Causal, SameLabel

__all__ = ["ONLY_PREDICTS", "PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """`latents` and `stride` (default half of the latents) may be changed after training: more
    latents cost more and see more, and more than there are positions are as many. `cross_heads`,
    `cross_ffn_dim`: default `num_heads`, `ffn_dim`. `cross_dropout`: the rate at which the
    cross-attention does not see an input in training. `num_layers`: those over latents.

    `read`: "inputs", all under one norm as in the paper's code, or "prefix", those before the
    anchor alone, and latents under their own norm (`subquad.nn.prefix`). `wiring`: "pre", or
    "pre_open" without a last norm. `head_dim`: default the head's share of the width.

    With `position="none"` absolute positions of the stem must tell positions apart, as in both
    released configurations of the paper. `position_layers`: of the layers over latents only so many
    have the position, the first ones; default all.
    """

    dim: int = 512
    num_layers: int = 8
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    latents: int = 512
    stride: int | None = None
    cross_heads: int | None = None
    cross_ffn_dim: int | None = None
    cross_dropout: float = 0.0
    head_dim: int | None = None
    position: str = "rotary_half"
    position_layers: int | None = None
    read: str = "inputs"
    norm: str = "layer"
    mlp: str = "relu_squared"
    wiring: str = "pre"
    dropout: float = 0.1


_WIDE = Config(dim=1024, num_heads=16, ffn_dim=4096, position="none", latents=1024)

#: there is no form that looks ahead
ONLY_PREDICTS = True

PRESETS = {
    "base": Config(),
    "copy-131072": replace(_WIDE, num_layers=6),
    "copy-32": replace(_WIDE, num_layers=1, latents=16),
    "imagenet64": replace(_WIDE, num_layers=60),
    "wikitext-small": Config(cross_dropout=0.5),
    "tiny": Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64, latents=16, dropout=0.0),
}


#: how latents read, and the stack that goes with it
READS: Mapping[str, tuple[type[Read], type[LatentStack]]] = {
    "inputs": (Read, LatentStack),
    "prefix": (PrefixRead, PrefixStack),
}
#: does a norm end the stack?
CLOSED = {"pre": True, "pre_open": False}


def build(config: Config) -> LatentStack:
    """The features-to-features stack. ValueError if it should look ahead, for a number of layers
    that cannot be, or, with the nearest name, for a part that is not known.
    """
    c = config
    if not c.causal:
        raise ValueError(
            "perceiver_ar only predicts, so causal=False does not go; take another architecture"
        )
    for name, least in (("position_layers", 0), ("head_dim", 1), ("cross_ffn_dim", 1)):
        size = getattr(c, name)
        if size is not None and size < least:
            raise ValueError(f"{name} is {size}; it must be at least {least}, or None")
    placed = c.num_layers if c.position_layers is None else c.position_layers
    read, stack = choose("read", c.read, READS)
    reading = read(
        c.dim,
        _attention(c, c.cross_heads or c.num_heads, c.position),
        feed_forward(c.mlp)(c.dim, c.cross_ffn_dim or c.ffn_dim, dropout=c.dropout),
        norm=normalise(c.norm),
        dropout=c.dropout,
        drop_inputs=c.cross_dropout,
    )
    closed = choose("wiring", c.wiring, CLOSED)
    layers = blocks(
        [
            _attention(c, c.num_heads, c.position if i < placed else "none")
            for i in range(c.num_layers)
        ],
        c.dim,
        c.ffn_dim,
        norm=c.norm,
        mlp=c.mlp,
        dropout=c.dropout,
    )
    norm = normalise(c.norm)(c.dim) if closed else None
    return stack(reading, layers, c.dim, norm, latents=c.latents, stride=c.stride)


def _attention(c: Config, heads: int, place: str) -> Attention:
    return Attention(
        c.dim,
        heads,
        Causal() & SameLabel(),
        position=position(place, heads, c.head_dim or divide(c.dim, heads)),
        head_dim=c.head_dim,
        dropout=c.dropout,
    )
