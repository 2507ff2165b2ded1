"""Fields of translation: of the task, of its scoring, of its answers."""

from dataclasses import dataclass

from subquad.tasks.rows import RowScoring

__all__ = ["Search", "TranslateConfig", "TranslateScoring"]


@dataclass(frozen=True)
class TranslateConfig:
    """Fields of the task `translate`.

    Args:
        context: tokens of a source that are read at most, the end among them.
        target: tokens that are written at most, the end among them.
        tokenizer: 'bytes'; 'bpe:N', learnt from the training part; a tokenizer.json; a hub id.
        joint: one vocabulary for both languages; false: one for each, learnt from its texts.
        beams: of the search for the likeliest translation; 1 takes the likeliest token each time.
        length_penalty: with beams, log-probabilities are divided by this power of the length.
        valid_rows: rows of the validation part that are scored at each report.
        text: the column that holds the source; default: the usual names.
        translation: the column that holds the translation; default: the usual names.
    """

    context: int = 256
    target: int = 256
    tokenizer: str = "bpe:1000"
    joint: bool = True
    beams: int = 4
    length_penalty: float = 1.0
    valid_rows: int = 500
    text: str | None = None
    translation: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("context", 2), ("target", 2), ("beams", 1), ("valid_rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.joint and self.tokenizer == "bytes":
            raise ValueError("bytes are the same in both languages; leave --task.joint true")


@dataclass(frozen=True)
class Search:
    """How `subquad predict` searches.

    Args:
        beams: texts that are followed at once; default: as trained with.
        length_penalty: with beams, log-probabilities are divided by this power of the length.
    """

    beams: int | None = None
    length_penalty: float | None = None

    def __post_init__(self) -> None:
        if self.beams is not None and self.beams < 1:
            raise ValueError(f"--beams is {self.beams}; it must be at least 1")


@dataclass(frozen=True)
class TranslateScoring(RowScoring):
    """How `subquad eval` scores translations.

    Args:
        part: train, valid, test or all; default: test of the run's own data, all of other data.
        rows: score only so many rows, spread over the part.
        beams: texts that are followed at once; default: as trained with.
        length_penalty: with beams, log-probabilities are divided by this power of the length.
    """

    beams: int | None = None
    length_penalty: float | None = None
