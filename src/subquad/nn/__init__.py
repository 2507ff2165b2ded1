"""Parts with parameters, for people's own models: `sq.nn.Attention`, `sq.nn.Rotary`, ..."""

from subquad.nn.adaptive import AdaptiveHead, Tables
from subquad.nn.arrays import ArrayStem
from subquad.nn.attention import Attention
from subquad.nn.axial import Axial, AxialSum
from subquad.nn.blocks import PostNorm, PreNorm
from subquad.nn.context import Context
from subquad.nn.conv import ConvModule
from subquad.nn.conv_attention import ConvAttention
from subquad.nn.cross import CrossAttention
from subquad.nn.ends import Ends
from subquad.nn.features import EluFeatures, PositiveRandomFeatures, ReLUFeatures
from subquad.nn.forecast import ForecastHead
from subquad.nn.frames import FrameStem
from subquad.nn.hashed import HashedAttention
from subquad.nn.heads import TokenHead
from subquad.nn.kernel import KernelAttention, KernelCrossAttention
from subquad.nn.kernel_offset import OffsetKernelAttention
from subquad.nn.latent import LatentStack
from subquad.nn.learned import LearnedFeatures
from subquad.nn.lightconv import DynamicConv, GatedLinear, LightConv
from subquad.nn.likelihoods import mean_scale
from subquad.nn.logmel import LogMel
from subquad.nn.losses import chunked_cross_entropy
from subquad.nn.lowrank import LowRankAttention, Projection
from subquad.nn.lowrank_cross import LowRankCrossAttention
from subquad.nn.macaron import Macaron
from subquad.nn.marked import MarkedAttention
from subquad.nn.mixer import Mixer
from subquad.nn.mlp import MLP, Chunked, GatedMLP
from subquad.nn.modalities import ModalityStem
from subquad.nn.pairs import attending
from subquad.nn.patches import GridPositions, PatchStem
from subquad.nn.perceive import CrossBlock, MeanAnswer, QueryStack
from subquad.nn.pixels import PixelStem
from subquad.nn.position import (
    ALiBi,
    Learned,
    Position,
    Rotary,
    Sinusoidal,
    XLBiases,
    XLRelative,
)
from subquad.nn.prefix import PrefixRead, PrefixStack
from subquad.nn.queries import FieldHead, QueryHead
from subquad.nn.read import Read
from subquad.nn.reversible import (
    MeanReversibleDecoder,
    MeanReversibleEncoder,
    Reversible,
    ReversibleDecoder,
    ReversibleEncoder,
)
from subquad.nn.series import SeriesStem
from subquad.nn.sorted_chunks import Chunking, SortedChunkAttention
from subquad.nn.span import Borrowed, DynamicSpan, RelativeTable, SpanRamp
from subquad.nn.split import Split
from subquad.nn.stacks import ChunkEncoder, Decoder, Encoder
from subquad.nn.state import detach, nbytes, select
from subquad.nn.stems import TokenStem
from subquad.nn.waves import WaveStem
from subquad.ops.positions import LinearRates, Llama3Rates

__all__ = [
    "MLP",
    "ALiBi",
    "AdaptiveHead",
    "ArrayStem",
    "Attention",
    "Axial",
    "AxialSum",
    "Borrowed",
    "ChunkEncoder",
    "Chunked",
    "Chunking",
    "Context",
    "ConvAttention",
    "ConvModule",
    "CrossAttention",
    "CrossBlock",
    "Decoder",
    "DynamicConv",
    "DynamicSpan",
    "EluFeatures",
    "Encoder",
    "Ends",
    "FieldHead",
    "ForecastHead",
    "FrameStem",
    "GatedLinear",
    "GatedMLP",
    "GridPositions",
    "HashedAttention",
    "KernelAttention",
    "KernelCrossAttention",
    "LatentStack",
    "Learned",
    "LearnedFeatures",
    "LightConv",
    "LinearRates",
    "Llama3Rates",
    "LogMel",
    "LowRankAttention",
    "LowRankCrossAttention",
    "Macaron",
    "MarkedAttention",
    "MeanAnswer",
    "MeanReversibleDecoder",
    "MeanReversibleEncoder",
    "Mixer",
    "ModalityStem",
    "OffsetKernelAttention",
    "PatchStem",
    "PixelStem",
    "Position",
    "PositiveRandomFeatures",
    "PostNorm",
    "PreNorm",
    "PrefixRead",
    "PrefixStack",
    "Projection",
    "QueryHead",
    "QueryStack",
    "ReLUFeatures",
    "Read",
    "RelativeTable",
    "Reversible",
    "ReversibleDecoder",
    "ReversibleEncoder",
    "Rotary",
    "SeriesStem",
    "Sinusoidal",
    "SortedChunkAttention",
    "SpanRamp",
    "Split",
    "Tables",
    "TokenHead",
    "TokenStem",
    "WaveStem",
    "XLBiases",
    "XLRelative",
    "attending",
    "chunked_cross_entropy",
    "detach",
    "mean_scale",
    "nbytes",
    "select",
]
