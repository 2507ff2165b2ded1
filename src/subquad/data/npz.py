"""Arrays in .npz and .npy files. What a file declares is checked before memory is taken for it.

An array's header says its type and shape; a damaged or hostile one says terabytes, or a type whose
values are pickled Python objects. No pickle is opened, and no array is made that its member does
not hold, or that this machine has no memory for.
"""

import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from subquad.data import sources

__all__ = ["Arrays", "memory", "open_arrays", "read_array"]


def memory() -> int:
    """Bytes of memory that data may take: half of what the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an open .npz file by name; each is read when it is asked for."""

    def __init__(self, where: Path, opened: zipfile.ZipFile) -> None:
        self.where, self.opened = where, opened
        self.members = {
            info.filename.removesuffix(".npy"): info
            for info in opened.infolist()
            if info.filename.endswith(".npy")
        }
        if (need := sum(info.file_size for info in self.members.values())) > memory():
            raise ValueError(
                f"{where} unpacks to {need:,} bytes, and at most {memory():,} are taken on this "
                "machine, half of its memory"
            )

    def __getitem__(self, name: str) -> np.ndarray:
        with _damage(self.where), self.opened.open(self.members[name]) as stream:
            return read_array(stream, self.members[name].file_size, f"{self.where}: {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


@contextmanager
def open_arrays(where: Path) -> Iterator[Arrays]:
    """The arrays of an .npz file. ValueError if it is none, or says what cannot be."""
    with _damage(where):
        if not zipfile.is_zipfile(where):
            raise ValueError(f"{where} is damaged: it is no .npz file")
        opened = zipfile.ZipFile(where)
    with opened:
        yield Arrays(where, opened)


def read_array(stream: BinaryIO, size: int, says: str) -> np.ndarray:
    """The array of an .npy stream of `size` bytes. ValueError if its header says anything else."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"its format is {version}, and (1, 0) and (2, 0) are read")
        shape, _, kind = _HEADERS[version](stream)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{says} is damaged, or no array: {reason}") from None
    if kind.hasobject:
        raise ValueError(f"{says} holds Python objects, a pickle that would run code: not opened")
    declared, there = math.prod(shape) * kind.itemsize, size - stream.tell()
    if declared != there or min(shape, default=0) < 0:
        raise ValueError(f"{says} declares {declared:,} bytes, and {there:,} are there")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@contextmanager
def _damage(where: Path) -> Iterator[None]:
    """What zip files raise besides when their directory is damaged, as one that names the file."""
    try:
        with sources.damage(where):
            yield
    except (RuntimeError, struct.error, OverflowError, AttributeError) as error:
        raise ValueError(f"{where} is damaged: {error}") from None
