"""Which reader opens a file: by its suffix, and for .npz by the arrays inside. Else it is text."""

from pathlib import Path

from subquad.data import sources
from subquad.data.documents import PARTS, Documents, Kind
from subquad.data.events import PianoRolls, Voices, open_events
from subquad.data.npz import open_arrays
from subquad.data.pictures import Pixels, open_pictures
from subquad.data.proteins import Proteins, open_proteins
from subquad.data.text import Text, open_text

__all__ = ["KINDS", "open_documents"]

KINDS: dict[str, type[Kind]] = {k.name: k for k in (Text, Pixels, Proteins, Voices, PianoRolls)}
_FASTA = {".fasta", ".fa", ".faa"}
_PACKED = {".xz", ".gz", ".bz2"}


def open_documents(
    path: str | None, order: str | tuple[int, ...] = "raster", kind: Kind | None = None
) -> Documents:
    """The documents at a path (None: the embedded text).

    order: how pictures are read, see `pictures`.  kind: what they must be, read in its own order.
    ValueError for what is missing, empty, damaged, of no known kind, or not of the kind asked for.
    """
    found = _open(path, order if kind is None else kind.order)
    if kind is not None and found.kind != kind:
        raise ValueError(
            f"{found.source} holds {found.kind.says}, and this run is about {kind.says}"
        )
    if order != "raster" and not isinstance(found.kind, Pixels):
        raise ValueError(f"--task.order is for pictures; {found.source} holds {found.kind.says}")
    return found


def _open(path: str | None, order: str | tuple[int, ...]) -> Documents:
    where = None if path is None else sources.existing(path)
    if where is None or where.is_dir():
        return open_text(path)
    suffixes = [s.lower() for s in where.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    if suffixes and suffixes[-1] in _FASTA:
        return open_proteins(where)
    if where.suffix.lower() == ".npz":
        return _open_arrays(where, order)
    return open_text(path)


def _open_arrays(where: Path, order: str | tuple[int, ...]) -> Documents:
    key = sources.key_of([where])
    with open_arrays(where) as arrays:
        names = set(arrays)
        if "images" in names or {"jpeg", "length"} <= names:
            return open_pictures(where, key, arrays, order)
        if {*PARTS, *(f"{part}_len" for part in PARTS)} <= names:
            return open_events(where, key, arrays)
    raise ValueError(
        f"{where.name} holds the arrays {', '.join(sorted(names))}; known are pictures (images, or "
        "jpeg and length) and music (train, valid, test, each with its _len)"
    )
