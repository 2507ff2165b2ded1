"""How wrong transcripts are: WER and CER, how sure that is, and a report, the worst first.

    WER = (words substituted + deleted + inserted) / words that were said        CER: of characters

over all utterances together. An interval is that of the bootstrap over utterances: they are drawn
anew, as many and with repeats, a thousand times, and 95 % of the rates lie in it (Bisani and Ney,
2004, Bootstrap estimates for confidence intervals in ASR performance evaluation).

Axes: U utterances.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from subquad.tasks.labels import measuring

__all__ = ["counted", "intervals", "rates", "table"]

#: what `counted` counts of each utterance
COUNTS = ("word errors", "words", "character errors", "characters", "exact", "utterances")
_RATES = {"wer": (0, 1), "cer": (2, 3)}
_TIMES = 1000
_SURE = 0.95


def counted(said: Sequence[str], true: Sequence[str]) -> Tensor:
    """What is wrong with each transcript: (U, 6) float64, in the order of `COUNTS`."""
    with measuring():
        from jiwer import process_characters, process_words

    found = torch.zeros(len(said), len(COUNTS), dtype=torch.float64)
    for row, (hypothesis, reference) in enumerate(zip(said, true, strict=True)):
        for at, process in ((0, process_words), (2, process_characters)):
            made = process([reference], [hypothesis])
            missed = made.substitutions + made.deletions
            found[row, at] = missed + made.insertions
            found[row, at + 1] = missed + made.hits
        found[row, 4] = found[row, 0] == 0
    found[:, 5] = 1
    return found


def rates(counts: Tensor) -> dict[str, float]:
    """WER, CER and the share of transcripts without a wrong word, from sums (6,).

    Where nothing was said, a rate is that of the errors against one word.
    """
    found = {
        name: float(counts[wrong] / counts[of].clamp(min=1)) for name, (wrong, of) in _RATES.items()
    }
    return {**found, "exact": float(counts[4] / counts[5].clamp(min=1))}


def intervals(counts: Tensor, seed: int = 0) -> dict[str, float]:
    """Ends of the 95 % interval of each rate, from the counts of each utterance (U, 6)."""
    draw = torch.Generator().manual_seed(seed)
    sums = torch.stack(
        [
            counts[torch.randint(len(counts), (len(counts),), generator=draw)].sum(0)
            for _ in range(_TIMES)
        ]
    )
    found = {}
    ends = torch.tensor([(1 - _SURE) / 2, (1 + _SURE) / 2], dtype=torch.float64)
    for name, (wrong, of) in _RATES.items():
        low, high = (sums[:, wrong] / sums[:, of].clamp(min=1)).quantile(ends).tolist()
        found |= {f"{name}_low": low, f"{name}_high": high}
    return found


def table(rows: Sequence[dict[str, Any]], said: Sequence[str], counts: Tensor) -> str:
    """A table, one utterance a line, the most wrong words first: tab-separated, with a header."""
    lines = ["word errors\twords\twer\tcer\tname\tseconds\tsaid\ttrue"]
    order = sorted(range(len(rows)), key=lambda u: (-counts[u, 0], -counts[u, 2]))
    for u in order:
        each, row = rates(counts[u]), rows[u]
        cells = [
            f"{counts[u, 0]:.0f}",
            f"{counts[u, 1]:.0f}",
            f"{each['wer']:.3f}",
            f"{each['cer']:.3f}",
            str(row.get("name", u)),
            f"{row.get('seconds', 0.0):.2f}",
            said[u],
            row["text"],
        ]
        lines.append("\t".join(" ".join(cell.split()) for cell in cells))
    return "\n".join(lines) + "\n"
