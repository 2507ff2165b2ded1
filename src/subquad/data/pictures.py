"""Pictures as sequences of intensities: each picture a document, its dims the tokens 0 to 255.

A .npz file holds `images` (n, height, width[, channels], uint8), or `jpeg` (all files end to end)
and `length` (bytes of each), which needs Pillow. `split`, if it is there, is taken at its word:
0 train, 1 valid, 2 test; where it only tells 0 from 1, that is train and test, and a twentieth of
train (by a hash of the number) becomes valid. Without it a hash of the number decides, 90/5/5.

In which order a picture is read, its dims counted in raster order with the channel last:
`raster` as they are; `channels` one channel after another; or a file with a permutation p of their
numbers (.npy, or text), token t being dim p[t].
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from subquad.data.decoding import decode, pillow
from subquad.data.documents import Documents, Kind, by_hash, index, kept, pack
from subquad.data.npz import read_array
from subquad.data.vocabulary import Symbols

__all__ = ["Pixels", "cut", "open_pictures", "split_of"]

_ORDER = "order.npy"  # a permutation, in a run folder


@dataclass(frozen=True)
class Pixels(Kind):
    """Pictures of one shape (height, width, channels), read in one order.

    Bits per dim = sum of -log2 p over all tokens / their number; a dim is a byte, so it is also
    bits per byte.
    """

    shape: tuple[int, int, int]
    #: raster, channels, or the permutation: token t is the dim order[t]
    order: str | tuple[int, ...] = field(default="raster", repr=False)  # type: ignore[assignment]

    name, unit, member, metric = "pixels", "dims", "picture", "bits_per_dim"
    words = Symbols("pixels", 256)

    @cached_property
    def places(self) -> np.ndarray:
        """Token t is the dim places[t]."""
        dims = np.arange(math.prod(self.shape))
        if self.order == "raster":
            return dims
        if self.order == "channels":
            return dims.reshape(self.shape).transpose(2, 0, 1).reshape(-1)
        return np.asarray(self.order)

    @property
    def length(self) -> int:  # type: ignore[override]
        return math.prod(self.shape)

    @property
    def says(self) -> str:
        """In words, for errors and protocols."""
        order = self.order if isinstance(self.order, str) else "permuted"
        return f"pictures of {' x '.join(map(str, self.shape))} in {order} order"

    def measure(self, nats: float, tokens: int, documents: Documents) -> dict[str, float]:
        bits = nats / math.log(2) / max(tokens, 1)
        return {"bits_per_dim": bits, "dims": tokens, "pictures": len(documents)}

    def pictures(self, made: Sequence[bytes]) -> np.ndarray:
        """(n, height, width, channels), from the tokens of each; what is missing is black."""
        out = np.zeros((len(made), self.length), np.uint8)
        for row, ids in zip(out, made, strict=True):
            row[self.places[: len(ids)]] = np.frombuffer(ids, np.uint8)
        return out.reshape(-1, *self.shape)

    def check(self, out: Path | None) -> None:
        if out is None or out.suffix not in (".npz", ".png"):
            raise ValueError(
                f"pictures are written to a file: give --out FILE.png or FILE.npz, not {out}"
            )
        if out.suffix == ".png":
            pillow()
            if self.shape[2] not in (1, 3):
                raise ValueError(
                    f"a .png has 1 or 3 channels and these pictures {self.shape[2]}; give --out "
                    "FILE.npz"
                )

    def write(self, made: Sequence[bytes], out: Path) -> None:
        """`images`, which are read as data again, or one .png with all of them side by side."""
        images = self.pictures(made)
        if out.suffix == ".npz":
            np.savez_compressed(out, images=images)
        else:
            tiles = _tiled(images)
            pillow().fromarray(tiles[..., 0] if self.shape[2] == 1 else tiles).save(out)

    def save(self, folder: Path) -> dict[str, Any]:
        if isinstance(self.order, str):
            return {"shape": list(self.shape), "order": self.order}
        np.save(folder / _ORDER, self.places)
        return {"shape": list(self.shape), "order": _ORDER}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "Pixels":
        shape, order = tuple(facts["shape"]), facts["order"]
        if order == _ORDER:
            order = _permutation(str(folder / _ORDER), math.prod(shape))
        return cls(shape, order)


def open_pictures(where: Path, key: str, arrays: Any, order: str | tuple[int, ...]) -> Documents:
    """The pictures of an .npz file. ValueError for arrays that do not fit each other."""
    packed = "jpeg" in arrays
    first = next(_decoded(where, arrays))[None] if packed else arrays["images"]
    if first.dtype != np.uint8 or first.ndim not in (3, 4) or not first.size:
        raise ValueError(
            f"{where.name}: images must be uint8 (n, height, width[, channels]), not "
            f"{first.dtype} {first.shape}"
        )
    count = arrays["length"].size if packed else len(first)
    shape = (*first.shape[1:], 1)[:3]
    if order not in ("raster", "channels") and isinstance(order, str):
        order = _permutation(order, math.prod(shape))
    kind = Pixels(shape, order)
    part = split_of(where, arrays.get("split"), count)

    def fill(folder: Path) -> None:
        pictures = _decoded(where, arrays) if packed else iter(first)
        ends = pack(folder, (iter([p.reshape(-1)[kind.places].tobytes()]) for p in pictures))
        says = f"{where.name}{', from JPEG, which loses some,' if packed else ''} as {kind.says}"
        index(folder, ends, part, says, kind.member)

    digest = hashlib.sha256(kind.places.astype("<i8")).hexdigest()[:16]
    return kept(f"{key}-{digest}", fill, kind)


def split_of(where: Path, split: np.ndarray | None, count: int) -> np.ndarray:
    """The part of each picture, by the array `split` if there is one. ValueError if it is none."""
    numbers = [str(i) for i in range(count)]
    if split is None:
        return by_hash(numbers)
    if split.shape != (count,) or not set(np.unique(split)) <= {0, 1, 2}:
        raise ValueError(
            f"{where.name}: split must hold 0, 1 or 2 for each of {count} pictures; it is "
            f"{split.shape} with values {np.unique(split)[:5]}"
        )
    part = split.astype(np.int64)
    if part.max() < 2:
        part[part == 1] = 2
        part[(part == 0) & (by_hash(numbers) == 1)] = 1
    return part


def cut(where: Path, jpeg: np.ndarray, length: np.ndarray) -> Iterator[bytes]:
    """The files that lie end to end in an array. ValueError if their lengths do not fit it."""
    if length.ndim != 1 or length.dtype.kind not in "iu" or length.min(initial=0) < 0:
        raise ValueError(
            f"{where.name}: length must be a list of whole numbers from 0 on, not {length.dtype} "
            f"{length.shape}"
        )
    if not len(length) or sum(length.tolist()) != jpeg.nbytes:
        raise ValueError(
            f"{where.name}: jpeg has {jpeg.nbytes:,} bytes and length says {length.sum():,}"
        )
    raw, ends = jpeg.tobytes(), np.cumsum(length).tolist()
    return (raw[end - count : end] for end, count in zip(ends, length.tolist(), strict=True))


def _decoded(where: Path, arrays: Any) -> Iterator[np.ndarray]:
    """The pictures of the arrays jpeg and length, all of one shape."""
    shape = None
    for number, file in enumerate(cut(where, arrays["jpeg"], arrays["length"])):
        picture = decode(file, f"{where.name}: picture {number}")
        shape = shape or picture.shape
        if picture.shape != shape:
            raise ValueError(
                f"{where.name}: picture {number} is {picture.shape} and picture 0 is {shape}; "
                "all must be alike"
            )
        yield picture


def _permutation(name: str, dims: int) -> tuple[int, ...]:
    """What stands in a file. ValueError if it is no permutation of so many dims."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f"--task.order is raster, channels or a file; {name} is none of them")
    try:
        if path.suffix == ".npy":
            with open(path, "rb") as stream:
                order = read_array(stream, path.stat().st_size, name).reshape(-1)
        else:
            order = np.asarray([int(word) for word in path.read_text().split()])
        if order.dtype.kind not in "iu":
            raise ValueError(f"they are {order.dtype}")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{name} holds no whole numbers: {error}") from None
    if len(order) != dims or not (np.sort(order) == np.arange(dims)).all():
        raise ValueError(
            f"{name} has {len(order)} numbers and is no permutation of 0 to {dims - 1}, the dims "
            "of a picture"
        )
    return tuple(order.tolist())


def _tiled(images: np.ndarray) -> np.ndarray:
    """All pictures in a grid about as wide as it is high, black lines between them."""
    count, height, width, channels = images.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    out = np.zeros((down * (height + 1) - 1, across * (width + 1) - 1, channels), np.uint8)
    for i, image in enumerate(images):
        y, x = i // across * (height + 1), i % across * (width + 1)
        out[y : y + height, x : x + width] = image
    return out
