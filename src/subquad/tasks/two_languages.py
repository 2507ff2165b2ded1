"""Run folders with a vocabulary for what is read, and another for what is written."""

import json
from pathlib import Path
from typing import Any

from subquad.data.tokenizer_files import Reading
from subquad.data.vocabulary import Subwords, Vocabulary, vocabulary
from subquad.tasks.encoder import kept_words, load_words

__all__ = ["both_in", "keep_both", "load_both"]

_TARGET = "target_tokenizer.json"
_SOURCE = "source_tokenizer.json"  # of older runs, where tokenizer.json is the target's


def keep_both(source: Vocabulary, target: Subwords, folder: Path, reading: Reading) -> dict:
    """Write both; what `load_both` needs besides.

    tokenizer.json is the source's: transformers reads by it what a model is given.
    """
    target.tokenizer.save(str(folder / _TARGET))
    told = kept_words(source, folder, reading)
    return {"vocabulary": told, "target_vocabulary": target.name}


def load_both(folder: Path, facts: dict[str, Any]) -> tuple[Vocabulary, Vocabulary | None]:
    """The vocabulary of what is written, and that of what is read if it is another."""
    words = load_words(facts["vocabulary"], folder)
    if name := facts.get("target_vocabulary"):
        return _named(folder / _TARGET, name), words
    if name := facts.get("source_vocabulary"):
        return words, _named(folder / _SOURCE, name)
    return words, None


def both_in(folder: Path) -> tuple[Vocabulary, Vocabulary | None] | None:
    """The same of a run to begin from; None for one of another task, or a checkpoint."""
    path = folder / "run.json"
    facts = json.loads(path.read_text())["task_facts"] if path.is_file() else {}
    known = facts.keys() & {"target_vocabulary", "source_vocabulary"}
    return load_both(folder, facts) if known else None


def _named(path: Path, name: str) -> Subwords:
    found = vocabulary(str(path))
    assert isinstance(found, Subwords)
    return Subwords(found.tokenizer, name)
