"""A run with fields of its architecture changed: --arch.FIELD VALUE of eval and generate."""

import json
from pathlib import Path

import pytest
import torch

import subquad
from subquad.cli import main, overrides
from subquad.cli.parser import Parser

# accelerate and tensorboard warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TEXT = b"".join(b"%d times %d is %d.\n" % (i, j, i * j) for i in range(40) for j in range(40))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    (root / "tables.txt").write_bytes(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBQUAD_CACHE", str(root / "cache"))
        words = ["train", "lm", "--arch", "transformer_xl", "--preset", "tiny"]
        words += ["--out", str(root / "run"), "--data", str(root / "tables.txt")]
        words += ["--task.context", "16", "--task.valid_bytes", "300", "--train.batch", "4"]
        assert main([*words, "--train.steps", "12", "--train.reports", "1"]) == 0
    return root / "run"


def test_a_longer_memory_changes_the_score_and_is_said(trained, capsys):
    for words in ([], ["--arch.memory", "40"], ["--arch.memory=40", "--arch.same_length", "true"]):
        assert main(["eval", str(trained), "--max-bytes", "300", *words]) == 0
    said = capsys.readouterr().out
    assert said.count("; memory 40") == 2
    assert "; memory 40; same_length True\n" in said
    rows = [json.loads(x) for x in (trained / "evaluations.jsonl").read_text().splitlines()]
    assert len({row["bits_per_byte"] for row in rows}) == 3
    assert rows[2]["protocol"].endswith("; memory 40; same_length True")


def test_what_is_loaded_is_the_same_model_with_another_field(trained):
    plain, longer = subquad.load(trained), subquad.load(trained, memory=40, clamp_len=9)
    assert (longer.model.config.backbone.memory, plain.model.config.backbone.memory) == (40, 8)
    assert longer.model.model.backbone.blocks[0].mixers[0].position.clamp_len == 9
    kept, found = plain.model.state_dict(), longer.model.state_dict()
    assert all(torch.equal(kept[name], found[name]) for name in kept)
    assert plain.generate("7 times", max_new_tokens=3, temperature=0) is not None


def test_generate_takes_fields_too(trained, capsys):
    words = ["generate", str(trained), "--prompt", "3 times", "--max-new-tokens", "4"]
    assert main([*words, "--arch.memory", "64"]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--arch.memry 40", "there is no --arch.memry; did you mean --arch.memory?"),
        ("--arch.memory", "--arch.memory wants a value"),
        ("--arch.memory many", 'Parser key "arch.memory"'),
        ("--arch.dim 64", "dim 64 in place of 32 does not fit the weights of"),
        ("--arch.num_layers 3", "backbone.blocks.2.mixers.0.key.weight is not there and (32, 32)"),
        ("--arch.num_heads 5", "5 heads do not divide 32"),
        ("--arch.causal false", "transformer_xl only predicts"),
    ],
)
@pytest.mark.parametrize("verb", ["eval", "generate"])
def test_what_cannot_be_changed_is_one_clear_line(trained, capsys, verb, words, message):
    assert main([verb, str(trained), *words.split()]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err


def test_unknown_fields_from_python_are_answered_with_the_nearest(trained):
    with pytest.raises(ValueError, match="no field 'memry'; did you mean 'memory'"):
        subquad.load(trained, memry=3)
    with pytest.raises(ValueError, match="memory must be int, not 'long'"):
        subquad.load(trained, memory="long")


def test_other_words_are_left_alone():
    words = ["run", "--arch.a", "1", "--part", "test", "--arch.b=x=y", "--carry"]
    rest, ours = overrides.split(words)
    assert rest == ["run", "--part", "test", "--carry"]
    assert ours == ["--arch.a=1", "--arch.b=x=y"]


def test_inputs_may_stand_anywhere_among_flags():
    parser = Parser("x", "")
    parser.add_argument("run", type=str)
    parser.add_argument("input", type=str, nargs="*")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--text", type=str | None, default=None)
    for words in (
        ["r", "--json", "-", "b"],
        ["--json", "r", "-", "b"],
        ["r", "-", "--json", "b"],
    ):
        assert parser.words_first(words) == ["r", "-", "b", "--json"]
        assert parser.read(parser.words_first(words)).input == ["-", "b"]
    given = parser.read(parser.words_first(["r", "--text", "a", "b", "--text=c"]))
    assert (given.input, given.text) == (["b"], "c")
