"""Which language model a name means: n-grams of the run's own, of a file, or a run."""

from pathlib import Path
from typing import Any

from subquad.data.transcripts import Transcripts
from subquad.data.vocabulary import Bytes
from subquad.tasks.ctc.ngrams import Ngrams
from subquad.tasks.ctc.scorers import ByTokens, ByWords, Reader, Scorer
from subquad.tasks.spelling import names, writes

__all__ = ["find_scorer"]


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
