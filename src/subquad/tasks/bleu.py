"""How close translations are to the true ones: BLEU and chrF by sacrebleu, with their signatures.

BLEU, Papineni et al., 2002, https://aclanthology.org/P02-1040, as in Post, 2018,
https://arxiv.org/abs/1804.08771; chrF, Popovic, 2015, https://aclanthology.org/W15-3049. Both are
of a whole corpus and lie from 0 to 100.
"""

from collections.abc import Sequence

from subquad.tasks.labels import measuring

__all__ = ["scores", "table"]


def scores(said: Sequence[str], true: Sequence[str]) -> tuple[dict[str, float], str]:
    """BLEU, chrF and the share of exact matches; and what exactly was measured, in words."""
    with measuring("translation"):
        from sacrebleu.metrics import BLEU, CHRF

    numbers, signatures = {}, []
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        found = metric.corpus_score(said, [true])
        numbers[name] = found.score
        signatures.append(f"{found.name} {metric.get_signature()}")
    exact = sum(a == b.strip() for a, b in zip(said, true, strict=True))
    return {**numbers, "exact_match": exact / len(true)}, ", ".join(signatures)


def table(texts: Sequence[str], said: Sequence[str], true: Sequence[str]) -> str:
    """One translation a line, tab-separated: its source, what was said, what is true."""
    lines = ["text\tsaid\ttrue"]
    for cells in zip(texts, said, true, strict=True):
        lines.append("\t".join(" ".join(cell.split()) for cell in cells))
    return "\n".join(lines) + "\n"
