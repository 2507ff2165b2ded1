"""Attention swapped inside pretrained models of transformers: `subquad.hf.swap`."""

from subquad.hf.swap.folder import SwapConfig, register
from subquad.hf.swap.model import plan_of, restore, swap
from subquad.hf.swap.parts import Exact, Features, Looks, Replacement

__all__ = [
    "Exact",
    "Features",
    "Looks",
    "Replacement",
    "SwapConfig",
    "plan_of",
    "register",
    "restore",
    "swap",
]
