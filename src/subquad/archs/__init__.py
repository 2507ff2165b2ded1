"""One file per paper: Config, build(config), PRESETS, and the paper card as its docstring.

`ARCHS` is the only list of them; tests, the command line and the Hugging Face shell go by it.
`PAIRS` is the only list of encoders with a decoder: Config, parts(config), PRESETS and a card.
"""

from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Any

from subquad.archs import (
    adaptive_span,
    bigbird,
    conformer,
    encoder_decoder,
    hybrid,
    led,
    linear_transformer,
    linformer,
    lite_pair,
    lite_transformer,
    local,
    logsparse,
    longformer,
    perceiver,
    perceiver_ar,
    perceiver_io,
    performer,
    reformer,
    sparse_transformer,
    transformer,
    transformer_xl,
    vit,
)
from subquad.nn.choices import choose, fill

__all__ = ["ARCHS", "PAIRS", "configure", "pair_parts"]

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
        "vit": vit,
        "linformer": linformer,
        "bigbird": bigbird,
        "perceiver": perceiver,
        "perceiver_io": perceiver_io,
        "conformer": conformer,
        "logsparse": logsparse,
        "lite_transformer": lite_transformer,
    }
)

PAIRS: MappingProxyType[str, ModuleType] = MappingProxyType(
    {"encoder_decoder": encoder_decoder, "led": led, "lite_pair": lite_pair}
)

#: the smallest sizes that can be; no layers leave stem and head
_LEAST = {"dim": 1, "num_layers": 0, "num_heads": 1, "ffn_dim": 1, "features": 1}
#: and the largest that are meant: a hostile file may name others, which no machine has memory for
_MOST = {
    "dim": 1 << 20,
    "num_layers": 1 << 12,
    "num_heads": 1 << 16,
    "ffn_dim": 1 << 22,
    "features": 1 << 20,
}


def configure(arch: str, fields: dict[str, Any], table: Mapping[str, ModuleType] = ARCHS) -> Any:
    """The Config of an architecture of a table from plain fields, as they stand in JSON.

    ValueError with the nearest name for an unknown architecture or field, for another type, or for
    a size that cannot be.
    """
    config = fill(arch, choose("architecture", arch, table).Config, fields)
    for name, least in _LEAST.items():
        if (size := getattr(config, name, least)) < least:
            raise ValueError(f"{arch}: {name} is {size}; it must be at least {least}")
    for name, most in _MOST.items():
        size = getattr(config, name, None)
        if isinstance(size, int) and size > most:
            raise ValueError(f"{arch}: {name} is {size}; it must be at most {most}")
    return config


def pair_parts(pair: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What `subquad.pair.build` takes for a pair of `PAIRS`, from fields of its Config as in JSON.

    ValueError with the nearest name for an unknown pair or field, or for another type.
    """
    made = choose("pair", pair, PAIRS)
    return made.parts(fill(pair, made.Config, fields))
