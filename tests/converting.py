"""Models of transformers through the library's converter, for tests against official classes."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

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


def there_and_back(model: Any, folder: Path) -> Any:
    """Ours in float64; the tensors and settings that come back are those that went."""
    ours = converted(model, folder)
    (folder / "back").mkdir()
    convert(folder / "ours", folder / "back")
    went, came = (load_file(folder / w / "model.safetensors") for w in ("theirs", "back"))
    assert went.keys() == came.keys()
    assert all(torch.equal(went[k], came[k]) for k in went)
    assert config(folder / "theirs") == config(folder / "back")
    return ours.double()
