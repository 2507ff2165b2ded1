"""Where examples come from: the tables, folders of classes, arrays or hub data set of a path."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from subquad.data import sources
from subquad.data.decoding import SUFFIXES, Picture
from subquad.data.documents import NAMED, PARTS
from subquad.data.forms import Form
from subquad.data.tables import READERS, lines, reader

__all__ = ["Source", "Table", "find", "part_of"]

Row = dict[str, Any]
_PEEK = 100  # rows in which columns are looked for
_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")


@dataclass(frozen=True)
class Table:
    """Rows of named columns, read anew at each call.

    root: the folder from which the paths of pictures count.
    """

    says: str
    rows: Callable[[], Iterator[Row]]
    root: Path = Path()

    def values(self, form: Form, columns: Mapping[str, str]) -> Iterator[Row]:
        """Each row as field -> what its column holds. ValueError if there is no such column."""
        rows = (_flat(row, form.inside) for row in self.rows())
        first = list(islice(rows, _PEEK))
        there = list(dict.fromkeys(name for row in first for name in row))
        names = _matched(form, there, columns, self.says) if first else {}
        for row in chain(first, rows):
            found = {field: row.get(name) for field, name in names.items()}
            if isinstance(image := found.get("image"), str):
                found["image"] = Picture(image, self.root / image) if image else None
            yield found


def _flat(row: Row, inside: str) -> Row:
    """A row with the names of what it holds inside as columns."""
    found = row.get(inside)
    if not isinstance(found, dict):
        return row
    return {name: value for name, value in row.items() if name != inside} | found


@dataclass(frozen=True)
class Source:
    """Tables of each part that is given; those under "" are of no part."""

    says: str
    key: str
    parts: Mapping[str, Sequence[Table]]


def _matched(
    form: Form, there: Sequence[str], given: Mapping[str, str], says: str
) -> dict[str, str]:
    """field -> column."""
    for name in given:
        if name not in form.fields:
            known = ", ".join(form.fields)
            raise ValueError(f"{form.name} has no field {name!r} for a column; known: {known}")
    has = ", ".join(name[:40] for name in there) or "none"
    lower = {name.strip().lower(): name for name in reversed(there) if name not in given.values()}
    names = {}
    for field, usual in form.fields.items():
        if field in given:
            if given[field] not in there:
                raise ValueError(f"{says} has no column {given[field]!r}; its columns are {has}")
            names[field] = given[field]
        elif column := next((lower[name] for name in usual if name in lower), None):
            names[field] = column
        elif field not in form.optional:
            raise ValueError(
                f"{says} has no column for {field} (one of {', '.join(usual)}); its columns are "
                f"{has}: say which one it is"
            )
    return names


def find(path: str, form: Form) -> Source:
    """The source at a path. ValueError if there is nothing, or nothing that can be read."""
    named = Path(path).expanduser()
    if "::" in path and not named.exists():
        from subquad.data import parallel

        return parallel.find(path, form)
    if "," in path and not named.exists():
        return _listed(path.split(","), form)
    here = named.exists() or named.suffix.lower() == ".npz" or reader(named)
    if not here and _HUB.fullmatch(path):
        from subquad.data import hub

        return hub.find(path)
    where = sources.existing(path)
    if where.is_dir():
        return _folder(where, form)
    if where.suffix.lower() == ".npz":
        from subquad.data import example_arrays

        return example_arrays.find(where, form)
    return Source(where.name, sources.key_of([where]), {"": [_table(where)]})


def _listed(paths: Sequence[str], form: Form) -> Source:
    """TRAIN,TEST or TRAIN,VALID,TEST."""
    where = [sources.existing(path.strip()) for path in paths]
    if len(where) > 3:
        raise ValueError(
            f"{','.join(paths)} names {len(where)} files; TRAIN,TEST or TRAIN,VALID,TEST are read"
        )
    parts = PARTS if len(where) == 3 else ("train", "test")
    tables = [_inside(w, form) if w.is_dir() else [_table(w)] for w in where]
    files = [f for w in where for f in (sources.visible(w) if w.is_dir() else [w])]
    says = " and ".join(w.name for w in where)
    return Source(says, sources.key_of(files), dict(zip(parts, tables, strict=True)))


def _table(where: Path) -> Table:
    read = reader(where)
    if read is None:
        raise ValueError(
            f"{where} is no table that is read here: {', '.join(READERS)} are, plain or as .xz, "
            ".gz or .bz2"
        )
    return Table(str(where), lambda: read(where), where.parent)


def part_of(name: str) -> str:
    """The part that the name of a file or folder speaks of, or ""."""
    words = re.split(r"[._\-]", name.lower())
    return next((PARTS[NAMED[word]] for word in words if word in NAMED), "")


def _folder(where: Path, form: Form) -> Source:
    files = sources.visible(where)
    if not files:
        raise ValueError(f"the folder {where} holds no files")
    parts: dict[str, list[Table]] = {}
    for file in (f for f in files if f.parent == where and reader(f)):
        if part := part_of(file.name):
            parts.setdefault(part, []).append(_table(file))
    if not parts:
        for folder in sorted(f for f in where.iterdir() if f.is_dir()):
            if folder.name.lower() in NAMED:
                parts.setdefault(part_of(folder.name), []).extend(_inside(folder, form))
    says = f"the folder {where.name}"
    return Source(says, sources.key_of(files), parts or {"": _inside(where, form)})


def _inside(where: Path, form: Form) -> list[Table]:
    """The tables of a folder, or else its classes."""
    files = sources.visible(where)
    if tables := [_table(f) for f in files if f.parent == where and reader(f)]:
        return tables
    if "label" not in form.fields:
        raise ValueError(f"the folder {where} holds no tables ({', '.join(READERS)})")
    members = [f for f in files if f.parent != where]
    pictures = "image" in form.fields
    if pictures:
        members = [f for f in members if f.suffix.lower() in SUFFIXES]
    if not members:
        kind = "pictures" if pictures else "texts"
        raise ValueError(
            f"the folder {where} holds neither tables nor a folder per class of {kind}"
        )
    return [Table(str(where), lambda: (_member(f, where, pictures) for f in members))]


def _member(file: Path, root: Path, picture: bool) -> Row:
    name = file.relative_to(root)
    if picture:
        return {"image": Picture(name.as_posix(), file), "label": name.parts[0]}
    return {"text": "".join(line for _, line in lines(file)), "label": name.parts[0]}
