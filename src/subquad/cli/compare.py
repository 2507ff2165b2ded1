"""subquad compare TASK --archs a,b,c --budget-minutes M --out FOLDER [--arch.FIELD V] ..."""

import os
import platform
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from subquad.archs import ARCHS
from subquad.cli.pages import leave
from subquad.cli.parser import Parser, two_files
from subquad.cli.train import check
from subquad.data.documents import PARTS
from subquad.nn.choices import choose
from subquad.tasks import TASKS, find_task

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Train, score and report; a second call with the same words goes on where the first ended."""
    task, argv = (argv[0], argv[1:]) if argv and argv[0] in TASKS else ("", argv)
    if not task:
        if {"-h", "--help"} & {*argv}:
            _parser().read(["--help"])
        raise ValueError(f"subquad compare wants a task first: {', '.join(TASKS)}")
    own, passed = _split(two_files(argv), find_task(task))
    given = _parser().read(own)
    if given.lra is not None:
        from subquad.tasks.lra import CONTEXTS

        longest = str(choose("suite", given.lra, CONTEXTS))
        passed = [("task.lra", given.lra), ("task.context", longest), *passed]
    names = _names(given.archs, find_task(task).archs)
    scoring = _scoring(given)

    from subquad.bench.compare import Arm, compare, rows
    from subquad.viz.comparison import page, table

    arms = [Arm(name, tuple(_words(task, name, given, passed))) for name in names]
    # every flag is checked before anything is trained
    made = [check(task, list(arm.words)) for arm in arms]
    folder = Path(given.out)
    asked = shlex.join(["subquad", "compare", task, *argv])
    key = partial(made[0].data_key, given.data)
    compare(task, arms, folder, scoring, key, lambda said: print(said, flush=True))
    found = list(rows(arms, folder))
    # the data may decide it
    metrics = [row["facts"]["metric"] for row in found if not row["missing"]]
    metric = metrics[0] if metrics else find_task(task).metric
    text = table(found, metric)
    (folder / "table.md").write_text(text + "\n")
    published = made[0].published(names)
    settings = {"command": asked, "machine": _machine(), "published": published}
    print("\n\n".join(filter(None, (text, published))))
    leave(folder / "report.html", lambda: page(found, metric, settings))
    return 0


def _split(argv: list[str], kind: Any) -> tuple[list[str], list[tuple[str, str]]]:
    """Our own words, and (flag, value) of those that go to training."""
    groups = ("arch.", "task.", "train.", *(f"{name}." for name in kind.archs))
    own: list[str] = []
    passed: list[tuple[str, str]] = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        flag = f"task.{flag}" if flag in kind.short else flag
        if not word.startswith("--") or not flag.startswith(groups):
            own.append(word)
            continue
        if not equals:
            value = next(words, "")
            if not value:
                raise ValueError(f"--{flag} wants a value")
        passed.append((flag, value))
    return own, passed


def _names(text: str, known: Mapping[str, Any]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        choose("pair" if known is not ARCHS else "architecture", name, known)
    if len(set(names)) < len(names) or not names:
        raise ValueError(
            f"--archs {text!r} must name each architecture once, as in performer,local"
        )
    return names


def _words(task: str, name: str, given: Any, passed: list[tuple[str, str]]) -> list[str]:
    """What follows `subquad train TASK` for one arm."""
    archs = find_task(task).archs
    fields = archs[name].Config.__dataclass_fields__
    words = ["--arch", name]
    if given.data is not None:
        words += ["--data", given.data]
    for flag, value in passed:
        group, _, field = flag.partition(".")
        if group == "arch" and not any(
            field in arch.Config.__dataclass_fields__ for arch in archs.values()
        ):
            choose("field", field, fields)
        if group == name or (group == "arch" and field in fields):
            words += [f"--arch.{field}", value]
        elif group in ("task", "train"):
            words += [f"--{flag}", value]
    return [*words, *_budget(task, given, passed)]


def _budget(task: str, given: Any, passed: list[tuple[str, str]]) -> list[str]:
    minutes, tokens = given.budget_minutes, given.budget_tokens
    if (minutes is None) == (tokens is None):
        raise ValueError("give a budget: either --budget-minutes or --budget-tokens")
    if minutes is not None:
        return ["--train.minutes", str(minutes)]
    if not hasattr(find_task(task).Config, "context"):
        raise ValueError(f"{task} has no context to count tokens by; give --budget-minutes")
    said = dict(passed)
    context = int(said.get("task.context", find_task(task).Config().context))
    from subquad.train.config import TrainConfig

    start = TrainConfig()
    batch = int(said.get("train.batch", start.batch))
    step = batch * int(said.get("train.accumulate", start.accumulate)) * context
    if tokens < step:
        raise ValueError(f"--budget-tokens {tokens:,} is less than one step of {step:,} tokens")
    return ["--train.steps", str(tokens // step)]


def _scoring(given: Any) -> Any:
    from subquad.bench.compare import Scoring

    try:
        multiples = tuple(int(m) for m in given.multiples.split(","))
    except ValueError:
        multiples = ()
    if not multiples or min(multiples) < 1:
        raise ValueError(f"--multiples {given.multiples!r} must be whole numbers, as in 1,2,4,8")
    if given.score_bytes < 1:
        raise ValueError(f"--score-bytes is {given.score_bytes}; it must be positive")
    choose("part", given.part, dict.fromkeys((*PARTS, "all")))
    return Scoring(multiples, given.score_bytes, given.part)


def _machine() -> str:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    return f"{platform.machine()}, {cores} cores, {threads} threads, torch {torch.__version__}"


def _parser() -> Parser:
    parser = Parser(
        "subquad compare TASK",
        "Train several architectures with the same data, seed, targets and budget, one after the "
        "other, and report. --task.FIELD, --train.FIELD and --arch.FIELD are as in `subquad "
        "train`, for every architecture that has the field; --NAME.FIELD is for one of them.",
    )
    parser.add_argument("--archs", type=str, required=True, help="names, as in performer,local")
    parser.add_argument("--data", type=str | None, default=None, help="file or folder, or SRC TGT")
    parser.add_argument("--out", type=str, required=True, help="the folder to write, or go on with")
    parser.add_argument(
        "--budget-minutes", type=float | None, default=None, help="minutes of training for each"
    )
    parser.add_argument(
        "--budget-tokens", type=int | None, default=None, help="tokens of training for each"
    )
    parser.add_argument(
        "--multiples", type=str, default="1,2,4,8", help="of the trained length, to score at"
    )
    parser.add_argument(
        "--score-bytes", type=int, default=65_536, help="bytes that are scored, the same for all"
    )
    parser.add_argument(
        "--lra", type=str | None, default=None, help="short for --task.lra, of classify"
    )
    parser.add_argument("--part", type=str, default="test", help="which part is scored")
    return parser
