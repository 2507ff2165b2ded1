"""A vocabulary of whole words, made a tokenizer beside the weights.

Models of words have a list of them, and cut text at spaces by code that transformers does not have
any more: here a text is cut at white space alone, so give it as their corpora stand, words and
punctuation apart. No pickle is opened.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from subquad.convert.beside import put_aside
from subquad.convert.origin import note

__all__ = ["word_level"]

PICKLES = ("vocab.pkl", "vocab.bin")
#: where tokenizers tell of themselves, besides their words
TOLD = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
#: what the published vocabularies call them: WikiText-103 and One Billion Word
SPECIAL = {"unk_token": ("<unk>", "<UNK>"), "eos_token": ("<eos>", "<S>")}
_NO_UNKNOWN = "; it has no word for what it does not know (<unk>), so a text with others is refused"


def word_level(source: Path, dest: Path, size: int) -> str:
    """Write a tokenizer of the `size` words in vocab.json (numbers by word) or vocab.txt (a word
    begins each line) into `dest`, which is written; what was done, or why it was not.

    convert.json notes what was made, which does not go back. What another tokenizer told of itself
    is put aside: it may have words that the model has not.
    """
    if (source / "tokenizer.json").is_file():
        return ""
    for name, read in (("vocab.json", _numbered), ("vocab.txt", _listed)):
        path = source / name
        if not path.is_file():
            continue
        try:
            words = read(path)
            _check(words, size)
        except (ValueError, RecursionError) as error:
            return f"; no tokenizer made: {name}: {' '.join(str(error).split())}"
        aside = put_aside(dest, TOLD)
        before = {one.name for one in dest.iterdir()}
        _save(words, dest)
        note(dest, made=sorted({one.name for one in dest.iterdir()} - before | aside))
        lacks = "" if {*words} & {*SPECIAL["unk_token"]} else _NO_UNKNOWN
        return f"; tokenizer made of {name}: words between white space{lacks}"
    found = next((name for name in PICKLES if (source / name).is_file()), None)
    if found is None:
        return ""
    return (
        f"; no tokenizer made: {found} is a pickle, which is not opened; write it as vocab.json, "
        "json.dump(tokenizer.sym2idx, file), where its code is installed"
    )


def _numbered(path: Path) -> list[str]:
    """The words of a JSON object, in the order of their numbers."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or any(type(n) is not int for n in found.values()):
        raise ValueError("it is no object of numbers by word")
    if sorted(found.values()) != [*range(len(found))]:
        raise ValueError("its numbers are not 0 and those that follow, each once")
    return sorted(found, key=found.__getitem__)


def _listed(path: Path) -> list[str]:
    """What begins each line, once; a count may follow."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").split("\n"))
    return list(dict.fromkeys(line[0] for line in lines if line))


def _check(words: Sequence[str], size: int) -> None:
    """ValueError for another number of words than the model has, and for what no text holds."""
    if len(words) != size:
        raise ValueError(f"it has {len(words):,} words, and the model {size:,}")
    " ".join(words).encode("utf-8")


def _save(words: Sequence[str], dest: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    numbers = {word: i for i, word in enumerate(words)}
    told = {
        kind: next(one for one in usual if one in numbers)
        for kind, usual in SPECIAL.items()
        if numbers.keys() & {*usual}
    }
    unknown = {} if "unk_token" not in told else {"unk_token": told["unk_token"]}
    made = Tokenizer(models.WordLevel(numbers, **unknown))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=made, **told).save_pretrained(dest)
