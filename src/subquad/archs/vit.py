"""ViT: an encoder that reads a picture as a row of patches, with any mixer that looks both ways.

Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929
    z = [class; E x_1; ...; E x_N] + positions;   z = z + mix(norm(z));   z = z + mlp(norm(z))
Time O(N^2) for `mixer="full"`, N = height * width / patch^2; O(N window) for "local", O(N) for
"kernel" and "linear".  Streams not: it always looks ahead.
Ours differs: patches, class token and positions are the stem's (`subquad.nn.patches`), so that
every other architecture reads pictures too; "local" is a window of the row of patches, not of the
picture, so its class token is far from most of them: take the mean of all patches there; dropout
falls on attention weights as well.
"""

from dataclasses import dataclass, replace

from subquad.nn.choices import stack
from subquad.nn.init import Init
from subquad.nn.kinds import Sizes, mixer_of
from subquad.nn.stacks import Stack

__all__ = ["PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """`mixer` of all layers: full, local, kernel or linear. `window` counts patches on each side
    for "local", `features` are those of "kernel", drawn from `seed`.
    """

    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    ffn_dim: int = 3072
    mixer: str = "full"
    window: int = 32
    features: int = 256
    seed: int = 0
    norm: str = "layer"
    mlp: str = "gelu"
    dropout: float = 0.1


_TINY = Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64, window=8, features=16, dropout=0.0)

PRESETS = {
    "base": Config(),
    "large": Config(dim=1024, num_layers=24, num_heads=16, ffn_dim=4096),
    "huge": Config(dim=1280, num_layers=32, num_heads=16, ffn_dim=5120),
    "tiny": _TINY,
    "tiny-kernel": replace(_TINY, mixer="kernel"),
}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    sizes = Sizes(
        c.dim,
        c.num_heads,
        window=c.window,
        features=c.features,
        seed=c.seed,
        dropout=c.dropout,
    )
    mixers = [mixer_of(c.mixer, sizes, layer) for layer in range(c.num_layers)]
    made = stack(mixers, c.dim, c.ffn_dim, causal=False, norm=c.norm, mlp=c.mlp, dropout=c.dropout)
    # as wide as what a map reads asks for, like the release; 0.02 is right for width 2,500 alone
    made.drawn = Init(1.0, by_inputs=True)
    return made
