"""Views: how pixels become what a model sees, and pictures from files that are named to it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subquad.data.decoding import SUFFIXES, Opened, Picture
from subquad.data.example_arrays import pictures_in
from subquad.data.rows import spread
from subquad.tasks.rows import Row

__all__ = ["View", "is_picture", "pixels_given", "read_pictures", "view_in"]

_SAMPLE = 4096  # training rows that mean and deviation are taken from
_LEAST = 1 / 255  # of a deviation: a channel that never changes is not blown up


@dataclass(frozen=True)
class View:
    """Pictures of one shape (height, width, channels), and mean and standard deviation of each
    channel, of pixels from 0 to 1.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "View":
        """The view of training rows: the shape is that of the first, the numbers those of 4,096 at
        most, evenly apart. ValueError if one has another shape.
        """
        first = rows[0]["image"].shape
        made = cls(first, (0.0,) * first[2], (1.0,) * first[2])
        chosen = spread(len(rows), _SAMPLE)
        total = torch.zeros(2, first[2], dtype=torch.float64)
        for i in chosen:
            try:
                pixels = made.seen(rows[i]["image"]).double().flatten(1)
            except ValueError as error:
                # no name is known of rows that are open already
                closed = rows.closed[i]["image"].name if isinstance(rows, Opened) else f"row {i}"
                raise ValueError(f"{closed}: {error}") from None
            total += torch.stack((pixels.mean(1), pixels.square().mean(1)))
        mean, square = total / len(chosen)
        std = (square - mean**2).clamp(min=_LEAST**2).sqrt()
        return cls(first, tuple(mean.tolist()), tuple(std.tolist()))

    @classmethod
    def told(cls, facts: dict[str, Any]) -> "View":
        """From what stands in run.json."""
        return cls(*(tuple(facts[name]) for name in ("shape", "mean", "std")))

    def seen(self, image: Any) -> Tensor:
        """Pixels (H, W, C) or (H, W), uint8, as the model sees them: (C, H, W) float32.

        ValueError for another shape: nothing is resized.
        """
        pixels = torch.as_tensor(image.copy() if hasattr(image, "copy") else image)
        pixels = pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels
        if pixels.dtype.is_floating_point or tuple(pixels.shape) != tuple(self.shape):
            raise ValueError(
                f"a picture is {_times(pixels.shape)} ({pixels.dtype}) and those of the training "
                f"rows are {_times(self.shape)} (height, width, channels; whole numbers 0 to 255); "
                "resize or convert it, nothing is resized here"
            )
        mean, std = (torch.tensor(t)[:, None, None] for t in (self.mean, self.std))
        return (pixels.permute(2, 0, 1).float() / 255 - mean) / std

    def pixels(self, image: Any) -> Tensor:
        """The same pixels as they are: (H, W, C) uint8."""
        self.seen(image)
        pixels = torch.as_tensor(image.copy() if hasattr(image, "copy") else image)
        return pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels

    @property
    def processor(self) -> dict[str, Any] | None:
        """The same for transformers' pipelines, which do resize; they read nothing but RGB."""
        if self.shape[2] != 3:
            return None
        return {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": self.shape[0], "width": self.shape[1]},
            "do_resize": True,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def view_in(folder: Path) -> View:
    """The view of a run over pictures, to begin from it. ValueError if it has none."""
    path = folder / "run.json"
    told = json.loads(path.read_text())["task_facts"] if path.is_file() else {}
    if "view" not in told:
        raise ValueError(f"{folder} is no run over pictures, so what it saw of them is not known")
    return View.told(told["view"])


def is_picture(name: str) -> bool:
    """Whether a name is one of a file with pictures."""
    return Path(name).suffix.lower() in {".npz", *SUFFIXES}


def pixels_given(value: Any) -> Tensor:
    """The pixels of a row of JSON, or of an array, uint8. ValueError for what holds none."""
    wanted = "an image is the name of a file, or whole numbers from 0 to 255"
    try:
        found = torch.as_tensor(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{wanted}: {error}") from None
    if found.is_floating_point() or found.is_complex() or ((found < 0) | (found > 255)).any():
        raise ValueError(wanted)
    return found.to(torch.uint8)


def read_pictures(path: Path) -> list[Any]:
    """The pictures of a file, uint8 (H, W, C). ValueError for what is missing, or no picture."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; a picture is a file, or .npz with images")
    if path.suffix.lower() == ".npz":
        return [picture.pixels() for picture in pictures_in(path)]
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"{path.name} is no picture that is read here: .npz, {known}")
    return [Picture(path.name, path).pixels()]
