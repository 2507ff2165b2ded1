"""Vocabularies: what is written to token numbers and back.

`Symbols`: so many tokens, written as letters or as numbers; behind them the boundary between
documents (it stands before each, so it begins and ends one), padding, a hidden token, and one that
may be marked (the last three are for other tasks than language modelling, so that one can start
from another). `Bytes`: the symbols are the 256 bytes, and what is written is text.
`Subwords`: any tokenizer of the `tokenizers` library.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from subquad.data.panics import failing
from subquad.data.tokenizer_files import Reading, write

__all__ = ["Bytes", "Subwords", "Symbols", "Vocabulary", "learn", "vocabulary"]

#: what tokenizers call the token that stands between documents
BOUNDARIES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]")
#: and padding, a hidden token, and one that may be marked
ROLES = {
    "pad": ("<|pad|>", "<pad>", "[PAD]"),
    "hidden": ("<|mask|>", "<mask>", "[MASK]"),
    "mark": ("<|mark|>", "<cls>", "[CLS]", "<s>"),
}
_MOST = 1 << 20
SPECIAL = ("<|endoftext|>", "<|pad|>", "<|mask|>", "<|mark|>")


class Symbols:
    """Tokens 0 to count - 1; those of documents are the elements themselves, so 256 at most.

    letters: the character of each; without them a text is their numbers with spaces between.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, name: str, count: int, letters: str = "") -> None:
        self.name, self.count, self.letters = name, count, letters
        self.size = count + len(SPECIAL)
        self.boundary, self.pad, self.hidden, self.mark = range(count, self.size)

    @property
    def unsaid(self) -> list[int]:
        """Tokens that are never generated."""
        return [self.pad, self.hidden, self.mark]

    def encode(self, text: bytes) -> np.ndarray:
        """Token numbers of a text. ValueError that names what is none, and where."""
        said = text.decode(errors="replace")
        words = [*said] if self.letters else said.split()
        known = {word: number for number, word in enumerate(self._words())}
        for place, word in enumerate(words, 1):
            if word not in known:
                what = self.letters or f"numbers from 0 to {self.count - 1}"
                raise ValueError(f"{word!r}, at place {place}, is none of the {self.name}: {what}")
        return np.asarray([known[word] for word in words], np.uint8)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The text of token numbers, without special ones."""
        words = self._words()
        joint = "" if self.letters else " "
        return joint.join(words[i] for i in map(int, ids) if i < self.count).encode()

    def _words(self) -> list[str]:
        return [*self.letters] if self.letters else [str(i) for i in range(self.count)]

    def save(self, folder: Path, reading: Reading | None = None) -> None:
        """Write the same vocabulary as files that transformers reads, as a task reads texts."""
        known = {word: number for number, word in enumerate(self._words())}
        if self.letters:
            tokenizer = Tokenizer(models.BPE(vocab=known, merges=[]))
            tokenizer.decoder = decoders.Fuse()
        else:
            tokenizer = Tokenizer(models.WordLevel(known))
            tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        _save_special(tokenizer, folder, reading)


class Bytes(Symbols):
    """Every byte is a token."""

    name = "bytes"

    def __init__(self) -> None:
        super().__init__(self.name, 256)

    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, np.uint8)

    def decode(self, ids: Iterable[int]) -> bytes:
        return bytes(i for i in map(int, ids) if i < 256)

    def save(self, folder: Path, reading: Reading | None = None) -> None:
        letters = {char: i for i, char in enumerate(_letters())}
        tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
        _byte_level(tokenizer)
        _save_special(tokenizer, folder, reading)


class Subwords:
    """A tokenizer of the `tokenizers` library. Text must be UTF-8.

    Its own tokens for padding, hiding and marking are `pad`, `hidden` and `mark`; one that it lacks
    is the boundary, until `complete` adds it.
    """

    unsaid: tuple[int, ...] = ()

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        known = tokenizer.get_vocab(with_added_tokens=True)
        boundary = next((word for word in BOUNDARIES if word in known), BOUNDARIES[0])
        if boundary not in known:
            tokenizer.add_special_tokens([boundary])
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # what a text says is text, also where it spells a special token
        tokenizer.encode_special_tokens = True
        self.tokenizer, self.name, self._boundary = tokenizer, name, boundary
        self.boundary = tokenizer.token_to_id(boundary)
        self._roles = {
            role: next((word for word in words if word in known), boundary)
            for role, words in ROLES.items()
        }
        ids = {role: tokenizer.token_to_id(word) for role, word in self._roles.items()}
        self.pad, self.hidden, self.mark = ids["pad"], ids["hidden"], ids["mark"]
        self.size = tokenizer.get_vocab_size(with_added_tokens=True)
        self.dtype = np.dtype(np.uint16 if self.size <= 1 << 16 else np.uint32)

    def complete(self) -> "Subwords":
        """The same with a token of its own for every role."""
        missing = [ROLES[role][0] for role, word in self._roles.items() if word == self._boundary]
        if not missing:
            return self
        self.tokenizer.add_special_tokens(missing)
        return Subwords(self.tokenizer, self.name)

    def encode(self, text: bytes) -> np.ndarray:
        """Token numbers of a text. ValueError where it is not UTF-8."""
        try:
            said = text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"byte {error.start} of this text is not UTF-8, which tokenizer {self.name} needs; "
                "leave --task.tokenizer out to work on bytes"
            ) from None
        with failing(self.name, "read this text"):
            ids = self.tokenizer.encode(said, add_special_tokens=False).ids
        return np.asarray(ids, self.dtype)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The text of token numbers, without special ones."""
        with failing(self.name, "write these numbers"):
            return self.tokenizer.decode([int(i) for i in ids]).encode()

    def check(self, texts: Iterable[bytes]) -> None:
        """ValueError if a text does not come back as it was, but for a space before it."""
        for text in texts:
            back = self.decode(self.encode(text))
            if back.removeprefix(b" ") != text.removeprefix(b" "):
                said, heard = text.decode(), back.decode()
                pairs = zip(said, heard, strict=False)
                at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(heard))
                raise ValueError(
                    f"tokenizer {self.name} loses text: {said[at : at + 20]!r} comes back as "
                    f"{heard[at : at + 20]!r}, so its numbers would not be those of the text; "
                    "take bytes, bpe:N, or a tokenizer that keeps everything"
                )

    def save(self, folder: Path, reading: Reading | None = None) -> None:
        """Write files that transformers reads, as a task reads texts, and `vocabulary` too."""
        own = {k: None if v == self._boundary else v for k, v in self._roles.items()}
        own["pad"] = self._roles["pad"]
        write(self.tokenizer, folder, boundary=self._boundary, reading=reading, **own)


Vocabulary = Symbols | Subwords


def vocabulary(name: str) -> Bytes | Subwords:
    """`bytes`, a tokenizer.json, a folder that holds one, or the id of a tokenizer on the hub."""
    if name == Bytes.name:
        return Bytes()
    path = Path(name)
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file() and path.suffix == ".json":
        raise ValueError(f"there is no tokenizer file {path}")
    try:
        if path.is_file():
            return Subwords(Tokenizer.from_file(str(path)), name)
        from transformers import AutoTokenizer

        found = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        return Subwords(found.backend_tokenizer, name)
    except Exception as error:  # tokenizers raises bare Exception, the hub a family of its own
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"tokenizer {name!r} is neither a tokenizer.json that can be read nor on the hub: "
            f"{reason}"
        ) from None


def learn(texts: Iterator[bytes], size: int) -> Tokenizer:
    """A byte-level BPE of `size` entries (lossless on any UTF-8 text), learnt from texts."""
    if size < 256 + 1:
        raise ValueError(f"a BPE holds 256 bytes and a boundary, so bpe:{size} is too few")
    if size > _MOST:
        raise ValueError(f"bpe:{size} is more than the {_MOST:,} entries that are learnt at most")
    tokenizer = Tokenizer(models.BPE())
    _byte_level(tokenizer)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BOUNDARIES[0]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.decode(errors="ignore") for text in texts), trainer)
    return tokenizer


def _byte_level(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()


def _letters() -> list[str]:
    """The character that byte-level tokenizers write for each byte 0 to 255."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(spare)) for b in range(256)]


def _save_special(tokenizer: Tokenizer, folder: Path, reading: Reading | None) -> None:
    tokenizer.add_special_tokens(list(SPECIAL))
    boundary, pad, hidden, mark = SPECIAL
    marks = mark if reading else None
    names = {"boundary": boundary, "pad": pad, "hidden": hidden, "mark": marks}
    write(tokenizer, folder, reading=reading, **names)
