"""Examples: rows of labelled data in parts, from a table, a folder, arrays or the hub.

    open_examples("reviews.csv", CLASSIFY).rows["train"][0]  ->  {"text": "...", "label": "good"}

What a row holds is its Form. A path is one of

FILE          a table (.jsonl, .json, .csv, .tsv, .conll; .xz, .gz and .bz2 of them), or .npz.
TRAIN,TEST    two such files, or three: TRAIN,VALID,TEST.
FOLDER        the first of these that it holds: tables called by their part (train.csv,
              reviews-valid.jsonl), folders called by their part, any tables, or a folder per class
              with a file per text or picture; folders of a part hold tables or classes.
SRC::TGT      two files whose lines are each other's translations (`subquad.data.parallel`).
OWNER/NAME    a data set of the Hugging Face hub, if no such path exists; OWNER/NAME:CONFIG.

Parts: train, valid (val, validation, dev) and test, where they are given, are taken at their word;
a twentieth of train, by a hash of the content, becomes valid where there is a test part and no
valid part. Without them, or with train alone, the same hash decides, 90/5/5. A row thus stays in
its part when others come, and equal rows, questions about one text, and rows with one picture file,
are never in two parts.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subquad.data.decoding import Opened, Pictured
from subquad.data.documents import PARTS, by_hash
from subquad.data.example_files import Source, find
from subquad.data.forms import Form, UnfitError

__all__ = ["Examples", "open_examples"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Examples:
    """Rows of train, valid and test; a part may be empty.

    source: what this is, in words.  key: changes when the content may have changed.
    left_out: reason -> how many rows were skipped for it.  left_in: the same of a part, where that
    is known: part -> reason -> how many; "": of rows of which nothing says a part.
    """

    rows: Mapping[str, Sequence[Row]]
    source: str
    key: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    left_in: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def left(self, part: str) -> Mapping[str, int]:
        """Reason -> how many rows of a part, or of `all`, were skipped for it."""
        if part == "all":
            return self.left_out
        return dict(Counter(self.left_in.get("", {})) + Counter(self.left_in.get(part, {})))

    def take(self, part: str) -> Sequence[Row]:
        """The rows of train, valid or test, or of `all`."""
        if part == "all":
            closed = [row for p in PARTS for row in self._closed(p)]
            opened = next((type(r) for r in self.rows.values() if isinstance(r, Opened)), None)
            return opened(closed) if opened else closed
        if part not in self.rows:
            raise ValueError(f"there is no part {part!r}; parts are all, {', '.join(PARTS)}")
        return self.rows[part]

    def column(self, name: str, part: str = "train") -> list[Any]:
        """One field of all rows of a part; no picture or recording is opened for it."""
        return [row[name] for row in self._closed(part)]

    def _closed(self, part: str) -> Sequence[Row]:
        rows = self.rows[part]
        return rows.closed if isinstance(rows, Opened) else rows


def open_examples(
    path: str | None,
    form: Form,
    *,
    columns: Mapping[str, str] | None = None,
    default: Callable[[], Examples] | None = None,
) -> Examples:
    """The examples at a path (None: the embedded ones, which `default` gives).

    columns: field of the form -> the column that holds it, for names that are not known.
    ValueError for what is missing, empty, damaged, or has no row that is whole.
    """
    if path is None:
        if default is None:
            raise ValueError(f"{form.name} has no embedded examples: give some with --data")
        if columns:
            raise ValueError("columns belong to data of your own: give them with --data")
        return default()
    source = find(path, form)
    left_in: dict[str, Counter[str]] = {part: Counter() for part in source.parts}
    given = {
        part: list(_whole(source, part, form, columns or {}, left_in[part]))
        for part in source.parts
    }
    left_out, count = sum(left_in.values(), Counter()), sum(map(len, given.values()))
    reasons = ", ".join(f"{many:,} with {why}" for why, many in left_out.items())
    if not count and left_out:
        raise ValueError(f"{source.says}: no row can be used; left out are {reasons}")
    if not count:
        raise ValueError(f"{source.says} holds no rows")
    rows: Mapping[str, Sequence[Row]] = _parted(given, form)
    sizes = ", ".join(f"{len(rows[part]):,} {part}" for part in PARTS)
    sizes += f"; left out: {reasons}" if reasons else ""
    if "image" in form.fields:
        rows = {part: Pictured(some) for part, some in rows.items()}
    asked = f"{source.key} {form.name} {sorted((columns or {}).items())}"
    key = hashlib.sha256(asked.encode()).hexdigest()[:32]
    return Examples(rows, f"{source.says} ({sizes})", key, dict(left_out), left_in)


def _whole(
    source: Source, part: str, form: Form, columns: Mapping[str, str], left_out: Counter[str]
) -> Iterator[Row]:
    """The rows of a part that are whole; the others are counted."""
    for table in source.parts[part]:
        for found in table.values(form, columns):
            try:
                yield form.whole(found)
            except UnfitError as reason:
                left_out[str(reason)] += 1


def _parted(given: Mapping[str, list[Row]], form: Form) -> dict[str, list[Row]]:
    """The rows of train, valid and test, from those that were given ("": of no part)."""
    if set(given) <= {"", "train"}:
        rows = [row for some in given.values() for row in some]
        part = hashed([form.identity(row) for row in rows])
        return {p: _chosen(rows, part == i) for i, p in enumerate(PARTS)}
    rows = {part: given.get(part, []) for part in PARTS}
    if "valid" not in given and "train" in given:
        held = hashed([form.identity(row) for row in rows["train"]]) == 1
        rows["train"], rows["valid"] = _chosen(rows["train"], ~held), _chosen(rows["train"], held)
    return rows


def hashed(names: Sequence[str]) -> np.ndarray:
    """The part of each name, 90/5/5; equal names are in one part."""
    own = list(dict.fromkeys(names))
    part = dict(zip(own, by_hash(own).tolist(), strict=True))
    return np.asarray([part[name] for name in names], np.int64)


def _chosen(rows: Iterable[Row], which: np.ndarray) -> list[Row]:
    return [row for row, yes in zip(rows, which.tolist(), strict=True) if yes]
