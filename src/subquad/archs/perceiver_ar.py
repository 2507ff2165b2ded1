"""Perceiver AR: one causal cross-attention from the last positions to a long input, then a stack
over those positions alone.

Hawthorne et al., 2022, https://arxiv.org/abs/2202.07765
    z = x_last + cross(norm(x_last), norm(x_0 .. x_N));  y = self-attention layers over z
Time O(N L + layers L^2) for a training step, L latents; O(N^2) where all N outputs are wanted, and
O(layers L^2 / stride) more for each.  Streams exactly; the state grows with N by one layer's keys.
Ours differs: outside training the latents of a position begin at an anchor that depends on the
position alone, so any cut of a stream gives the same outputs (`subquad.nn.latent`); rotary angles
go down from 1 by powers of 10,000, not to the context's length; no z-loss; biases as elsewhere
here. The released code lets a latent read its own input, the paper's formula does not: we do.
"""

from dataclasses import dataclass, replace

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import blocks, feed_forward, normalise, position
from subquad.nn.latent import LatentStack
from subquad.nn.read import Read
from subquad.ops.patterns import Causal, SameLabel

__all__ = ["ONLY_PREDICTS", "PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """`latents` and `stride` (default half of the latents) may be changed after training: more
    latents cost more and see more, and more than there are positions are as many. `cross_heads`:
    default `num_heads`. `cross_dropout`: the rate at which the cross-attention does not see an
    input in training. `num_layers`: those over latents.

    With `position="none"` absolute positions of the stem must tell positions apart, as in both
    released configurations of the paper.
    """

    dim: int = 512
    num_layers: int = 8
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    latents: int = 512
    stride: int | None = None
    cross_heads: int | None = None
    cross_dropout: float = 0.0
    position: str = "rotary_half"
    norm: str = "layer"
    mlp: str = "relu_squared"
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


def build(config: Config) -> LatentStack:
    """The features-to-features stack. ValueError if it should look ahead."""
    c = config
    if not c.causal:
        raise ValueError(
            "perceiver_ar only predicts, so causal=False does not go; take another architecture"
        )
    read = Read(
        c.dim,
        _attention(c, c.cross_heads or c.num_heads),
        feed_forward(c.mlp)(c.dim, c.ffn_dim, dropout=c.dropout),
        norm=normalise(c.norm),
        dropout=c.dropout,
        drop_inputs=c.cross_dropout,
    )
    layers = blocks(
        [_attention(c, c.num_heads) for _ in range(c.num_layers)],
        c.dim,
        c.ffn_dim,
        norm=c.norm,
        mlp=c.mlp,
        dropout=c.dropout,
    )
    norm = normalise(c.norm)(c.dim)
    return LatentStack(read, layers, c.dim, norm, latents=c.latents, stride=c.stride)


def _attention(c: Config, heads: int) -> Attention:
    return Attention(
        c.dim,
        heads,
        Causal() & SameLabel(),
        position=position(c.position, heads, divide(c.dim, heads)),
        dropout=c.dropout,
    )
