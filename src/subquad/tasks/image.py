"""Pictures: one label for each.

A picture is cut into patches (Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929), its
pixels less their mean over the training part, by their standard deviation, each channel by itself.
All pictures have the size of the first training row; none is resized or cropped here.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from subquad.archs import configure
from subquad.data.augment import Augment, Augmented
from subquad.data.forms import IMAGE
from subquad.data.shapes import coloured_shapes, shapes
from subquad.hf import SubquadConfig, SubquadForImageClassification
from subquad.nn.choices import choose
from subquad.nn.patches import grid_of
from subquad.nn.pooling import POOLS
from subquad.tasks.labels import Labels
from subquad.tasks.looks import Look, patches, picture
from subquad.tasks.one_label import OneLabelTask
from subquad.tasks.rows import Row
from subquad.tasks.views import View, pixels_given, read_pictures, view_in

__all__ = ["Image", "ImageConfig"]


@dataclass(frozen=True)
class ImageConfig:
    """Fields of the task `image`.

    Args:
        patch: side of a patch in pixels; it must divide both sides of a picture.
        pool: how a picture becomes one vector: first (a class token, put before the patches), last,
            mean, max (of each channel), or auto (last for architectures that only look back, else
            mean).
        position: learned for each patch, or none.
        dropout: of patches with their positions, and of the vector.
        shift: training pictures move by up to so many pixels each way.
        flip: the probability that a training picture is mirrored left to right.
        valid_rows: rows of the validation part that are scored at each report.
        image: the column that names the picture's file; default: the usual names.
        label: the column that holds the label; default: the usual names.
    """

    patch: int = 4
    pool: str = "auto"
    position: str = "learned"
    dropout: float = 0.1
    shift: int = 0
    flip: float = 0.0
    valid_rows: int = 1000
    image: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.patch < 1 or self.valid_rows < 1 or self.shift < 0 or not 0 <= self.flip <= 1:
            raise ValueError(
                f"patch {self.patch} and valid_rows {self.valid_rows} must be positive, shift "
                f"{self.shift} not negative, and flip {self.flip} a probability"
            )
        choose("pool", self.pool, {"auto": None, **POOLS})
        choose("stem position", self.position, {"learned": None, "none": None})


class Image(OneLabelTask):
    """The task `image`."""

    name = "image"
    Config = ImageConfig
    form = IMAGE
    default = staticmethod(shapes)
    many = staticmethod(coloured_shapes)
    reads = ("image",)
    metric = "accuracy"
    greater_is_better = True
    looks_ahead = True
    model_class: ClassVar[Any] = SubquadForImageClassification

    def __init__(
        self, config: ImageConfig, view: View | None = None, labels: Labels | None = None
    ) -> None:
        self.config, self._view, self._labels = config, view, labels
        self._stem: dict[str, Any] | None = None

    # --- data ---------------------------------------------------------------------------------

    def begin(self, folder: Path) -> None:
        self._stem = SubquadConfig.from_pretrained(folder, local_files_only=True).stem or {}
        if self._stem["kind"] != "patches":
            raise ValueError(f"{folder} has a stem of kind {self._stem['kind']!r}, not of patches")
        self._view = view_in(folder)

    def learn(self, rows: Sequence[Row]) -> None:
        if self._labels is None:
            parts = (self.known.column("label", part) for part in ("train", "valid"))
            self._labels = Labels.among(label for part in parts for label in part)
        if self._view is None:
            self._view = View.of(rows)
        grid_of(self.view.shape[:2], self.patch)

    @property
    def view(self) -> View:
        """Size and normalisation, known once data is open."""
        assert self._view is not None
        return self._view

    @property
    def labels(self) -> Labels:
        """The labels, known once data is open."""
        assert self._labels is not None
        return self._labels

    @property
    def patch(self) -> int:
        """The side of a patch: of the stem that training began with, or what is asked for."""
        return self.config.patch if self._stem is None else self._stem["patch"]

    def inputs(self, row: Row) -> dict[str, Tensor]:
        return {"pixel_values": self.view.seen(row["image"])}

    def targets(self, row: Row) -> dict[str, Tensor]:
        return {"labels": torch.tensor(self.labels.number(row["label"]))}

    def sizes(self, rows: Sequence[Row]) -> list[int]:
        down, across = grid_of(self.view.shape[:2], self.patch)
        return [down * across] * len(rows)

    def train_set(self, count: int, seed: int) -> Dataset:
        rows, vary = self.known.rows["train"], Augment(self.config.shift, self.config.flip)

        def item(number: int, draw: Any) -> dict[str, Tensor]:
            row = rows[number]
            return self.item({**row, "image": vary(row["image"], draw)})

        return Augmented(item, self.sizes(rows), count, seed)

    def read(self, raw: str | Path | dict[str, Any]) -> Row:
        """A row from a file (a picture, or .npz with some), the name of one, or a row of JSON."""
        if isinstance(raw, dict):
            found = super().read(raw)["image"]
            if isinstance(found, str | Path):
                return self.read(found)
            return {"image": pixels_given(found)}
        return {"images": read_pictures(Path(raw))}

    # --- model --------------------------------------------------------------------------------

    def build(self, arch: str, fields: dict[str, Any]) -> SubquadForImageClassification:
        c, (height, width, channels) = self.config, self.view.shape
        pool = c.pool
        if pool == "auto":
            pool = "last" if getattr(configure(arch, fields), "causal", False) else "mean"
        stem = self._stem or {
            "kind": "patches",
            "image_size": [height, width],
            "patch": c.patch,
            "channels": channels,
            "class_tokens": int(pool == "first"),
            "position": c.position,
            "dropout": c.dropout,
        }
        head = {"kind": "labels", "pool": pool, "dropout": c.dropout}
        return SubquadForImageClassification(
            SubquadConfig(arch=arch, model=fields, stem=stem, head=head, **self.labels.config)
        )

    def loss(self, model: nn.Module, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
        logits = model(pixel_values=batch["pixel_values"]).logits
        return F.cross_entropy(logits, batch["labels"], label_smoothing=label_smoothing)

    # --- answers ------------------------------------------------------------------------------

    def predict(self, model: Any, row: Row) -> Any:
        """What the model says to a picture; of a file that may hold several, to each of them."""
        if "images" not in row:
            return super().predict(model, row)
        found = [super(Image, self).predict(model, {"image": one}) for one in row["images"]]
        return found[0] if len(found) == 1 else found

    def look(self, model: Any, raw: Any) -> Look:
        row = self.read(raw)
        image = row["images"][0] if "images" in row else row["image"]
        before = model.model.stem.class_tokens
        height, width, _ = self.view.shape
        over = picture(self.view.pixels(image), self.patch, before, "tokens")
        names = patches(height, width, self.patch, before)
        return Look(self.batch(model, [{"image": image}]), {"tokens": names}, over)

    def told(self, answer: Any) -> str:
        some = answer if isinstance(answer, list) else [answer]
        return "\n".join(f"{one['label']}  {one['probability']:.3f}" for one in some)

    # --- the run folder -----------------------------------------------------------------------

    def save(self, folder: Path) -> dict[str, Any]:
        if (processor := self.view.processor) is not None:
            text = json.dumps(processor, indent=2)
            (folder / "preprocessor_config.json").write_text(text + "\n")
        told = {"config": asdict(self.config), "labels": self.labels.names}
        return {**told, "view": asdict(self.view), "stem": self._stem}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "Image":
        view = View.told(facts["view"])
        made = cls(ImageConfig(**facts["config"]), view, Labels(facts["labels"]))
        made._stem = facts["stem"]
        return made
