"""The command line as a user meets it."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import subquad
from subquad.cli import VERBS, main

# accelerate and tensorboard warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TEXT = b"".join(b"%d times %d is %d.\n" % (i, j, i * j) for i in range(40) for j in range(40))
QUICK = ["--task.context", "32", "--task.valid_bytes", "500", "--train.batch", "2"]
QUICK += ["--train.reports", "2", "--train.lr", "0.01"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that nobody changes, beside its data."""
    root = tmp_path_factory.mktemp("trained")
    (root / "tables.txt").write_bytes(TEXT)
    words = ["train", "lm", "--arch", "local", "--preset", "tiny", "--out", str(root / "run")]
    assert main([*words, "--data", str(root / "tables.txt"), "--train.steps", "20", *QUICK]) == 0
    return root / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def fails(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Runs a command that must fail with one line on stderr, nothing on stdout, and code 2."""

    def run(*words: str) -> str:
        capsys.readouterr()
        assert main(list(words)) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert re.fullmatch(r"subquad: error: [^\n]+\n", said.err)
        return said.err

    return run


def tables(folder: Path) -> str:
    path = folder / "tables.txt"
    path.write_bytes(TEXT)
    return str(path)


# --- what works ---------------------------------------------------------------------------------


def test_help_names_every_command(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"  {verb} " in said for verb in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"subquad {subquad.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    assert done.value.code == 0
    assert f"subquad {verb}" in capsys.readouterr().out


def test_flags_are_those_of_the_architecture(capsys):
    with pytest.raises(SystemExit):
        main(["train", "lm", "--arch", "performer", "--help"])
    said = capsys.readouterr().out
    assert "--arch.features" in said
    assert "--arch.window" not in said
    assert "tokens of a training window" in " ".join(said.split())


def printed(capsys: pytest.CaptureFixture, *words: str) -> dict:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["train", "lm", *words, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def test_preset_file_and_flags_in_that_order(capsys, tmp_path):
    config = printed(capsys, "--arch", "local", "--preset=tiny")
    assert (config["arch"]["name"], config["arch"]["dim"], config["arch"]["window"]) == (
        *("local", 32, 8),
    )
    path = tmp_path / "run.yaml"
    path.write_text("arch: {name: local, preset: tiny, window: 5}\ntrain: {lr: 0.5}\n")
    config = printed(capsys, "--config", str(path), "--arch.dim", "64", "--train.steps", "7")
    assert config["arch"] | {"dim": 64, "window": 5, "num_layers": 2} == config["arch"]
    assert (config["train"]["lr"], config["train"]["steps"]) == (0.5, 7)


def test_a_run_says_where_it_is_and_how_it_was_measured(tmp_path, capsys):
    words = ["train", "lm", "--arch", "local", "--preset", "tiny", "--data", tables(tmp_path)]
    assert main([*words, "--train.steps", "4", *QUICK]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^bits per byte \d\.\d{4} ", said, re.MULTILINE)
    assert "the valid part of tables.txt; windows of 32 bytes, stride 16" in said
    assert "run folder: runs/lm-local\n" in said
    assert main([*words, "--train.steps", "2", *QUICK]) == 0
    assert "run folder: runs/lm-local-2\n" in capsys.readouterr().out
    # what was written reads again, and one flag more has the last word
    again = ["train", "lm", "--config", "runs/lm-local/config.yaml", "--out", "third"]
    assert main([*again, "--train.steps", "1"]) == 0
    facts = json.loads((tmp_path / "third" / "run.json").read_text())
    assert (facts["arch"], facts["model"]["dim"], facts["steps"]) == ("local", 32, 1)


def test_resume_goes_on_with_the_runs_own_configuration(run, capsys):
    assert main(["train", "lm", "--out", str(run), "--resume", "--train.steps", "24"]) == 0
    facts = json.loads((run / "run.json").read_text())
    assert (facts["steps"], facts["train"]["batch"]) == (24, 2)
    assert (run / "checkpoint-24").is_dir()
    assert " --train.steps 20 " in facts["command"].split(" && ")[0]
    assert facts["command"].endswith("--resume --train.steps 24")
    # there is nothing left to do, and nothing is forgotten
    assert main(["train", "lm", "--out", str(run), "--resume"]) == 0
    again = json.loads((run / "run.json").read_text())
    assert {**again, "seconds": 0} == {**facts, "seconds": 0}
    assert "stride 16" in again["protocol"]


def test_eval_scores_every_byte_once_with_gzip_beside(run, capsys):
    assert main(["eval", str(run)]) == 0
    said = capsys.readouterr().out
    held_out = len(TEXT) - len(TEXT) * 95 // 100
    assert re.search(rf"^bytes +{held_out:,}$", said, re.MULTILINE)
    assert re.search(r"^gzip -9 bits per byte +\d\.\d{4}$", said, re.MULTILINE)
    assert "the test part of tables.txt; windows of 32 bytes, stride 16" in said
    assert main(["eval", str(run), "--context", "64", "--stride", "8", "--part", "valid"]) == 0
    assert "between 56 and 64 bytes of past" in capsys.readouterr().out
    (run.parent / "other.txt").write_bytes(TEXT[:777])
    assert main(["eval", str(run), "--data", str(run.parent / "other.txt"), "--carry"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^bytes +777$", said, re.MULTILINE)
    assert "of other.txt; state carried through each document" in said
    assert len((run / "evaluations.jsonl").read_text().splitlines()) == 3
    assert main(["list", str(run)]) == 0
    assert capsys.readouterr().out.count("evaluated") == 3


def test_eval_finds_the_runs_own_data_and_knows_when_it_changed(tmp_path, fails, monkeypatch):
    words = ["train", "lm", "--arch", "local", "--preset", "tiny", "--out", "run", "--data"]
    tables(tmp_path)
    assert main([*words, "tables.txt", "--train.steps", "2", *QUICK]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["eval", "../run"]) == 0
    assert main(["train", "lm", "--out", "../run", "--resume", "--train.steps", "3"]) == 0
    (tmp_path / "tables.txt").write_bytes(TEXT[:9000])
    assert "tables.txt is not what this run was trained on" in fails("eval", "../run")


@pytest.mark.slow
def test_generate_from_prompt_and_stdin(trained, capsys, monkeypatch):
    words = ["generate", str(trained), "--max-new-tokens", "12", "--temperature", "0"]
    assert main([*words, "--prompt", "3 times"]) == 0
    first = capsys.readouterr().out
    script = "import sys; from subquad.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, *words, "--prompt", "-"],
        input="3 times",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == first
    assert done.stderr == ""


def test_no_tokens_are_not_the_default(trained, capsys):
    assert main(["generate", str(trained), "--max-new-tokens", "0"]) == 2
    assert "max_new_tokens 0 and count 1 are at least 1" in capsys.readouterr().err


def test_the_same_seed_says_the_same(trained):
    run = subquad.load(trained)
    one, two, three = (run.generate("7", max_new_tokens=30, seed=s) for s in (1, 1, 2))
    assert one == two != three
    before = torch.random.get_rng_state()
    run.generate("7", max_new_tokens=3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*subquad.ARCHS, "lm", "tiny"))


def test_predict_and_stream_agree_with_each_other(trained):
    run = subquad.load(trained)
    said = b"6 times 7 is 42."
    whole = run.predict(said)
    assert len(whole["bits"]) == len(said)
    assert whole["bits_per_byte"] == pytest.approx(sum(whole["bits"]) / len(said))
    out = run.stream(iter(said))
    steps = [next(out) for _ in range(len(said))]
    told = [-float(p[c]) / 0.6931471805599453 for p, c in zip(steps, said[1:], strict=False)]
    assert told == pytest.approx(whole["bits"][1:], abs=1e-3)
    best = [words for words, _ in whole["next"]]
    assert best[0].encode() == bytes([int(steps[-1].argmax())])
    assert torch.equal(next(run.stream([said])).topk(3).indices, steps[-1].topk(3).indices)


def test_a_text_is_scored_from_the_command_line(trained, capsys):
    for words in (["6 times 7 is 42."], ["6 times 7 is 42.", "--json"]):
        assert main(["predict", str(trained), *words]) == 0
        told = json.loads(capsys.readouterr().out)
        assert len(told["bits"]) == 16
        assert all(isinstance(words, str) and 0 < p <= 1 for words, p in told["next"])


def test_a_stream_answers_each_item_at_once(trained):
    taken = []

    def items():
        for byte in b"1 times 1":
            taken.append(byte)
            yield byte

    out = subquad.load(trained).stream(items())
    for n in range(1, 6):
        next(out)
        assert len(taken) == n
    with pytest.raises(ValueError, match="token 999 is not in the vocabulary of 260"):
        list(subquad.load(trained).stream([999]))
    with pytest.raises(ValueError, match="an empty item"):
        list(subquad.load(trained).stream([b""]))


def test_transformers_reads_the_run_folder(trained):
    from transformers import AutoTokenizer, pipeline

    import subquad.hf  # registers

    write = pipeline("text-generation", model=str(trained), tokenizer=str(trained))
    assert isinstance(write.tokenizer, type(AutoTokenizer.from_pretrained(trained)))
    # a document begins with the boundary, which the tokenizer of transformers leaves to its user
    said = write("<|endoftext|>3 times 4", max_new_tokens=5, do_sample=False)[0]["generated_text"]
    ours = subquad.load(trained).generate("3 times 4", max_new_tokens=5, temperature=0)
    assert said == "<|endoftext|>3 times 4" + ours
    assert subquad.hf


YAMLS = {
    "none": "",
    "list": "[1]",
    "five": "train: 5",
    "arch": "arch: 5",
    "task": "task: [x]",
    "name": "arch: {name: [x]}",
    "null": "train: {lr: null}",
}


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian lm", "no command 'trian'; did you mean 'train'?"),
        ("train", "wants a task first: lm"),
        ("train lmm", "no task is called 'lmm'; did you mean 'lm'?"),
        ("train lm --arch perfomer", "no architecture is called 'perfomer'; did you mean 'perf"),
        ("train summarize --arch performer", "no pair is called 'performer'; known: encoder_dec"),
        ("train lm --arch local --preset tny", "no preset is called 'tny'; did you mean 'tiny'?"),
        ("train lm --arch local --arch.widow 3", "no --arch.widow; did you mean --arch.window?"),
        ("train lm --arch.features 3", "there is no --arch.features"),
        ("train lm --train.step 3", "no --train.step; did you mean --train.steps?"),
        ("train lm --arch.dim many", "arch.dim"),
        ("train lm --arch.dim 30", "8 heads do not divide 30"),
        ("train lm --data nowhere.txt", "nothing at nowhere.txt"),
        ("train lm --data empty.txt", "empty.txt is empty"),
        ("train lm --data short.txt", "one window needs 513"),
        ("train lm --config nowhere.yaml", "no configuration nowhere.yaml"),
        ("train lm --config bad.yaml", "bad.yaml is not YAML"),
        ("train lm --config odd.yaml", "there is no --arch.widow; did you mean --arch.window?"),
        ("train lm --train.warmup 2", "train.warmup is 2"),
        ("train lm --train.label_smoothing 2", "train.label_smoothing is 2.0; it is a prob"),
        ("train lm --train.clip -1", "train.clip is -1.0; it must not be negative"),
        ("train lm --arch.ffn_dim -3", "ffn_dim is -3; it must be at least 1"),
        ("train lm --arch.num_layers -1", "num_layers is -1; it must be at least 0"),
        ("train lm --data tables.txt --arch.dim 1000000", "not enough memory for this"),
        ("train lm --data tables.txt --arch.dim 80000000000", "it must be at most 1048576"),
        ("train lm --data parts", "parts has no bytes to validate on"),
        ("train lm --data=", "an empty path"),
        ("train lm --config none.yaml", "none.yaml is empty; it wants groups of fields"),
        ("train lm --config list.yaml", "list.yaml holds [1]; it wants"),
        ("train lm --config five.yaml", "five.yaml: train is 5 and must be a group"),
        ("train lm --config arch.yaml", "arch.yaml: arch is 5 and must be a group"),
        ("train lm --config task.yaml", "task.yaml: task is ['x'] and must be a group"),
        ("train lm --config name.yaml", "name.yaml: arch.name is ['x'] and must be a name"),
        ("train lm --config null.yaml", "train: lr must be float, not None"),
        (
            "train lm --train.schedule cosin",
            "no schedule is called 'cosin'; did you mean 'cosine'?",
        ),
        ("train lm --task.tokenizer no.json", "no tokenizer file no.json"),
        ("train lm --task.tokenizer bpe:x", "bpe wants its size"),
        ("train lm --task.position up", "no stem position is called 'up'"),
        ("train lm --resume", "--resume needs --out"),
        ("train lm --resume --out nowhere", "no run folder nowhere"),
        ("train lm --out full", "full is not empty"),
        ("eval nowhere", "no run folder nowhere"),
        ("eval full", "full is not a run folder: it has no run.json"),
        ("generate nowhere --prompt x", "no run folder nowhere"),
        ("list nowhere", "no run folder nowhere"),
        ("eval", "run"),
    ],
)
def test_bad_words_are_one_clear_line(words, message, fails, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_bytes(b"short " * 20)
    (tmp_path / "bad.yaml").write_text("arch: {")
    (tmp_path / "odd.yaml").write_text("arch: {name: local, widow: 3}")
    for name, said in YAMLS.items():
        (tmp_path / f"{name}.yaml").write_text(said)
    tables(tmp_path)
    for part in ("train", "test"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        (tmp_path / "parts" / part / "a.txt").write_bytes(TEXT)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    before = sorted(tmp_path.rglob("*"))
    assert message in fails(*words.split())
    after = [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts]
    assert after == before


def test_debug_shows_the_trace():
    with pytest.raises(ValueError, match="no command"):
        main(["trian", "--debug"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", "{", "run.json is damaged"),
        ("run.json", "[]", "run.json is damaged"),
        ("run.json", '{"format_version": 1}', "run.json is damaged"),
        ("run.json", '{"format_version": 99, "task": "lm", "arch": "local"}', "version 99; this"),
        ("config.json", "{", "damaged"),
        ("model.safetensors", "short", "damaged"),
        ("tokenizer.json", None, ""),
        ("model.safetensors", None, "holds no weights yet"),
        ("config.json", None, "damaged"),
    ],
)
def test_damaged_run_folders_are_one_clear_line(run, fails, name, content, message, capsys):
    path = run / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    if message:
        assert message in fails("generate", str(run), "--prompt", "x")
    else:  # bytes need no file
        assert main(["generate", str(run), "--prompt", "x", "--max-new-tokens", "1"]) == 0


def test_weights_that_do_not_fit_are_damage(run, fails):
    config = json.loads((run / "config.json").read_text())
    config["model"]["num_layers"] = 3
    (run / "config.json").write_text(json.dumps(config))
    assert "missing keys" in fails("eval", str(run))
    config["model"]["num_layers"], config["format_version"] = 2, 99
    (run / "config.json").write_text(json.dumps(config))
    assert "format version 99" in fails("eval", str(run))


@pytest.mark.parametrize("row", ["5", "{}", "{", '{"bits_per_byte": "x", "protocol": ""}'])
def test_damaged_evaluations_are_one_clear_line(run, fails, row):
    (run / "evaluations.jsonl").write_text(f"{row}\n")
    assert "evaluations.jsonl line 1 is damaged" in fails("list", str(run))


def test_brackets_are_no_markup(run, capsys):
    facts = json.loads((run / "run.json").read_text())
    facts["command"] = "subquad [/b] [red]"
    (run / "run.json").write_text(json.dumps(facts))
    assert main(["list", str(run)]) == 0
    assert "subquad [/b] [red]" in capsys.readouterr().out


def test_a_prompt_is_bytes(trained, capsys):
    words = ["generate", str(trained), "--max-new-tokens", "2", "--prompt"]
    assert main([*words, os.fsdecode(b"\xff7")]) == 0
    said = capsys.readouterr().out
    assert (
        said
        == subquad.load(trained).compose(
            b"\xff7", max_new_tokens=2, temperature=0.8, top_p=0.95, seed=0
        )
        + "\n"
    )


def test_questions_that_make_no_sense(trained, fails):
    assert "stride 65 does not fit context 64" in fails(
        "eval", str(trained), "--context", "64", "--stride", "65"
    )
    assert "context is -5" in fails("eval", str(trained), "--context", "-5")
    assert "context is 0" in fails("eval", str(trained), "--context", "0")
    assert "stride 0 does not fit" in fails("eval", str(trained), "--stride", "0")
    assert "stride 4 is for windows" in fails("eval", str(trained), "--carry", "--stride", "4")
    assert "there is no part 'tst'" in fails("eval", str(trained), "--part", "tst")
    assert "temperature -1.0" in fails("generate", str(trained), "--temperature", "-1")


@pytest.mark.slow
def test_a_full_disk_is_one_clear_line_and_loses_nothing(run, capsys):
    """The largest file a process may write is smaller than a checkpoint."""
    before = {path.name: path.read_bytes() for path in run.glob("*.safetensors")}
    checkpoint = run / "checkpoint-20"
    size = (checkpoint / "optimizer.pt").stat().st_size
    script = "import sys; from subquad.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [
            *(sys.executable, "-c", script, "train", "lm", "--out", str(run), "--resume"),
            *("--train.steps", "24", "--train.reports", "1"),
        ],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, size - 1000)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"subquad: error: could not write checkpoint-24 to .* is untouched$", last)
    assert [path.name for path in run.glob("*checkpoint*")] == ["checkpoint-20"]
    assert subquad.load(run)
    assert before.keys() == {path.name for path in run.glob("*.safetensors")}
    assert main(["train", "lm", "--out", str(run), "--resume", "--train.steps", "24"]) == 0


@pytest.mark.slow
def test_learning_real_text(data_dir, tmp_path, capsys):
    """A few steps on Shakespeare beat counting letters, which takes 4.8 bits."""
    words = ["train", "lm", "--arch", "local", "--arch.dim", "64", "--arch.num_layers", "2"]
    words += ["--arch.ffn_dim", "128", "--arch.num_heads", "4", "--arch.window", "32"]
    words += ["--data", str(data_dir / "text" / "tinyshakespeare.txt.xz"), "--out", "run"]
    words += ["--task.context", "128", "--task.valid_bytes", "20000"]
    assert main([*words, "--train.steps", "80", "--train.lr", "0.004", "--train.reports", "1"]) == 0
    assert json.loads(Path("run/run.json").read_text())["numbers"]["bits_per_byte"] < 4.5
