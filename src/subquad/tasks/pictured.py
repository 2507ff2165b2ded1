"""What tasks over pictures with texts share: how pixels are seen, the stem, the run folder."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from subquad.data.forms import CAPTION
from subquad.data.rows import spread
from subquad.nn.patches import grid_of
from subquad.tasks.rows import Row
from subquad.tasks.texts import TextTask
from subquad.tasks.views import View

__all__ = ["PicturedTask"]

_LEARNT = 2000  # captions that a vocabulary is learnt from


class PicturedTask(TextTask):
    """A task over pictures and their captions. Its `config` has `patch` and `dropout`."""

    form = CAPTION
    columns = ("image", "caption")
    _view: View | None = None

    def begin(self, folder: Path) -> None:
        raise ValueError(f"the task {self.name} begins afresh; leave --init-from {folder} out")

    def texts(self, rows: Sequence[Row]) -> Iterable[str]:
        return (rows[i]["caption"] for i in spread(len(rows), _LEARNT))

    def learn(self, rows: Sequence[Row]) -> None:
        super().learn(rows)
        if self._view is None:
            self._view = View.of(rows)
        grid_of(self.view.shape[:2], self.config.patch)

    @property
    def view(self) -> View:
        """Size and normalisation of pictures, known once data is open."""
        assert self._view is not None
        return self._view

    @property
    def patches(self) -> int:
        """How many there are in a picture."""
        down, across = grid_of(self.view.shape[:2], self.config.patch)
        return down * across

    def patch_stem(self, class_tokens: int) -> dict[str, Any]:
        """Fields of the stem that reads pictures."""
        height, width, channels = self.view.shape
        return {
            "kind": "patches",
            "image_size": [height, width],
            "patch": self.config.patch,
            "channels": channels,
            "class_tokens": class_tokens,
            "dropout": self.config.dropout,
        }

    def save(self, folder: Path) -> dict[str, Any]:
        return {**super().save(folder), "view": asdict(self.view)}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "PicturedTask":
        made = super().load(folder, facts)
        assert isinstance(made, PicturedTask)
        made._view = View.told(facts["view"])
        return made
