"""How a language model is trained and scored, as typed fields: the flags --task.FIELD of `lm`."""

from dataclasses import dataclass

__all__ = ["LanguageModelConfig"]


@dataclass(frozen=True)
class LanguageModelConfig:
    """Fields of the task `lm`.

    Args:
        context: tokens of a training window, and of a window of evaluation.
        tokenizer: 'bytes'; 'bpe:N', learnt from the training part; a tokenizer.json; a hub id.
        valid_bytes: bytes of the validation part that are scored at each report.
        position: absolute positions added to the embedding: none, sinusoidal, learned, axial
            (on a grid with a place for each token of the context), or auto (sinusoidal for
            architectures that have no positions of their own).
    """

    context: int = 512
    tokenizer: str = "bytes"
    valid_bytes: int = 65_536
    position: str = "auto"

    def __post_init__(self) -> None:
        if self.context < 1 or self.valid_bytes < 1:
            raise ValueError(
                f"context {self.context} and valid_bytes {self.valid_bytes} must be positive"
            )
