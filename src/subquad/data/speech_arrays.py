"""Spoken digits in an .npz file: arrays length, label, take, speaker, speakers, and all samples.

The samples stand as second differences, zig-zag coded, in three byte planes, each an .xz stream
(lo_xz, mid_xz, hi_xz); they are 16 bits at 8 kHz. Takes 0 to 4 are the test part, as the corpus has
it (Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset).
"""

import lzma
from pathlib import Path

import numpy as np

from subquad.data import sources
from subquad.data.audio import Samples, Sound
from subquad.data.npz import open_arrays
from subquad.data.speech_files import Place
from subquad.data.speech_tables import Spoken

__all__ = ["WORDS", "find"]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_RATE, _TEST_TAKES = 8_000, 5
_PLANES = ("lo_xz", "mid_xz", "hi_xz")
_WHOLE = ("length", "label", "take", "speaker")
_NEEDED = {*_PLANES, *_WHOLE, "speakers"}


def find(where: Path) -> tuple[Place, list[Spoken]]:
    """The recordings of a file. ValueError for arrays that are others or do not fit."""
    arrays = _arrays(where)
    length, label, take, speaker = (arrays[n] for n in _WHOLE)
    with sources.damage(where):
        planes = [_unpacked(arrays[p], int(length.sum())) for p in _PLANES]
    counts = [len(length), len(label), len(take), len(speaker)]
    if len({*counts}) > 1 or {len(plane) for plane in planes} != {int(length.sum())}:
        raise ValueError(
            f"{where.name}: length, label, take and speaker hold {counts} values, and the samples "
            f"are {[len(plane) for plane in planes]} of {int(length.sum())}"
        )
    if label.max(initial=0) >= len(WORDS) or speaker.max(initial=0) >= len(arrays["speakers"]):
        raise ValueError(
            f"{where.name}: labels must be below {len(WORDS)} (most {label.max()}), and speakers "
            f"below {len(arrays['speakers'])} (most {speaker.max()})"
        )
    coded = sum(plane.astype(np.int32) << 8 * i for i, plane in enumerate(planes))
    steps = (coded >> 1) ^ -(coded & 1)
    found = []
    for i, piece in enumerate(np.split(steps, np.cumsum(length)[:-1])):
        wave = np.cumsum(np.cumsum(piece, dtype=np.int64)).astype(np.int16)
        who = str(arrays["speakers"][speaker[i]])
        name = f"{label[i]}_{who}_{take[i]}"
        part = "test" if take[i] < _TEST_TAKES else "train"
        sound = Sound(name, Samples(wave, _RATE))
        found.append(Spoken(name, WORDS[label[i]], sound, part, who))
    return Place(where.name, sources.key_of([where]), {}), found


def _arrays(where: Path) -> dict[str, np.ndarray]:
    """What a file holds. ValueError for arrays that are missing, or of another kind."""
    with open_arrays(where) as opened:
        if missing := sorted(_NEEDED - set(opened)):
            raise ValueError(
                f"{where.name} holds the arrays {', '.join(sorted(opened))}; spoken digits have "
                f"{', '.join(missing)} too"
            )
        arrays = {name: opened[name] for name in _NEEDED}
    for name, array in arrays.items():
        if array.ndim != 1:
            raise ValueError(f"{where.name}: {name} must be a list, not {array.shape}")
        if name in _WHOLE and (array.dtype.kind not in "iu" or array.min(initial=0) < 0):
            raise ValueError(f"{where.name}: {name} must hold whole numbers from 0 on")
    return arrays


def _unpacked(plane: np.ndarray, most: int) -> np.ndarray:
    """The bytes of an .xz stream, one more at most than there should be."""
    made = lzma.LZMADecompressor().decompress(plane.tobytes(), most + 1)
    return np.frombuffer(made, np.uint8)
