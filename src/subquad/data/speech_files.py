"""Places with recordings: a folder, or a .tar whose members are read where they are."""

import posixpath
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from subquad.data import cache, sources
from subquad.data.audio import SUFFIXES, Member, Sound
from subquad.data.example_files import part_of

__all__ = ["Place", "archive", "folder", "part_in", "tar_of"]

_PACKED = (".tar.gz", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True)
class Place:
    """Path inside of a folder or .tar -> where its bytes are.

    root: from where paths count that lead to other files; None: there are none.
    """

    says: str
    key: str
    files: Mapping[str, Path | Member]
    root: Path | None = None

    def lines(self, name: str) -> Iterator[tuple[int, str]]:
        """The lines of a text file with their numbers, from 1, without their ends."""
        at = self.files[name]
        data = at.read() if isinstance(at, Member) else at.read_bytes()
        for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            try:
                yield number, line.decode().removesuffix("\r")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{name} in {self.says}, line {number}, is not UTF-8: {error}"
                ) from None

    def sound(self, table: str, part: str, name: str) -> Sound | None:
        """The recording that a table calls so; None if there is none, or more than one."""
        base = posixpath.dirname(table)
        for path in (posixpath.join(base, name), posixpath.join(base, part, name)):
            path = posixpath.normpath(path)
            path = path if path in self.files else self._by_path.get(path, "")
            if path:
                return Sound(path, self.files[path])
        if (
            self.root is not None
            and (found := self.root / base / Path(name).expanduser()).is_file()
        ):
            return Sound(name, found)
        if path := self._by_name.get(PurePosixPath(name).name, ""):
            return Sound(path, self.files[path])
        return None

    @cached_property
    def _by_path(self) -> dict[str, str]:
        """Path without its suffix -> path of a recording."""
        return {
            posixpath.splitext(path)[0]: path
            for path in self.files
            if PurePosixPath(path).suffix.lower() in SUFFIXES
        }

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """File name, with its suffix and without, -> path of the only recording called so."""
        paths = self._by_path.values()
        called = [
            (name, p) for p in paths for name in {posixpath.basename(p), PurePosixPath(p).stem}
        ]
        many = Counter(name for name, _ in called)
        return {name: path for name, path in called if many[name] == 1}


def folder(where: Path) -> Place:
    """A folder with all that is below it."""
    found = sources.visible(where)
    files = {file.relative_to(where).as_posix(): file for file in found}
    return Place(f"the folder {where.name}", sources.key_of(found), files, where)


def tar_of(where: Path) -> bool:
    """Whether a file is a .tar, by its name."""
    return where.name.lower().endswith((".tar", *_PACKED))


def archive(where: Path) -> Place:
    """A .tar; one that is packed is unpacked once into the cache."""
    key, tar = sources.key_of([where]), where
    if where.suffix.lower() != ".tar":

        def unpack(into: Path) -> None:
            with sources.unpacked(where) as stream, open(into / "data.tar", "wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)

        tar = cache.entry("speech", key, unpack) / "data.tar"
    files = {}
    with sources.damage(where), tarfile.open(tar, "r:") as opened:
        for member in opened:
            if member.isfile() and not PurePosixPath(member.name).name.startswith("."):
                path = posixpath.normpath(member.name)
                files[path] = Member(tar, member.offset_data, member.size)
    return Place(where.name, key, files)


def part_in(path: str) -> str:
    """The part that a path speaks of: its first folder that does, or the file; or ""."""
    return next(filter(None, map(part_of, path.split("/"))), "")
