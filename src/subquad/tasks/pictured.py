"""What tasks over pictures with texts share: how pixels are seen, the stem, the run folder."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from subquad.data.forms import CAPTION
from subquad.data.rows import spread
from subquad.nn.patches import grid_of
from subquad.tasks.encoder import words_in
from subquad.tasks.pairs import ends_in
from subquad.tasks.rows import Row
from subquad.tasks.texts import TextTask
from subquad.tasks.views import View, view_in

__all__ = ["PicturedTask"]

_LEARNT = 2000  # captions that a vocabulary is learnt from


class PicturedTask(TextTask):
    """A task over pictures and their captions. Its `config` has `patch` and `dropout`."""

    form = CAPTION
    columns = ("image", "caption")
    #: kinds of heads of what training may begin with
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    _view: View | None = None

    def begin(self, folder: Path) -> None:
        self._stem = ends_in(folder, ("patches",), self.heads, f"a run of the task {self.name}")
        self._words, self._view = words_in(folder), view_in(folder)

    def texts(self, rows: Sequence[Row]) -> Iterable[str]:
        return (rows[i]["caption"] for i in spread(len(rows), _LEARNT))

    def learn(self, rows: Sequence[Row]) -> None:
        super().learn(rows)
        if self._view is None:
            self._view = View.of(rows)
        grid_of(self.view.shape[:2], self.patch)

    @property
    def patch(self) -> int:
        """The side of a patch: of what training began with, or what is asked for."""
        return self.config.patch if self._stem is None else self._stem["encoder"]["patch"]

    @property
    def view(self) -> View:
        """Size and normalisation of pictures, known once data is open."""
        assert self._view is not None
        return self._view

    @property
    def patches(self) -> int:
        """How many there are in a picture."""
        down, across = grid_of(self.view.shape[:2], self.patch)
        return down * across

    def remark(self, row: Row) -> str:
        return ""  # a picture is seen whole

    def patch_stem(self, class_tokens: int) -> dict[str, Any]:
        """Fields of the stem that reads pictures."""
        if self._stem is not None:
            return self._stem["encoder"]
        height, width, channels = self.view.shape
        return {
            "kind": "patches",
            "image_size": [height, width],
            "patch": self.patch,
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
