"""Converters: checkpoints of others as ours and back, by tables that can be read against theirs.

One file per family: its rows of tensors (`subquad.convert.rows`) and fields of settings
(`subquad.convert.fields`). `FAMILIES` is the only list of them, by `model_type`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from subquad.convert import gpt2
from subquad.convert.family import Family

__all__ = ["FAMILIES"]

FAMILIES: Mapping[str, Family] = MappingProxyType({one.name: one for one in (gpt2.FAMILY,)})
