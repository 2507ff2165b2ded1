"""subquad train TASK --arch NAME [--preset P] [--data PATH] [--out RUN] [--resume] ..."""

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from subquad.archs import ARCHS, PAIRS, configure
from subquad.cli import episodes, settings
from subquad.cli.pages import leave
from subquad.cli.parser import Parser, add_fields, fields_of, two_files
from subquad.cli.progress import bar
from subquad.data.sources import absolute
from subquad.nn.choices import choose, fill
from subquad.tasks import TASKS, find_task
from subquad.tasks.pairs import pair_in
from subquad.train.config import TrainConfig

__all__ = ["check", "run"]

_SHORT = {"--arch": "--arch.name", "--preset": "--arch.preset", "--init-from": "--init_from"}


def run(argv: list[str]) -> int:
    """Train, and say where the run folder is."""
    asked = shlex.join(["subquad", "train", *argv])
    task, argv = _task(argv)
    parser, given = _read(task, argv)
    made, fields, config = _made(task, given)
    begun = None if given.init_from is None else Path(given.init_from)
    if begun is not None and not given.resume:
        made.begin(begun)
    folder = Path(given.out or _free(Path("runs"), f"{task}-{given.arch.name}"))

    from subquad.train.fit import Loop, fit

    kind, meta = Loop, episodes.asked(task, given)
    if given.resume:
        episodes.same(folder, meta)
    if meta is not None:
        from subquad.train.episodic import Episodic
        from subquad.train.meta import MetaLoop

        made, kind = Episodic(made, meta), MetaLoop
    what = (made, given.arch.name, fields, config, folder)
    with bar("reading", "rows") as made.report:
        facts = fit(
            *what,
            data=given.data,
            command=asked,
            config_text=_yaml(parser, given),
            resume=given.resume,
            init_from=begun,
            kind=kind,
        )
    if int(os.environ.get("RANK", 0)) == 0:
        _tell(folder, facts)
        leave(folder / "report.html", lambda: _report(folder))
    # who ends a job by SIGTERM may start it again: what it had is saved, and nothing went wrong
    return 130 if facts.get("stopped_by") == "SIGINT" else 0


def check(task: str, argv: list[str]) -> Any:
    """The task. ValueError for what `subquad train TASK` would refuse before it opens the data."""
    return _made(task, _read(task, argv)[1])[0]


def _read(task: str, argv: list[str]) -> tuple[Parser, Any]:
    kind = find_task(task)
    short = {**_SHORT, **{f"--{name}": f"--task.{name}" for name in kind.short}}
    argv = [_long(word, short) for word in episodes.expand(two_files(argv), task)]
    if "--resume" in argv:
        argv = _resumed(argv)
    peeked, begun = _peek(argv), _value(argv, "--init_from")
    source = None if begun is None else _source(Path(begun), kind, peeked)
    if source is not None:
        peeked["name"] = source[0]
    name = peeked.get("name") or next(iter(kind.archs))
    arch = choose(_called(kind), name, kind.archs)
    preset = peeked.get("preset")
    start = arch.Config() if preset is None else choose("preset", preset, arch.PRESETS)
    if source is not None:
        start = configure(*source, kind.archs)
    elif kind.looks_ahead and hasattr(start, "causal") and not hasattr(arch, "ONLY_PREDICTS"):
        start = replace(start, causal=False)
    parser = _parser(task, kind, name, start, arch)
    return parser, parser.read(argv)


def _source(folder: Path, kind: Any, peeked: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Architecture and its fields of a run or checkpoint. ValueError if others are asked for."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no checkpoint to begin from: it has no config.json")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        name, fields = told["arch"], told["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no subquad configuration: {error}") from None
    if kind.archs is not ARCHS:
        name, fields = pair_in(folder, told)
    if peeked.get("name", name) != name or "preset" in peeked:
        asked = peeked.get("preset") or peeked["name"]
        raise ValueError(f"{folder} is a {name}, and {asked} is asked for; leave --arch out")
    return name, fields


def _made(task: str, given: Any) -> tuple[Any, dict[str, Any], TrainConfig]:
    """The task, the fields of the architecture and how to train."""
    kind = find_task(task)
    arch = choose(_called(kind), given.arch.name, kind.archs)  # a file may say null
    fields = fields_of(arch.Config, given.arch)
    configure(given.arch.name, fields, kind.archs)
    config = fill("train", TrainConfig, fields_of(TrainConfig, given.train))
    return kind(fill("task", kind.Config, fields_of(kind.Config, given.task))), fields, config


def _called(kind: Any) -> str:
    """What an architecture of a task is called in errors."""
    return "pair" if kind.archs is PAIRS else "architecture"


def _task(argv: list[str]) -> tuple[str, list[str]]:
    """The task, and the words without it."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    if "-h" in argv or "--help" in argv:
        return next(iter(TASKS)), argv
    raise ValueError(f"subquad train wants a task first: {', '.join(TASKS)}")


def _long(word: str, short: dict[str, str]) -> str:
    flag, equals, value = word.partition("=")
    return short.get(flag, flag) + equals + value


def _parser(task: str, kind: Any, name: str, start: Any, arch: Any) -> Parser:
    short = "".join(f", --{field} for --task.{field}" for field in kind.short)
    parser = Parser(
        f"subquad train {task}",
        f"{TASKS[task][2]}. --arch NAME is short for --arch.name, --preset P for --arch.preset"
        f"{short}; the fields below are those of the chosen architecture.",
    )
    parser.add_argument("--config", action="config", help="a YAML file as --print_config writes")
    parser.add_argument("--data", type=str | None, default=None, help="file or folder, or SRC TGT")
    parser.add_argument("--out", type=str | None, default=None, help="the run folder to write")
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out is")
    parser.add_argument(
        "--init_from",
        type=str | None,
        default=None,
        help="a run or a checkpoint whose weights, architecture and vocabulary to begin with",
    )
    parser.add_argument("--task.name", type=str, default=task, help="as given after `train`")
    names = ", ".join(kind.archs)
    parser.add_argument("--arch.name", type=str, default=name, help=names)
    presets = ", ".join(arch.PRESETS)
    parser.add_argument("--arch.preset", type=str | None, default=None, help=presets)
    add_fields(parser, "arch", arch.Config, start)
    add_fields(parser, "task", kind.Config, kind.Config())
    add_fields(parser, "train", TrainConfig, TrainConfig())
    episodes.add(parser, task)
    return parser


def _peek(argv: list[str]) -> dict[str, str]:
    """Name and preset of the architecture, wherever they are given; the flags depend on them."""
    found: dict[str, str] = {}
    for flag in ("name", "preset"):
        if value := _value(argv, f"--arch.{flag}"):
            found[flag] = value
    chosen = [settings.chosen(config) for config in _values(argv, "--config")]
    return {**chosen[-1], **found} if chosen else found


def _value(argv: list[str], flag: str) -> str | None:
    """What follows a flag, the last one if it is repeated."""
    values = _values(argv, flag)
    return values[-1] if values else None


def _values(argv: list[str], flag: str) -> list[str]:
    values = []
    for at, word in enumerate(argv):
        if word == flag and at + 1 < len(argv):
            values.append(argv[at + 1])
        elif word.startswith(f"{flag}="):
            values.append(word.partition("=")[2])
    return values


def _resumed(argv: list[str]) -> list[str]:
    """The run's own configuration first, so that flags given now have the last word."""
    out = _value(argv, "--out")
    if out is None:
        raise ValueError("--resume needs --out, the run folder to go on with")
    from subquad.train.folder import read_facts

    read_facts(Path(out))
    config = Path(out) / "config.yaml"
    if not config.is_file():
        raise ValueError(f"{out} is damaged: it has no config.yaml")
    return ["--config", str(config), *argv]


def _free(parent: Path, name: str) -> Path:
    """The first of name, name-2, name-3 that is not there."""
    number = 1
    while (path := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


def _yaml(parser: Parser, given: Any) -> str:
    kept = given.clone()
    kept.pop("config", None)
    kept["resume"] = False
    kept["data"] = given.data and absolute(given.data)
    return parser.dump(kept, skip_validation=True)


def _tell(folder: Path, facts: dict[str, Any]) -> None:
    metric = facts["metric"]
    number = facts["numbers"].get(metric)
    if number is not None:
        best, steps = facts["best_step"], facts["steps"]
        at = f"the mean of several of {steps:,}" if best is None else f"step {best:,} of {steps:,}"
        print(f"{metric.replace('_', ' ')} {number:.4f} (best of training, {at})")
        print(f"measured on {facts['protocol']}")
    if facts["stopped_by"]:
        print(
            f"stopped by {facts['stopped_by']} at step {facts['steps']:,}; "
            f"go on with: subquad train {facts['task']} --out {folder} --resume"
        )
    print(f"run folder: {folder}")


def _report(folder: Path) -> str:
    """The report of a run, without what only takes time: samples are added by `show`."""
    from subquad.train.folder import read_facts
    from subquad.viz.report import page

    return page(folder, read_facts(folder))
