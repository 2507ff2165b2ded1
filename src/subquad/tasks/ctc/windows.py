"""Long recordings in bounded memory: windows that overlap, and cuts where nothing is said.

A model that looks both ways hears a window of `length` samples at a time; the outputs of `margin`
samples on each side, which would want to know what comes before or behind, are left out, and the
middles joined. What is joined is decoded in parts, cut in the middle of the longest run of blanks.
Greedy decoding does not notice these cuts; a language model begins anew after each.

Axes: S samples, N frames, V vocabulary.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

__all__ = ["parts", "windows"]


def windows(
    waves: Iterable[Tensor], length: int, margin: int
) -> Iterator[tuple[Tensor, int, int | None]]:
    """(a window (S,), where its middle begins, where that ends) of waves (S,) that follow each
    other; None: with the window.
    """
    if length <= 2 * margin:
        raise ValueError(f"a window of {length} samples has no middle between margins of {margin}")
    held, begin = torch.zeros(0), 0
    for wave in waves:
        held = torch.cat((held, wave))
        while len(held) > length:
            yield held[:length], begin, length - margin
            held, begin = held[length - 2 * margin :], margin
    if len(held):
        yield held, begin, None


def parts(pieces: Iterable[Tensor], blank: int, longest: int) -> Iterator[tuple[int, Tensor]]:
    """(its first frame, log-probabilities (N, V)) of parts that are decoded by themselves.

    pieces (N, V): they follow each other.  longest: frames of a part at most; it is cut in the
    second half of so many.
    """
    held, first = None, 0
    for piece in pieces:
        held = piece if held is None else torch.cat((held, piece))
        while len(held) > longest:
            cut = _quiet(held[:longest], blank)
            yield first, held[:cut]
            held, first = held[cut:], first + cut
    if held is not None and len(held):
        yield first, held


def _quiet(log_probs: Tensor, blank: int) -> int:
    """The middle of the longest run of blanks in the second half, or the end."""
    half = len(log_probs) // 2
    silent = (log_probs[half:].argmax(-1) == blank).tolist()
    best, run, cut = 0, 0, len(log_probs)
    for n, yes in enumerate(silent, half):
        run = run + 1 if yes else 0
        if run > best:
            best, cut = run, n + 1 - run // 2
    return cut
