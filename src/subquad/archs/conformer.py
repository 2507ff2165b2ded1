"""Conformer: attention for what is far, convolution for what is near, in one block for speech.

Gulati et al., 2020, https://arxiv.org/abs/2005.08100
    x = x + 1/2 ffn(x);  x = x + mix(x);  x = x + conv(x);  y = norm(x + 1/2 ffn(x))
Time O(N^2) for `mixer="full"`, O(N window) for "local", O(N left chunk) for "chunks", O(N (left +
random_blocks) chunk) for "blocks", O(N rounds window) for "hashed", O(N rank) for "low_rank", O(N)
for "kernel" and "linear"; the convolution adds O(N kernel).  Streams by chunks, with mixer "chunks"
and conv "chunk" or "behind": `step` is the chunk, and an output waits for `chunk` - 1 tokens at
most.
A block has 24 d^2 + (kernel + 32) d parameters for width d (linear maps 24 d^2, taps kernel d).
Ours differs: the stem makes tokens of frames (`subquad.nn.frames`), so every other architecture
reads speech too; padding enters neither a convolution nor the statistics of batch norm; dropout
falls on attention weights as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import choose, feed_forward, normalise, position
from subquad.nn.conv import ConvModule, TokenBatchNorm, TokenNorm
from subquad.nn.hashed import HashedAttention
from subquad.nn.init import Init
from subquad.nn.kinds import KINDS, Sizes, mixer_of
from subquad.nn.lowrank import LowRankAttention, Projection
from subquad.nn.macaron import Macaron
from subquad.nn.mixer import Mixer
from subquad.nn.position import Position
from subquad.nn.stacks import ChunkEncoder, Encoder, Stack
from subquad.ops.conv import Taps
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import Chunks, RandomBlocks, SameLabel

__all__ = ["CONVS", "NORMS", "PRESETS", "WIRINGS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """Widths, what a token sees, and the parts that can be left out.

    Args:
        kernel: taps of the convolution; an even one has one more on the left than on the right.
        mixer: of all layers: full, local, chunks, kernel, linear, blocks (BigBird's), hashed
            (Reformer's, looking both ways) or low_rank (Linformer's).
        window: tokens on each side that "local" sees; of its bucket, that "hashed" sees in a round.
        chunk, left: "chunks" sees the token's own chunk of so many tokens and `left` before it;
            "blocks" as many after it too, and `random_blocks` that are drawn.
        features: those of "kernel", drawn from `seed`.
        rounds, buckets: those of "hashed"; even factors of the number of buckets.
        rank, max_len: slots of "low_rank", a pair of projections for all layers, and the longest
            input in tokens.
        position: inside attention; "xl" is the paper's, "none" leaves it to the stem. "kernel",
            "linear" and "low_rank" take rotary or none, "hashed" none.
        conv: taps "around" the token as in the paper, "behind" it, around it inside its "chunk", or
            "none" for no convolution module.
        norm: inside the convolution module, "batch" as in the paper, or "layer".
        wiring: "macaron", or "single" for one feed-forward part that counts whole.
        mlp: kind of the feed-forward parts.
        norm_last: of all blocks together, as wav2vec2-conformer has it; "none" in the paper.
    """

    dim: int = 256
    num_layers: int = 16
    num_heads: int = 4
    ffn_dim: int = 1024
    kernel: int = 32
    mixer: str = "full"
    window: int = 64
    chunk: int = 16
    left: int = 4
    random_blocks: int = 3
    features: int = 256
    rounds: int = 4
    buckets: tuple[int, ...] = (16,)
    rank: int = 128
    max_len: int = 1024
    seed: int = 0
    position: str = "xl"
    conv: str = "around"
    norm: str = "batch"
    wiring: str = "macaron"
    mlp: str = "swish"
    norm_last: str = "none"
    dropout: float = 0.1


_TINY = Config(
    dim=32,
    num_layers=2,
    num_heads=4,
    ffn_dim=64,
    kernel=8,
    window=6,
    chunk=4,
    left=2,
    features=16,
    buckets=(4,),
    rank=16,
    max_len=1100,
    dropout=0.0,
)

PRESETS = {
    "base": Config(),
    "small": Config(dim=144, ffn_dim=576),
    "medium": Config(),
    "large": Config(dim=512, num_layers=17, num_heads=8, ffn_dim=2048),
    "tiny": _TINY,
    "tiny-chunks": replace(_TINY, mixer="chunks", conv="chunk"),
}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    mixers = choose("mixer", c.mixer, MIXERS)(c)
    wire = choose("wiring", c.wiring, WIRINGS)
    blocks = [wire(c, mixer) for mixer in mixers]
    streams = all(block.step is not None for block in blocks)
    last = None if c.norm_last == "none" else normalise(c.norm_last)(c.dim)
    made = (ChunkEncoder if streams else Encoder)(blocks, c.dim, last)
    # as wide as what a map reads asks for; every block ends in a norm
    made.drawn = Init(3**-0.5, by_inputs=True)
    return made


def _named(c: Config) -> list[Mixer]:
    sizes = Sizes(
        c.dim,
        c.num_heads,
        window=c.window,
        features=c.features,
        seed=c.seed,
        position=c.position,
        dropout=c.dropout,
    )
    return [mixer_of(c.mixer, sizes, layer) for layer in range(c.num_layers)]


def _chunks(c: Config) -> list[Mixer]:
    return [_attention(c, Chunks(c.chunk, c.left)) for _ in range(c.num_layers)]


def _blocks(c: Config) -> list[Mixer]:
    near = Chunks(c.chunk, c.left, c.left)
    if not c.random_blocks:
        return [_attention(c, near) for _ in range(c.num_layers)]
    far = (RandomBlocks(c.chunk, c.random_blocks, seed) for seed in _seeds(c))
    return [_attention(c, near | some) for some in far]


def _attention(c: Config, pattern: Pattern) -> Mixer:
    pattern = pattern & SameLabel()
    return Attention(c.dim, c.num_heads, pattern, position=_position(c), dropout=c.dropout)


def _hashed(c: Config) -> list[Mixer]:
    if c.position != "none":
        raise ValueError(
            f"tokens that hash alike stand anywhere, so position = {c.position!r} does not go with "
            "mixer = 'hashed': set it to 'none', and the stem adds positions"
        )
    return [
        HashedAttention(
            c.dim,
            c.num_heads,
            rounds=c.rounds,
            buckets=c.buckets,
            window=c.window,
            causal=False,
            seed=seed,
            dropout=c.dropout,
        )
        for seed in _seeds(c)
    ]


def _low_rank(c: Config) -> list[Mixer]:
    both = Projection(c.rank, c.max_len)
    return [
        LowRankAttention(c.dim, c.num_heads, both, both, position=_position(c), dropout=c.dropout)
        for _ in range(c.num_layers)
    ]


def _seeds(c: Config) -> range:
    """One for each layer."""
    return range(1000 * c.seed, 1000 * c.seed + c.num_layers)


def _position(c: Config) -> Position:
    return position(c.position, c.num_heads, divide(c.dim, c.num_heads))


#: what mixes positions in every layer, by its name in a configuration
MIXERS: Mapping[str, Callable[[Config], list[Mixer]]] = {
    **dict.fromkeys(KINDS, _named),
    "chunks": _chunks,
    "blocks": _blocks,
    "hashed": _hashed,
    "low_rank": _low_rank,
}

#: which tokens the convolution reads
CONVS: Mapping[str, Callable[[Config], Taps | None]] = {
    "around": lambda c: Taps.around(c.kernel),
    "behind": lambda c: Taps.behind(c.kernel),
    "chunk": lambda c: Taps.around(c.kernel, c.chunk),
    "none": lambda c: None,
}

#: the norm inside the convolution module
NORMS: Mapping[str, Callable[[int], nn.Module]] = {"batch": TokenBatchNorm, "layer": TokenNorm}


def _macaron(c: Config, mixer: Mixer) -> Macaron:
    return _block(c, mixer, _feed(c))


def _single(c: Config, mixer: Mixer) -> Macaron:
    return _block(c, mixer, None)


WIRINGS: Mapping[str, Callable[[Config, Mixer], Macaron]] = {
    "macaron": _macaron,
    "single": _single,
}


def _block(c: Config, mixer: Mixer, before: nn.Module | None) -> Macaron:
    taps, norm = choose("conv", c.conv, CONVS)(c), choose("norm", c.norm, NORMS)
    conv = None if taps is None else ConvModule(c.dim, taps, norm=norm)
    return Macaron(c.dim, [mixer], _feed(c), before=before, conv=conv, dropout=c.dropout)


def _feed(c: Config) -> nn.Module:
    return feed_forward(c.mlp)(c.dim, c.ffn_dim, dropout=c.dropout)
