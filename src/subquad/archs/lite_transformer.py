"""Lite Transformer: half of the channels attend to what is far, half convolve what is near.

Wu et al., 2020, https://arxiv.org/abs/2004.11886; the convolutions are those of Wu et al., 2019,
https://arxiv.org/abs/1901.10430
    y = [attention(x[: C / 2]), conv(x[C / 2 :])],   then a feed-forward part no wider than x
Time O(N^2) for `mixer="full"`, O(N window) for "local", O(N) for "kernel" and "linear"; the
convolution adds O(N K).  Streams exactly; the state is that of the mixer and K - 1 inputs a layer.
A layer has 6 (C / 2)^2 + 2 C^2 weights and its kernels, and (C / 2)^2 more where it has a gate.
Ours differs: rotary positions in the attention half unless the stem has some; the same share of
attention weights and of taps is dropped (the smallest released models drop taps alone); the
attention half may be any mixer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from subquad.nn.choices import choose, stack
from subquad.nn.kinds import Sizes, mixer_of
from subquad.nn.lightconv import DynamicConv, GatedLinear, LightConv
from subquad.nn.mixer import Mixer
from subquad.nn.split import Split
from subquad.nn.stacks import Stack
from subquad.ops.conv import Taps

__all__ = ["CONVS", "PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """Widths, kernels, and what either half does.

    Args:
        num_heads: of each half; the heads of the convolution share a kernel.
        ffn_dim: flat in the paper: as wide as `dim`.
        conv: "light" for kernels that are parameters, "dynamic" for such as tokens say themselves.
        glu: a gate before the convolution.
        kernels: taps of each layer; layers beyond the last have as many as it. An even kernel has
            one more on the right.
        mixer: of the other half: full, local, kernel or linear.
        window: tokens on each side that "local" sees.
        features: those of "kernel", drawn from `seed`.
        drop_weights: the share of attention weights and of taps that is dropped.
    """

    dim: int = 496
    num_layers: int = 6
    num_heads: int = 4
    ffn_dim: int = 496
    causal: bool = True
    conv: str = "dynamic"
    glu: bool = True
    kernels: tuple[int, ...] = (3, 7, 15, 31)
    mixer: str = "full"
    window: int = 128
    features: int = 256
    seed: int = 0
    position: str = "rotary"
    norm: str = "layer"
    mlp: str = "relu"
    wiring: str = "post"
    dropout: float = 0.1
    drop_weights: float = 0.1


_TINY = Config(
    dim=32,
    num_layers=2,
    num_heads=2,
    ffn_dim=32,
    kernels=(3, 6),
    window=6,
    features=16,
    dropout=0.0,
    drop_weights=0.0,
)

PRESETS = {
    "base": Config(),
    # the number of layers is not in the paper; 12 of them make its 1.1e9 multiply-adds
    "wikitext": Config(
        dim=896, ffn_dim=896, num_layers=12, wiring="pre", dropout=0.21, drop_weights=0.14
    ),
    "tiny": _TINY,
    "tiny-light": replace(_TINY, conv="light", glu=False),
}

#: the convolution, by its name in a configuration: width, heads, taps -> mixer
CONVS: Mapping[str, Callable[..., Mixer]] = {"light": LightConv, "dynamic": DynamicConv}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    if not c.kernels or min(c.kernels) < 1:
        raise ValueError(f"kernels is {c.kernels}; name one or more, each of at least 1 tap")
    return stack(
        [_both(c, layer) for layer in range(c.num_layers)],
        c.dim,
        c.ffn_dim,
        causal=c.causal,
        norm=c.norm,
        mlp=c.mlp,
        wiring=c.wiring,
        dropout=c.dropout,
    )


def _both(c: Config, layer: int) -> Split:
    half = c.dim // 2
    sizes = Sizes(
        half,
        c.num_heads,
        causal=c.causal,
        window=c.window,
        features=c.features,
        seed=c.seed,
        position=c.position,
        dropout=c.drop_weights,
    )
    kernel = c.kernels[min(layer, len(c.kernels) - 1)]
    conv = choose("convolution", c.conv, CONVS)(
        half,
        c.num_heads,
        Taps.behind(kernel) if c.causal else Taps((kernel - 1) // 2, kernel // 2),
        enter=GatedLinear(half) if c.glu else nn.Linear(half, half),
        dropout=c.drop_weights,
    )
    return Split(c.dim, mixer_of(c.mixer, sizes, layer), conv)
