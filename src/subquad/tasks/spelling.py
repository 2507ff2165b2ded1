"""Vocabularies of transcripts: learnt, written as transformers reads them, and read again."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from subquad.data.transcripts import BLANK, SPACE, UNKNOWN, Letters, Pieces, Transcripts

__all__ = ["Writes", "keep", "learn", "names", "open_words", "writes"]

#: what a token writes
Writes = Callable[[int], bytes]


def learn(tokenizer: str, texts: Iterable[str]) -> Transcripts:
    """The vocabulary that `tokenizer` names: characters, unigram:N or bpe:N, of texts."""
    kind, _, size = tokenizer.partition(":")
    return Pieces.learn(texts, kind, int(size)) if size else Letters.learn(texts)


def names(words: Transcripts) -> list[str]:
    """What all tokens are called, by number."""
    return sorted(words.tokens, key=words.tokens.__getitem__)


def writes(words: Transcripts) -> Writes:
    """What each token writes, a space where a word begins."""
    space = SPACE if isinstance(words, Letters) else "▁"
    said = [name.replace(space, " ").encode() for name in names(words)]
    said[words.blank], said[words.unknown] = b"", "�".encode()
    return said.__getitem__


def keep(words: Transcripts, folder: Path) -> None:
    """Write a vocabulary with the tokenizer of transformers that decodes paths over it."""
    if isinstance(words, Pieces):
        from transformers import ParakeetTokenizer

        # the one among them that takes repeats for one and leaves blanks out
        made = ParakeetTokenizer(
            tokenizer_object=words.tokenizer, pad_token=BLANK, unk_token=UNKNOWN
        )
    else:
        from transformers import Wav2Vec2CTCTokenizer

        path = folder / "vocab.json"
        path.write_text(json.dumps(words.tokens, ensure_ascii=False), encoding="utf-8")
        made = Wav2Vec2CTCTokenizer(
            str(path),
            bos_token=None,
            eos_token=None,
            unk_token=UNKNOWN,
            pad_token=BLANK,
            word_delimiter_token=SPACE,
        )
    made.save_pretrained(folder)


def open_words(folder: Path) -> Transcripts:
    """The vocabulary that `keep` wrote. ValueError if there is none."""
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        return Pieces(Tokenizer.from_file(str(folder / "tokenizer.json")))
    if not (folder / "vocab.json").is_file():
        raise ValueError(
            f"{folder} has neither vocab.json nor tokenizer.json, so no words of its own"
        )
    return Letters(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
