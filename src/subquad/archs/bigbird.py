"""BigBird: a window of blocks, a few random blocks, and a few global tokens for all.

Zaheer et al., 2020, https://arxiv.org/abs/2007.14062
    a block of tokens looks at the blocks around it, at `random_blocks` drawn ones and at the marked
    tokens; a marked token looks at all tokens; one softmax
Time O(N (window + random_blocks) block + N marks), memory O(N).  Never streams: a token looks at
whole blocks, the rest of its own among them.
Ours differs: any length; global tokens are those that the context marks, anywhere, per example,
where the paper takes the first and last block (a token stem with `ends` marks those); a block
draws from the blocks below the least power of two above it, by a seed alone, where the paper draws
anew for each length, so padding and batch change nothing; all heads of a layer share what it draws;
positions are rotary.
"""

from dataclasses import dataclass

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import position, stack
from subquad.nn.stacks import Stack
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import Chunks, Marked, RandomBlocks, SameLabel

__all__ = ["PRESETS", "Config", "build", "pattern"]


@dataclass(frozen=True)
class Config:
    """`block`: tokens in a block; `window`: blocks that are looked at on each side of the own one.

    `random_blocks`: drawn ones, by `seed` and layer; 0 for none. It always looks ahead, so there is
    no field `causal`.
    """

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    ffn_dim: int = 2048
    block: int = 64
    window: int = 1
    random_blocks: int = 3
    seed: int = 0
    position: str = "rotary"
    norm: str = "layer"
    mlp: str = "gelu"
    wiring: str = "pre"
    dropout: float = 0.1


PRESETS = {
    "base": Config(),
    # the released sizes, those of RoBERTa
    "encoder": Config(dim=768, num_layers=12, num_heads=12, ffn_dim=3072, wiring="post"),
    "encoder_large": Config(dim=1024, num_layers=24, num_heads=16, ffn_dim=4096, wiring="post"),
    "tiny": Config(
        dim=32,
        num_layers=2,
        num_heads=4,
        ffn_dim=64,
        block=4,
        random_blocks=2,
        dropout=0.0,
    ),
}


def pattern(config: Config, layer: int) -> Pattern:
    """What the tokens of a layer look at."""
    c = config
    near: Pattern = Chunks(c.block, c.window, c.window)
    if c.random_blocks:
        near = near | RandomBlocks(c.block, c.random_blocks, 1000 * c.seed + layer)
    return (near | Marked()) & SameLabel()


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    mixers = [
        Attention(
            c.dim,
            c.num_heads,
            pattern(c, layer),
            position=position(c.position, c.num_heads, divide(c.dim, c.num_heads)),
            dropout=c.dropout,
        )
        for layer in range(c.num_layers)
    ]
    return stack(
        mixers,
        c.dim,
        c.ffn_dim,
        causal=False,
        norm=c.norm,
        mlp=c.mlp,
        wiring=c.wiring,
        dropout=c.dropout,
    )
