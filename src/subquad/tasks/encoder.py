"""The beginning of every task that reads tokens: stem, positions, vocabulary."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from subquad.archs import configure
from subquad.data.tokenizer_files import Reading
from subquad.data.vocabulary import Bytes, Subwords, Symbols, Vocabulary, learn, vocabulary

__all__ = [
    "described",
    "kept_words",
    "learn_words",
    "load_words",
    "ngram_tables",
    "placed",
    "token_stem",
    "words_in",
]


def token_stem(
    arch: str,
    fields: dict[str, Any],
    position: str,
    length: int,
    tables: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Fields of a token stem, with positions for `length` tokens.

    position: absolute positions added to the embedding: none, sinusoidal, learned, axial, or auto:
    sinusoidal for architectures that have no positions of their own.  tables: the kind of stem,
    and how it divides the vocabulary; by default one plain table.
    """
    backbone = configure(arch, fields)
    if position == "auto":
        own = getattr(backbone, "position", "none") != "none"
        position = "none" if own else "sinusoidal"
    width = 2 ** math.ceil(math.log2(length) / 2)
    sizes = {
        "learned": {"max_len": length},
        "axial": {"axial_shape": [math.ceil(length / width), width]},
    }
    scale = getattr(backbone, "embedding_scale", 1.0)
    how = {"position": position, "scale": scale, **sizes.get(position, {})}
    return {**(tables or {"kind": "tokens"}), **how}


def ngram_tables(sizes: Sequence[int], rows: int) -> dict[str, Any] | None:
    """The kind of a stem with hashed n-grams of these sizes; None if there are no sizes."""
    return {"kind": "ngrams", "sizes": list(sizes), "rows": rows} if sizes else None


def placed(parts: dict[str, Any], position: str, source: int, target: int) -> dict[str, Any]:
    """The parts of a pair of `archs.PAIRS`, with positions in both token stems for so many tokens.

    position: as in `token_stem`; auto keeps those that the pair has, and goes by the architecture
    of each side where it has none. Embeddings count sqrt(dim)-fold next to sinusoids.
    """
    reader = {**parts["encoder"], "stem": _placed(parts["encoder"], position, source)}
    return {**parts, "stem": _placed(parts, position, target), "encoder": reader}


def _placed(side: dict[str, Any], position: str, length: int) -> dict[str, Any]:
    stem, arch, fields = side["stem"], side["arch"], side["model"]
    if position == "auto" and stem["position"] != "none":
        # a table of positions has as many rows as are read
        return {**stem, "max_len": max(stem["max_len"], length)} if "max_len" in stem else stem
    made = token_stem(arch, fields, position, length)
    sinusoids = made["position"] == "sinusoidal"
    scale = configure(arch, fields).dim ** 0.5 if sinusoids else stem.get("scale", 1.0)
    return {**stem, **made, "scale": scale}


def described(words: Vocabulary) -> dict[str, int]:
    """What a model's configuration says of a vocabulary."""
    return {
        "vocab_size": words.size,
        "bos_token_id": words.boundary,
        "eos_token_id": words.boundary,
        "pad_token_id": words.pad,
    }


def learn_words(tokenizer: str, texts: Iterable[str]) -> Vocabulary:
    """The vocabulary that `tokenizer` names, with padding, hiding and marks.

    bytes; bpe:N, learnt from the texts, whose special tokens come on top; else as in `vocabulary`.
    """
    name, _, size = tokenizer.partition(":")
    if name != "bpe":
        found = vocabulary(tokenizer)
        return found if isinstance(found, Bytes) else found.complete()
    if not size.isdigit():
        raise ValueError(f"bpe wants its size, as in bpe:1024, not {tokenizer!r}")
    return Subwords(learn((text.encode() for text in texts), int(size)), tokenizer).complete()


def kept_words(words: Vocabulary, folder: Path, reading: Reading | None = None) -> dict[str, Any]:
    """Write a vocabulary, and how a task reads texts; what `load_words` needs besides."""
    words.save(folder, reading)
    if isinstance(words, Subwords):
        return {"kind": "subwords", "name": words.name}
    return {"kind": "symbols", "name": words.name, "count": words.count}


def load_words(told: dict[str, Any], folder: Path) -> Vocabulary:
    """The vocabulary that `kept_words` wrote."""
    if told["kind"] == "subwords":
        found = vocabulary(str(folder / "tokenizer.json"))
        assert isinstance(found, Subwords)
        return Subwords(found.tokenizer, told["name"])
    if told["name"] == Bytes.name:
        return Bytes()
    return Symbols(told["name"], told["count"])


def words_in(folder: Path) -> Vocabulary:
    """The vocabulary of a run or of a checkpoint, to begin from it. ValueError if there is none."""
    told: Any = None
    if (folder / "run.json").is_file():
        told = json.loads((folder / "run.json").read_text())["task_facts"].get("vocabulary")
    if isinstance(told, dict):
        return load_words(told, folder)
    if told == Bytes.name:
        return Bytes()
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} has no tokenizer.json, so its words are not known")
    found = vocabulary(str(folder / "tokenizer.json"))
    return found.complete() if isinstance(found, Subwords) else found
