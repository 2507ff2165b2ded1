"""Perceiver IO: a few latents read any input, think, and are asked for any output.

Jaegle et al., 2021, https://arxiv.org/abs/2107.14795
    z = read(latents; x);   z = self-attention layers(z);   y = answer(queries; z)
    read and answer: cross-attention and MLP, norms on both sides
Time O(N K + layers K^2 + O K) for N inputs, K latents and O queries, memory O(N + K + O): depth
costs the same for every length.  Never streams: the latents read the whole input first.
Order is seen only by positions that the stem adds ("learned", "sinusoidal", "fourier").
Ours differs: where nothing else is asked every position asks by its own features, in the paper's
language model by a learned position; padding is left out everywhere; dropout also on the residual
branches; maps that end a residual branch are drawn narrower the deeper the stack.
"""

from dataclasses import dataclass
from typing import Any

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import blocks
from subquad.nn.init import Init
from subquad.nn.perceive import QueryStack, cross_block
from subquad.ops.patterns import Full

__all__ = ["PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """Widths, each by default `dim`: `dim` of inputs, `latent_dim` of the `latents`, `query_dim` of
    queries and answers; inputs can ask for themselves only where it is `dim`.

    `num_layers`, `num_heads` and `ffn_dim` are of the layers over latents, gone through `repeats`
    times with the same weights; reading and answering have `cross_heads` (default `num_heads`) and
    MLPs as many times as wide. `key_dim`: all heads' queries and keys, and values are then as wide
    as what attends; by default both are as wide as what is read. `query_residual`: an answer is
    added to its query.
    """

    dim: int = 512
    num_layers: int = 8
    num_heads: int = 8
    ffn_dim: int = 2048
    latents: int = 256
    latent_dim: int | None = None
    query_dim: int | None = None
    repeats: int = 1
    cross_heads: int | None = None
    key_dim: int | None = None
    query_residual: bool = True
    norm: str = "layer"
    mlp: str = "gelu"
    dropout: float = 0.1


PRESETS = {
    "base": Config(),
    "bytes": Config(
        dim=768,
        num_layers=26,
        ffn_dim=1280,
        latent_dim=1280,
        key_dim=256,
        query_residual=False,
    ),
    "imagenet": Config(
        dim=261,
        num_layers=6,
        ffn_dim=1024,
        latents=512,
        latent_dim=1024,
        query_dim=1024,
        repeats=8,
        cross_heads=1,
        dropout=0.0,
    ),
    "tiny": Config(
        dim=32, num_layers=2, num_heads=4, ffn_dim=48, latents=8, latent_dim=24, dropout=0.0
    ),
}


def build(config: Config) -> QueryStack:
    """The stack that reads, thinks and answers. ValueError for repeats below one."""
    c = config
    if c.repeats < 1:
        raise ValueError(f"repeats is {c.repeats}; the layers are gone through at least once")
    width, heads = c.latent_dim or c.dim, c.cross_heads or c.num_heads
    look: dict[str, Any] = {"norm": c.norm, "mlp": c.mlp, "dropout": c.dropout}
    mixers = [
        Attention(
            width,
            c.num_heads,
            Full(),
            head_dim=divide(c.key_dim or width, c.num_heads),
            value_dim=divide(width, c.num_heads),
            dropout=c.dropout,
        )
        for _ in range(c.num_layers)
    ]
    read = cross_block((width, c.dim, c.ffn_dim), heads, key_dim=c.key_dim, **look)
    asked = c.query_dim or c.dim
    sizes = (asked, width, max(1, c.ffn_dim * asked // width))
    answer = cross_block(sizes, heads, key_dim=c.key_dim, residual=c.query_residual, **look)
    thinking = blocks(mixers, width, c.ffn_dim, **look)
    rounds = (0, *[None] * (c.repeats - 1))
    made = QueryStack([read], thinking, answer, latents=c.latents, rounds=rounds)
    made.drawn = Init(1.0, by_inputs=True)  # as wide as in the authors' code
    return made
