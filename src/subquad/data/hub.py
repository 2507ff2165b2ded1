"""Examples of the Hugging Face hub, through the package `datasets`, which keeps them on disk."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from subquad.data.decoding import Picture
from subquad.data.example_files import Source, Table, part_of

__all__ = ["find"]

Row = dict[str, Any]


def find(name: str) -> Source:
    """The data set OWNER/NAME or OWNER/NAME:CONFIG. ValueError if it is not to be had."""
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"there is nothing at {name}; to read it as a data set of the hub: pip install datasets"
        ) from None
    owner, _, config = name.partition(":")
    try:
        found = datasets.load_dataset(owner, config or None)
    except Exception as error:  # of the package, of the network, of the data
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"there is nothing at {name}, and the hub gives no such data set: {reason}"
        ) from error
    parts: dict[str, list[Table]] = {}
    for split, rows in found.items():
        if part := part_of(split):
            parts.setdefault(part, []).append(Table(f"{name} {split}", _rows(rows, datasets)))
    if not parts:
        parts = {"": [Table(f"{name} {split}", _rows(r, datasets)) for split, r in found.items()]}
    prints = " ".join(rows._fingerprint for rows in found.values())
    return Source(f"{name} of the hub", hashlib.sha256(prints.encode()).hexdigest(), parts)


def _rows(rows: Any, datasets: Any) -> Callable[[], Iterator[Row]]:
    """The rows of a split: classes by their names, pictures closed."""
    change: dict[str, Callable[[Any], Any]] = {}
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
            change[column] = _picture
        elif (names := getattr(feature, "names", None)) is not None:
            change[column] = _named(names)
        elif (names := getattr(getattr(feature, "feature", None), "names", None)) is not None:
            change[column] = _each(_named(names))
    unchanged: Callable[[Any], Any] = lambda value: value  # noqa: E731
    return lambda: (
        {column: change.get(column, unchanged)(value) for column, value in row.items()}
        for row in rows
    )


def _named(names: list[str]) -> Callable[[int | None], str | None]:
    """Numbers of classes to their names; -1 is said where there is no label."""
    return lambda number: None if number is None or number < 0 else names[number]


def _each(change: Callable[[Any], Any]) -> Callable[[list | None], list | None]:
    return lambda values: None if values is None else [change(value) for value in values]


def _picture(found: dict[str, Any] | None) -> Picture | None:
    """A picture named by its content."""
    if found is None:
        return None
    data = found["bytes"]
    if data is None:
        return Picture(Path(found["path"]).name, Path(found["path"]))
    return Picture(hashlib.sha256(data).hexdigest(), data)
