"""Music as frames on a grid: each piece a document, in an .npz file of train, valid and test.

Each of the three is an array (frames, ...) of all its pieces end to end, with `train_len` (and so
on) the frames of each piece. Its type says what a frame is:

voices (frames, V), int8: MIDI pitches, -1 silent. A frame is V tokens, voice by voice: 0 silent,
    p + 1 pitch p.
piano rolls (frames, 11), uint8: 88 keys, packed bits. A frame is the keys that sound, the lowest
    first, then the token 88, which ends it: 5 tokens where there would be 88 bits, and one spelling
    for each set of keys. So the nats of a frame's tokens are -log p(keys | all before), which is
    what the literature's NLL per frame (summed over keys) is an independent-keys form of; the
    probability that a model gives to spellings in another order counts against it.

NLL per frame = nats of all tokens / frames, the first frame of a piece included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subquad.data.documents import PARTS, Documents, Kind, index, kept, pack
from subquad.data.vocabulary import Symbols

__all__ = ["KEYS", "PianoRolls", "Voices", "open_events"]

KEYS = 88


class _Frames(Kind):
    """What both have in common."""

    unit, member, metric = "tokens", "piece", "nll_per_frame"

    def frames(self, documents: Documents) -> int:
        """How many there are, ended or not."""
        raise NotImplementedError

    def arrays(self, ids: np.ndarray) -> np.ndarray:
        """The whole frames of a piece, as they stand in a file."""
        raise NotImplementedError

    def measure(self, nats: float, tokens: int, documents: Documents) -> dict[str, float]:
        frames = self.frames(documents)
        return {
            "nll_per_frame": nats / max(frames, 1),
            "nll_per_token": nats / max(tokens, 1),
            "frames": frames,
            "tokens": tokens,
            "pieces": len(documents),
        }

    def check(self, out: Path | None) -> None:
        if out is None or out.suffix != ".npz":
            raise ValueError(f"music is written as an array: give --out FILE.npz, not {out}")

    def write(self, made: Sequence[bytes], out: Path) -> None:
        """`frames` of all pieces and `frames_len`; a last frame that is cut is left out."""
        pieces = [self.arrays(np.frombuffer(ids, np.uint8)) for ids in made]
        lengths = np.asarray([len(p) for p in pieces], np.int32)
        np.savez_compressed(out, frames=np.concatenate(pieces), frames_len=lengths)


@dataclass(frozen=True)
class Voices(_Frames):
    """Frames of as many pitches as there are voices."""

    voices: int

    name = "voices"
    words = Symbols("pitches", 129)

    @property
    def says(self) -> str:
        """In words, for errors."""
        return f"music of {self.voices} voices"

    def frames(self, documents: Documents) -> int:
        return -(-documents.nbytes // self.voices)

    def tokens(self, frames: np.ndarray) -> np.ndarray:
        """The tokens of frames (n, V)."""
        return (frames.astype(np.int64) + 1).astype(np.uint8).reshape(-1)

    def arrays(self, ids: np.ndarray) -> np.ndarray:
        whole = len(ids) // self.voices * self.voices
        return (ids[:whole].astype(np.int64) - 1).astype(np.int8).reshape(-1, self.voices)

    def save(self, folder: Path) -> dict[str, Any]:
        return {"voices": self.voices}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "Voices":
        return cls(facts["voices"])


@dataclass(frozen=True)
class PianoRolls(_Frames):
    """Frames of the keys that sound."""

    name = "piano rolls"
    words = Symbols("keys", KEYS + 1)

    @property
    def says(self) -> str:
        """In words, for errors."""
        return "piano rolls"

    def frames(self, documents: Documents) -> int:
        pieces = (np.frombuffer(p, np.uint8) for p in documents.pieces())
        open_ends = documents.raw[documents.end[documents.end > documents.start] - 1] != KEYS
        return sum(int((p == KEYS).sum()) for p in pieces) + int(open_ends.sum())

    def tokens(self, frames: np.ndarray) -> np.ndarray:
        """The tokens of packed frames (n, 11)."""
        bits = np.unpackbits(frames, axis=1)
        ended = np.concatenate([bits, np.ones((len(bits), 1), np.uint8)], 1)
        return np.nonzero(ended)[1].astype(np.uint8)

    def arrays(self, ids: np.ndarray) -> np.ndarray:
        frame = np.cumsum(ids == KEYS) - (ids == KEYS)
        rolls = np.zeros((int((ids == KEYS).sum()) + 1, KEYS), np.uint8)
        rolls[frame[ids < KEYS], ids[ids < KEYS]] = 1
        return np.packbits(rolls[:-1], axis=1)


def open_events(where: Path, key: str, arrays: Any) -> Documents:
    """The pieces of an .npz file. ValueError for arrays that do not fit each other."""
    kind = _kind(where, {part: arrays[part] for part in PARTS})
    for part in PARTS:
        frames, lengths = arrays[part], arrays[f"{part}_len"]
        whole = lengths.ndim == 1 and lengths.dtype.kind in "iu" and lengths.min(initial=0) >= 0
        if not whole or sum(lengths.tolist()) != len(frames):
            said = f"{sum(lengths.tolist()):,}" if whole else f"{lengths.dtype} {lengths.shape}"
            raise ValueError(
                f"{where.name}: {part} has {len(frames):,} frames and {part}_len says {said}"
            )

    def fill(folder: Path) -> None:
        pieces, part = [], []
        for number, name in enumerate(PARTS):
            frames, ends = arrays[name], np.cumsum(arrays[f"{name}_len"])
            pieces += np.split(frames, ends[:-1]) if len(ends) else []
            part += [number] * len(ends)
        ends = pack(folder, (iter([kind.tokens(piece).tobytes()]) for piece in pieces))
        index(folder, ends, np.asarray(part), where.name, kind.member)

    return kept(key, fill, kind)


def _kind(where: Path, parts: dict[str, np.ndarray]) -> Voices | PianoRolls:
    shapes = {(str(a.dtype), *a.shape[1:]) for a in parts.values()}
    if shapes == {("uint8", KEYS // 8)}:
        return PianoRolls()
    if len(shapes) == 1 and (shape := shapes.pop())[0] == "int8" and len(shape) == 2:
        if all((a >= -1).all() for a in parts.values()):
            return Voices(shape[1])
        raise ValueError(f"{where.name}: a pitch below -1 (silent) stands there")
    said = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in parts.items())
    raise ValueError(
        f"{where.name}: frames are int8 (frames, voices) of pitches or uint8 (frames, {KEYS // 8}) "
        f"of packed keys, not {said}"
    )
