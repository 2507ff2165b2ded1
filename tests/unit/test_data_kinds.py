"""Documents that are no text: pictures, proteins, music. Tiny made-up files, and the real ones."""

import gzip
import io
import lzma
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from subquad.data.corpus import Windows, tokenise, words_of
from subquad.data.documents import PARTS, Documents
from subquad.data.events import PianoRolls, Voices
from subquad.data.pictures import Pixels
from subquad.data.proteins import LETTERS, Proteins
from subquad.data.readers import KINDS, open_documents
from subquad.data.text import Text


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))


def saved(path: Path, **arrays) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


def rows(documents: Documents) -> list[list[int]]:
    return [list(d) for d in documents.documents()]


# --- pictures -----------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 4, 3)).astype(np.uint8)
SPLIT = np.asarray([0] * 8 + [1] * 2 + [2] * 2, np.uint8)


def test_pictures_are_documents_of_intensities_in_the_files_own_parts(tmp_path):
    found = open_documents(saved(tmp_path / "a.npz", images=IMAGES, split=SPLIT))
    assert found.kind == Pixels((3, 4, 3))
    assert "pictures of 3 x 4 x 3 in raster order (12 pictures)" in found.source
    for number, part in enumerate(PARTS):
        chosen = IMAGES[number == SPLIT]
        assert rows(found.take(part)) == chosen.reshape(len(chosen), -1).tolist()
    assert found.kind.length == 36
    assert found.kind.words.size == 260


def test_a_channel_after_another_and_any_permutation(tmp_path):
    path = saved(tmp_path / "a.npz", images=IMAGES)
    first = rows(open_documents(path, "channels"))[0]
    assert first == [int(IMAGES[0, y, x, c]) for c in range(3) for y in range(3) for x in range(4)]
    order = np.random.default_rng(1).permutation(36)
    np.save(tmp_path / "p.npy", order)
    (tmp_path / "p.txt").write_text("\n".join(map(str, order)))
    for name in ("p.npy", "p.txt"):
        found = open_documents(path, str(tmp_path / name))
        assert rows(found)[0] == [int(IMAGES[0].reshape(-1)[p]) for p in order]
    keys = {open_documents(path, o).key for o in ("raster", "channels", str(tmp_path / "p.npy"))}
    assert len(keys) == 3


@pytest.mark.parametrize("order", ["raster", "channels", "permuted"])
def test_what_is_read_is_written_and_read_again(tmp_path, order):
    path = saved(tmp_path / "a.npz", images=IMAGES)
    if order == "permuted":
        order = str(tmp_path / "p.npy")
        np.save(order, np.random.default_rng(1).permutation(36))
    found = open_documents(path, order)
    again = Pixels.load(tmp_path, found.kind.save(tmp_path))
    assert again == found.kind
    made = list(found.documents())
    again.check(tmp_path / "b.npz")
    again.write(made, tmp_path / "b.npz")
    assert (np.load(tmp_path / "b.npz")["images"] == IMAGES).all()
    assert rows(open_documents(str(tmp_path / "b.npz"), kind=again)) == rows(found)


def test_grey_pictures_without_a_split_go_by_their_number(tmp_path):
    images = np.arange(60 * 4, dtype=np.uint8).reshape(60, 2, 2)
    found = open_documents(saved(tmp_path / "a.npz", images=images))
    assert found.kind == Pixels((2, 2, 1))
    counts = [len(found.take(part)) for part in PARTS]
    assert sum(counts) == 60
    assert min(counts) > 0
    more = np.concatenate([images, images])
    again = open_documents(saved(tmp_path / "b.npz", images=more))
    assert (again.part[:60] == found.part).all()


def test_jpeg_pictures_decode_with_two_parts_given(tmp_path):
    image = pytest.importorskip("PIL.Image")
    smooth = (np.indices((8, 8)).sum(0) * 9)[None, :, :, None] + np.zeros((40, 1, 1, 3))
    files = []
    for picture in smooth.astype(np.uint8):
        file = io.BytesIO()
        image.fromarray(picture).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    jpeg = np.frombuffer(b"".join(files), np.uint8)
    length, split = np.asarray(list(map(len, files))), np.asarray([0] * 30 + [1] * 10)
    found = open_documents(saved(tmp_path / "a.npz", jpeg=jpeg, length=length, split=split))
    assert found.kind == Pixels((8, 8, 3))
    assert "from JPEG, which loses some" in found.source
    assert (found.part[30:] == 2).all()  # 1 is test where nothing is 2
    assert set(found.part[:30].tolist()) == {0, 1}
    assert np.abs(np.asarray(rows(found)[0]) - smooth[0].reshape(-1)).max() < 8
    with pytest.raises(ValueError, match=r"jpeg has .* bytes and length says"):
        open_documents(saved(tmp_path / "b.npz", jpeg=jpeg[:-1], length=length))


def test_pictures_side_by_side_in_a_png(tmp_path):
    image = pytest.importorskip("PIL.Image")
    kind = Pixels((3, 4, 3), "channels")
    made = [IMAGES[i].transpose(2, 0, 1).tobytes() for i in range(5)]
    kind.check(tmp_path / "a.png")
    kind.write([*made, made[0][:12]], tmp_path / "a.png")
    grid = np.asarray(image.open(tmp_path / "a.png"))
    assert grid.shape == (2 * 4 - 1, 3 * 5 - 1, 3)
    assert (grid[:3, 5:9] == IMAGES[1]).all()
    assert (grid[4:, 10:, 0] == IMAGES[0, :, :, 0]).all()  # what was not drawn is black
    assert grid[4:, 10:, 1:].max() == 0
    with pytest.raises(ValueError, match=r"1 or 3 channels and these pictures 2"):
        Pixels((3, 4, 2)).check(tmp_path / "a.png")
    for out in (None, tmp_path / "a.txt"):
        with pytest.raises(ValueError, match=r"written to a file: give --out FILE\.png"):
            kind.check(out)


def test_pillow_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"need Pillow: pip install 'subquad\[pictures\]'"):
        Pixels((3, 4, 3)).check(tmp_path / "a.png")
    path = saved(tmp_path / "a.npz", jpeg=np.zeros(3, np.uint8), length=np.asarray([3]))
    with pytest.raises(ValueError, match="need Pillow"):
        open_documents(path)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("sideways", "raster, channels or a file; .*sideways is none of them"),
        ("35 34", "has 2 numbers and is no permutation of 0 to 35"),
        (" ".join(map(str, [*range(35), 34])), "36 numbers and is no permutation"),
        ("0 1.5", "holds no whole numbers"),
        (np.arange(36.0), "holds no whole numbers: they are float64"),
    ],
)
def test_orders_that_do_not_do_are_named(tmp_path, order, message):
    path = saved(tmp_path / "a.npz", images=IMAGES)
    if isinstance(order, np.ndarray):
        name = tmp_path / "p.npy"
        np.save(name, order)
    else:
        name = tmp_path / order if order == "sideways" else tmp_path / "p.txt"
        if order != "sideways":
            name.write_text(order)
    with pytest.raises(ValueError, match=message):
        open_documents(path, str(name))


def test_windows_begin_with_a_picture_where_one_fits(tmp_path):
    found = open_documents(saved(tmp_path / "a.npz", images=IMAGES, split=SPLIT)).take("train")
    corpus = tokenise(found, words_of(found, "bytes"), keep=True)
    for context, firsts in ((36, 8), (40, 7)):
        windows = Windows(corpus, context, 200, 0, corpus.starts(context))
        items = [windows[i] for i in range(200)]
        assert {int(item["input_ids"][0]) for item in items} == {256}
        assert len({tuple(item["targets"][:36].tolist()) for item in items}) == firsts
        assert all(len(item["input_ids"]) == context for item in items)


# --- proteins -----------------------------------------------------------------------------------

FASTA = b""">sp|P00001|ONE_X the first OS=x
MKV
lta
>P00002 plain
BZJUOX*

>tr|Q3|THREE
"""


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.fasta", bytes),
        ("a.fa", bytes),
        ("a.fa.gz", gzip.compress),
        ("A.FASTA.xz", lzma.compress),
    ],
)
def test_residues_are_tokens(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(FASTA))
    found = open_documents(str(tmp_path / name))
    assert found.kind == Proteins()
    said = [found.kind.words.decode(d) for d in found.documents()]
    assert said == [b"MKVLTA", b"BZJUOX"]  # a record without residues is none
    assert sorted(LETTERS) == [chr(c) for c in range(ord("A"), ord("Z") + 1)]
    assert found.kind.words.encode(b"MKV").tolist() == [LETTERS.index(c) for c in "MKV"]


def test_a_protein_keeps_its_part_by_its_accession(tmp_path):
    def part_of(path: Path, names: list[str]) -> dict[str, str]:
        path.write_text("".join(f">sp|{n}|x{i}\n{n}\n" for i, n in enumerate(names)))
        found = open_documents(str(path))
        decode = found.kind.words.decode
        return {decode(d).decode(): p for p in PARTS for d in found.take(p).documents()}

    letters = LETTERS[:20]
    names = [a + b + "A" for a in letters for b in letters]
    before = part_of(tmp_path / "a.fasta", names)
    after = part_of(tmp_path / "b.fasta", [*reversed(names), "WWWW"])
    assert before.items() <= after.items()
    shares = [sum(p == part for p in before.values()) / len(names) for part in PARTS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.05)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">a\nMK-V\n", "'-' at place 3 of a is no residue"),
        (b">x|b|y z\nMK\nM*K\n", r"'\*' at place 4 of b is no residue"),
        (b"MKV\n", "line 1 stands before any header"),
        (b">a\n>b\n", "holds no proteins"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_protein_is_named(tmp_path, content, message):
    (tmp_path / "a.fasta").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_documents(str(tmp_path / "a.fasta"))


def test_proteins_are_written_as_fasta(tmp_path):
    kind = Proteins()
    made = [kind.words.encode(b"MKV" * 30).tobytes(), kind.words.encode(b"AC").tobytes()]
    kind.check(None)
    said = kind.shown(made)
    assert said.split("\n") == [">generated_1", "MKV" * 20, "MKV" * 10, ">generated_2", "AC"]
    kind.write(made, tmp_path / "b.fasta")
    assert list(open_documents(str(tmp_path / "b.fasta")).documents()) == made


# --- music --------------------------------------------------------------------------------------


def music(make, lengths=((5, 2, 7), (3,), (4, 0, 1))) -> dict[str, np.ndarray]:
    arrays = {}
    for part, some in zip(PARTS, lengths, strict=True):
        arrays |= {part: make(sum(some)), f"{part}_len": np.asarray(some, np.int32)}
    return arrays


def voices(frames: int) -> np.ndarray:
    return np.random.default_rng(frames).integers(-1, 128, (frames, 4)).astype(np.int8)


def rolls(frames: int) -> np.ndarray:
    keys = np.random.default_rng(frames).random((frames, 88)) < 0.05
    keys[0] = False
    return np.packbits(keys, axis=1)


def test_voices_are_tokens_one_by_one(tmp_path):
    arrays = music(voices)
    found = open_documents(saved(tmp_path / "a.npz", **arrays))
    assert found.kind == Voices(4) == KINDS["voices"].load(tmp_path, found.kind.save(tmp_path))
    assert [len(found.take(p)) for p in PARTS] == [3, 1, 2]  # a piece without frames is none
    first = arrays["train"][:5]
    assert rows(found.take("train"))[0] == [int(p) + 1 for frame in first for p in frame]
    assert found.kind.measure(70.0, 56, found.take("train"))["nll_per_frame"] == 70 / 14
    assert max(map(max, rows(found))) < found.kind.words.count == 129


def test_piano_rolls_are_keys_from_below_and_an_end(tmp_path):
    arrays = music(rolls)
    found = open_documents(saved(tmp_path / "a.npz", **arrays))
    assert found.kind == PianoRolls()
    bits = np.unpackbits(arrays["train"], axis=1)
    expected = [t for frame in bits[5:7] for t in [*np.flatnonzero(frame).tolist(), 88]]
    assert rows(found.take("train"))[1] == expected
    for part in PARTS:
        counted = found.kind.measure(1.0, 1, found.take(part))
        assert counted["frames"] == len(arrays[part])
        assert counted["nll_per_frame"] == 1 / len(arrays[part])


@pytest.mark.parametrize("make", [voices, rolls])
def test_music_is_written_as_it_was_read(tmp_path, make):
    arrays = music(make)
    found = open_documents(saved(tmp_path / "a.npz", **arrays))
    made = list(found.take("train").documents())
    found.kind.check(tmp_path / "b.npz")
    found.kind.write([*made, made[0][:-1]], tmp_path / "b.npz")
    written = np.load(tmp_path / "b.npz")
    assert written["frames_len"].tolist() == [5, 2, 7, 4]  # a frame that is cut is left out
    assert (written["frames"][:14] == arrays["train"]).all()
    assert (written["frames"][14:] == arrays["train"][:4]).all()
    with pytest.raises(ValueError, match=r"give --out FILE\.npz, not None"):
        found.kind.check(None)


# --- which reader, and what does not do -----------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, r"holds the arrays x; known are pictures \(images"),
        ({"images": np.zeros((2, 3, 3))}, r"images must be uint8 .* not float64 \(2, 3, 3\)"),
        ({"images": np.zeros((2, 9), np.uint8)}, r"images must be uint8 .* not uint8 \(2, 9\)"),
        ({"images": IMAGES, "split": SPLIT[1:]}, r"split must hold .* 12 pictures; it is \(11,\)"),
        ({"images": IMAGES, "split": SPLIT + 7}, r"0, 1 or 2 for each of 12 .* values \[7 8 9\]"),
        (music(lambda n: np.zeros((n, 4))), "frames are int8 .*, not train float64"),
        (music(lambda n: np.full((n, 4), -2, np.int8)), "a pitch below -1"),
        (music(voices) | {"test_len": np.asarray([9])}, "test has 5 frames and test_len says 9"),
    ],
)
def test_arrays_that_are_none_of_these_are_named(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        open_documents(saved(tmp_path / "a.npz", **arrays))


def test_damaged_arrays_are_named(tmp_path):
    whole = Path(saved(tmp_path / "a.npz", images=IMAGES)).read_bytes()
    spoilt = bytearray(whole)
    spoilt[200:260] = bytes(60)
    for name, content in (("b.npz", b"no zip"), ("c.npz", bytes(spoilt))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            open_documents(str(tmp_path / name))
    with pytest.raises(ValueError, match="nothing at"):
        open_documents(str(tmp_path / "d.npz"))


def test_a_run_about_one_kind_reads_no_other(tmp_path):
    (tmp_path / "a.fasta").write_bytes(FASTA)
    (tmp_path / "a.txt").write_bytes(FASTA)
    pictures = saved(tmp_path / "a.npz", images=IMAGES)
    with pytest.raises(ValueError, match=r"holds proteins, and this run is about text"):
        open_documents(str(tmp_path / "a.fasta"), kind=Text())
    with pytest.raises(ValueError, match=r"3 x 4 x 3 in raster .* about pictures of 9 x 4 x 1 in"):
        open_documents(pictures, kind=Pixels((9, 4, 1)))
    with pytest.raises(ValueError, match=r"--task\.order is for pictures; a\.txt holds text"):
        open_documents(str(tmp_path / "a.txt"), "channels")
    found = open_documents(str(tmp_path / "a.fasta"))
    with pytest.raises(ValueError, match=r"tokenizer bpe:300 is for text; .* holds proteins"):
        words_of(found, "bpe:300")


def test_whole_documents_are_scored_of_what_is_no_text(tmp_path):
    found = open_documents(saved(tmp_path / "a.npz", images=IMAGES)).head(40)
    assert [len(row) for row in rows(found)] == [36, 36]


@pytest.mark.parametrize("kind", [Pixels((2, 2, 1)), Proteins(), Voices(4), PianoRolls()])
def test_vocabularies_are_read_by_transformers_and_written_as_text(tmp_path, kind):
    from transformers import AutoTokenizer

    words = kind.words
    ids = [*range(min(words.count, 40)), words.count - 1]
    said = words.decode([*ids, words.boundary, words.pad])
    assert words.encode(said).tolist() == ids
    words.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(said.decode())["input_ids"] == ids
    assert (theirs.bos_token_id, theirs.pad_token_id) == (words.boundary, words.pad)
    assert theirs.decode(ids) == said.decode()
    assert len(theirs) == words.size
    with pytest.raises(ValueError, match=rf"'!', at place 1, is none of the {words.name}: "):
        words.encode(b"!")


# --- the metrics by hand, and the real files ------------------------------------------------------


def test_numbers_are_per_dim_residue_and_frame(tmp_path):
    nats = 36 * 3 * math.log(2)
    pictures = open_documents(saved(tmp_path / "a.npz", images=IMAGES)).head(1)
    assert pictures.kind.measure(nats, 36, pictures)["bits_per_dim"] == pytest.approx(3)
    (tmp_path / "a.fasta").write_bytes(b">a\nMKVLTA\n")
    proteins = open_documents(str(tmp_path / "a.fasta"))
    found = proteins.kind.measure(6 * math.log(8), 6, proteins)
    assert found["perplexity"] == pytest.approx(8)
    assert found["bits_per_residue"] == pytest.approx(3)
    assert (found["residues"], found["proteins"]) == (6, 1)


@pytest.mark.parametrize(
    ("path", "kind", "counts", "elements"),
    [
        ("image/mnist10k.npz", Pixels((28, 28, 1)), [7996, 999, 1005], 784 * 1005),
        ("bio/ecoli_k12_UP000000625.fasta.xz", Proteins(), [3528, 422, 441], None),
        ("music/jsb_chorales_16th.npz", Voices(4), [229, 76, 77], 18_900 * 4),
        ("music/pianoroll_JSB_Chorales.npz", PianoRolls(), [229, 76, 77], None),
        ("music/pianoroll_Piano_midi.npz", PianoRolls(), [87, 12, 25], None),
    ],
)
def test_real_files(data_dir, path, kind, counts, elements):
    found = open_documents(str(data_dir / path))
    assert found.kind == kind
    assert [len(found.take(part)) for part in PARTS] == counts
    if elements:
        assert found.take("test").nbytes == elements
    frames = {"music/pianoroll_JSB_Chorales.npz": 4725, "music/pianoroll_Piano_midi.npz": 19_036}
    if path in frames:
        test = found.take("test")
        assert test.kind.measure(1.0, 1, test)["frames"] == frames[path]


@pytest.mark.slow
def test_real_pictures_in_jpeg(data_dir):
    pytest.importorskip("PIL.Image")
    found = open_documents(str(data_dir / "image" / "cifar10_jpeg_8k2k.npz"), "channels")
    assert found.kind == Pixels((32, 32, 3), "channels")
    assert len(found.take("train")) + len(found.take("valid")) == 8000
    assert len(found.take("test")) == 2000
    # neighbours in a row are alike, also where the channel is the outermost
    picture = np.asarray(rows(found.head(1))[0]).reshape(3, 32, 32)
    assert np.abs(np.diff(picture, axis=2)).mean() < 30
