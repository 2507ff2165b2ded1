"""Parts with parameters, for people's own models: `sq.nn.Attention`, `sq.nn.Rotary`, ..."""

from subquad.nn.attention import Attention, CrossAttention
from subquad.nn.blocks import PostNorm, PreNorm
from subquad.nn.context import Context
from subquad.nn.heads import TokenHead
from subquad.nn.mixer import Mixer
from subquad.nn.mlp import MLP, Chunked, GatedMLP
from subquad.nn.position import ALiBi, Learned, Position, Rotary, Sinusoidal, XLRelative
from subquad.nn.stacks import Decoder, Encoder
from subquad.nn.state import detach, nbytes, select
from subquad.nn.stems import TokenStem

__all__ = [
    "MLP",
    "ALiBi",
    "Attention",
    "Chunked",
    "Context",
    "CrossAttention",
    "Decoder",
    "Encoder",
    "GatedMLP",
    "Learned",
    "Mixer",
    "Position",
    "PostNorm",
    "PreNorm",
    "Rotary",
    "Sinusoidal",
    "TokenHead",
    "TokenStem",
    "XLRelative",
    "detach",
    "nbytes",
    "select",
]
