"""What `subquad show` puts before a model: its inputs, and what stands on the axes of a map."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from subquad.data.vocabulary import Vocabulary

__all__ = ["Look", "frames", "patches", "picture", "spelled", "values"]


@dataclass(frozen=True)
class Look:
    """inputs: arguments of the model's forward, a batch of one row.

    labels: of an axis ("tokens", "source", "target", "patches") what stands at each position.
    over: the input itself, for weights to be laid on, as a page holds it; or None.
    """

    inputs: dict[str, Tensor]
    labels: Mapping[str, list[str]] = field(default_factory=dict)
    over: Mapping[str, Any] | None = None


def spelled(words: Vocabulary, ids: Iterable[int]) -> list[str]:
    """Each token as it is written; special ones by what they are for."""
    special = {words.pad: "<pad>", words.hidden: "<mask>", words.mark: "<mark>"}
    special[words.boundary] = "<end>"
    return [special.get(i) or words.decode([i]).decode(errors="replace") for i in map(int, ids)]


def patches(height: int, width: int, patch: int, before: int) -> list[str]:
    """Names of the patches of a picture, by line and column, `before` class tokens first."""
    places = [f"{y + 1}.{x + 1}" for y in range(height // patch) for x in range(width // patch)]
    return [*["<class>"] * before, *places]


def picture(pixels: Tensor, patch: int, before: int, axis: str) -> dict[str, Any]:
    """A picture (Y, X, S) uint8 of patches, `before` class tokens first."""
    height, width, channels = pixels.shape
    lines, columns = height // patch, width // patch
    shown = pixels if channels in (1, 3) else pixels[..., :1]
    return {
        "kind": "picture",
        "axis": axis,
        "count": before + lines * columns,
        "skip": before,
        "lines": lines,
        "columns": columns,
        **_raster(shown),
    }


def frames(features: Tensor, count: int, seconds: float) -> dict[str, Any]:
    """A spectrogram (T, bands) that became `count` tokens, low bands at the bottom."""
    low, high = features.amin(), features.amax()
    grey = ((features - low) / (high - low).clamp(min=1e-9) * 255).round().to(torch.uint8)
    raster = _raster(grey.T.flip(0).unsqueeze(-1))
    return {"kind": "spectrogram", "axis": "tokens", "count": count, "seconds": seconds, **raster}


def values(series: list[float | None], season: int) -> dict[str, Any]:
    """A series, a value for each token, None where it is missing."""
    return {
        "kind": "series",
        "axis": "tokens",
        "count": len(series),
        "values": series,
        "season": season,
    }


def _raster(pixels: Tensor) -> dict[str, Any]:
    """Pixels (Y, X, 1 or 3) uint8 as text."""
    raw = base64.b64encode(pixels.contiguous().numpy().tobytes()).decode()
    height, width, channels = pixels.shape
    return {"width": width, "height": height, "channels": channels, "pixels": raw}
