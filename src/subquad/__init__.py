"""subquad: transformers whose cost grows slower than the square of the input.

An efficient transformer multiplies values by an N x N matrix without writing the matrix down.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subquad import archs, nn, ops
    from subquad import hf as hf
    from subquad import viz as viz
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
    from subquad.train.run import load as load

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

#: where names are; each is imported when it is first used, so that a command's help needs no torch
_HOME = {
    "ops.patterns": (
        *("Blocks", "Causal", "Chunks", "Columns", "Full", "LogSteps", "Marked"),
        *("RandomBlocks", "SameLabel", "Segments", "Strided", "Window"),
    ),
    "ops.pattern": ("Coords", "PerHead"),
    "ops.partial": ("Distance",),
    "ops.attend": ("attend",),
    "ops.linear": ("kernel_attention",),
    "ops.lowering": ("parse",),
    "ops.lsh": ("lsh_attention",),
    "archs": ("ARCHS", "PAIRS"),
    "model": ("Model",),
    "pair": ("Pair",),
    "train.run": ("load",),
}
_ROOMS = ("archs", "hf", "model", "nn", "ops", "pair", "viz")
_WHERE = {name: home for home, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, imported on first use (SPEC 1, https://scientific-python.org/specs/spec-0001)."""
    if name in _ROOMS:
        return importlib.import_module(f"subquad.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'subquad' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"subquad.{_WHERE[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
