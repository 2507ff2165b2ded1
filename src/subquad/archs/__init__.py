"""One file per paper: Config, build(config), PRESETS, and the paper card as its docstring.

`ARCHS` is the only list of them; tests, the command line and the Hugging Face shell go by it.
"""

import dataclasses
from difflib import get_close_matches
from types import MappingProxyType, ModuleType
from typing import Any

from subquad.archs import hybrid, linear_transformer, local, longformer, performer, transformer
from subquad.nn.choices import choose

__all__ = ["ARCHS", "configure"]

ARCHS: MappingProxyType[str, ModuleType] = MappingProxyType(
    {
        "transformer": transformer,
        "performer": performer,
        "linear_transformer": linear_transformer,
        "longformer": longformer,
        "local": local,
        "hybrid": hybrid,
    }
)


def configure(arch: str, fields: dict[str, Any]) -> Any:
    """The Config of an architecture from plain fields, as they stand in JSON.

    ValueError with the nearest name for an unknown architecture or field.
    """
    config = choose("architecture", arch, ARCHS).Config
    known = [f.name for f in dataclasses.fields(config)]
    for name in fields:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{arch} has no field {name!r}; {hint}known: {', '.join(known)}")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return config(**plain)
