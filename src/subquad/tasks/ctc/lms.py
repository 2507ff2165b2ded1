"""How the likeliest text is sought, and which language model a name means."""

from pathlib import Path
from typing import Any

from subquad.data.transcripts import Transcripts
from subquad.data.vocabulary import Bytes
from subquad.tasks.ctc.beams import Beams
from subquad.tasks.ctc.ngrams import Ngrams
from subquad.tasks.ctc.scorers import ByTokens, ByWords, Reader, Scorer, Silent
from subquad.tasks.spelling import names, writes

__all__ = ["BEAMS", "find_beams", "find_scorer"]

BEAMS = 16  # where something ranks them: a language model, a decoder
_WEIGHT = 0.5


def find_beams(
    words: Transcripts,
    own: Ngrams | None,
    *,
    beams: int | None = None,
    lm: str | None = None,
    lm_weight: float | None = None,
    bonus: float | None = None,
) -> tuple[Beams, str] | None:
    """The search that is asked for, and what it is in words; None: there is to be none.

    ValueError as `find_scorer`, or for what belongs to a search where there is none.
    """
    beams = BEAMS if beams is None and lm is not None else beams
    if beams is None:
        if lm_weight is not None or bonus is not None:
            raise ValueError("lm_weight and bonus are for beams: give --beams or --lm")
        return None
    if lm is None and lm_weight is not None:
        raise ValueError(f"lm_weight is {lm_weight}, and there is no language model: give --lm")
    scorer = Silent() if lm is None else find_scorer(lm, words, own)
    weight = _WEIGHT if lm_weight is None else lm_weight
    says = "" if lm is None else f", {lm} with weight {weight} as language model"
    found = Beams(beams, scorer, weight, bonus or 0.0)
    return found, f"{beams} beams{says}, bonus {found.bonus}"


def find_scorer(lm: str, words: Transcripts, own: Ngrams | None) -> Scorer:
    """The scorer of prefixes over `words` that `lm` names: ngram (`own`), an ARPA file, a run.

    ValueError if there is none, or if it speaks of other things than this vocabulary can write.
    """
    path = Path(lm)
    if lm == "ngram" and not path.exists():
        if own is None:
            raise ValueError("this run counted no n-grams: it was trained with ngram 0")
        return ByTokens(own, names(words))
    if (path / "run.json").is_file():
        return _reader(lm, words)
    if not path.is_file():
        raise ValueError(f"there is no language model {lm}: it is ngram, an ARPA file or a run")
    table = Ngrams.read(path)
    if table.words <= set(names(words)):
        return ByTokens(table, names(words))
    if all(words.strange(word) for word in table.words):
        raise ValueError(
            f"no word of {lm} can be written with the letters of this run; {min(table.words)!r} is "
            "one of them: are they upper or lower case?"
        )
    return ByWords(table, lambda ids: b"".join(map(writes(words), ids)).decode())


def _reader(lm: str, words: Transcripts) -> Reader:
    from subquad import load

    run: Any = load(lm)
    own = getattr(run.task, "words", None)
    if run.task.name != "lm" or not isinstance(own, Bytes):
        raise ValueError(
            f"{lm} is a run of the task {run.task.name}; a language model over bytes is wanted: "
            "train lm with --task.tokenizer bytes"
        )
    return Reader(run.model.model, own.boundary, writes(words))
