"""Episodes: flags --meta.FIELD VALUE, and --meta WAYS,SHOTS, which is short for two of them."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from subquad.cli.parser import Parser, add_fields, fields_of
from subquad.nn.choices import fill
from subquad.train.config import EPISODIC, MetaConfig
from subquad.train.folder import read_facts

__all__ = ["HELP", "add", "asked", "expand", "read", "same"]

HELP = (
    "--meta WAYS,SHOTS (or --meta.FIELD VALUE, as in train) scores how well it learns held-out "
    "classes from a few rows"
)


def expand(argv: list[str], task: str = EPISODIC[0]) -> list[str]:
    """The words with --meta W,S written out.

    ValueError if it is not two numbers, or if the task cannot go by episodes.
    """
    words, rest = iter(argv), []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != "--meta":
            rest.append(word)
            continue
        if task not in EPISODIC:
            raise ValueError(f"the task {task} has no episodes; tasks: {', '.join(EPISODIC)}")
        value = value if equals else next(words, "")
        if not (found := re.fullmatch(r"(\d+),(\d+)", value)):
            raise ValueError(f"--meta wants ways and shots, as in --meta 5,5, not {value!r}")
        rest += [f"--meta.ways={found[1]}", f"--meta.shots={found[2]}"]
    return rest


def add(parser: Parser, task: str) -> None:
    """The flags, for tasks that can go by episodes."""
    if task in EPISODIC:
        add_fields(parser, "meta", MetaConfig, MetaConfig())


def asked(task: str, given: Any) -> MetaConfig | None:
    """What `subquad train` was asked for; None for plain training."""
    if task not in EPISODIC:
        return None
    made = fill("meta", MetaConfig, fields_of(MetaConfig, given.meta))
    return None if made.ways is None else made


def same(folder: Path, meta: MetaConfig | None) -> None:
    """ValueError if the run that is gone on with was begun with other episodes."""
    before = read_facts(folder)["task_facts"].get("meta")
    now = None if meta is None else asdict(meta)
    if before != now:
        raise ValueError(f"{folder} was begun with meta {before}, not {now}")


def read(words: list[str], facts: dict[str, Any]) -> MetaConfig | None:
    """What `subquad eval` was asked for, over what a run was trained by; None for plain scoring.

    ValueError for tasks that cannot.
    """
    if words and facts["task"] not in EPISODIC:
        known = ", ".join(EPISODIC)
        raise ValueError(f"a run of the task {facts['task']} has no episodes; tasks: {known}")
    start = MetaConfig(**facts["task_facts"].get("meta") or {})
    parser = Parser("subquad eval", HELP)
    add_fields(parser, "meta", MetaConfig, start)
    given = fields_of(MetaConfig, parser.read(words).meta)
    made = fill("meta", MetaConfig, asdict(start) | given)
    return None if made.ways is None else made
