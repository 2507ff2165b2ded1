"""fit: from a task, an architecture and a configuration to a run folder."""

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import TrainerCallback, set_seed

from subquad.tasks.task import Task
from subquad.train.atomic import write_text
from subquad.train.config import TrainConfig
from subquad.train.folder import read_facts, write_card, write_facts
from subquad.train.loop import Loop, newest_checkpoint

__all__ = ["fit"]


def fit(
    task: Task,
    arch: str,
    fields: dict[str, Any],
    config: TrainConfig,
    folder: Path,
    *,
    data: str | None = None,
    command: str = "",
    config_text: str | None = None,
    resume: bool = False,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> dict[str, Any]:
    """Train, and return the facts that also stand in run.json.

    ValueError if the folder already holds a run (and not `resume`), or holds none (and `resume`),
    or another one.
    """
    before = read_facts(folder) if resume else {}
    task = _ready(task, arch, fields, folder, data, resume)
    transformers.utils.logging.disable_progress_bar()  # one for every file that is written
    set_seed(config.seed)
    model = task.build(arch, fields)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = newest_checkpoint(folder)
    loop = Loop(task, model, config, folder, callbacks)
    first = loop.args.process_index == 0
    facts = {
        "task": task.name,
        "metric": task.metric,
        "arch": arch,
        "model": fields,
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": {"path": _absolute(data), **task.data_facts},
        "train": asdict(config),
        "command": _commands(before, command, asdict(config)),
        "versions": _versions(),
    }
    if first:
        facts["task_facts"] = task.save(folder)
        write_facts(folder, facts)
        if config_text is not None:
            write_text(folder / "config.yaml", config_text)
    try:
        loop.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        loop.close()
    if first:
        if not (folder / "model.safetensors").is_file():
            loop.save_best()
        facts |= _outcome(loop)
        facts["protocol"] = facts["protocol"] or before.get("protocol", "")
        write_facts(folder, facts)
        write_card(folder, facts)
    return facts


def _ready(
    task: Task, arch: str, fields: dict[str, Any], folder: Path, data: str | None, resume: bool
) -> Task:
    """The task with its data open; the one of the run that is gone on with, if any."""
    before = _before(folder, resume)
    if before is not None:
        _same_run(folder, before, task, arch, fields)
        task = type(task).load(folder, before["task_facts"])
    task.prepare(data)
    if before is not None and before["data"]["key"] != task.data_facts["key"]:
        raise ValueError(
            f"{before['data']['source']} is not what {folder} was begun with: it has moved, or its "
            "size or time has changed"
        )
    return task


def _before(folder: Path, resume: bool) -> dict[str, Any] | None:
    """The facts of the run to go on with, or None for a folder that is free."""
    if resume:
        return read_facts(folder)
    if int(os.environ.get("RANK", 0)):  # the first process has looked, and may have begun to write
        return None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} is not empty; continue its run with --resume, or choose another --out"
        )
    return None


def _absolute(data: str | None) -> str | None:
    """A run may be used from another folder than it was made in."""
    return None if data is None else str(Path(data).expanduser().resolve())


def _commands(before: dict[str, Any], command: str, config: dict[str, Any]) -> str:
    """What made a run: the command that began it, and those that went on otherwise."""
    if not before:
        return command
    same = before["train"] == json.loads(json.dumps(config))
    return before["command"] if same else f"{before['command']} && {command}"


def _same_run(folder: Path, before: dict[str, Any], task: Task, arch: str, fields: dict) -> None:
    """ValueError if something else was trained here before."""
    now = {"task": task.name, "arch": arch, "model": fields, "task_facts": asdict(task.config)}
    # fields that a later version added have their defaults
    old = {**before, "task_facts": asdict(type(task.config)(**before["task_facts"]["config"]))}
    for name, value in json.loads(json.dumps(now)).items():
        if old[name] != value:
            raise ValueError(f"{folder} was begun with {name} {old[name]}, not {value}")


def _outcome(loop: Loop) -> dict[str, Any]:
    state, pace = loop.state, loop.pace
    scored = [row for row in state.log_history if f"eval_{loop.task.metric}" in row]
    best = next((row for row in scored if row["step"] == state.best_global_step), {})
    items = loop.config.batch * loop.config.accumulate * loop.args.world_size
    return {
        "steps": state.global_step,
        "best_step": state.best_global_step,
        "tokens": state.global_step * items * loop.task.tokens_per_item,
        "seconds": round(pace.elapsed, 1),
        "stopped_by": pace.stopped_by,
        "numbers": {k.removeprefix("eval_"): v for k, v in best.items() if k.startswith("eval_")},
        "protocol": loop.protocol,
    }


def _versions() -> dict[str, str]:
    from subquad import __version__

    return {
        "subquad": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
