"""subquad eval RUN [--data PATH] [--arch.FIELD V], and flags of the task, such as --context"""

import json
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from subquad.cli import episodes, overrides
from subquad.cli.parser import Parser, add_flags, flag_of, two_files
from subquad.cli.progress import bar
from subquad.tasks import TASKS, find_task
from subquad.tasks.task import Result
from subquad.train.config import MetaConfig
from subquad.train.few_shot import by_episodes
from subquad.train.folder import read_facts
from subquad.train.run import Run, load

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Score a run; print numbers and protocol, and keep them in RUN/evaluations.jsonl."""
    if argv and not argv[0].startswith("-"):  # else the run may stand behind the data
        argv = two_files(argv)
    argv, words = overrides.split(episodes.expand(argv))
    argv, meant = overrides.split(argv, "meta")
    given = _parser().read(argv)
    facts = read_facts(Path(given.run))  # before anything slow
    changed, how = overrides.read(words, facts), _how(facts["task"], given)
    meta = episodes.read(meant, facts)
    run = load(given.run, **changed)
    begun = time.monotonic()
    with bar("scoring", run.task.unit if meta is None else "episodes") as report:
        result = _result(run, given.data, meta, report, how)
    _show(result)
    said = "".join(f"; {name} {value}" for name, value in changed.items())
    print(f"measured on {result.protocol}{said}")
    for name, text in result.files.items():
        (Path(given.run) / name).write_text(text, encoding="utf-8")
        print(f"written: {Path(given.run) / name}")
    if given.plot is not None:
        from subquad.cli import forecasts

        forecasts.errors(result, Path(given.plot))
        print(f"picture: {given.plot}")
    row = {
        **result.numbers,
        **({"beside": result.beside} if result.beside else {}),
        "protocol": result.protocol + said,
        "seconds": round(time.monotonic() - begun, 1),
    }
    with open(Path(given.run) / "evaluations.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return 0


def _show(result: Result) -> None:
    """The numbers, one a line, those of other methods beside them."""
    names = {name: name.replace("_", " ").replace("gzip", "gzip -9") for name in result.numbers}
    width = max(25, *(len(said) + 2 for said in names.values()))
    if result.beside:
        print(" " * width + f"{'ours':<12}" + "".join(f"{name:<16}" for name in result.beside))
    for name, value in result.numbers.items():
        shown = _number(value)
        beside = [_number(numbers.get(name)) for numbers in result.beside.values()]
        if any(beside):
            shown = f"{shown:<12}" + "".join(f"{one:<16}" for one in beside)
        print(f"{names[name]:<{width}}{shown}".rstrip())


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _result(
    run: Run,
    data: str | None,
    meta: MetaConfig | None,
    report: Callable[[int, int], None],
    how: dict[str, Any],
) -> Result:
    if meta is None:
        return run.task.evaluate_on(run.model, data, run.facts["data"], report=report, **how)
    if how:
        raise ValueError(f"--{next(iter(how))} does not go with episodes; leave it out")
    return by_episodes(run, data, meta, report)


def _how(task: str, given: Any) -> dict[str, Any]:
    """The flags that were given. ValueError for one that the run's task does not have."""
    known = {field.name: flag_of(field) for field in fields(_scoring(task))}
    every = {field.name: flag_of(field) for name in TASKS for field in fields(_scoring(name))}
    # 0 is a number that was given
    found = {name: given[name] for name in every if given[name] is not None}
    found = {name: value for name, value in found.items() if value is not False}
    for name in found:
        if name not in known:
            flags = ", ".join(f"--{flag}" for flag in known.values())
            raise ValueError(f"--{every[name]} is not for a run of the task {task}; known: {flags}")
    return found


def _scoring(task: str) -> type:
    return find_task(task).Scoring


def _parser() -> Parser:
    parser = Parser(
        "subquad eval", f"Score a run on held-out data. {overrides.HELP}. {episodes.HELP}."
    )
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument(
        "--data",
        type=str | None,
        default=None,
        help="file or folder, or SRC TGT; default: the run's own",
    )
    parser.add_argument(
        "--plot", type=str | None, default=None, help="a PNG of errors by series (task forecast)"
    )
    for name in TASKS:
        add_flags(parser, _scoring(name))
    return parser
