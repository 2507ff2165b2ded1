"""Local attention: every token looks at a window of its neighbours.

Beltagy et al., 2020, section 3.1, https://arxiv.org/abs/2004.05150, and many others.
    y_i = softmax over i - window <= j <= i (+ window if not causal) of q_i . k_j, times v_j
Time O(N window), memory O(N).  Streams exactly; the state holds the last `window` tokens.
L layers reach L * window tokens back.
Ours differs: any length, no padding to a multiple of the window.
"""

from dataclasses import dataclass

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import position, stack
from subquad.nn.stacks import Stack
from subquad.ops.patterns import SameLabel, Window

__all__ = ["PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """`window` counts tokens on each side that is looked at, the token itself apart.

    `num_kv_heads` below `num_heads` shares keys and values among heads.
    """

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    window: int = 256
    position: str = "rotary"
    norm: str = "layer"
    mlp: str = "gelu"
    dropout: float = 0.1
    num_kv_heads: int | None = None
    bias: bool = True


PRESETS = {
    "base": Config(),
    "tiny": Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64, window=8, dropout=0.0),
}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    mixers = [
        Attention(
            c.dim,
            c.num_heads,
            Window(c.window, 0 if c.causal else c.window) & SameLabel(),
            position=position(c.position, c.num_heads, divide(c.dim, c.num_heads)),
            num_kv_heads=c.num_kv_heads,
            bias=c.bias,
            dropout=c.dropout,
        )
        for _ in range(c.num_layers)
    ]
    return stack(
        mixers, c.dim, c.ffn_dim, causal=c.causal, norm=c.norm, mlp=c.mlp, dropout=c.dropout
    )
