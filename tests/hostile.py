# ruff: noqa: E501  (a target a line)
"""Hostile files: small seeds of every kind that is read, what is done to them, what reads them.

What must hold for any bytes: a reader returns, or raises ValueError or OSError, of which the
command line makes one line and exit code 2. Anything else is a finding. Tests draw a few cases of
each target; `benchmarks/reproduce/fuzz.py` draws many.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import lzma
import os
import shutil
import tarfile
import warnings
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from subquad.convert.files import read_tensors, read_torch
from subquad.convert.folder import convert
from subquad.data import example_arrays, readers, speech
from subquad.data.audio import Sound
from subquad.data.decoding import decode
from subquad.data.examples import open_examples
from subquad.data.forms import ANSWER, CLASSIFY, IMAGE, TAG, UnfitError
from subquad.data.series_files import open_series
from subquad.data.series_sheet import Columns
from subquad.data.vocabulary import vocabulary

#: what a reader may raise; UnfitError is caught, and counted, by whoever reads rows
REFUSALS = (ValueError, OSError, UnfitError)


@dataclass(frozen=True)
class Target:
    """A reader. name: how its file is called, for readers go by names. seeds: files that it reads.
    beside: what else lies in the folder. draw: cases of its own, in place of damaged seeds."""

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    beside: Callable[[Path], object] = lambda folder: None
    draw: Callable[[], st.SearchStrategy[bytes]] | None = None

    def cases(self) -> st.SearchStrategy[bytes]:
        """Bytes to be read: damaged seeds, or what else this target draws."""
        damaged = st.sampled_from(self.seeds()).flatmap(_damaged)
        return damaged if self.draw is None else st.one_of(self.draw(), damaged)

    def run(self, data: bytes, folder: Path) -> str:
        """What came of a case: read, or refused. Anything else is raised."""
        self.beside(folder)
        file = folder / self.name
        file.write_bytes(data)
        try:
            with cached_in(folder / ".cache"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as the command line has it
                self.read(file)
        except REFUSALS as refusal:
            if not str(refusal).strip():
                raise AssertionError("a refusal without a reason") from refusal
            return "refused"
        return "read"


@contextmanager
def cached_in(folder: Path) -> Iterator[None]:
    """Prepared data go there, and are removed."""
    before = os.environ.get("SUBQUAD_CACHE")
    os.environ["SUBQUAD_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("SUBQUAD_CACHE")
        if before is not None:
            os.environ["SUBQUAD_CACHE"] = before
        shutil.rmtree(folder, ignore_errors=True)


# --- what is done to seeds ----------------------------------------------------------------------

#: pieces that readers stumble over
_WORDS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b"\t", b'"', b",", b"-1", b"0", b"1e999",
    b"nan", b"NaN", b"Infinity", b"99999999999999999999", b"1" * 400, b"null", b"{}", b"[]", b"[" * 3000,
    b'{"a":' * 3000, b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80", b"0001-01-01", b"9999-12-31",
    b"2016-02-30", b"!!python/object/apply:os.system ['exit 3']", b"&a [*a]", b": ", b"- ", b"True",
)  # fmt: skip
#: values that settings do not expect
_VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 7, 10**9, 10**30, 0.5, -0.5, 1e308, float("inf"), float("nan"), "",
    "x", "layer", "rotary:-1", "../x", [], [0], [1, 2], [[]], {}, {"kind": "tokens"}, {"x": 1},
    [[[[[]]]]], ["a", 1],
)  # fmt: skip


@st.composite
def _damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """A few changes of bytes; of JSON as often changes of values."""
    if seed[:1] in (b"{", b"[") and seed.count(b"\n") < 2 and draw(st.booleans()):
        return draw(damaged_json(json.loads(seed))).encode()
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.sampled_from((0, 1, 2, 4, 8, 50, 10**9))))
        put = draw(
            st.one_of(
                st.just(b""),
                st.binary(max_size=8),
                st.sampled_from(_WORDS),
                st.just(bytes(data[at // 2 : at])),
            )
        )
        data[at:to] = put
    return bytes(data)


@st.composite
def damaged_json(draw: st.DrawFn, seed: Any) -> str:
    """A JSON text in which a few values are others, gone, or under another name."""
    tree = json.loads(json.dumps(seed))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        what = draw(st.integers(0, 5))
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[draw(st.text(max_size=6))] = holder.pop(key)
        else:
            values = st.one_of(st.sampled_from(_VALUES), st.integers(), st.text(max_size=6))
            holder[key] = copy.deepcopy(draw(values))
    return json.dumps(tree)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


# --- seeds --------------------------------------------------------------------------------------


def npz(**arrays: Any) -> bytes:
    """The bytes of an .npz file."""
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def wav(samples: int = 800, rate: int = 8000) -> bytes:
    """A tone in 16 bits."""
    out = io.BytesIO()
    with wave.open(out, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(rate)
        tone = 9000 * np.sin(np.arange(samples) / 5)
        made.writeframes(tone.astype("<i2").tobytes())
    return out.getvalue()


def tar(**files: bytes) -> bytes:
    """A .tar with these files, whose names have _dot_ for their dot."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in files.items():
            about = tarfile.TarInfo(name.replace("_dot_", "."))
            about.size = len(data)
            made.addfile(about, io.BytesIO(data))
    return out.getvalue()


def picture(kind: str) -> bytes:
    """A small picture file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(out, kind)
    return out.getvalue()


def digits(**changed: Any) -> bytes:
    """Spoken digits as `speech_arrays` has them."""
    planes = {
        f"{p}_xz": np.frombuffer(lzma.compress(bytes(900)), np.uint8) for p in ("lo", "mid", "hi")
    }
    n = 9
    told = {
        "length": np.full(n, 100), "label": np.arange(n), "take": np.arange(n),
        "speaker": np.zeros(n, int), "speakers": np.asarray(["ann"]),
    }  # fmt: skip
    return npz(**{**planes, **told, **changed})


_IMAGES = {"images": np.arange(480, dtype=np.uint8).reshape(30, 4, 4), "label": np.arange(30) % 3}
_MUSIC = {
    name: value
    for part in ("train", "valid", "test")
    for name, value in (
        (part, np.full((6, 4), 60, np.int8)),
        (f"{part}_len", np.asarray([4, 2])),
    )
}
_CLASSIFY = "".join(json.dumps({"text": f"a {i}", "label": "xyz"[i % 3]}) + "\n" for i in range(9))
_SQUAD = {
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "The sky is blue.",
                    "qas": [
                        {"question": "What?", "answers": [{"text": "blue", "answer_start": 11}]}
                    ],
                }
            ],
        }
    ]
}
_CONLL = "-DOCSTART- O\n\nAnn B-PER\nruns O\n\nBob B-PER\n" * 3
_SERIES = "date,a,b\n" + "".join(f"2016-07-{d:02d},{d},{d / 2}\n" for d in range(1, 29))
_LONG = "item_id,timestamp,target\n" + "".join(f"s,2016-07-{d:02d},{d}\n" for d in range(1, 29))
_WIDE = "V1,V2,V3,V4\nQ1,1,2,3\nQ2,4,5,\n"


@cache
def _tensors() -> tuple[bytes, str]:
    """A saved model of ours: model.safetensors and config.json."""
    from tempfile import TemporaryDirectory

    from subquad.model import build
    from subquad.model import save as save_model

    fields = {"dim": 8, "num_layers": 1, "num_heads": 2, "ffn_dim": 8, "causal": True}
    told = {"arch": "transformer", "model": fields, "vocab_size": 12}
    with TemporaryDirectory() as folder:
        save_model(build(**told), folder, told)
        file = Path(folder)
        return (file / "model.safetensors").read_bytes(), (file / "config.json").read_text()


def _told() -> str:
    """config.json in one line."""
    return json.dumps(json.loads(_tensors()[1]))


_GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_head": 2, "n_layer": 1,
    "n_positions": 16, "vocab_size": 12, "activation_function": "gelu_new", "tie_word_embeddings": True,
}  # fmt: skip
_BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 8, "intermediate_size": 8,
    "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 12, "max_position_embeddings": 16,
    "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
}  # fmt: skip


@cache
def _foreign(kind: str) -> bytes:
    """The tensors of a random model of transformers."""
    import transformers

    config = {"gpt2": _GPT2, "bert": _BERT}[kind]
    made = transformers.AutoConfig.for_model(
        kind, **{k: v for k, v in config.items() if k != "model_type"}
    )
    model = getattr(transformers, config["architectures"][0])(made)
    tied = model.get_expanded_tied_weights_keys()
    return save({k: t.contiguous() for k, t in model.state_dict().items() if k not in tied})


def _torch_file() -> bytes:
    out = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(2)}}, out)
    return out.getvalue()


# --- readers ------------------------------------------------------------------------------------


def _documents(path: Path) -> object:
    found = readers.open_documents(str(path))
    return [len(p) for part in ("train", "valid", "test") for p in found.take(part).pieces()]


def _rows(form: Any) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        found = open_examples(str(path), form)
        return [row for part in ("train", "valid", "test") for row in found.take(part)]

    return read


def _series(path: Path) -> object:
    return open_series(str(path), Columns(), None)[0].says


def _sound(path: Path) -> object:
    sound = Sound("it", path)
    return sound.seconds(), sound.wave()


def _speech(path: Path) -> object:
    found = speech.open_speech(str(path))
    return [row for part in ("train", "valid", "test") for row in found.take(part)]


def _ours(path: Path) -> object:
    from subquad.model import load

    return load(path.parent)


def _shell(path: Path) -> object:
    from huggingface_hub.errors import StrictDataclassError

    from subquad.hf import SubquadConfig

    try:
        return SubquadConfig.from_pretrained(path.parent, local_files_only=True)
    except StrictDataclassError as error:  # so transformers itself refuses a field of a wrong type
        raise ValueError(str(error)) from error


def _converted(path: Path) -> object:
    into = path.parent / "into"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    return convert(path.parent, into)


def _facts(path: Path) -> object:
    from subquad.train.folder import read_facts

    return read_facts(path.parent)


def _settings(path: Path) -> object:
    from subquad.cli.train import check

    return check("lm", ["--config", str(path)])


def _lies_beside(**files: Callable[[], bytes]) -> Callable[[Path], object]:
    def put(folder: Path) -> None:
        for name, data in files.items():
            (folder / name.replace("_dot_", ".")).write_bytes(data())

    return put


def _arrays() -> st.SearchStrategy[bytes]:
    """.npz files with the names that readers look for, and any small arrays."""
    kinds = st.sampled_from(
        ("u1", "i1", "<i8", "<u8", "<f4", "<f8", "?", "<U3", "S2", "<M8[s]", "<c8")
    )
    shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)

    def made(pair: tuple[str, tuple[int, ...]]) -> np.ndarray:
        kind, shape = pair
        size = int(np.prod(shape))
        return np.frombuffer(bytes((7 * i) % 251 for i in range(size * np.dtype(kind).itemsize)), kind).reshape(shape) if not kind.startswith("<U") else np.full(shape, "abc")  # fmt: skip

    array = st.tuples(kinds, shapes).map(made)
    good = [_IMAGES, _MUSIC, {"jpeg": np.zeros(4, np.uint8), "length": np.asarray([4])}]

    def changed(seed: dict[str, np.ndarray]) -> st.SearchStrategy[bytes]:
        extra = ("split", "classes", "caption")
        names = st.sampled_from((*seed, *extra))
        other = st.dictionaries(names, array, min_size=1, max_size=3)
        return other.map(lambda found: npz(**{**seed, **found}))

    return st.sampled_from(good).flatmap(changed)


def _digit_arrays() -> st.SearchStrategy[bytes]:
    names = st.sampled_from(("length", "label", "take", "speaker", "speakers", "lo_xz"))
    cells = st.one_of(st.integers(-3, 12), st.floats(), st.text("ab1", max_size=2))
    array = (
        st.lists(cells, max_size=9)
        .map(lambda found: np.asarray(found))
        .filter(lambda a: a.dtype != object)
    )
    return st.dictionaries(names, array, min_size=1, max_size=2).map(lambda some: digits(**some))


def _yaml() -> list[bytes]:
    return [
        b"arch:\n  name: performer\n  dim: 16\n  num_layers: 1\ntask:\n  context: 32\ntrain:\n"
        b"  steps: 3\n  lr: 0.001\ndata: null\n",
    ]


_RUN = {
    "format_version": 1, "task": "lm", "metric": "bits_per_byte", "arch": "transformer", "command": "x",
    "model": {}, "data": {"source": "a", "key": "b"}, "train": {}, "task_facts": {"config": {}},
    "versions": {}, "parameters": 3,
}  # fmt: skip


def _text(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


def _packed(text: str, pack: Callable[[bytes], bytes]) -> Callable[[], list[bytes]]:
    return lambda: [pack(text.encode())]


def _tokenizer() -> list[bytes]:
    from subquad.data.vocabulary import learn

    return [learn(iter([b"a b c ab abc"]), 258).to_str().encode()]


TARGETS: dict[str, Target] = {
    "text": Target("a.txt", _text("Once upon a time. \u00e9\n" * 20), _documents),
    "text-gz": Target("a.txt.gz", _packed("Once upon a time.\n" * 20, gzip.compress), _documents),
    "text-xz": Target("a.txt.xz", _packed("Once upon a time.\n" * 20, lzma.compress), _documents),
    "text-jsonl": Target("a.jsonl", _text(_CLASSIFY), _documents),
    "text-tar": Target("a.tar", lambda: [tar(a_dot_txt=b"one " * 9, b_dot_txt=b"two " * 9)], _documents),
    "fasta": Target("a.fasta", _text(">a\nMKTAYIAK\nQR\n>b\nGAVLIW\n" * 4), _documents),
    "rows-jsonl": Target("a.jsonl", _text(_CLASSIFY), _rows(CLASSIFY)),
    "rows-json": Target("a.json", lambda: [json.dumps(_SQUAD).encode()], _rows(ANSWER)),
    "rows-csv": Target("a.csv", _text('text,label\n"a, b",x\nc,y\n' * 1 + "d,x\n" * 8), _rows(CLASSIFY)),
    "rows-tsv": Target("a.tsv", _text("text\tlabel\n" + "a b\tx\nc\ty\n" * 6), _rows(CLASSIFY)),
    "rows-csv-xz": Target("a.csv.xz", _packed("text,label\n" + "a,x\n" * 9, lzma.compress), _rows(CLASSIFY)),
    "conll": Target("a.conll", _text(_CONLL), _rows(TAG)),
    "series-csv": Target("a.csv", _text(_SERIES, _LONG, _WIDE), _series),
    "audio-wav": Target("a.wav", lambda: [wav()], _sound),
    "speech-tar": Target(
        "a.tar",
        lambda: [tar(transcripts_dot_tsv=b"train\ta\tone\ntest\tb\ttwo\n", a_dot_wav=wav(), b_dot_wav=wav())],
        _speech,
    ),
    "speech-npz": Target("a.npz", lambda: [digits()], _speech, draw=_digit_arrays),
    "picture": Target("a.png", lambda: [picture(k) for k in ("png", "jpeg", "gif", "bmp", "ppm", "tiff")], lambda p: decode(p, "it")),
    "npz": Target("a.npz", lambda: [npz(**_IMAGES), npz(**_MUSIC)], _documents, draw=_arrays),
    "rows-npz": Target("a.npz", lambda: [npz(**_IMAGES)], _rows(IMAGE), draw=_arrays),
    "pictures-npz": Target("a.npz", lambda: [npz(**_IMAGES)], example_arrays.pictures_in, draw=_arrays),
    "safetensors": Target("model.safetensors", lambda: [_tensors()[0]], lambda p: read_tensors(p.parent)),
    "our-weights": Target(
        "model.safetensors", lambda: [_tensors()[0]], _ours,
        _lies_beside(config_dot_json=lambda: _tensors()[1].encode()),
    ),
    "our-config": Target(
        "config.json", lambda: [_told().encode()], _ours,
        _lies_beside(model_dot_safetensors=lambda: _tensors()[0]),
    ),
    "shell-config": Target("config.json", lambda: [json.dumps({"model_type": "subquad", **json.loads(_told())}).encode()], _shell),
    "torch": Target("a.pt", lambda: [_torch_file()], read_torch),
    "convert-gpt2": Target(
        "config.json", lambda: [json.dumps(_GPT2).encode()], _converted,
        _lies_beside(model_dot_safetensors=lambda: _foreign("gpt2")),
    ),
    "convert-bert": Target(
        "config.json", lambda: [json.dumps(_BERT).encode()], _converted,
        _lies_beside(model_dot_safetensors=lambda: _foreign("bert")),
    ),
    "run-json": Target("run.json", lambda: [json.dumps(_RUN).encode()], _facts),
    "run-yaml": Target("a.yaml", _yaml, _settings),
    "tokenizer": Target("tokenizer.json", _tokenizer, lambda p: vocabulary(str(p))),
}  # fmt: skip
