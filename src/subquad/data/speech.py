"""Speech with its transcripts, in parts.

    open_speech("an4.tar").rows["train"][0]
        ->  {"audio": float32 (S,) at 16 kHz, "text": "GO", "name": "an253-fash-b", "seconds": 1.3}

A path is a folder or a .tar of recordings with what is said in them, a manifest (both:
`speech_tables`), spoken digits in an .npz file (`speech_arrays`), or TRAIN,TEST or TRAIN,VALID,TEST
of those. Recordings are decoded when their row is asked for (`audio`); opening reads the headers.

Parts that are said are taken at their word; where valid or test is, a recording of which no part is
said is left out, and counted, since it may be one of the test part. If there is a test part and no
valid part, valid is made of train in the way that the test part is: of a tenth of the speakers, if
the test part has speakers of its own, else of a twentieth of the recordings. Without parts, or with
train alone, speakers go 90/5/5, or recordings where there are less than 20 speakers. All by a hash
of the names.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subquad.data import sources
from subquad.data.audio import Heard
from subquad.data.documents import PARTS
from subquad.data.examples import Examples, hashed
from subquad.data.forms import UnfitError
from subquad.data.speech_tables import COLUMNS, OUTSIDE, Spoken, find

__all__ = ["examples", "open_speech"]

Row = dict[str, Any]
_FEW = 20  # speakers
_NO_PART = "no part, where others are of valid or test"
# how much shorter than by its header a recording may be said to be: a share of it, and seconds
_ROUNDED, _ROUNDED_BY = 0.01, 0.1


def open_speech(
    path: str | None,
    *,
    columns: Mapping[str, str] | None = None,
    default: Callable[[], Examples] | None = None,
) -> Examples:
    """The recordings at a path (None: the embedded ones, which `default` gives).

    columns: audio, text, part or speaker -> the column of a manifest that holds it.
    ValueError for what is missing, empty or damaged, or has no recording that can be used.
    """
    for field in columns or {}:
        if field not in COLUMNS:
            raise ValueError(f"speech has no field {field!r}; known: {', '.join(COLUMNS)}")
    if path is None:
        if default is None:
            raise ValueError("there is no embedded speech: give some with --data")
        if columns:
            raise ValueError("columns belong to data of your own: give them with --data")
        return default()
    paths = [path]
    if "," in path and not Path(path).expanduser().exists():
        paths = [piece.strip() for piece in path.split(",")]
    if len(paths) > 3:
        raise ValueError(
            f"{path} names {len(paths)} places; TRAIN,TEST or TRAIN,VALID,TEST are read"
        )
    parts = {1: ("",), 2: ("train", "test"), 3: PARTS}[len(paths)]
    found, says, key = [], [], f"{sorted((columns or {}).items())}"
    for part, one in zip(parts, paths, strict=True):
        where = sources.existing(one)
        if where.suffix.lower() == ".npz":
            from subquad.data import speech_arrays

            place, spoken = speech_arrays.find(where)
        else:
            place, spoken = find(where, columns or {})
        found += [(part or row.part, row) for row in spoken]
        says.append(place.says)
        key += f" {part} {place.key}"
    return examples(found, " and ".join(says), hashlib.sha256(key.encode()).hexdigest()[:32])


def examples(found: Sequence[tuple[str, Spoken]], says: str, key: str) -> Examples:
    """Examples of recordings with their parts ("": none is said); left out is what cannot be used.

    ValueError if nothing can be.
    """
    left_in: dict[str, Counter[str]] = defaultdict(Counter)
    given: dict[str, list[tuple[Row, str]]] = {}
    for part, spoken in found:
        try:
            given.setdefault(part, []).append((_whole(part, spoken), spoken.speaker))
        except UnfitError as reason:
            left_in[part][str(reason)] += 1
    left_out: Counter[str] = sum(left_in.values(), Counter())
    if not any(given.values()):
        if not left_out:
            raise ValueError(f"{says} holds no recordings")
        reasons = ", ".join(f"{many:,} with {why}" for why, many in left_out.items())
        raise ValueError(f"{says}: no recording can be used; left out are {reasons}")
    given = {part: some for part, some in given.items() if some}
    if not set(given) <= {"", "train"} and (outside := given.pop("", [])):
        for counts in (left_out, left_in[""]):
            counts[_NO_PART] += len(outside)
    rows = _parted(given)
    hours = sum(row["seconds"] for some in rows.values() for row in some) / 3600
    sizes = ", ".join(f"{len(rows[part]):,} {part}" for part in PARTS)
    heard = {part: Heard(some) for part, some in rows.items()}
    says = f"{says} ({sizes}; {hours:.2f} hours)"
    return Examples(heard, says, key, dict(left_out), left_in)


def _whole(part: str, spoken: Spoken) -> Row:
    if part == OUTSIDE:
        raise UnfitError("a part that is none of train, valid and test")
    if not isinstance(spoken.text, str) or not (text := " ".join(spoken.text.split())):
        raise UnfitError("no text")
    if _number(spoken.offset):
        raise UnfitError("an offset into its file: cut that first")
    if spoken.sound is None:
        raise UnfitError("an audio file that is not there")
    seconds = spoken.sound.seconds()
    if _number(spoken.duration, seconds) < seconds * (1 - _ROUNDED) - _ROUNDED_BY:
        raise UnfitError("a duration shorter than its file: cut that first")
    return {"audio": spoken.sound, "text": text, "name": spoken.name, "seconds": seconds}


def _number(cell: Any, missing: float = 0.0) -> float:
    """What stands in a cell, NaN if it is no number; `missing` if nothing stands there."""
    if cell is None or cell == "":
        return missing
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def _parted(given: Mapping[str, list[tuple[Row, str]]]) -> dict[str, list[Row]]:
    """The rows of train, valid and test, from those with what was said ("": nothing)."""
    if set(given) <= {"", "train"}:
        rows = [pair for some in given.values() for pair in some]
        who = {speaker for _, speaker in rows}
        apart = "" not in who and len(who) >= _FEW
        part = hashed([speaker if apart else row["name"] for row, speaker in rows])
        return {p: _chosen(rows, part == i) for i, p in enumerate(PARTS)}
    parted = {part: [row for row, _ in given.get(part, [])] for part in PARTS}
    if "train" in given and "valid" not in given:
        pairs = given["train"]
        held = _held(pairs, {speaker for _, speaker in given.get("test", [])})
        parted["train"], parted["valid"] = _chosen(pairs, ~held), _chosen(pairs, held)
    return parted


def _held(pairs: Sequence[tuple[Row, str]], tested: set[str]) -> np.ndarray:
    """Which training rows become the valid part."""
    who = {speaker for _, speaker in pairs}
    if "" in who | tested or not tested or who & tested or len(who) < _FEW:
        return hashed([row["name"] for row, _ in pairs]) == 1
    order = sorted(who, key=lambda speaker: hashlib.sha256(speaker.encode()).digest())
    chosen = {*order[: len(order) // 10]}
    return np.asarray([speaker in chosen for _, speaker in pairs])


def _chosen(pairs: Sequence[tuple[Row, str]], which: np.ndarray) -> list[Row]:
    return [row for (row, _), yes in zip(pairs, which.tolist(), strict=True) if yes]
