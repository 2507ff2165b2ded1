"""Runs on what is no text, and on sequences made as they are needed, from the command line."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import subquad
from subquad.cli import main
from subquad.data.proteins import LETTERS

# accelerate and tensorboard warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

QUICK = ["--arch", "local", "--preset", "tiny", "--train.steps", "3", "--train.batch", "2"]
QUICK += ["--train.reports", "1"]


def pixels(path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype(np.uint8)
    np.savez(path, images=images)


def proteins(path: Path) -> None:
    draw = np.random.default_rng(0)
    letters = ["".join(draw.choice([*LETTERS[:20]], 30)) for _ in range(60)]
    path.write_text("".join(f">p{i}\n{some}\n" for i, some in enumerate(letters)))


def voices(path: Path) -> None:
    frames = np.random.default_rng(0).integers(40, 60, (30, 4)).astype(np.int8)
    length = np.asarray([10, 20])
    parts = ("train", "valid", "test")
    np.savez(path, **dict.fromkeys(parts, frames), **{f"{p}_len": length for p in parts})


def rolls(path: Path) -> None:
    frames = np.packbits(np.random.default_rng(0).random((30, 88)) < 0.05, axis=1)
    length = np.asarray([10, 20])
    parts = ("train", "valid", "test")
    np.savez(path, **dict.fromkeys(parts, frames), **{f"{p}_len": length for p in parts})


DATA = {
    "pixels.npz": (pixels, "bits_per_dim", 8.5),
    "proteins.fasta": (proteins, "perplexity", 40),
    "voices.npz": (voices, "nll_per_frame", 4 * np.log(150)),
    "rolls.npz": (rolls, "nll_per_frame", 8 * np.log(150)),
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file, and a run of each; nobody changes it."""
    root = tmp_path_factory.mktemp("kinds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBQUAD_CACHE", str(root / "cache"))
        for name, (make, _, _) in DATA.items():
            make(root / name)
            words = ["train", "lm", *QUICK, "--data", str(root / name), "--task.context", "16"]
            words += ["--task.order", "channels"] if make is pixels else []
            assert main([*words, "--out", str(root / f"run-{name}")]) == 0
        words = ["train", "synthetic", *QUICK, "--task.length", "8", "--task.symbols", "4"]
        assert main([*words, "--out", str(root / "run-synthetic")]) == 0
    return root


@pytest.fixture(autouse=True)
def own_cache(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBQUAD_CACHE", str(room / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Runs a command that must fail with one line on stderr."""

    def run(*words: str) -> str:
        capsys.readouterr()
        assert main(list(words)) == 2
        said = capsys.readouterr()
        assert re.fullmatch(r"subquad: error: [^\n]+\n", said.err)
        return said.err

    return run


@pytest.mark.parametrize("name", DATA)
def test_the_metric_is_the_datas_own(room, name, capsys):
    _, metric, most = DATA[name]
    run = room / f"run-{name}"
    facts = json.loads((run / "run.json").read_text())
    assert facts["metric"] == metric
    assert 0 < facts["numbers"][metric] < most
    assert main(["eval", str(run)]) == 0
    said = capsys.readouterr().out
    spoken = metric.replace("_", " ")
    assert re.match(rf"{spoken} +\d+\.\d{{4}}\n", said)
    assert f"the test part of {name}" in said
    assert "gzip" not in said
    assert main(["list", str(run)]) == 0
    assert re.search(r"evaluated +\d+\.\d{4} on", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    assert "--max-bytes" in capsys.readouterr().out


def test_pictures_are_drawn_whole_into_a_file(room, fails, capsys):
    run = str(room / "run-pixels.npz")
    assert main(["generate", run, "--out", "a.npz", "--count", "3", "--prompt", "7 250"]) == 0
    assert capsys.readouterr().out == "3 written to a.npz\n"
    images = np.load("a.npz")["images"]
    assert images.shape == (3, 4, 4, 1)
    assert (images[:, 0, :2, 0] == [7, 250]).all()
    assert len({image.tobytes() for image in images}) == 3
    assert main(["eval", run, "--data", "a.npz"]) == 0  # what was written is data
    assert "dims in 3 pictures of a.npz" in capsys.readouterr().out
    assert "give --out FILE.png or FILE.npz, not None" in fails("generate", run)
    assert "no folder nowhere" in fails("generate", run, "--out", "nowhere/a.npz")
    whole = " ".join(["0"] * 16)
    error = fails("generate", run, "--out", "a.npz", "--prompt", whole)
    assert "the prompt has 16 tokens and a picture 16" in error
    error = fails("generate", run, "--out", "a.npz", "--prompt", "256")
    assert "'256', at place 1, is none of the pixels: numbers from 0 to 255" in error


def test_proteins_are_drawn_as_fasta(room, capsys):
    run = str(room / "run-proteins.fasta")
    words = ["generate", run, "--prompt", "MKV", "--count", "2", "--max-new-tokens", "9"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r">generated_1\nMKV[A-Z]{0,9}\n>generated_2\nMKV[A-Z]{0,9}\n", said)
    assert main([*words, "--out", "a.fasta"]) == 0
    assert Path("a.fasta").read_text() == said
    found = subquad.load(run).predict("MKV")
    assert found["perplexity"] == pytest.approx(2 ** (sum(found["bits"]) / 3))


@pytest.mark.parametrize("name", ["voices.npz", "rolls.npz"])
def test_music_is_drawn_into_a_file(room, name, fails):
    run = str(room / f"run-{name}")
    words = ["generate", run, "--out", "a.npz", "--max-new-tokens", "41"]
    assert main(words) == 0
    written = np.load("a.npz")
    assert len(written["frames"]) == written["frames_len"].sum()
    assert written["frames"].shape[1] == (4 if name == "voices.npz" else 11)
    assert "music is written as an array: give --out FILE.npz" in fails("generate", run)


def test_a_run_goes_on_and_keeps_to_its_kind(room, fails, tmp_path, capsys):
    data = str(room / "pixels.npz")
    order = tmp_path / "order.txt"
    order.write_text(" ".join(map(str, reversed(range(16)))))
    words = ["train", "lm", *QUICK, "--data", data, "--task.context", "16", "--out", "run"]
    assert main([*words, "--task.order", str(order)]) == 0
    order.unlink()  # the run has its own copy
    again = ["train", "lm", "--out", "run", "--resume", "--train.steps", "4"]
    assert main(again) == 0
    assert "bits per dim" in capsys.readouterr().out
    assert main(["eval", "run"]) == 0
    assert "in permuted order" in capsys.readouterr().out
    error = fails("eval", "run", "--data", str(room / "proteins.fasta"))
    assert "holds proteins, and this run is about pictures of 4 x 4 x 1" in error


def test_flags_that_do_not_go_with_the_data_are_named(room, fails):
    data = ["train", "lm", "--data", str(room / "proteins.fasta")]
    assert "--task.order is for pictures" in fails(*data, "--task.order", "channels")
    assert "--task.tokenizer bpe:300 is for text" in fails(*data, "--task.tokenizer", "bpe:300")
    assert "is none of them" in fails(
        "train", "lm", "--data", str(room / "pixels.npz"), "--task.order", "chanels"
    )


def test_comparing_goes_by_the_datas_metric(room, tmp_path, capsys):
    words = ["compare", "lm", "--archs", "local", "--data", str(room / "proteins.fasta")]
    words += ["--out", "out", "--arch.dim", "16", "--arch.num_layers", "1", "--arch.ffn_dim", "16"]
    words += ["--budget-tokens", "32", "--train.batch", "1", "--task.context", "16"]
    assert main([*words, "--multiples", "1,2"]) == 0
    assert "perplexity, 2x" in (tmp_path / "out" / "table.md").read_text()


# --- synthetic ------------------------------------------------------------------------------------


def test_synthetic_is_scored_on_a_fresh_set(room, capsys):
    run = str(room / "run-synthetic")
    assert main(["eval", run, "--count", "50", "--seed", "5"]) == 0
    said = capsys.readouterr().out
    assert re.match(r"token accuracy +\d\.\d{4}\nexact match +\d\.\d{4}\n", said)
    assert "50 sequences of copy, 8 tokens with 4 symbols" in said
    assert "seed 5; all 4 answers scored" in said
    assert main(["eval", run, "--count", "9", "--length", "30"]) == 0
    assert "9 sequences of copy, 30 tokens" in capsys.readouterr().out
    assert len((Path(run) / "evaluations.jsonl").read_text().splitlines()) == 2
    assert main(["list", run]) == 0
    assert capsys.readouterr().out.count("evaluated") == 2


def test_synthetic_says_what_it_does_not_know(room, fails):
    run = str(room / "run-synthetic")
    error = fails("eval", run, "--carry")
    assert "--carry is not for a run of the task synthetic; known: --count, --seed" in error
    error = fails("eval", run, "--max-bytes", "9")
    assert "--max-bytes is not for a run of the task synthetic" in error
    assert "leave --data x out" in fails("eval", run, "--data", "x")
    assert "leave --data x out" in fails("train", "synthetic", "--data", "x")
    assert "copy of 9 tokens cannot be" in fails("train", "synthetic", "--task.length", "9")
    assert "no kind is called 'copi'" in fails("train", "synthetic", "--task.kind", "copi")
    assert "a run of the task synthetic cannot generate" in fails("generate", run)
    lm = str(room / "run-proteins.fasta")
    assert "--count is not for a run of the task lm; known: --part" in fails(
        "eval", lm, "--count", "3"
    )


def test_synthetic_resumes(tmp_path, capsys):
    words = ["train", "synthetic", *QUICK, "--task.kind", "recall", "--task.length", "8"]
    assert main([*words, "--out", "run"]) == 0
    assert main(["train", "synthetic", "--out", "run", "--resume", "--train.steps", "5"]) == 0
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["steps"], facts["tokens"]) == (5, 5 * 2 * 8)
    assert "token accuracy" in capsys.readouterr().out
