"""What is said in recordings, and where that is written down.

Of a folder, and of a .tar as of the folder that it was packed from, the first of these is read:

transcripts.tsv    lines "part name text" or "name text" with tabs between; or columns that the
                   first line names
*.trans.txt        LibriSpeech's: lines "name text", beside the recordings
*.jsonl *.ndjson *.csv *.tsv   manifests: rows with columns for the recording and its text, and
                   maybe for the part and the speaker

A recording is named by its path from the table's folder, with its suffix or without, which may
leave out a folder of the part; or by the name of its file, where only one is called so.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subquad.data import sources
from subquad.data.audio import Sound
from subquad.data.speech_files import Place, archive, folder, part_in, tar_of

__all__ = ["COLUMNS", "OUTSIDE", "Spoken", "find", "speakers"]

Cells = tuple[int, list[str]]  # the number of a line, and what stands there

#: field -> names of columns taken for it, the first that is there
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "audio": ("audio_filepath", "audio", "path", "file", "file_name", "filename", "wav", "name"),
    "text": ("text", "transcript", "transcription", "sentence"),
    "part": ("split", "part", "subset"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "offset": ("offset",),
    "duration": ("duration",),
}
#: a part that is said and is none of train, valid and test
OUTSIDE = "?"
_MANIFESTS = (".jsonl", ".ndjson", ".csv", ".tsv")


@dataclass(frozen=True)
class Spoken:
    """What a table says of a recording. sound: None where there is no such file; part, speaker: ""
    where nothing says it; offset, duration: where in its file it begins and how long it is, as it
    stands there, if anything does."""

    name: str
    text: Any
    sound: Sound | None
    part: str = ""
    speaker: str = ""
    offset: Any = None
    duration: Any = None


def find(where: Path, columns: Mapping[str, str]) -> tuple[Place, list[Spoken]]:
    """All that is said at a path. ValueError if nothing is, or if a table cannot be read."""
    if where.name == "transcripts.tsv":
        where = where.parent
    if where.is_dir() or tar_of(where):
        place = folder(where) if where.is_dir() else archive(where)
        tables = _tables(place)
    elif where.name.lower().endswith(_MANIFESTS):
        place = Place(where.name, sources.key_of([where]), {where.name: where}, where.parent)
        tables = [where.name]
    else:
        raise ValueError(
            f"{where.name} is neither a folder, a .tar, an .npz file nor a manifest "
            f"({', '.join(_MANIFESTS)})"
        )
    found = [row for table in tables for row in _read(place, table, columns)]
    return place, found


def _tables(place: Place) -> list[str]:
    names = sorted(place.files)
    for ends in ("transcripts.tsv", ".trans.txt", _MANIFESTS):
        if found := [name for name in names if name.lower().endswith(ends)]:
            return found
    raise ValueError(
        f"{place.says} says nowhere what is spoken: it needs transcripts.tsv, *.trans.txt, or a "
        f"manifest ({', '.join(_MANIFESTS)}) with a row for each recording"
    )


def _read(place: Place, table: str, columns: Mapping[str, str]) -> Iterator[Spoken]:
    if table.endswith(".trans.txt"):
        for _, line in place.lines(table):
            name, _, text = line.strip().partition(" ")
            if name:
                sound = place.sound(table, "", name)
                yield Spoken(name, text, sound, part_in(table), name.split("-")[0])
        return
    rows = list(_rows(place, table))
    there = list(dict.fromkeys(column for row in rows for column in row))
    says = table if table in place.says else f"{table} in {place.says}"
    names = _matched(there, columns, says) if rows else {}
    said = [{field: row.get(column) for field, column in names.items()} for row in rows]
    known = speakers([str(found["audio"]) for found in said])
    for found in said:
        called, part = str(found["audio"] or ""), str(found.get("part") or "")
        sound = place.sound(table, part, called) if called else None
        part = (part_in(part) or OUTSIDE) if part else part_in(table)
        speaker = str(found.get("speaker") or known.get(called, ""))
        place_in = (found.get("offset"), found.get("duration"))
        yield Spoken(called, found["text"], sound, part, speaker, *place_in)


def speakers(names: Sequence[str]) -> dict[str, str]:
    """name -> speaker, where all are called "utterance-speaker-..." and speakers say several."""
    cut = {name: name.split("-") for name in names}
    if not all(len(words) > 2 for words in cut.values()):
        return {}
    found = {name: words[1] for name, words in cut.items()}
    return found if 2 * len({*found.values()}) <= len(found) else {}


def _matched(there: Sequence[str], given: Mapping[str, str], says: str) -> dict[str, str]:
    """field -> column."""
    lower = {name.strip().lower(): name for name in reversed(there)}
    found, has = {}, ", ".join(name[:40] for name in there)
    for field, usual in COLUMNS.items():
        if field in given:
            if given[field] not in there:
                raise ValueError(f"{says} has no column {given[field]!r}; its columns are {has}")
            found[field] = given[field]
        elif column := next((lower[name] for name in usual if name in lower), None):
            found[field] = column
        elif field in ("audio", "text"):
            raise ValueError(
                f"{says} has no column for {field} (one of {', '.join(usual)}); its columns are "
                f"{has}: say which one it is"
            )
    return found


def _rows(place: Place, table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table."""
    lines = place.lines(table)
    if table.lower().endswith((".jsonl", ".ndjson")):
        yield from _json(lines, table)
    elif table.lower().endswith(".csv"):
        cells = csv.reader((f"{line}\n" for _, line in lines), strict=True)
        try:
            yield from _named([(cells.line_num, row) for row in cells if row], table)
        except csv.Error as error:
            raise ValueError(f"{table} line {cells.line_num} is no CSV: {error}") from None
    else:
        yield from _named([(n, line.split("\t")) for n, line in lines if line], table)


def _json(lines: Iterator[tuple[int, str]], table: str) -> Iterator[dict[str, Any]]:
    for number, line in lines:
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{table} line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(
                    f"{table} line {number} is a {type(row).__name__}; a row is an object with "
                    "named columns"
                )
            yield row


def _named(cells: list[Cells], table: str) -> Iterator[dict[str, Any]]:
    """Rows from cells; without a first line that names columns they are (part,) name and text."""
    if not cells:
        return
    (_, names), *rows = cells
    if not {n.strip().lower() for n in names} & {n for some in COLUMNS.values() for n in some}:
        rows = cells
        names = {2: ["name", "text"], 3: ["part", "name", "text"]}.get(len(names), names)
    for number, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{table} line {number} has {len(row)} cells, and there are {len(names)} columns: "
                f"{', '.join(names)[:200]}"
            )
        yield dict(zip(names, row, strict=True))
