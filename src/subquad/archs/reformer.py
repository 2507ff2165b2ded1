"""Reformer: tokens look at those that hash alike, in reversible layers.

Kitaev, Kaiser, Levskaya, 2020, https://arxiv.org/abs/2001.04451
    out_i = sum over A(i) of softmax(q_i . k_j / sqrt(D)) v_j,   k_j = q_j / |q_j|
    A(i) = the last `window` earlier tokens in i's bucket, over all rounds
    y1 = x1 + mix(norm x2),   y2 = x2 + mlp(norm y1)
Time O(N (rounds window + sum(buckets)) D), memory O(N) whatever the depth.  Streams exactly; the
state holds rounds x buckets x window tokens a layer at most.
Ours differs: windows slide inside each bucket where the paper cuts sorted tokens into chunks, whose
borders later tokens move; local layers look at a window of their neighbours (kind "local"), or at
their own chunk and the one before as in the release ("chunks"). Kind "sorted" is what others have
trained: chunks of sorted tokens, in a circle; it is not strictly causal and never streams. Features
are both streams, 2 dim wide, so head and embedding are not shared; with wiring "reversible_mean"
their mean.
"""

from dataclasses import dataclass

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import choose, position, stack
from subquad.nn.hashed import HashedAttention
from subquad.nn.mixer import Mixer
from subquad.nn.sorted_chunks import Chunking, SortedChunkAttention
from subquad.nn.stacks import Stack
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import Causal, Chunks, SameLabel, Window

__all__ = ["KINDS", "PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """`layers`: their kinds, "lsh", "local", "chunks", "sorted" or "sorted_scaled" (sorted, scores
    divided by sqrt(D)), repeated to `num_layers`.

    Layers that hash: `rounds` (None: look at everything), `buckets` (even factors of their number),
    `window` (tokens of the bucket that a round looks at, on each side if not causal; of "sorted"
    the size of a chunk).  Local
    layers: `local_window`, tokens that are looked at on each side, or the size of a chunk.
    `mlp_chunk`: positions of a feed-forward part at a time; None for all.  `position` is for local
    and "sorted_scaled" layers; a stem's absolute positions, as "axial", serve all kinds.
    """

    dim: int = 512
    num_layers: int = 6
    num_heads: int = 8
    head_dim: int | None = None
    ffn_dim: int = 2048
    causal: bool = True
    layers: tuple[str, ...] = ("local", "local", "lsh", "local")
    rounds: int | None = 2
    buckets: tuple[int, ...] = (16, 16)
    window: int = 64
    local_window: int = 128
    seed: int = 0
    position: str = "none"
    wiring: str = "reversible"
    norm: str = "layer"
    mlp: str = "gelu"
    mlp_chunk: int | None = None
    bias: bool = False
    dropout: float = 0.1


PRESETS = {
    "base": Config(),
    # the released recipes; 512 and 192 buckets as factors
    "enwik8": Config(
        dim=768,
        num_layers=12,
        head_dim=64,
        buckets=(16, 32),
        window=256,
        local_window=191,  # what chunks of 128 with the one before see on average
        mlp="relu",
        mlp_chunk=4096,
        dropout=0.2,
    ),
    "imagenet64": Config(
        dim=1024,
        ffn_dim=4096,
        layers=("lsh",),
        buckets=(12, 16),
        window=128,
        mlp="gelu_tanh",
        mlp_chunk=4096,
    ),
    "tiny": Config(
        dim=32,
        num_layers=3,
        num_heads=4,
        ffn_dim=64,
        layers=("local", "lsh"),
        buckets=(4, 2),
        window=4,
        local_window=8,
        dropout=0.0,
    ),
}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration."""
    c = config
    if not c.layers:
        raise ValueError(f"layers is empty; name at least one of {', '.join(KINDS)}")
    mixers = [
        choose("kind of layer", c.layers[layer % len(c.layers)], KINDS)(c, layer)
        for layer in range(c.num_layers)
    ]
    return stack(
        mixers,
        c.dim,
        c.ffn_dim,
        causal=c.causal and not any(isinstance(m, SortedChunkAttention) for m in mixers),
        norm=c.norm,
        mlp=c.mlp,
        wiring=c.wiring,
        dropout=c.dropout,
        chunk=c.mlp_chunk,
    )


def _width(c: Config) -> int:
    return c.head_dim or divide(c.dim, c.num_heads)


def _lsh(c: Config, layer: int) -> Mixer:
    return HashedAttention(
        c.dim,
        c.num_heads,
        head_dim=_width(c),
        rounds=c.rounds,
        buckets=c.buckets,
        window=c.window,
        causal=c.causal,
        seed=1000 * c.seed + layer,
        bias=c.bias,
        dropout=c.dropout,
    )


def _sorted(c: Config, layer: int) -> Mixer:
    return _in_circle(c, layer, Chunking(c.window, False, False, True, True, 1e-6), "none")


def _sorted_scaled(c: Config, layer: int) -> Mixer:
    return _in_circle(c, layer, Chunking(c.window, False, False, True), c.position)


def _in_circle(c: Config, layer: int, chunks: Chunking, turned: str) -> Mixer:
    return SortedChunkAttention(
        c.dim,
        c.num_heads,
        head_dim=_width(c),
        rounds=c.rounds or 1,
        buckets=c.buckets,
        chunks=chunks,
        causal=c.causal,
        seed=1000 * c.seed + layer,
        bias=c.bias,
        dropout=c.dropout,
        position=position(turned, c.num_heads, _width(c)),
    )


def _local(c: Config, layer: int) -> Mixer:
    return _attention(c, Window(c.local_window, 0 if c.causal else c.local_window))


def _chunks(c: Config, layer: int) -> Mixer:
    chunks = Chunks(c.local_window, 1)
    return _attention(c, Causal() & chunks if c.causal else chunks)


def _attention(c: Config, pattern: Pattern) -> Mixer:
    return Attention(
        c.dim,
        c.num_heads,
        pattern & SameLabel(),
        position=position(c.position, c.num_heads, _width(c)),
        head_dim=_width(c),
        bias=c.bias,
        dropout=c.dropout,
    )


KINDS = {
    "lsh": _lsh,
    "local": _local,
    "chunks": _chunks,
    "sorted": _sorted,
    "sorted_scaled": _sorted_scaled,
}
