"""A pretrained model in its folder, and what lies there beside its weights and goes along when its
attention is swapped: the tokenizer, and how pictures and sounds become inputs.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import cached_file

__all__ = ["copy_processors", "model_of", "tokenizer_of"]

_TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "spiece.model")
_TOKENIZERS += ("vocab.txt", "vocab.json")
_PROCESSORS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


def model_of(name: str) -> tuple[Any, list[str]]:
    """The model of a folder or a hub id, as the class that wrote it, in eval mode; and the names of
    tensors that are none of such a model's.

    ValueError if there is none, if it is swapped already or damaged, or lacks tensors.
    """
    import transformers

    import subquad.hf  # noqa: F401  (folders of swapped models)

    with _failing(f"{name} holds no model of transformers"):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    if config.model_type == "subquad-swap":
        raise ValueError(f"{name} is swapped already; swap the model that it came from")
    kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], None)
    if kind is None:
        raise ValueError(f"{name} is a {config.architectures[0]}, which transformers does not have")
    with _failing(f"{name} cannot be read"):
        model, seen = kind.from_pretrained(name, output_loading_info=True)
    # transformers would draw them at random
    lacks, left = (sorted(map(str, seen[k])) for k in ("missing_keys", "unexpected_keys"))
    if lacks:
        some = ", ".join(lacks[:10]) + (", ..." if len(lacks) > 10 else "")
        raise ValueError(f"{name} lacks {len(lacks)} tensors of a {kind.__name__}: {some}")
    return model.eval(), left


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    """Whatever readers of settings, safetensors or torch files raise, as one ValueError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{what}: {type(error).__name__}: {error}") from error


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
