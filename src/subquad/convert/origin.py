"""Where a converted folder came from: what stands beside ours, for the way back."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["KEPT", "ORIGIN", "held", "kept_aside", "note", "read_origin"]

ORIGIN, KEPT = "convert.json", "aside.safetensors"


def read_origin(source: Path) -> dict[str, Any] | None:
    """convert.json, None if there is none. ValueError if it does not say it."""
    path = source / ORIGIN
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict) or not {"family", "class", "prefix", "tied", "config"} <= {
        *found
    }:
        raise ValueError(f"{path} does not say where it came from; remove it, and say --to FAMILY")
    if Path(found.get("file", "x")).name != found.get("file", "x"):
        raise ValueError(f"{path} names the file {found['file']!r}, which is no plain name")
    return found


def note(folder: Path, **told: Any) -> None:
    """Write more into convert.json, which is there."""
    path = folder / ORIGIN
    found = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**found, **told}, indent=2) + "\n", encoding="utf-8")


def kept_aside(source: Path) -> dict[str, Tensor]:
    """The tensors that had no place in ours."""
    from safetensors.torch import load_file

    return load_file(source / KEPT) if (source / KEPT).is_file() else {}


def held(made: dict[str, Tensor], origin: Mapping[str, Any]) -> dict[str, Any]:
    """What a torch file held: tensors alone, or beside the options of the training command."""
    if origin.get("inside") is None:
        return made
    told = {"args": Namespace(**origin["options"])} if origin["options"] else {}
    return {**told, origin["inside"]: made}
