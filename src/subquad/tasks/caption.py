"""Captions: a picture is read, patch by patch, and a text written about it.

The encoder reads patches (`subquad.nn.patches`), pixels as in the task `image`; any architecture
that looks both ways may be it, and any that predicts the decoder (`archs.encoder_decoder`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from subquad.data.examples import Examples
from subquad.data.scenes import Scenes
from subquad.tasks.looks import patches, picture
from subquad.tasks.pictured import PicturedTask
from subquad.tasks.rows import Row
from subquad.tasks.views import pixels_given, read_pictures
from subquad.tasks.written import WrittenTask

__all__ = ["Caption", "CaptionConfig", "scenes"]

_COUNTS = {"train": 20_000, "valid": 1_000, "test": 2_000}


def scenes() -> Examples:
    """The embedded pictures and captions: a tenth of all combinations is only in valid and test."""
    rows = {part: Scenes(count, 0, part) for part, count in _COUNTS.items()}
    sizes = ", ".join(f"{count:,} {part}" for part, count in _COUNTS.items())
    return Examples(rows, f"made-up scenes, some combinations held out ({sizes})", "scenes-1")


@dataclass(frozen=True)
class CaptionConfig:
    """Fields of the task `caption`.

    Args:
        patch: side of a patch in pixels; it must divide both sides of a picture.
        target: tokens that are written at most, the end among them.
        tokenizer: 'bytes'; 'bpe:N', learnt from the training part; a tokenizer.json; a hub id.
        beams: of the search for the likeliest caption; 1 takes the likeliest token each time.
        dropout: of patches with their positions.
        valid_rows: rows of the validation part that are scored at each report.
        image: the column that names the picture's file; default: the usual names.
        caption: the column that holds the caption; default: the usual names.
    """

    patch: int = 8
    target: int = 64
    tokenizer: str = "bpe:400"
    beams: int = 1
    dropout: float = 0.0
    valid_rows: int = 500
    image: str | None = None
    caption: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("patch", 1), ("target", 2), ("beams", 1), ("valid_rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


class Caption(PicturedTask, WrittenTask):
    """The task `caption`."""

    name = "caption"
    Config = CaptionConfig
    default = staticmethod(scenes)
    reads = ("image",)
    writes = "caption"

    def inputs(self, row: Row) -> dict[str, Tensor]:
        return {"pixel_values": self.view.seen(row["image"])}

    def _source(self, row: Row, given: dict[str, Tensor]) -> tuple[list[str], Any]:
        height, width, _ = self.view.shape
        seen = picture(self.view.pixels(row["image"]), self.patch, 0, "source")
        return patches(height, width, self.patch, 0), seen

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        return [self.patches + self.config.target] * len(rows)

    def uncut(self, raw: Any) -> Row:
        return self.read(raw)  # pictures are of one size

    def read(self, raw: str | Path | dict[str, Any]) -> Row:
        """A row from a picture's file, the name of one, or a row of JSON that names it."""
        named = super().read(raw)["image"] if isinstance(raw, dict) else raw
        if not isinstance(named, str | Path):
            return {"image": pixels_given(named)}
        found = read_pictures(Path(named))
        if len(found) != 1:
            raise ValueError(f"{named} holds {len(found)} pictures; name files of one each")
        return {"image": found[0]}

    def parts(self, arch: str, fields: dict[str, Any]) -> dict[str, Any]:
        parts = super().parts(arch, fields)
        return {**parts, "encoder": {**parts["encoder"], "stem": self.patch_stem(0)}}
