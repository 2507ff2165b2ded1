"""The documentation is true: blocks of a page run in their order, commands at small size."""

import re
from pathlib import Path

import pytest

import fenced
from subquad.bench import compare
from subquad.cli import VERBS, main
from subquad.cli.train import check

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

# accelerate and tensorboard warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

#: what the pages call "--preset tiny --train.steps 20", and less
TRAIN = ["--train.steps", "2", "--train.reports", "1", "--train.batch", "2"]
TINY = ["--preset", "tiny", *TRAIN]
SIZES = {
    "lm": [*TINY, "--arch.num_layers", "1", "--task.context", "32", "--task.valid_bytes", "500"],
    "mlm": [*TINY, "--task.context", "32", "--task.valid_bytes", "500"],
    "classify": [*TINY, "--task.context", "64"],
    "asr": TINY,
    "forecast": [*TINY, "--task.context", "24"],
    "compare": [
        *("--arch.dim", "32", "--arch.num_layers", "1", "--arch.num_heads", "4"),
        *("--task.context", "32", "--task.valid_bytes", "500", "--train.batch", "2"),
        *("--budget-tokens", "128", "--multiples", "1", "--score-bytes", "200"),
    ],
}
#: commands of other programs, which are not run
OTHERS = ("pip", "git", "make", "cd", "torchrun", "tensorboard")

PAGES = {
    str(path.relative_to(DOCS)): path.read_text()
    for path in sorted(DOCS.rglob("*.md"))
    if any(language in ("python", "bash") for language, _ in fenced.in_order(path.read_text()))
}


def _page(name: str):
    """Pages that train are slow; the time that a machine busy with other tests needs is allowed."""
    trains = re.search(r"^subquad (train|compare|swap) ", PAGES[name], re.MULTILINE)
    marks = [pytest.mark.slow, pytest.mark.timeout(900)] if trains else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("page", [*map(_page, PAGES)])
def test_blocks_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    # training for `compare` runs in this process: one of its own takes seconds to start
    monkeypatch.setattr(compare, "watched", lambda words: (main(words[3:]), 100.0, False))
    (tmp_path / "book.txt").write_text("It was a dark night, and nothing could be seen. " * 300)
    names: dict = {"__name__": page}
    for language, code in fenced.in_order(PAGES[page]):
        if language == "python":
            exec(compile(code, page, "exec"), names)  # this repository's own code
        elif language == "bash":
            for program, *words in fenced.commands(code):
                assert program == "subquad" or program in OTHERS, program
                if program == "torchrun":  # it would start processes; its words are understood
                    verb, task, *rest = words[words.index("subquad.cli") + 1 :]
                    assert verb == "train"
                    assert check(task, rest).name == task
                elif program == "subquad":
                    assert main([*sized(words), "--debug"]) == 0, words


SHOWN = [
    pytest.param(words, id=f"{path.stem}: {' '.join(words)}")
    for path in sorted(DOCS.rglob("*.md"))
    for code in fenced.blocks(path.read_text(), "sh")
    for _, *words in fenced.commands(code)
]


@pytest.mark.parametrize("words", SHOWN)
def test_a_command_of_a_page_that_is_not_run_is_understood(words, tmp_path, monkeypatch):
    """Blocks of `sh` would train long, or serve until they are stopped: their words are read."""
    monkeypatch.chdir(tmp_path)  # which is empty
    verb, *rest = words
    assert verb in VERBS
    if verb == "train":
        assert check(rest[0], rest[1:]).name == rest[0]
    else:
        with pytest.raises(ValueError, match="there is no run folder"):
            main([*words, "--debug"])


def sized(words: list[str]) -> list[str]:
    """`--init-from` brings its architecture along, so that no preset goes with it."""
    words = fenced.small(words, SIZES)
    if "--init-from" in words:
        at = words.index("--preset")
        words = words[:at] + words[at + 2 :]
    return words
