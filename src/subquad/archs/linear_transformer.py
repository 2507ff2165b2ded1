"""Linear Transformer: kernel attention with the feature map elu(x) + 1.

Katharopoulos et al., 2020, https://arxiv.org/abs/2006.16236
    out_i = phi(q_i) S_i / phi(q_i) z_i,   S_i = sum over j <= i of phi(k_j) v_j^T,  phi = elu + 1
Time O(N D^2), memory O(N).  Streams exactly, in a state of constant size, as a recurrent network.
Ours differs: sums are float32 or wider in any dtype; positions are rotary.
"""

from dataclasses import dataclass

from subquad.nn.attention import divide
from subquad.nn.choices import position, stack
from subquad.nn.features import EluFeatures
from subquad.nn.kernel import KernelAttention
from subquad.nn.stacks import Stack

__all__ = ["PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """Widths and choices; features are as many as a head is wide."""

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    position: str = "rotary"
    norm: str = "layer"
    mlp: str = "gelu"
    dropout: float = 0.1


PRESETS = {
    "base": Config(),
    "tiny": Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64, dropout=0.0),
}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    mixers = [
        KernelAttention(
            c.dim,
            c.num_heads,
            EluFeatures(),
            causal=c.causal,
            position=position(c.position, c.num_heads, divide(c.dim, c.num_heads)),
        )
        for _ in range(c.num_layers)
    ]
    return stack(
        mixers, c.dim, c.ffn_dim, causal=c.causal, norm=c.norm, mlp=c.mlp, dropout=c.dropout
    )
