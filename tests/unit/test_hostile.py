"""Hostile files: whatever the bytes, a reader reads or refuses with a reason.

CASES damaged files for each of the targets of tests/hostile.py, the same in every run, and by hand
those that declare what they do not hold, grow when read, or would run code.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import resource
import struct
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from hostile import TARGETS, digits, npz, picture, wav
from subquad.cli import main
from subquad.cli.settings import read
from subquad.convert.files import read_tensors, read_torch
from subquad.data import audio, example_arrays, readers, sources, tables
from subquad.data import npz as arrays
from subquad.data.audio import Sound
from subquad.data.decoding import decode
from subquad.data.forms import IMAGE
from subquad.data.pictures import Pixels
from subquad.data.vocabulary import Subwords, vocabulary
from subquad.model import load

CASES = 10  # for each target; `benchmarks/reproduce/fuzz.py` draws thousands


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.no_poison
def test_any_bytes_are_read_or_refused(name: str):
    target = TARGETS[name]

    @settings(
        max_examples=CASES,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.cases())
    def check(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            target.run(data, Path(folder))

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read(name: str, tmp_path: Path):
    """Or else nothing behind the first check would be reached."""
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds()):
        (tmp_path / str(number)).mkdir()
        assert target.run(seed, tmp_path / str(number)) == "read"


# --- what is declared is checked before memory is taken for it ----------------------------------


@pytest.fixture
def little_memory():
    """Taking more than 2 GB beyond what there is fails, and does not end the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    if not status.is_file():
        pytest.skip("no /proc that tells how much memory is in use")
    used = int(status.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def npy(shape: tuple[int, ...], kind: str = "|u1", data: bytes = b"") -> bytes:
    """An array whose header says what it likes."""
    out = io.BytesIO()
    told = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, told)
    return out.getvalue() + data


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(f"{name}.npy", data)
    return path


OPENERS = {
    "documents": lambda path: readers.open_documents(str(path)),
    "examples": example_arrays.pictures_in,
}


@pytest.mark.parametrize("open_it", OPENERS.values(), ids=OPENERS)
@pytest.mark.parametrize("shape", [(1 << 40, 4, 4), (1 << 32, 1 << 32, 2)], ids=["TB", "overflow"])
@pytest.mark.usefixtures("little_memory")
def test_an_array_that_declares_terabytes(tmp_path: Path, open_it, shape):
    path = zipped(tmp_path / "a.npz", images=npy(shape, data=bytes(16)))
    with pytest.raises(ValueError, match=r"images declares [\d,]+ bytes, and 16 are there"):
        open_it(path)


def test_an_archive_that_unpacks_to_more_than_there_is(tmp_path: Path, monkeypatch):
    path = zipped(tmp_path / "a.npz", images=npy((1 << 20, 4, 4), data=bytes(1 << 24)))
    assert path.stat().st_size < 1 << 15
    monkeypatch.setattr(arrays, "memory", lambda: 1 << 20)
    with pytest.raises(ValueError, match="unpacks to 16,777,344 bytes, and at most 1,048,576"):
        example_arrays.pictures_in(path)


def test_memory_is_half_of_the_machines():
    assert 1 << 27 < arrays.memory() < 1 << 50


@pytest.mark.usefixtures("little_memory")
def test_an_order_that_declares_terabytes(tmp_path: Path):
    order = tmp_path / "order.npy"
    order.write_bytes(npy((1 << 40,), "<i8", bytes(16)))
    with pytest.raises(ValueError, match=r"declares 8,796,093,022,208 bytes, and 16 are there"):
        Pixels.load(tmp_path, {"shape": [2, 2, 1], "order": "order.npy"})


def test_an_array_of_another_format(tmp_path: Path):
    path = zipped(tmp_path / "a.npz", images=b"\x93NUMPY\x09\x00" + npy((1,))[8:])
    with pytest.raises(ValueError, match=r"its format is \(9, 0\), and"):
        example_arrays.pictures_in(path)


def test_members_that_zip_files_may_have_and_are_not_read(tmp_path: Path):
    path = zipped(tmp_path / "a.npz", images=npy((2,), data=b"ab"))
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # encrypted
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"damaged: .*encrypted"):
        example_arrays.pictures_in(path)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"length": np.asarray(["a"] * 9)}, "length must hold whole numbers from 0 on"),
        ({"speaker": np.full(9, -1)}, "speaker must hold whole numbers"),
        ({"speaker": np.full(9, 7)}, "speakers below 1 .most 7."),
        ({"speakers": np.asarray("ann")}, "speakers must be a list, not"),
        ({"lo_xz": np.frombuffer(lzma.compress(bytes(1 << 26)), np.uint8)}, r"\[901, 900, 900\]"),
    ],
    ids=["text", "negative", "unknown", "scalar", "bomb"],
)
def test_spoken_digits_of_another_kind(tmp_path: Path, changed, says):
    from subquad.data.speech import open_speech

    path = tmp_path / "a.npz"
    path.write_bytes(digits(**changed))
    with pytest.raises(ValueError, match=says):
        open_speech(str(path))


def test_lengths_of_pictures_that_are_none(tmp_path: Path):
    path = tmp_path / "a.npz"
    path.write_bytes(npz(jpeg=np.zeros(4, np.uint8), length=np.asarray(4)))
    with pytest.raises(ValueError, match=r"length must be a list of whole numbers"):
        readers.open_documents(str(path))


def test_lengths_of_pieces_that_are_none(tmp_path: Path):
    path = tmp_path / "a.npz"
    parts = {p: np.zeros((2, 4), np.int8) for p in ("train", "valid", "test")}
    path.write_bytes(npz(**parts, **{f"{p}_len": np.full(1, 2.0) for p in parts}))
    with pytest.raises(ValueError, match=r"train_len says float64 \(1,\)"):
        readers.open_documents(str(path))


def test_a_line_that_does_not_end(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "' + b"a" * (1 << 20)))
    monkeypatch.setattr(sources, "_LONGEST", 1 << 10)
    with pytest.raises(ValueError, match="line 1 is longer than 1,024 bytes"):
        list(tables.reader(path)(path))


def test_a_table_that_unpacks_to_more_than_there_is(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.csv.xz"
    path.write_bytes(lzma.compress(b"text,label\n" + b"a,b\n" * 10_000))
    monkeypatch.setattr(tables, "memory", lambda: 1 << 10)
    with pytest.raises(ValueError, match="unpacks to more than 1,024 bytes"):
        list(tables.reader(path)(path))


@pytest.mark.usefixtures("little_memory")
def test_a_recording_that_declares_terabytes(tmp_path: Path):
    soundfile = pytest.importorskip("soundfile")
    raw = bytearray(wav())
    raw[40:44] = struct.pack("<I", 0xFFFFFFF0)
    path = tmp_path / "a.wav"
    path.write_bytes(raw)
    assert len(Sound("it", path).wave()) < 10_000
    flac = io.BytesIO()
    soundfile.write(flac, np.zeros(800, np.float32), 8000, format="FLAC")
    raw = bytearray(flac.getvalue())
    raw[21:26] = bytes([raw[21] | 15, 255, 255, 255, 255])  # 2^36 - 1 samples
    path = tmp_path / "a.flac"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"the recording it (is damaged|cannot be decoded): "):
        Sound("it", path).wave()


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_a_recording_that_unpacks_to_more_than_there_is(tmp_path: Path, rate: int, monkeypatch):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros((100_000, 2), np.int16), rate)
    assert path.stat().st_size < 1 << 12
    need = 100_000 * 4 * (1 + 16_000 // rate)
    monkeypatch.setattr(audio, "memory", lambda: need)
    monkeypatch.setattr(audio, "_BLOCK", 1 << 12)
    assert len(Sound("it", path).wave()) == 100_000 * 16_000 // rate
    monkeypatch.setattr(audio, "memory", lambda: need - 4)
    with pytest.raises(ValueError, match=r"^the recording it takes more than [\d,]+ bytes once it"):
        Sound("it", path).wave()
    told: list[str] = []
    rows = audio.Careful(audio.Heard([{"audio": Sound("it", path)}]), told.append)
    assert rows.those([0]) == []
    assert told[0].endswith("cut it into pieces; it is left out")


def test_a_block_of_many_channels_is_no_longer_than_another(tmp_path: Path):
    soundfile = pytest.importorskip("soundfile")
    path, read = tmp_path / "a.wav", []
    soundfile.write(path, np.zeros((20_000, 64), np.int16), 16_000)

    class Counted(soundfile.SoundFile):
        def read(self, frames: int, **how: object) -> np.ndarray:
            read.append(frames * self.channels)
            return super().read(frames, **how)

    with Counted(path) as opened:
        assert len(audio._mean(opened, "it")) == 20_000
    assert max(read) <= 1 << 20


@pytest.mark.parametrize(("rate", "says"), [(1, "less than 1,000"), (1 << 30, "more than 768,000")])
def test_a_recording_at_no_rate(tmp_path: Path, rate: int, says: str):
    pytest.importorskip("soundfile")
    path = tmp_path / "a.wav"
    path.write_bytes(wav(rate=rate))
    with pytest.raises(ValueError, match=f"is audio of {says} samples a second"):
        Sound("it", path).wave()


def test_a_picture_that_declares_more_than_anybody_means():
    raw = bytearray(picture("bmp"))
    raw[18:26] = struct.pack("<ii", 1 << 20, 1 << 20)
    with pytest.raises(ValueError, match="it is damaged: Image size"):
        decode(bytes(raw), "it")


@pytest.mark.usefixtures("little_memory")
def test_tensors_that_declare_what_is_not_there(tmp_path: Path):
    for head in (struct.pack("<Q", 1 << 63), struct.pack("<Q", 2) + b"{}x", _header(1 << 40)):
        (tmp_path / "model.safetensors").write_bytes(head)
        with pytest.raises(ValueError, match="is damaged or cut short"):
            read_tensors(tmp_path)


def _header(many: int) -> bytes:
    told = {"w": {"dtype": "F32", "shape": [many], "data_offsets": [0, 4 * many]}}
    text = json.dumps(told).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("dim", 1 << 30, "dim is 1073741824; it must be at most"),
        ("dim", 1 << 19, "cannot be loaded: .* is .*, and config.json says"),
        ("num_layers", 10**9, "num_layers is 1000000000; it must be at most"),
        ("ffn_dim", 1 << 22, "and config.json says"),
    ],
)
def test_a_model_that_declares_what_its_weights_do_not_hold(tmp_path: Path, field, value, says):
    target = TARGETS["our-config"]
    told = json.loads(target.seeds()[0])
    told["model"][field] = value
    target.beside(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=says):
        load(tmp_path)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("inside", [None, "state_dict"])
def test_tensors_that_are_larger_than_what_is_stored(tmp_path: Path, inside):
    path, wide = tmp_path / "pytorch_model.bin", {"w": torch.zeros(1, 8).expand(1 << 40, 8)}
    torch.save(wide if inside is None else {inside: wide}, path)
    assert path.stat().st_size < 1 << 13
    with pytest.raises(ValueError, match=r"w is \(1099511627776, 8\), [\d,]+ bytes, of which 32 "):
        read_tensors(tmp_path)
    torch.save({"w": torch.zeros(2, 2).to_sparse()}, path)
    with pytest.raises(ValueError, match=r"w is torch.sparse_coo on cpu, and no plain tensor"):
        read_tensors(tmp_path)


def test_tensors_that_are_all_the_same(tmp_path: Path):
    """Layers may share their weights; a copy of each of a million names would fill any memory."""
    path, one = tmp_path / "pytorch_model.bin", torch.ones(4)
    torch.save({f"layers.{i}": one for i in range(100)}, path)
    assert len(read_tensors(tmp_path)) == 100
    torch.save({f"layers.{i}": one[:2] for i in range(101)}, path)
    with pytest.raises(ValueError, match=r"more than 100 tensors, layers.100 among them, are the"):
        read_tensors(tmp_path)


@pytest.mark.usefixtures("little_memory")
def test_a_torch_file_that_unpacks_to_more_than_it_has(tmp_path: Path):
    made, path = tmp_path / "made.bin", tmp_path / "a.bin"
    torch.save({"w": torch.zeros(1 << 22)}, made)
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    assert path.stat().st_size < 1 << 15
    with pytest.raises(ValueError, match=r"data.pkl in it is packed, and may unpack to any size"):
        read_torch(path)
    raw = bytearray(made.read_bytes())
    at = raw.index(b"made/data/0", raw.index(b"PK\x01\x02")) - 46
    raw[at + 20 : at + 28] = struct.pack("<II", 1 << 31, 1 << 31)
    made.write_bytes(raw)
    with pytest.raises(ValueError, match=r"its members hold 2,[\d,]+ bytes, and it has 16,"):
        read_torch(made)
    made.write_bytes(raw[:5000])
    with pytest.raises(ValueError, match=r"is damaged, or no file of torch.save: "):
        read_torch(made)


# --- nothing grows, nothing runs ----------------------------------------------------------------

LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS, r"has the alias \*a; write its value there"),
        ("[" * 50_000, "nests more than 20 groups"),
        ("x: !!python/object/apply:os.system ['exit 3']", "is not YAML: could not determine"),
        ("x: '" + "a" * (1 << 20) + "'", "a configuration has at most 1,048,576"),
        ("a: [", "is not YAML"),
    ],
    ids=["laughs", "deep", "code", "long", "cut"],
)
def test_configurations(tmp_path: Path, text: str, says: str, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        read(str(path))
    assert main(["train", "lm", "--config", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("subquad: error: ")


@pytest.mark.parametrize("first", [True, False])
def test_every_configuration_is_checked(tmp_path: Path, first: bool):
    bad, good = tmp_path / "bad.yaml", tmp_path / "good.yaml"
    bad.write_text(LAUGHS)
    good.write_text("data: null\n")
    files = [bad, good] if first else [good, bad]
    from subquad.cli.train import check

    with pytest.raises(ValueError, match="has the alias"):
        check("lm", [word for file in files for word in ("--config", str(file))])


def test_a_configuration_that_is_not_text(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read(str(path))
    with pytest.raises(ValueError, match="there is no configuration"):
        read(str(tmp_path / "b.yaml"))


DEEP = "[" * 5_000
JSONS = ("text-jsonl", "rows-jsonl", "rows-json", "our-config", "convert-gpt2", "run-json")


@pytest.mark.parametrize("name", JSONS)
def test_deep_json(name: str, tmp_path: Path):
    target = TARGETS[name]
    assert target.run(DEEP.encode(), tmp_path) == "refused"


class Evil:
    """Its pickle writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path):
    proof, path = tmp_path / "proof", tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": Evil(proof)}, path)
    with pytest.raises(ValueError, match=r"holds a \S+, and reading that would run its code"):
        read_torch(path)
    path.write_bytes(pickle.dumps(Evil(proof)))
    with pytest.raises(ValueError, match="pytorch_model"):
        read_torch(path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())
    assert proof.exists(), "the pickle would have run"


@pytest.mark.parametrize("open_it", OPENERS.values(), ids=OPENERS)
def test_arrays_of_pickles_are_refused_and_not_run(tmp_path: Path, open_it):
    proof, path = tmp_path / "proof", tmp_path / "a.npz"
    np.savez(path, images=np.asarray([Evil(proof)], object))
    with pytest.raises(ValueError, match="images holds Python objects, a pickle that would run"):
        open_it(path)
    assert not proof.exists()


def test_a_pattern_is_parsed_and_not_run(tmp_path: Path):
    import subquad as sq
    from subquad.ops.lowering import parse

    proof = tmp_path / "proof"
    for text in (
        f"__import__('pathlib').Path({str(proof)!r}).touch()",
        "Window(9**9**9)",
        "(" * 9999,
    ):
        with pytest.raises(ValueError, match=r"\S"):
            parse(text)
    assert not proof.exists()
    assert parse("Causal() & Window(behind=3)") == sq.Causal() & sq.Window(behind=3)


def test_a_tokenizer_whose_own_rules_fail(tmp_path: Path):
    """Its Rust panics where its search gives up, which is no Exception of Python's."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    path = tmp_path / "tokenizer.json"
    made = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("(a|aa)+$"), "isolated")
    made.save(str(path))
    words = vocabulary(str(path))
    assert words.decode(words.encode(b"aab")) == b"a a b"
    with pytest.raises(ValueError, match=r"^tokenizer \S+tokenizer.json cannot read this text: \S"):
        words.encode(b"a" * 60 + b"b")
    words = Subwords(Tokenizer(models.WordLevel({"a": 0}, "[UNK]")), "words")
    with pytest.raises(
        ValueError, match=r"^tokenizer words cannot read this text: .*Missing \[UNK"
    ):
        words.encode(b"b")


def test_warnings_of_readers_are_not_for_users(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TARGETS["picture"].run(picture("tiff")[:-40], tmp_path)
    assert "pickle" not in {name for name in sys.modules if name.startswith("subquad")}


# --- what campaigns of fuzzing have found -------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "data", "says"),
    [
        ("shell-config", b"NaN", "is no object"),
        ("shell-config", b'{"model_type": "subquad", "model":' + b"[" * 9999, "is no object"),
        ("shell-config", b'{"model_type": "subquad", "stem": {"kind": []}}', r"is called \[\]"),
        ("run-yaml", b"arch:\n  name:", "no architecture is called None"),
    ],
)
def test_a_value_of_another_type_is_refused(target, data, says, tmp_path):
    path = tmp_path / TARGETS[target].name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says):
        TARGETS[target].read(path)


def test_what_asks_for_too_much_memory_is_refused(tmp_path, monkeypatch):
    def full(*given: object, **how: object) -> None:
        raise MemoryError

    path = tmp_path / "a.xz"
    path.write_bytes(lzma.compress(b"text"))
    monkeypatch.setattr(lzma.LZMAFile, "read", full)
    asks = pytest.raises(ValueError, match=r"a\.xz asks for more memory")
    with asks, sources.unpacked(path) as stream:
        stream.read()
    monkeypatch.setattr("PIL.Image.open", full)
    with pytest.raises(ValueError, match="a picture is damaged: it asks for more memory"):
        decode(b"", "a picture")


def test_classes_that_are_no_list_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    images = np.zeros((4, 2, 2), np.uint8)
    np.savez(path, images=images, label=np.arange(4), classes=np.asarray("cat"))
    with pytest.raises(ValueError, match=r"a\.npz: classes must be a list of names; it is \(\)"):
        example_arrays.find(path, IMAGE)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_layers_are_not_counted_out_for_ever(family, tmp_path):
    target = TARGETS[f"convert-{family}"]
    told = json.loads(target.seeds()[0])
    told |= {"n_layer" if family == "gpt2" else "num_hidden_layers": 10**9, "vocab_size": 0}
    target.beside(tmp_path)
    (tmp_path / target.name).write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"1,000,000,000 layers"):
        target.read(tmp_path / target.name)
