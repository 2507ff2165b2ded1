"""Transformer: the dense baseline that every other architecture is measured against.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762
    y = softmax(q k^T / sqrt(D)) v
Time O(N^2), memory O(N) (the matrix is never kept).  Streams exactly; the state grows with N.
Ours differs: norms inside the residual branch and rotary positions by default; GPT-2 and Llama are
settings of the same parts.
"""

from dataclasses import dataclass

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import position, stack
from subquad.nn.stacks import Stack
from subquad.ops.patterns import Causal, Full, SameLabel

__all__ = ["PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """Widths and choices; `num_kv_heads` below `num_heads` shares keys and values among heads."""

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    num_kv_heads: int | None = None
    position: str = "rotary"
    norm: str = "layer"
    mlp: str = "gelu"
    wiring: str = "pre"
    bias: bool = True
    dropout: float = 0.1


PRESETS = {
    "base": Config(),
    "tiny": Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64, dropout=0.0),
}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    pattern = (Causal() if c.causal else Full()) & SameLabel()
    mixers = [
        Attention(
            c.dim,
            c.num_heads,
            pattern,
            position=position(c.position, c.num_heads, divide(c.dim, c.num_heads)),
            num_kv_heads=c.num_kv_heads,
            bias=c.bias,
            dropout=c.dropout,
        )
        for _ in range(c.num_layers)
    ]
    return stack(
        mixers,
        c.dim,
        c.ffn_dim,
        causal=c.causal,
        norm=c.norm,
        mlp=c.mlp,
        wiring=c.wiring,
        dropout=c.dropout,
    )
