"""The run folder: run.json (facts, with the format version), config.yaml, weights, a model card.

config.json model.safetensors tokenizer*.json   best weights, as transformers reads them
config.yaml                                     what was asked for: --config reads it again
run.json                                        task, data, numbers with their protocol, command
metrics.jsonl events/ README.md                 the course of training; the model card
checkpoint-STEP/                                the newest state of training, for --resume
diverged-PROCESS.safetensors                    batches whose loss was no number, if any
"""

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

from subquad.tasks import find_task
from subquad.train.atomic import write_text

__all__ = ["FORMAT", "START", "read_facts", "write_card", "write_facts"]

#: version of run.json and of what stands beside it
FORMAT = 1
#: what stands in a run folder while its first files are written: `write_files(folder, "start")`
START = ".start.part"

_TEXT, _NUMBER = (str,), (int, float)
#: what run.json holds from the start, and what besides once training has stopped
_BEGUN: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("task", "metric", "arch", "command"), _TEXT),
    **dict.fromkeys(("model", "data", "train", "task_facts", "versions"), (dict,)),
    "parameters": (int,),
}
_DONE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("steps", "tokens"), (int,)),
    "best_step": (int, type(None)),
    "seconds": _NUMBER,
    "stopped_by": (str, type(None)),
    "numbers": (dict,),
    "protocol": _TEXT,
}


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Write run.json."""
    text = json.dumps({"format_version": FORMAT, **facts}, indent=2, ensure_ascii=False)
    write_text(folder / "run.json", text + "\n")


def read_facts(folder: Path) -> dict[str, Any]:
    """What run.json says. ValueError if this is not a run folder, or one of another version."""
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    path = folder / "run.json"
    if (folder / START).exists():
        raise ValueError(
            f"{folder} holds no run: writing its first files was cut off; train it again without "
            "--resume"
        )
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no run.json")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts.pop("format_version")
        if version == FORMAT:
            _check(facts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    if version != FORMAT:
        raise ValueError(
            f"{folder} is of format version {version}; this version of subquad reads {FORMAT}"
        )
    return facts


def _check(facts: dict[str, Any]) -> None:
    """KeyError or TypeError for what is missing or of another type."""
    _check_types("", facts, _BEGUN if "steps" not in facts else _BEGUN | _DONE)
    _check_types("data.", facts["data"], {"source": _TEXT, "key": _TEXT})
    _check_types("task_facts.", facts["task_facts"], {"config": (dict,)})
    numbers = facts.get("numbers", {})
    _check_types("numbers.", numbers, dict.fromkeys(numbers, _NUMBER))


def _check_types(of: str, facts: dict[str, Any], types: dict[str, tuple[type, ...]]) -> None:
    for name, kinds in types.items():
        if name not in facts:
            raise KeyError(of + name)
        if not isinstance(facts[name], kinds):
            said = " or ".join(kind.__name__ for kind in kinds)
            raise TypeError(f"{of}{name} is {facts[name]!r}, which is no {said}")


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write README.md, with the front matter that model hubs read."""
    model = "\n".join(f"| {name} | {value} |" for name, value in facts["model"].items())
    numbers = "\n".join(
        f"| {name.replace('_', ' ')} | {value:,.4f} |"
        if isinstance(value, float)
        else f"| {name.replace('_', ' ')} | {value:,} |"
        for name, value in facts.get("numbers", {}).items()
    )
    text = _CARD.format(
        paper=_paper(facts),
        arch=facts["arch"],
        task=facts["task"],
        parameters=facts["parameters"],
        data=facts["data"]["source"],
        steps=facts.get("steps", 0),
        tokens=facts.get("tokens", 0),
        seconds=facts.get("seconds", 0.0),
        protocol=facts.get("protocol", "not evaluated"),
        command=facts["command"],
        model=model,
        numbers=numbers,
        versions=", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    )
    write_text(folder / "README.md", text)


def _paper(facts: dict[str, Any]) -> str:
    """The sentence and the source that the paper card of the architecture begins with."""
    card = find_task(facts["task"]).archs[facts["arch"]].__doc__
    sentence, rest = card.split("\n\n")[:2]
    source = takewhile(lambda line: not line.startswith(" "), rest.splitlines())  # then equations
    return " ".join([*sentence.split(), *source])


_CARD = """---
library_name: subquad
tags: [subquad, {arch}, {task}]
---
# {arch}, {task}

{paper}

{parameters:,} parameters, trained on {data}: {steps:,} steps, {tokens:,} tokens, {seconds:,.0f} s.

| validation | |
|---|---|
{numbers}

Measured so: {protocol}.

| model | |
|---|---|
{model}

Made by

    {command}

with {versions}. Use it from Python:

    import subquad as sq
    run = sq.load("this folder")

or through transformers, after `import subquad.hf`, with `from_pretrained`.

What it is for: inputs like those it was trained on, scored as written above. Elsewhere nothing is
known of it, and what was wrong or unfair in its data it has learnt as well. Under which terms it
may be passed on depends on that data, and is for whoever trained it to add here.
"""
