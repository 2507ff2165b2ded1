"""What stands beside a model's weights and goes along: its tokenizer, and how it generates."""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from subquad.convert.files import COPIED, read_config

__all__ = ["copy", "dictionaries", "made_ours", "put_aside"]

GENERATION = "generation_config.json"
#: before the name of a file that ours made another of
_ASIDE = "aside."
#: any of them is a tokenizer
_WORDS = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "spiece.model")
_WORDS += ("vocab.txt", "vocab.json")
#: classes of ours that generate
_WRITERS = ("SubquadForCausalLM", "SubquadForSeq2SeqLM")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def copy(source: Path, dest: Path, made: Collection[str] = ()) -> None:
    """Files that are the same on both sides, as they are; of those that one side `made`, what was
    put aside for them, if anything was."""
    for name in COPIED:
        path = source / (_ASIDE + name if name in made else name)
        if path.is_file():
            shutil.copyfile(path, dest / name)
    dictionaries(source, dest)


def put_aside(dest: Path, names: Sequence[str]) -> set[str]:
    """Keep files of these names under others, for the way back; which there were."""
    found = {name for name in names if (dest / name).is_file()}
    for name in found:
        (dest / name).rename(dest / (_ASIDE + name))
    return found


def dictionaries(source: Path, dest: Path) -> None:
    """The words of fairseq, dict.txt or one for each language, as they are."""
    for path in (*source.glob("dict.txt"), *source.glob("dict.*.txt")):
        shutil.copyfile(path, dest / path.name)


def made_ours(source: Path, dest: Path, plain: Mapping[str, Any]) -> None:
    """Let `dest`, which is written, say itself what in `source` follows from its type.

    plain: config.json of `source`. The Auto class finds a tokenizer by the type of the model, where
    its own files do not name one; ours names it in config.json, so that those files stay as they
    are for the way back. How older models generate stands among their settings.
    """
    ours = read_config(dest)
    kind = _tokenizer(source)
    if kind is not None:
        text = json.dumps({**ours, "tokenizer_class": kind}, indent=2, sort_keys=True)
        (dest / "config.json").write_text(text + "\n", encoding="utf-8")
    if ours["architectures"][0] in _WRITERS and not (dest / GENERATION).is_file():
        tokens = {name: ours[name] for name in _TOKENS if ours.get(name) is not None}
        text = json.dumps(_generation({**tokens, **plain}), indent=2, sort_keys=True)
        (dest / GENERATION).write_text(text + "\n", encoding="utf-8")


def _tokenizer(source: Path) -> str | None:
    """The class of a tokenizer that only the type of its model tells; None if there is none."""
    from transformers import AutoTokenizer

    if not any((source / name).is_file() for name in _WORDS):
        return None
    try:
        found = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=True
        )
    except MemoryError:
        raise
    except Exception:  # whatever readers raise: it goes along as damaged as it is
        return None
    return type(found).__name__


def _generation(config: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json, as transformers makes it of such settings."""
    from transformers import GenerationConfig

    found = GenerationConfig.from_model_config(dict(config)).to_diff_dict()
    return {name: value for name, value in found.items() if not name.startswith("_")}
