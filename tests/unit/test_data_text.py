"""Text as documents, parts, tokens and windows."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from subquad.data.corpus import Corpus, Windows, tokenise, words_of
from subquad.data.documents import PARTS
from subquad.data.text import open_text
from subquad.data.vocabulary import Bytes, Subwords, learn, vocabulary

PACKERS = [(".xz", lzma.compress), (".gz", gzip.compress), (".bz2", bz2.compress)]
ROMEO = "But soft, what light through yonder window breaks? \N{SUN} Größe\n".encode() * 40


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def folder_of(root: Path, names: list[str]) -> str:
    for name in names:
        written(root / name, f"{name}\n".encode() * 20)
    return str(root)


# --- sources ------------------------------------------------------------------------------------


def test_a_plain_file_is_mapped_where_it_lies_and_cut_in_order(tmp_path, own_cache):
    text = open_text(written(tmp_path / "a.txt", ROMEO))
    assert b"".join(text.documents()) == ROMEO
    assert isinstance(text.raw, np.memmap)
    assert not own_cache.exists()
    parts = [b"".join(text.take(part).documents()) for part in PARTS]
    assert b"".join(parts) == ROMEO
    assert abs(len(parts[0]) - 0.9 * len(ROMEO)) < 4
    for part in parts:
        part.decode()  # no character is torn


@pytest.mark.parametrize(("suffix", "pack"), PACKERS)
def test_packed_files_say_what_the_plain_file_says(tmp_path, suffix, pack):
    text = open_text(written(tmp_path / f"a.txt{suffix}", pack(ROMEO)))
    assert b"".join(text.documents()) == ROMEO
    assert [text.take(p).nbytes for p in PARTS] == [
        open_text(written(tmp_path / "a.txt", ROMEO)).take(p).nbytes for p in PARTS
    ]


def test_jsonl_rows_are_documents(tmp_path):
    rows = [{"text": f"row {i}\n", "label": i % 2} for i in range(200)]
    lines = "\n".join(map(json.dumps, rows)).encode()
    text = open_text(written(tmp_path / "a.jsonl", lines))
    assert list(text.documents()) == [row["text"].encode() for row in rows]
    counts = [len(text.take(part)) for part in PARTS]
    assert sum(counts) == 200
    assert 160 < counts[0] < 195
    assert min(counts) > 0


def test_a_document_stays_in_its_part_when_others_come(tmp_path):
    def part_of(text):
        return {d: p for p in PARTS for d in text.take(p).documents()}

    names = [f"d{i}/f{i}.txt" for i in range(60)]
    before = part_of(open_text(folder_of(tmp_path / "a", names)))
    after = part_of(open_text(folder_of(tmp_path / "b", [*names, "new.txt"])))
    assert before.items() <= after.items()
    assert set(before.values()) == set(PARTS)


@pytest.mark.parametrize("count", [3, 4])
def test_few_files_still_fill_every_part(tmp_path, count):
    text = open_text(folder_of(tmp_path / "a", [f"{i}.txt" for i in range(count)]))
    assert [len(text.take(part)) for part in PARTS] == [count - 2, 1, 1]


def test_two_files_are_each_cut(tmp_path):
    text = open_text(folder_of(tmp_path / "a", ["1.txt", "2.txt"]))
    assert [len(text.take(part)) for part in PARTS] == [2, 2, 2]
    assert sum(text.take(part).nbytes for part in PARTS) == text.nbytes


def test_named_parts_are_taken_at_their_word(tmp_path):
    names = ["train/1.txt", "train/2.txt", "valid/3.txt", "test/4.txt", "index.json"]
    text = open_text(folder_of(tmp_path / "a", names))
    assert [len(text.take(part)) for part in PARTS] == [2, 1, 1]
    assert "1 outside of train, valid and test left out" in text.source


def test_members_of_a_tar_are_documents(tmp_path):
    path = tmp_path / "a.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        for name in ("train/1.txt", "test/2.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(ROMEO)
            archive.addfile(member, io.BytesIO(ROMEO))
    text = open_text(str(path))
    assert [len(text.take(part)) for part in PARTS] == [1, 0, 1]
    assert list(text.take("test").documents()) == [ROMEO]


def test_a_pipe_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match=r"pipe\.txt is neither a file nor a folder"):
        open_text(str(tmp_path / "pipe.txt"))


def test_a_tar_that_ends_within_a_member_is_damaged(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(ROMEO)
        archive.addfile(member, io.BytesIO(ROMEO))
    path.write_bytes(path.read_bytes()[: 512 + len(ROMEO) // 2])
    with pytest.raises(ValueError, match=r"a\.tar is damaged: unexpected end"):
        list(open_text(str(path)).documents())


def test_hidden_files_and_caches_are_no_documents(tmp_path):
    names = ["a.txt", ".git/config", "__pycache__/a.pyc", ".hidden"]
    assert len(open_text(folder_of(tmp_path / "a", names))) == 1


def test_the_embedded_text_is_the_standard_library():
    text = open_text(None)
    assert "standard library" in text.source
    assert len(text) > 300
    joined = text.take("valid").head(50_000)
    assert b"def " in b"".join(joined.documents())
    assert all(text.take(part).nbytes > 100_000 for part in PARTS)


def test_a_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "a.txt.gz"
    written(path, gzip.compress(b"old " * 10))
    first = open_text(str(path))
    written(path, gzip.compress(b"newer " * 10))
    second = open_text(str(path))
    assert first.key != second.key
    assert b"".join(second.documents()) == b"newer " * 10


def test_head_cuts_the_last_document():
    text = open_text(None).head(100_001)
    assert 100_001 <= text.nbytes <= 100_004
    assert len(b"".join(text.pieces(1000))) == text.nbytes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.txt", None, "nothing at"),
        ("empty.txt", b"", "is empty"),
        ("bad.xz", b"not xz", "is damaged"),
        ("bad.gz", b"not gz", "is damaged"),
        ("cut.xz", lzma.compress(ROMEO * 9)[:-40], "is damaged"),
        ("bad.tar", b"x" * 2000, "is damaged"),
        ("bad.jsonl", b'{"text": "a"}\n{"text"', "line 2 is not JSON"),
        ("cut.gz", gzip.compress(ROMEO * 9)[:-40], "is damaged"),
        ("spoilt.gz", gzip.compress(os.urandom(99))[:30] + bytes([255]) * 90, "is damaged"),
        ("bad.bz2", b"not bz2", "is damaged"),
        ("cut.bz2", bz2.compress(ROMEO * 9)[:-40], "is damaged"),
        ("a.zip", b"PK" + ROMEO, "packed in a way that is not read here"),
        ("a.txt.zst", ROMEO, "unpack it"),
        ("other.jsonl", b'{"body": "a"}', "no column 'text'; it has body"),
        ("list.jsonl", b"[1]", "no column 'text'; it has list"),
        ("five.jsonl", b'{"text": 5}', "line 1 has 5 in column 'text', which is no text"),
    ],
)
def test_bad_sources_are_named(tmp_path, own_cache, name, content, message):
    path = tmp_path / name
    if content is not None:
        written(path, content)
    with pytest.raises(ValueError, match=message):
        open_text(str(path))
    assert list(own_cache.rglob("*.bin")) == []  # nothing half done is left


def test_empty_folders_and_unknown_parts_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no files"):
        open_text(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="an empty path"):
        open_text("")
    with pytest.raises(ValueError, match="no part 'tst'"):
        open_text(written(tmp_path / "a", ROMEO)).take("tst")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.npy", b""),
        ("index.npy", b"x" * 99),
        ("raw.bin", b""),
        ("raw.bin", b"short"),
        ("raw.bin", None),
        ("source.json", b"{}"),
        ("source.json", b""),
    ],
)
def test_damage_of_what_was_prepared_is_named(tmp_path, own_cache, name, content):
    path = written(tmp_path / "a.txt.gz", gzip.compress(ROMEO))
    open_text(path)
    (kept,) = own_cache.rglob(name)
    kept.unlink() if content is None else kept.write_bytes(content)
    with pytest.raises(ValueError, match=r"prepared data in .* are damaged .*delete that folder"):
        open_text(path)


@pytest.mark.parametrize(("name", "content"), [("tokens.bin", b"xx"), ("ends.npy", b"")])
def test_damage_of_kept_tokens_is_named(tmp_path, own_cache, name, content):
    text = open_text(written(tmp_path / "a.txt", ROMEO))
    words = Subwords(learn(iter([ROMEO]), 300), "bpe:300")
    tokenise(text, words, keep=True)
    (kept,) = own_cache.rglob(name)
    kept.write_bytes(content)
    with pytest.raises(ValueError, match=r"prepared data in .* are damaged"):
        tokenise(text, words, keep=True)


# --- vocabularies -------------------------------------------------------------------------------


def test_bytes_there_and_back_and_as_transformers_reads_them(tmp_path):
    from transformers import AutoTokenizer

    words = Bytes()
    every = bytes(range(256))
    assert words.decode(words.encode(every)) == every
    assert words.decode([65, words.boundary, words.pad, 66]) == b"AB"
    words.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    said = "Größe, \N{SUN}\n\tx"
    assert theirs(said)["input_ids"] == list(said.encode())
    assert theirs.decode(list(said.encode())) == said
    assert (theirs.bos_token_id, theirs.pad_token_id) == (words.boundary, words.pad)
    assert len(theirs) == words.size


def test_a_learnt_bpe_is_lossless_and_saved(tmp_path):
    words = Subwords(learn(iter([ROMEO]), 300), "bpe:300")
    assert words.size == 300
    assert len(words.encode(ROMEO)) < len(ROMEO) / 2
    assert words.decode(words.encode(ROMEO)) == ROMEO
    words.save(tmp_path)
    again = vocabulary(str(tmp_path / "tokenizer.json"))
    assert (again.encode(ROMEO) == words.encode(ROMEO)).all()
    assert again.boundary == words.boundary


def test_what_spells_a_special_token_is_text(tmp_path):
    words = Subwords(learn(iter([ROMEO]), 300), "bpe:300")
    said = b"a<|endoftext|>b"
    words.save(tmp_path)
    for read in (words, vocabulary(str(tmp_path))):
        assert read.boundary not in read.encode(said)
        assert read.decode(read.encode(said)) == said


def test_a_tokenizer_that_loses_text_is_refused(tmp_path):
    text = open_text(written(tmp_path / "a.txt", ROMEO))
    lossy = Tokenizer(models.WordLevel({"But": 0, "soft": 1, "[UNK]": 2}, unk_token="[UNK]"))
    lossy.pre_tokenizer = pre_tokenizers.Whitespace()
    lossy.save(str(tmp_path / "lossy.json"))
    with pytest.raises(ValueError, match=r"lossy\.json loses text: ', what light"):
        words_of(text, str(tmp_path / "lossy.json"))
    # a space that is put before a text loses nothing that is counted
    spaced = learn(iter([ROMEO]), 300)
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    spaced.save(str(tmp_path / "spaced.json"))
    assert words_of(text, str(tmp_path / "spaced.json")).size == 300


def test_vocabularies_that_do_not_do_are_named(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer file"):
        vocabulary(str(tmp_path / "no.json"))
    with pytest.raises(ValueError, match=r"neither a tokenizer\.json"):
        vocabulary(written(tmp_path / "bad.json", b"{}"))
    with pytest.raises(ValueError, match="bpe:100 is too few"):
        learn(iter([ROMEO]), 100)
    with pytest.raises(ValueError, match="bpe:99999999 is more than the 1,048,576"):
        learn(iter([ROMEO]), 99_999_999)
    with pytest.raises(ValueError, match="byte 3 of this text is not UTF-8"):
        Subwords(learn(iter([ROMEO]), 300), "x").encode(b"abc\xff")


# --- corpus and windows -------------------------------------------------------------------------


def joined(corpus: Corpus) -> list[int]:
    """The stream, the slow way."""
    out = []
    for start, end in zip(corpus.start, corpus.end, strict=True):
        out += [corpus.boundary, *corpus.tokens[start:end].tolist()]
    return out


def test_the_stream_is_the_documents_with_boundaries(tmp_path):
    text = open_text(folder_of(tmp_path / "a", [f"{i}.txt" for i in range(5)]))
    corpus = tokenise(text, Bytes(), keep=True)
    stream = joined(corpus)
    assert len(corpus) == len(stream)
    for at in (0, 1, 100, 119, 120, 121, 122, len(stream) - 1):
        for count in (0, 1, 2, 130, 300):
            if at + count <= len(stream):
                assert corpus.read(at, count).tolist() == stream[at : at + count]


def test_tokens_kept_and_not_kept_agree(tmp_path):
    text = open_text(folder_of(tmp_path / "a", [f"{i}.txt" for i in range(5)]))
    words = Subwords(learn(text.pieces(), 300), "bpe:300")
    kept, loose = (tokenise(text, words, keep=keep) for keep in (True, False))
    assert isinstance(kept.tokens, np.memmap)
    assert kept.read(0, len(kept)).tolist() == loose.read(0, len(loose)).tolist()
    assert words.decode(kept.read(0, len(kept))) == b"".join(text.documents())
    assert kept.nbytes == text.nbytes


def test_long_documents_are_tokenised_in_pieces_without_loss(tmp_path):
    said = ("Größe " * 200_000).encode()  # 1.4 MB without a line end
    text = open_text(written(tmp_path / "a.txt", said))
    words = Subwords(learn(iter([said[:1000]]), 270), "x")
    corpus = tokenise(text, words, keep=False)
    assert words.decode(corpus.read(1, len(corpus) - 1)) == said


def test_windows_depend_on_seed_and_number_alone():
    corpus = tokenise(open_text(None).take("valid").head(5000), Bytes(), keep=True)
    one, two = Windows(corpus, 33, 100, 7), Windows(corpus, 33, 9, 7)
    other = Windows(corpus, 33, 100, 8)
    for i in (8, 0, 3):
        assert torch.equal(one[i]["input_ids"], two[i]["input_ids"])
    assert any(not torch.equal(one[i]["input_ids"], other[i]["input_ids"]) for i in range(9))
    item = one[5]
    assert item["input_ids"].shape == item["targets"].shape == (33,)
    assert torch.equal(item["input_ids"][1:], item["targets"][:-1])


def test_windows_reach_both_ends():
    tokens = np.arange(10, dtype=np.uint8)
    corpus = Corpus(tokens, np.asarray([0]), np.asarray([10]), 256, 10)
    windows = Windows(corpus, 3, 500, 0)
    starts = {int(windows[i]["input_ids"][0]) for i in range(500)}
    assert starts == {256, *range(7)}


SPARSE = """
import resource, sys
from subquad.data.corpus import Windows, tokenise
from subquad.data.text import open_text
from subquad.data.vocabulary import Bytes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
text = open_text(sys.argv[1])
windows = Windows(tokenise(text.take("train"), Bytes(), keep=True), 1024, 10**9, 0)
for i in range(500):
    windows[i * 1_000_003]
print(text.nbytes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_five_gigabytes_do_not_enter_memory(tmp_path):
    path = tmp_path / "huge.txt"
    with open(path, "wb") as file:
        os.truncate(file.fileno(), 5_000_000_000)  # sparse: takes no disk
    done = subprocess.run(
        [sys.executable, "-c", SPARSE, str(path)], capture_output=True, text=True, check=True
    )
    size, grown = map(int, done.stdout.split())
    assert size == 5_000_000_000
    assert grown < 100  # MiB
