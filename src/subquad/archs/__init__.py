"""One file per paper: Config, build(config), PRESETS, and the paper card as its docstring.

`ARCHS` is the only list of them; tests, the command line and the Hugging Face shell go by it.
"""

from types import MappingProxyType, ModuleType
from typing import Any

from subquad.archs import (
    adaptive_span,
    hybrid,
    linear_transformer,
    local,
    longformer,
    perceiver_ar,
    performer,
    reformer,
    sparse_transformer,
    transformer,
    transformer_xl,
)
from subquad.nn.choices import choose, fill

__all__ = ["ARCHS", "configure"]

ARCHS: MappingProxyType[str, ModuleType] = MappingProxyType(
    {
        "transformer": transformer,
        "performer": performer,
        "linear_transformer": linear_transformer,
        "longformer": longformer,
        "local": local,
        "hybrid": hybrid,
        "adaptive_span": adaptive_span,
        "transformer_xl": transformer_xl,
        "perceiver_ar": perceiver_ar,
        "sparse_transformer": sparse_transformer,
        "reformer": reformer,
    }
)


#: the smallest sizes that can be; no layers leave stem and head
_LEAST = {"dim": 1, "num_layers": 0, "num_heads": 1, "ffn_dim": 1}


def configure(arch: str, fields: dict[str, Any]) -> Any:
    """The Config of an architecture from plain fields, as they stand in JSON.

    ValueError with the nearest name for an unknown architecture or field, for another type, or for
    a size that cannot be.
    """
    config = fill(arch, choose("architecture", arch, ARCHS).Config, fields)
    for name, least in _LEAST.items():
        if (size := getattr(config, name, least)) < least:
            raise ValueError(f"{arch}: {name} is {size}; it must be at least {least}")
    return config
