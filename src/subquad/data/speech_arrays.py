"""Spoken digits in an .npz file: arrays length, label, take, speaker, speakers, and all samples.

The samples stand as second differences, zig-zag coded, in three byte planes, each an .xz stream
(lo_xz, mid_xz, hi_xz); they are 16 bits at 8 kHz. Takes 0 to 4 are the test part, as the corpus has
it (Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset).
"""

import lzma
import zipfile
from pathlib import Path

import numpy as np

from subquad.data import sources
from subquad.data.audio import Samples, Sound
from subquad.data.speech_files import Place
from subquad.data.speech_tables import Spoken

__all__ = ["WORDS", "find"]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_RATE, _TEST_TAKES = 8_000, 5
_PLANES = ("lo_xz", "mid_xz", "hi_xz")
_NEEDED = {*_PLANES, "length", "label", "take", "speaker", "speakers"}


def find(where: Path) -> tuple[Place, list[Spoken]]:
    """The recordings of a file. ValueError for arrays that are others or do not fit."""
    with sources.damage(where):
        if not zipfile.is_zipfile(where):
            raise ValueError(f"{where} is damaged: it is no .npz file")
        with np.load(where, allow_pickle=False) as opened:
            if missing := sorted(_NEEDED - set(opened.files)):
                raise ValueError(
                    f"{where.name} holds the arrays {', '.join(sorted(opened.files))}; spoken "
                    f"digits have {', '.join(missing)} too"
                )
            arrays = {name: opened[name] for name in _NEEDED}
        planes = [np.frombuffer(lzma.decompress(arrays[p].tobytes()), np.uint8) for p in _PLANES]
    length, label, take, speaker = (arrays[n] for n in ("length", "label", "take", "speaker"))
    counts = [len(length), len(label), len(take), len(speaker)]
    if len({*counts}) > 1 or {len(plane) for plane in planes} != {int(length.sum())}:
        raise ValueError(
            f"{where.name}: length, label, take and speaker hold {counts} values, and the samples "
            f"are {[len(plane) for plane in planes]} of {int(length.sum())}"
        )
    if length.min(initial=0) < 0 or label.max(initial=0) >= len(WORDS):
        raise ValueError(
            f"{where.name}: lengths must not be below 0 (least {length.min()}), and labels below "
            f"{len(WORDS)} (most {label.max()})"
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
