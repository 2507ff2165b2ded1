"""What lies beside the weights of a pretrained model, and goes along when its attention is swapped:
the tokenizer, and how pictures and sounds become inputs.
"""

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import cached_file

__all__ = ["copy_processors", "tokenizer_of"]

_TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "spiece.model")
_TOKENIZERS += ("vocab.txt", "vocab.json")
_PROCESSORS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


def tokenizer_of(name: str) -> Any:
    """The tokenizer of a folder or a hub id; None where there is none (pictures, sound)."""
    if any(_file(name, one) is not None for one in _TOKENIZERS):
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    return None


def copy_processors(name: str, folder: Path) -> None:
    """Put the settings of image processors and feature extractors of a folder or a hub id into
    `folder`, as they are.
    """
    for one in _PROCESSORS:
        kept = _file(name, one)
        if kept is not None:
            shutil.copy(kept, folder / one)


def _file(name: str, one: str) -> str | None:
    """Where a file of a folder or a hub id lies on this machine, if there is one."""
    return cached_file(name, one, _raise_exceptions_for_missing_entries=False)
