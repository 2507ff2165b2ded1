"""Data sets of GluonTS: a folder with metadata.json, and JSON lines in its folders train and test.

Entries without an item_id are called by their place, which says which belong together only if train
and test have as many.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from subquad.data import sources
from subquad.data.frequency import Frequency
from subquad.data.series import Collected, Series
from subquad.data.series_joined import joined
from subquad.data.series_sheet import Columns, Sheet
from subquad.data.tables import lines

__all__ = ["gluonts"]


def gluonts(
    where: Path, told: Path, asked: Frequency | None, least: float | None
) -> tuple[Series, np.ndarray | None]:
    """The series of a folder, of which `told` is the metadata, and how many steps are test.

    asked: the frequency that the user says.  least: the smallest target.
    """
    try:
        about = json.loads(told.read_text(encoding="utf-8"))
        frequency = Frequency.of(about["freq"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{told} names no frequency: {type(error).__name__}: {error}") from None
    if asked is not None and asked != frequency:
        raise ValueError(f"{told} says {frequency}, and {asked} is asked for")
    parts, nameless = {}, {"train": 0, "test": 0}
    for part in ("train", "test"):
        files = [f for f in sources.visible(where / part) if {".json", ".jsonl"} & {*f.suffixes}]
        if files:
            made = Collected()
            entries, nameless[part] = _entries(files, least, part == "test", made.counts)
            for name, (start, values) in entries.items():
                made.add(name, values, start, frequency)
            key = sources.key_of(files)
            parts[part] = made.done(f"the {part} part of {where.name}", key, frequency, dated=True)
    if not parts:
        raise ValueError(f"{where} has no JSON lines in train or test")
    if len(parts) == 2:
        if nameless["test"] > nameless["train"]:
            raise ValueError(
                f"{where} has {nameless['test']:,} entries without item_id in test and "
                f"{nameless['train']:,} in train; which belong together is not known, so name "
                "each by an item_id"
            )
        return joined(parts["train"], parts["test"])
    return next(iter(parts.values())), None


def _entries(
    files: list[Path], least: float | None, rolling: bool, counts: Counter[str]
) -> tuple[dict[str, tuple[np.datetime64, np.ndarray]], int]:
    """name -> (start, values) of each series, of those that come again, longer, the longest; and
    how many had no name: these are called by their place."""
    longest: dict[str, tuple[np.datetime64, np.ndarray]] = {}
    place = nameless = 0
    for file in files:
        for line, text in lines(file):
            sheet = Sheet(str(file), (), Columns())
            try:
                row = json.loads(text)
                start, target = row["start"], row["target"]
                if not isinstance(target, list):
                    raise TypeError(f"target is {str(target)[:40]!r} and no list")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{file} line {line} is no series with start and target: "
                    f"{type(error).__name__}: {error}"
                ) from None
            at = np.datetime64(sheet.date(start, line, "start"), "s")
            values = [sheet.number(x, line, f"target[{i}]", least) for i, x in enumerate(target)]
            name = str(row.get("item_id", place))
            place, nameless = place + 1, nameless + ("item_id" not in row)
            for other in row.keys() - {"start", "target", "item_id"}:
                counts[f"entries of {other} left unread"] += 1
            before = longest.get(name)
            if before is not None and not rolling:
                raise ValueError(f"{file} line {line} has series {name!r} a second time")
            if before is None or len(values) > len(before[1]):
                longest[name] = at, np.asarray(values, np.float32)
    return longest, nameless
