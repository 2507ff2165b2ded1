"""subquad: transformers whose cost grows slower than the square of the input.

An efficient transformer multiplies values by an N x N matrix without writing the matrix down.
"""

import importlib
from typing import Any

from subquad import archs, nn, ops
from subquad.archs import ARCHS, PAIRS
from subquad.model import Model
from subquad.ops.attend import attend
from subquad.ops.linear import kernel_attention
from subquad.ops.lowering import parse
from subquad.ops.lsh import lsh_attention
from subquad.ops.partial import Distance
from subquad.ops.pattern import Coords, PerHead
from subquad.ops.patterns import (
    Blocks,
    Causal,
    Chunks,
    Columns,
    Full,
    LogSteps,
    Marked,
    RandomBlocks,
    SameLabel,
    Segments,
    Strided,
    Window,
)
from subquad.pair import Pair

__all__ = [
    "ARCHS",
    "PAIRS",
    "Blocks",
    "Causal",
    "Chunks",
    "Columns",
    "Coords",
    "Distance",
    "Full",
    "LogSteps",
    "Marked",
    "Model",
    "Pair",
    "PerHead",
    "RandomBlocks",
    "SameLabel",
    "Segments",
    "Strided",
    "Window",
    "archs",
    "attend",
    "kernel_attention",
    "lsh_attention",
    "nn",
    "ops",
    "parse",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Reach what needs more than torch on first use, so that importing us imports torch alone."""
    if name in ("hf", "viz"):
        return importlib.import_module(f"subquad.{name}")
    if name == "load":
        return importlib.import_module("subquad.train.run").load
    raise AttributeError(f"module 'subquad' has no attribute {name!r}")
