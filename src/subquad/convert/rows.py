"""Rows: which tensors there are which tensors here, both ways.

    Row("h.{layer}.mlp.c_fc.*", "backbone.blocks.{layer}.mlp.up.*", Transpose())

`{name}` counts from 0 to below the size of that name, or through a range, a row each; `{*name}`
does so within a row. A name that ends in `.*` stands for `.weight` and `.bias`. What begins with
"aside." has no place in our model and is kept beside it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from subquad.convert.changes import Change, Sizes

__all__ = [
    "ASIDE",
    "Absent",
    "Constant",
    "Made",
    "Row",
    "Spare",
    "Tied",
    "back",
    "report_keys",
    "there",
    "untied",
]

ASIDE = "aside."
#: layers, as the architectures have them: rows are counted out before tensors are looked for
_MOST = 1 << 12
#: how many keys an error lists
LISTED = 10


@dataclass(frozen=True, init=False)
class Row:
    """Names there, names here, and the changes between, in order from there to here."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    changes: tuple[Change, ...]

    def __init__(self, theirs: str | Sequence[str], ours: str | Sequence[str], *changes: Change):
        for name, value in (("theirs", theirs), ("ours", ours)):
            names = (value,) if isinstance(value, str) else tuple(value)
            object.__setattr__(self, name, names)
        object.__setattr__(self, "changes", changes)

    @property
    def spare(self) -> bool:
        """May both sides lack it?"""
        return False


class Spare(Row):
    """A row that may be absent: what our model does not need, and the way back does if it was."""

    @property
    def spare(self) -> bool:
        return True


@dataclass(frozen=True)
class Tied:
    """A second name there for what another row carries; files may leave it out.

    ours: what it is here in a model whose words are not tied; None where it is always tied.
    """

    theirs: str
    of: str
    ours: str | None = None


@dataclass(frozen=True)
class Constant:
    """What their files may hold and their code makes anew, too large to keep: masks."""

    theirs: str


@dataclass(frozen=True)
class Absent:
    """A bias of ours that they do not have: zeros, and zeros it must be on the way back.

    `like`: the parameter of ours whose first axis tells its size.
    """

    ours: str
    like: str


@dataclass(frozen=True)
class Made:
    """What of ours is no weight of theirs: drawn or counted out, and left out on the way back."""

    ours: str
    make: Callable[[], Tensor]


Entry = Row | Tied | Constant | Absent | Made


def there(rows: Sequence[Entry], tensors: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """Ours, from theirs. ValueError lists what is missing, and what no row knows."""
    made: dict[str, Tensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    expanded = [one for row in rows for one in expand(row, sizes)]
    for row in expanded:
        if not isinstance(row, Row):
            continue
        lacks = [name for name in row.theirs if name not in tensors]
        if lacks:
            missing += [] if row.spare else lacks
            continue
        used |= {*row.theirs}
        made |= _changed(row, tensors, sizes)
    for row in expanded:
        if isinstance(row, Tied | Constant) and row.theirs in tensors:
            used.add(row.theirs)
            if isinstance(row, Tied) and row.of in tensors:
                _same(row, tensors)
    extra = [name for name in tensors if name not in used]
    report_keys(missing, extra)
    for row in expanded:
        if isinstance(row, Absent):
            like = made[row.like]
            made[row.ours] = like.new_zeros(like.shape[0])
        if isinstance(row, Made):
            made[row.ours] = row.make()
    return made


def back(rows: Sequence[Entry], tensors: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """Theirs, from ours and what was kept aside. ValueError for what they have no place for."""
    made: dict[str, Tensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    for row in (one for many in rows for one in expand(many, sizes)):
        if isinstance(row, Absent | Made):
            used.add(row.ours)
        if isinstance(row, Absent) and row.ours in tensors and bool(tensors[row.ours].any()):
            raise ValueError(f"{row.ours} is not zero, and they have no such bias: train without")
        if not isinstance(row, Row):
            continue
        lacks = [n for n in row.ours if n not in tensors and not n.startswith(ASIDE)]
        here = [n for n in row.ours if n in tensors]
        if lacks or not here:
            missing += [] if row.spare else lacks
            continue
        used |= {*here}
        given = [tensors[name] for name in here]
        try:
            for step in reversed(row.changes):
                given = step.back(given, len(row.theirs), sizes)
        except ValueError as error:
            raise ValueError(f"{', '.join(here)}: {error}") from error
        made |= dict(zip(row.theirs, given, strict=True))
    report_keys(missing, [name for name in tensors if name not in used])
    return made


def untied(rows: Sequence[Entry]) -> list[Entry]:
    """Rows of a model that does not tie its words."""
    return [
        Row(row.theirs, row.ours) if isinstance(row, Tied) and row.ours else row for row in rows
    ]


def expand(row: Entry, sizes: Sizes) -> Iterator[Entry]:
    """A row for each layer, and for weight and bias."""
    told = (name for name in row.__dataclass_fields__ if name not in ("changes", "make"))
    names = {name: getattr(row, name) for name in told}
    every = [n for v in names.values() for n in ([v] if isinstance(v, str) else v or ())]
    counters = {c for name in every for c in re.findall(r"{(\w+)}", name)}
    assert len(counters) < 2, f"{row} counts by {counters}"
    kinds = ("weight", "bias") if every[0].endswith(".*") else ("",)
    for counter in counters or {""}:
        for i in _counted(sizes[counter]) if counter else (0,):
            for kind in kinds:

                def put(name: str, counter: str = counter, i: int = i, kind: str = kind) -> str:
                    name = name.replace(f"{{{counter}}}", str(i))
                    return name[:-1] + kind if name.endswith(".*") else name

                yield _with(row, {k: _map(put, _within(v, sizes)) for k, v in names.items()})


def _counted(size: int | range) -> range:
    rows = range(size) if isinstance(size, int) else size
    if len(rows) > _MOST:
        raise ValueError(f"the configuration has {size:,} layers; at most {_MOST:,} are read")
    return rows


def _within(names: Any, sizes: Sizes) -> Any:
    """Names with each `{*name}` counted out."""
    if not isinstance(names, tuple):
        return names
    made: list[str] = []
    for name in names:
        found = re.search(r"{\*(\w+)}", name)
        counted = _counted(sizes[found[1]]) if found else ()
        made += [name.replace(found[0], str(i)) for i in counted] if found else [name]
    return tuple(made)


def report_keys(missing: Sequence[str], extra: Sequence[str]) -> None:
    """ValueError that lists the first of both, if there are any."""
    said = [
        f"{len(names)} {what}: {', '.join(sorted(names)[:LISTED])}"
        + (", ..." if len(names) > LISTED else "")
        for what, names in (("missing", missing), ("unknown", extra))
        if names
    ]
    if said:
        raise ValueError(f"the tensors are not those of its configuration; {'; '.join(said)}")


def _changed(row: Row, tensors: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    given = [tensors[name] for name in row.theirs]
    try:
        for step in row.changes:
            given = step.there(given, len(row.ours), sizes)
    except ValueError as error:
        raise ValueError(f"{', '.join(row.theirs)}: {error}") from error
    return dict(zip(row.ours, given, strict=True))


def _same(row: Tied, tensors: Mapping[str, Tensor]) -> None:
    if not torch.equal(tensors[row.theirs], tensors[row.of]):
        raise ValueError(f"{row.theirs} and {row.of} are one in its configuration, and differ here")


def _with(row: Entry, names: dict) -> Entry:
    made = isinstance(row, Row) and type(row)(names["theirs"], names["ours"], *row.changes)
    return made or replace(row, **names)


def _map(put: Callable[[str], str], value: str | Sequence[str] | None) -> Any:
    if value is None or isinstance(value, str):
        return value and put(value)
    return tuple(map(put, value))
