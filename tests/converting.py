"""Models of transformers through the library's converter, for tests against official classes."""

import json
from pathlib import Path
from typing import Any

import subquad.hf as shell
from subquad.convert.folder import convert


def converted(model: Any, folder: Path) -> Any:
    """What our shell loads, once theirs is saved in `folder` and converted."""
    model.save_pretrained(folder / "theirs")
    (folder / "ours").mkdir()
    convert(folder / "theirs", folder / "ours")
    (name,) = config(folder / "ours")["architectures"]
    return getattr(shell, name).from_pretrained(folder / "ours").eval()


def config(folder: Path) -> dict:
    """config.json of a saved model."""
    return json.loads((folder / "config.json").read_text())
