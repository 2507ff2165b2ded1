"""Hybrid: a kind of mixer for each layer, so that exact, local and kernel layers work together.

After Reformer's released recipe (three local layers to one of hashing) and Performer's local heads
(https://arxiv.org/abs/2001.04451, https://arxiv.org/abs/2009.14794).
    layer i mixes by kinds[i mod len(kinds)]
Time O(N) for windows and kernels, O(N^2) for each "full" layer.  Streams exactly; the state is that
of its layers.
Ours differs: the kinds are a list in the configuration, and any mixture keeps every law.
"""

from dataclasses import dataclass

from subquad.nn.choices import stack
from subquad.nn.kinds import KINDS, Sizes, mixer_of
from subquad.nn.stacks import Stack

__all__ = ["PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """`kinds` of layers, repeated to `num_layers`; `window` and `features` serve those that ask.

    `num_kv_heads` below `num_heads` shares keys and values among heads.
    """

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
    num_kv_heads: int | None = None
    bias: bool = True


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
    sizes = Sizes(
        c.dim,
        c.num_heads,
        causal=c.causal,
        window=c.window,
        features=c.features,
        seed=c.seed,
        position=c.position,
        dropout=c.dropout,
        num_kv_heads=c.num_kv_heads,
        bias=c.bias,
    )
    mixers = [
        mixer_of(c.kinds[layer % len(c.kinds)], sizes, layer) for layer in range(c.num_layers)
    ]
    return stack(
        mixers, c.dim, c.ffn_dim, causal=c.causal, norm=c.norm, mlp=c.mlp, dropout=c.dropout
    )
