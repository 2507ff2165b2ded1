"""Labelled pictures in an .npz file.

`images` (n, height, width[, channels], uint8), or `jpeg` (all files end to end) and `length` (bytes
of each), which needs Pillow; and `label` or `caption`, one for each. `classes`, if it is there, are
the names of numbered labels. `split` decides the parts as it does for pictures without labels.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from subquad.data import sources
from subquad.data.decoding import Picture
from subquad.data.documents import PARTS
from subquad.data.example_files import Source, Table
from subquad.data.forms import Form
from subquad.data.npz import open_arrays
from subquad.data.pictures import cut, split_of

__all__ = ["find", "pictures_in"]

_NOT_COLUMNS = {"images", "jpeg", "length", "split", "classes"}


def find(where: Path, form: Form) -> Source:
    """The pictures of a file in parts. ValueError for arrays that do not fit each other."""
    if "image" not in form.fields:
        raise ValueError(f"{where} holds arrays, and {form.name} wants a table")
    arrays = _arrays(where)
    pictures = _pictures(where, arrays)
    part = split_of(where, arrays.get("split"), len(pictures))
    columns = {
        name: _told(where, name, array, len(pictures), arrays.get("classes"))
        for name, array in arrays.items()
        if name not in _NOT_COLUMNS
    }

    def rows(number: int) -> Callable[[], Iterator[dict[str, Any]]]:
        return lambda: (
            {"image": pictures[i], **{name: told[i] for name, told in columns.items()}}
            for i in np.flatnonzero(part == number).tolist()
        )

    tables = {p: [Table(where.name, rows(i))] for i, p in enumerate(PARTS)}
    return Source(where.name, sources.key_of([where]), tables)


def pictures_in(where: Path) -> list[Picture]:
    """All pictures of a file, whatever else it holds."""
    return _pictures(where, _arrays(where))


def _arrays(where: Path) -> dict[str, np.ndarray]:
    with open_arrays(where) as arrays:
        return dict(arrays)


def _pictures(where: Path, arrays: dict[str, np.ndarray]) -> list[Picture]:
    if "jpeg" in arrays and "length" in arrays:
        files = cut(where, arrays["jpeg"], arrays["length"])
        return [Picture(f"{where.name}: picture {i}", file) for i, file in enumerate(files)]
    images = arrays.get("images")
    if images is None:
        raise ValueError(
            f"{where.name} holds the arrays {', '.join(sorted(arrays))}; pictures are images, or "
            "jpeg and length"
        )
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise ValueError(
            f"{where.name}: images must be uint8 (n, height, width[, channels]), not "
            f"{images.dtype} {images.shape}"
        )
    return [Picture(f"{where.name}: picture {i}", image) for i, image in enumerate(images)]


def _told(
    where: Path, name: str, array: np.ndarray, count: int, classes: np.ndarray | None
) -> list[Any]:
    """A label or caption of each picture."""
    if array.shape != (count,):
        raise ValueError(
            f"{where.name}: {name} must hold one value for each of {count} pictures; it is "
            f"{array.shape}"
        )
    if classes is None or array.dtype.kind not in "iu" or not array.size:
        return array.tolist()
    if classes.ndim != 1:
        raise ValueError(f"{where.name}: classes must be a list of names; it is {classes.shape}")
    if array.min() < 0 or array.max() >= len(classes):
        raise ValueError(
            f"{where.name}: {name} counts from {array.min()} to {array.max()}, and there are "
            f"{len(classes)} classes"
        )
    return classes[array].tolist()
