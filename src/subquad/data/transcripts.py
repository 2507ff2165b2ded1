"""Transcripts as tokens for CTC: letters, or word pieces, learnt from the training text.

Token 0 is the blank, which is padding too; token 1 stands for what is not known. Letters are called
as in Hugging Face's Wav2Vec2CTCTokenizer, so `tokens` is its vocabulary:

    {"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, ...}       "|" is the space between words

Connectionist temporal classification writes one token at most in a frame, and a blank between two
that are equal (Graves et al., 2006): n tokens need n + (equal neighbours) frames.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from subquad.data.panics import failing

__all__ = ["BLANK", "SPACE", "UNKNOWN", "Letters", "Pieces", "Transcripts", "frames_for", "usable"]

BLANK, UNKNOWN, SPACE = "<pad>", "<unk>", "|"


class Letters:
    """Every character is a token.

    tokens: token -> number. ValueError without the three that are always there.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        for number, token in enumerate((BLANK, UNKNOWN)):
            if tokens.get(token) != number:
                raise ValueError(
                    f"token {token!r} of a vocabulary of letters is {tokens.get(token)}; it must "
                    f"be {number}"
                )
        if SPACE not in tokens or sorted(tokens.values()) != [*range(len(tokens))]:
            raise ValueError(
                f"a vocabulary of letters numbers {SPACE!r} and all its {len(tokens)} tokens from "
                f"0 to {len(tokens) - 1}"
            )
        self.tokens = dict(tokens)
        self.blank, self.unknown, self.size = 0, 1, len(tokens)
        self._words = {number: token for token, number in self.tokens.items()}

    @classmethod
    def learn(cls, texts: Iterable[str]) -> "Letters":
        """The characters of texts. ValueError if there are none."""
        found = sorted({letter for text in texts for letter in text if not letter.isspace()})
        found = [letter for letter in found if letter != SPACE]
        if not found:
            raise ValueError("letters are learnt from transcripts, and these hold none")
        names = [BLANK, UNKNOWN, SPACE, *found]
        return cls({name: number for number, name in enumerate(names)})

    def encode(self, text: str) -> list[int]:
        """Numbers of a text; what is not known is `unknown`."""
        return [self.tokens.get(letter, self.unknown) for letter in _spaced(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of numbers, blanks left out; nothing is merged here."""
        said = (self._words[int(i)] for i in ids if int(i) != self.blank)
        return " ".join("".join("�" if w == UNKNOWN else w for w in said).replace("|", " ").split())

    def strange(self, text: str) -> set[str]:
        """The characters of a text that are not in the vocabulary."""
        return {letter for letter in _spaced(text) if letter not in self.tokens}


def _spaced(text: str) -> str:
    """A text with single bars for its spaces."""
    return SPACE.join(text.replace(SPACE, " ").split())


class Pieces:
    """Word pieces by a tokenizer of the `tokenizers` library that has the blank and the unknown.

    tokens: piece -> number, with "▁" where a word begins.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        # what a text says is text, also where it spells the blank
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self.tokens = tokenizer.get_vocab(with_added_tokens=True)
        for name in (BLANK, UNKNOWN):
            if name not in self.tokens:
                raise ValueError(f"these word pieces lack {name}, which transcripts need")
        self.blank, self.unknown = self.tokens[BLANK], self.tokens[UNKNOWN]
        self.size = len(self.tokens)

    @classmethod
    def learn(cls, texts: Iterable[str], kind: str, size: int) -> "Pieces":
        """`size` pieces at most, by "unigram" or "bpe". ValueError for another kind, or fewer than
        the letters of the texts."""
        if kind not in _KINDS:
            raise ValueError(f"there are no word pieces {kind!r}; there are {', '.join(_KINDS)}")
        said = [" ".join(text.split()) for text in texts]
        letters = sorted({letter for text in said for letter in text if letter != " "})
        if not letters:
            raise ValueError("word pieces are learnt from transcripts, and these hold none")
        least = len(letters) + 3  # the blank, the unknown, and the beginning of a word
        if size < least:
            raise ValueError(
                f"{kind}:{size} is too few pieces: the transcripts have {len(letters)} letters, so "
                f"{least} is the least"
            )
        model, trainer = _KINDS[kind](size, ["▁", *letters])
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.train_from_iterator(said, trainer)
        return cls(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Numbers of a text; what is not known is `unknown`."""
        ids = self._read(" ".join(text.split())).ids
        # a unigram model finds the blank also where a text spells it
        return [self.unknown if i == self.blank else i for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of numbers, blanks left out; nothing is merged here."""
        kept = [int(i) for i in ids if int(i) != self.blank]
        with failing("of the run", "write a text"):
            said = self.tokenizer.decode(kept, skip_special_tokens=False)
        return " ".join(said.replace(UNKNOWN, "�").split())

    def _read(self, text: str) -> Any:
        with failing("of the run", "read a text"):
            return self.tokenizer.encode(text, add_special_tokens=False)

    def strange(self, text: str) -> set[str]:
        """The characters of a text that are in no piece."""
        text = " ".join(text.split())
        found = self._read(text)
        places = zip(found.ids, found.offsets, strict=True)
        return {c for i, (a, b) in places if i in (self.blank, self.unknown) for c in text[a:b]}


def _bpe(size: int, letters: list[str]) -> tuple[Any, Any]:
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BLANK, UNKNOWN],
        initial_alphabet=letters,
        show_progress=False,
    )
    return models.BPE(unk_token=UNKNOWN), trainer


def _unigram(size: int, letters: list[str]) -> tuple[Any, Any]:
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=[BLANK, UNKNOWN],
        unk_token=UNKNOWN,
        initial_alphabet=letters,
        show_progress=False,
    )
    return models.Unigram(), trainer


_KINDS: Mapping[str, Callable[[int, list[str]], tuple[Any, Any]]] = {
    "unigram": _unigram,
    "bpe": _bpe,
}
Transcripts = Letters | Pieces


def frames_for(ids: Sequence[int]) -> int:
    """How many frames CTC needs to write these tokens."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def usable(
    rows: Sequence[Mapping[str, Any]], words: Transcripts, frames: Callable[[float], int]
) -> tuple[list[int], Counter[str]]:
    """The places of rows that can be trained on, and why the others cannot: reason -> how many.

    rows: closed ones, with text and seconds.  frames: of a recording of so many seconds, those that
    the model writes in.
    """
    places: list[int] = []
    left_out: Counter[str] = Counter()
    for place, row in enumerate(rows):
        if words.strange(row["text"]):
            left_out["a transcript with characters outside the vocabulary"] += 1
        elif frames_for(words.encode(row["text"])) > frames(row["seconds"]):
            left_out["a transcript longer than its frames allow"] += 1
        else:
            places.append(place)
    return places, left_out
