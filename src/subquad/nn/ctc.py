"""CTC: at each frame a label or nothing, and the loss of all ways to say the labels.

    p(y | x) = sum over paths a with collapse(a) = y of prod_n p(a_n | x_n)
    collapse takes repeats for one, then leaves blanks out

Graves et al., 2006, Connectionist temporal classification,
https://www.cs.toronto.edu/~graves/icml_2006.pdf. Time and memory O(N S) for the loss of S labels.
Ours differs: the loss of a batch is its nats divided by its labels, so that a long transcript
counts as much as several short ones; one that no path can say is an error, never infinity.

Axes: B batch, N frames, S labels, C model width, V vocabulary, the blank among it.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.losses import IGNORED
from subquad.ops.partial import wide

__all__ = ["CTCHead", "CTCHeadConfig", "ctc_loss", "frames_needed"]


class CTCHead(nn.Module):
    """Features (B, N, C) to log-probabilities (B, N, V), in at least float32.

    `blank` is the word of the vocabulary that stands for nothing.
    """

    def __init__(self, dim: int, vocab_size: int, *, blank: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= blank < vocab_size:
            raise ValueError(f"blank {blank} is not in the vocabulary of {vocab_size}")
        self.blank = blank
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(dim, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.dropout(x))
        return y.to(wide(y.dtype)).log_softmax(-1)

    def loss(self, x: Tensor, log_probs: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """The mean nats of a label, of features x (B, N, C) and what `forward` makes of them:
        `ctc_loss` with this blank."""
        return ctc_loss(log_probs, lengths, labels, blank=self.blank)


@dataclass(frozen=True)
class CTCHeadConfig:
    """Fields of a CTC head: the number of the blank, and dropout of the features."""

    blank: int = 0
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> CTCHead:
        """The head on features of this width."""
        return CTCHead(dim, vocab_size, blank=self.blank, dropout=self.dropout)


def ctc_loss(log_probs: Tensor, lengths: Tensor, labels: Tensor, *, blank: int = 0) -> Tensor:
    """-log p(labels | frames) over the batch, divided by its number of labels.

    log_probs (B, N, V); lengths (B,): the frames of each row that are real; labels (B, S) int64,
    -100 behind the last. ValueError that names a row whose frames are too few for its labels, and
    for a blank, a gap or a number out of the vocabulary among them.
    """
    said = labels != IGNORED
    counts = said.sum(1)
    if bool((said[:, 1:] & ~said[:, :-1]).any()):
        raise ValueError("labels have -100 between them; it belongs behind the last of a row")
    known = labels[said]
    if bool(((known < 0) | (known >= log_probs.shape[-1]) | (known == blank)).any()):
        raise ValueError(
            f"labels are numbers from 0 to {log_probs.shape[-1] - 1} without the blank, {blank}"
        )
    needed = frames_needed(labels)
    if bool((needed > lengths).any()):
        row = int((needed > lengths).long().argmax())
        raise ValueError(
            f"row {row} has {int(lengths[row])} frames and its {int(counts[row])} labels need "
            f"{int(needed[row])} (one each, and one between equal neighbours); leave it out"
        )
    total = F.ctc_loss(
        log_probs.transpose(0, 1),
        labels.masked_fill(~said, blank),
        lengths,
        counts,
        blank=blank,
        reduction="sum",
    )
    return total / counts.sum().clamp(min=1)


def frames_needed(labels: Tensor) -> Tensor:
    """The fewest frames (B,) that labels (B, S), -100 behind the last, can be said in.

    One for each, and a blank between two that are equal.
    """
    said = labels != IGNORED
    repeats = (labels[:, 1:] == labels[:, :-1]) & said[:, 1:]
    return said.sum(1) + repeats.sum(1)
