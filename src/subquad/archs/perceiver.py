"""Perceiver: a few latents read an input of any kind again and again, thinking in between.

Jaegle et al., 2021, https://arxiv.org/abs/2103.03206
    z = latents;   `reads` times: z = read(z; x), z = self-attention layers(z);   y = mean of z
    the first read has weights of its own, all others share theirs, and all layers theirs
Time O(reads (N K + layers K^2)) for N inputs and K latents, memory O(N + K).  Never streams: the
latents read the whole input first.
Order is seen only by positions that the stem adds ("fourier", "learned", "sinusoidal").
Ours differs: answers are given for every position or query, as in Perceiver IO, unless
`answer="mean"`; padding is left out everywhere; maps that end a residual branch are drawn narrower
the deeper the stack.
"""

from dataclasses import dataclass
from typing import Any

from subquad.nn.attention import Attention
from subquad.nn.choices import blocks, choose
from subquad.nn.init import Init
from subquad.nn.perceive import MeanAnswer, QueryStack, cross_block
from subquad.ops.patterns import Full

__all__ = ["PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """`dim` is the width of inputs, `latent_dim` (default `dim`) that of the `latents`.

    `num_layers`, `num_heads` and `ffn_dim` are of the layers over latents that follow each of the
    `reads`. Answers: "query", cross-attention from queries to latents, as wide as inputs; "mean",
    the paper's mean of the latents, as wide as they are and the same for every position.
    """

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 1024
    latents: int = 256
    latent_dim: int | None = None
    reads: int = 4
    cross_heads: int = 1
    answer: str = "query"
    norm: str = "layer"
    mlp: str = "gelu"
    dropout: float = 0.0


PRESETS = {
    "base": Config(),
    "imagenet": Config(dim=261, latents=512, latent_dim=1024, reads=8, answer="mean"),
    "tiny": Config(
        dim=32, num_layers=1, num_heads=4, ffn_dim=48, latents=8, latent_dim=24, reads=3
    ),
}


def build(config: Config) -> QueryStack:
    """The stack that reads, thinks and answers. ValueError where it never reads."""
    c = config
    if c.reads < 1:
        raise ValueError(f"reads is {c.reads}; the latents must read the input at least once")
    width = c.latent_dim or c.dim
    look: dict[str, Any] = {"norm": c.norm, "mlp": c.mlp, "dropout": c.dropout}
    mixers = [Attention(width, c.num_heads, Full(), dropout=c.dropout) for _ in range(c.num_layers)]
    reads = [
        cross_block((width, c.dim, c.ffn_dim), c.cross_heads, **look)
        for _ in range(min(c.reads, 2))
    ]
    hidden = max(1, c.ffn_dim * c.dim // width)
    answers = {
        "query": lambda: cross_block((c.dim, width, hidden), c.cross_heads, **look),
        "mean": lambda: MeanAnswer(width),
    }
    made = QueryStack(
        reads,
        blocks(mixers, width, c.ffn_dim, **look),
        choose("answer", c.answer, answers)(),
        latents=c.latents,
        rounds=(0, *[1] * (c.reads - 1)),
    )
    made.drawn = Init(1.0, by_inputs=True)  # as wide as in the authors' code
    return made
