"""Transformer-XL: attention with a memory of what came before, and relative positions.

Dai et al., 2019, https://arxiv.org/abs/1901.02860
    score_ij = (q_i + u) . W_K x_j + (q_i + v) . W_R R_{i-j},   x = [constant memory ; segment]
Time O(N (segment + memory)), memory O(N).  Streams exactly; the state of a layer holds the last
`memory` tokens and those of the segment that goes on.  L layers reach L times as far.
Trained by segments: each lane of the batch reads on where it stopped, and its queries see the
layer inputs of the segment before as constants (`carry`).
Ours differs: what is visible is a pattern, so a text may be cut anywhere and comes out the same;
keys and values of the memory are formed again for training only; no dropout on embeddings and
distances; norms begin at exactly 1.
"""

from dataclasses import dataclass
from typing import ClassVar

from subquad.nn.attention import Attention, divide
from subquad.nn.choices import stack
from subquad.nn.position import XLBiases, XLRelative
from subquad.nn.stacks import Stack
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import SameLabel, Segments, Window

__all__ = ["ONLY_PREDICTS", "PRESETS", "Config", "build"]


@dataclass(frozen=True)
class Config:
    """Widths, what is visible, and how the papers' scripts train.

    Args:
        segment: a query sees its own segment of so many tokens up to itself ...
        memory: ... and so many tokens before the segment: between `memory` and `memory` + `segment`
            - 1 tokens of past, as in the paper's training. Where less was read, it sees that.
        same_length: every query sees exactly `memory` tokens before itself, wherever it stands, as
            in the paper's evaluation (the released code counts the query among them).
        clamp_len: distances beyond it count as it; none: all are told apart.
        untie: u and v for each layer, as in the released TensorFlow models; else all share them.
        carry: training carries the memory from batch to batch, and evaluation through documents.
        head_dim: width of a head; none: dim / num_heads.
        attention_dropout: of the weights of attention.
    """

    dim: int = 512
    num_layers: int = 12
    num_heads: int = 8
    ffn_dim: int = 2048
    causal: bool = True
    segment: int = 512
    memory: int = 512
    same_length: bool = False
    clamp_len: int | None = None
    untie: bool = False
    carry: bool = True
    head_dim: int | None = None
    norm: str = "layer"
    wiring: str = "post"
    dropout: float = 0.1
    attention_dropout: float = 0.0

    #: it has positions of its own
    position: ClassVar[str] = "xl"

    @property
    def embedding_scale(self) -> float:
        """What embeddings are multiplied by; not where they pass by the norms in one stream."""
        return self.dim**0.5 if self.wiring == "post" else 1.0

    @property
    def visible(self) -> Pattern:
        """What a query may look at."""
        near = Window(self.memory) if self.same_length else Segments(self.segment, self.memory)
        return near & SameLabel()


#: there is no form that looks ahead
ONLY_PREDICTS = True

PRESETS = {
    "enwik8_base": Config(),
    "enwik8_large": Config(
        dim=1024,
        num_layers=24,
        ffn_dim=3072,
        segment=768,
        memory=768,
        dropout=0.15,
        attention_dropout=0.15,
    ),
    "wt103_base": Config(
        dim=410, num_layers=16, num_heads=10, ffn_dim=2100, segment=150, memory=150
    ),
    "wt103_large": Config(
        dim=1024,
        num_layers=18,
        num_heads=16,
        ffn_dim=4096,
        segment=384,
        memory=384,
        dropout=0.2,
        attention_dropout=0.2,
    ),
    "tiny": Config(dim=32, num_layers=2, num_heads=4, ffn_dim=64, segment=8, memory=8, dropout=0.0),
}


def build(config: Config) -> Stack:
    """The features-to-features stack of this configuration. ValueError if not causal."""
    c = config
    if not c.causal:
        raise ValueError(
            "transformer_xl only predicts: causal=False does not go with a memory of what came "
            "before; take the architecture transformer"
        )
    if c.segment < 1 or c.memory < 0:
        raise ValueError(
            f"segment {c.segment} must be at least 1 token, and memory {c.memory} not negative"
        )
    width = c.head_dim or divide(c.dim, c.num_heads)
    shared = None if c.untie else XLBiases(c.num_heads, width)
    mixers = [
        Attention(
            c.dim,
            c.num_heads,
            c.visible,
            position=XLRelative(
                c.num_heads, width, dim=c.dim, clamp_len=c.clamp_len, biases=shared
            ),
            head_dim=width,
            bias=False,
            dropout=c.attention_dropout,
        )
        for _ in range(c.num_layers)
    ]
    made = stack(
        mixers,
        c.dim,
        c.ffn_dim,
        causal=True,
        norm=c.norm,
        mlp="relu",
        wiring=c.wiring,
        dropout=c.dropout,
    )
    if shared is not None:
        made.biases = shared  # their one owner
    return made
