"""Performer: softmax attention as an inner product of random features.

Choromanski et al., 2021, https://arxiv.org/abs/2009.14794
    softmax(q k^T / sqrt(D)) v  ~=  phi(q) (phi(k)^T v) / phi(q) (phi(k)^T 1)
Time O(N F D), memory O(N); F = features.  Streams exactly, in a state of constant size.
Ours differs: each key keeps its own scale, so the causal form is causal to the last bit; no epsilon
in the features; features are redrawn by the training loop, never inside forward; rotary positions.
"""

from dataclasses import dataclass

from subquad.nn import features
from subquad.nn.attention import divide
from subquad.nn.choices import choose, position, stack
from subquad.nn.kernel import KernelAttention
from subquad.nn.kernel_offset import OffsetKernelAttention
from subquad.nn.stacks import Stack

__all__ = ["PRESETS", "Config", "build", "feature_map"]


@dataclass(frozen=True)
class Config:
    """`kernel`: "softmax" (positive random features) or "relu"; "softmax_offset" and "relu_offset"
    with the small numbers that performer-pytorch adds (`nn.OffsetKernelAttention`), for what was
    trained with them.  `rows`: how they are drawn.

    `redraw` counts optimizer steps between redraws of the features; None keeps them. The paper's
    experiments (its figure 5) need it to reach the softmax Transformer's perplexity.

    `wiring`: "reversible" keeps no activations of a layer, as in the Reformer (features are both
    streams then).  `mlp_chunk`: positions of a feed-forward part at a time; None for all.
    """

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    features: int = 256
    kernel: str = "softmax"
    rows: str = "orthogonal"
    redraw: int | None = None
    seed: int = 0
    position: str = "rotary"
    norm: str = "layer"
    mlp: str = "gelu"
    wiring: str = "pre"
    mlp_chunk: int | None = None
    dropout: float = 0.1


PRESETS = {
    "base": Config(),
    "relu": Config(kernel="relu"),
    "protein": Config(num_layers=36, ffn_dim=1024, kernel="relu"),
    "tiny": Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64, features=16, dropout=0.0),
}

KERNELS = {
    "softmax": (features.PositiveRandomFeatures, KernelAttention),
    "relu": (features.ReLUFeatures, KernelAttention),
    "softmax_offset": (features.PositiveRandomFeatures, OffsetKernelAttention),
    "relu_offset": (features.ReLUFeatures, OffsetKernelAttention),
}

ROWS = {
    "independent": features.independent,
    "orthogonal": features.orthogonal,
    "regularised": features.regularised,
    "hyperbolic": features.hyperbolic,
}


def feature_map(config: Config, layer: int) -> features.FeatureMap:
    """The features of a layer; every layer has a seed of its own."""
    return choose("kernel", config.kernel, KERNELS)[0](
        divide(config.dim, config.num_heads),
        config.features,
        seed=1000 * config.seed + layer,
        rows=choose("way to draw rows", config.rows, ROWS),
        redraw_every=config.redraw,
    )


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    made = choose("kernel", c.kernel, KERNELS)[1]
    mixers = [
        made(
            c.dim,
            c.num_heads,
            feature_map(c, layer),
            causal=c.causal,
            position=position(c.position, c.num_heads, divide(c.dim, c.num_heads)),
        )
        for layer in range(c.num_layers)
    ]
    causal = c.causal and all(mixer.streams for mixer in mixers)
    return stack(
        mixers,
        c.dim,
        c.ffn_dim,
        causal=causal,
        norm=c.norm,
        mlp=c.mlp,
        wiring=c.wiring,
        dropout=c.dropout,
        chunk=c.mlp_chunk,
    )
