"""Attention swapped inside pretrained models of transformers: `subquad.hf.swap`."""

from subquad.hf.swapping.folder import SwapConfig, register
from subquad.hf.swapping.hashes import Hashes
from subquad.hf.swapping.model import new_cache, plan_of, restore, swap
from subquad.hf.swapping.positions import extend_positions
from subquad.hf.swapping.replacements import Exact, Features, Looks, Replacement

__all__ = [
    "Exact",
    "Features",
    "Hashes",
    "Looks",
    "Replacement",
    "SwapConfig",
    "extend_positions",
    "new_cache",
    "plan_of",
    "register",
    "restore",
    "swap",
]
