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

from subquad.data.sources import absolute
from subquad.tasks.task import Task
from subquad.train.atomic import write_files, write_text
from subquad.train.averaging import Averaging, average
from subquad.train.checkpoint import newest_checkpoint
from subquad.train.config import TrainConfig
from subquad.train.folder import START, read_facts, write_card, write_facts
from subquad.train.loop import Loop
from subquad.train.records import Events
from subquad.train.transfer import begin_from

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
    init_from: Path | None = None,
    callbacks: tuple[TrainerCallback, ...] = (),
    kind: type[Loop] = Loop,
) -> dict[str, Any]:
    """Train, by the loop of a kind, and return the facts that also stand in run.json.

    ValueError if the folder already holds a run (and not `resume`), or holds none (and `resume`),
    or another one, or if the weights in `init_from` do not fit the model.
    """
    before = _before(folder, resume)
    task = _ready(task, arch, fields, folder, data, before)
    checkpoint = newest_checkpoint(folder)
    if before is not None and _finished(before, config, folder, checkpoint):
        return before
    transformers.utils.logging.disable_progress_bar()  # one for every file that is written
    set_seed(config.seed)
    model = task.build(arch, fields)
    # a run that was cut off before its first checkpoint begins as it began
    source = init_from if before is None else before.get("begun_from")
    begins = source is not None and checkpoint is None
    fresh = begin_from(model, Path(source)) if begins else []
    folder.mkdir(parents=True, exist_ok=True)
    loop = kind(task, model, config, folder, callbacks)
    first = loop.args.process_index == 0
    facts = _facts(task, arch, fields, config, model, data, before)
    facts |= {"command": _command(before, command, config)}
    if before is None:
        facts |= {"begun_from": init_from and absolute(str(init_from)), "fresh": fresh}
    if first:
        _start(folder, task, facts, config_text, before is None)
        loop.add_callback(Events(folder / "events"))
    loop.add_callback(kept := Averaging(folder / "averaging", config.average))
    try:
        loop.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        averaged = average(loop, kept)
    finally:
        loop.close()
    loop.save_if_none()
    if first:
        facts |= _outcome(loop, before) | averaged
        write_facts(folder, facts)
        write_card(folder, facts)
    return facts


def _facts(
    task: Task,
    arch: str,
    fields: dict[str, Any],
    config: TrainConfig,
    model: Any,
    data: str | None,
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """What is known before the first step, over what was known before."""
    return {
        **(before or {}),
        "task": task.name,
        "metric": task.metric,
        "arch": arch,
        "model": fields,
        "parameters": sum(p.numel() for p in model.parameters()),
        # a run may be used from another folder than it was made in
        "data": {"path": data and absolute(data), **task.data_facts},
        "train": asdict(config),
        "versions": _versions(),
    }


def _ready(
    task: Task,
    arch: str,
    fields: dict[str, Any],
    folder: Path,
    data: str | None,
    before: dict[str, Any] | None,
) -> Task:
    """The task with its data open; the one of the run that is gone on with, if any."""
    if before is not None:
        _same_run(folder, before, task, arch, fields)
        task = type(task).load(folder, before["task_facts"])
    task.prepare(data)
    if before is not None and before["data"]["key"] != task.data_facts["key"]:
        was, now = before["data"]["source"], task.data_facts["source"]
        other = "" if was == now else f", {was}"
        raise ValueError(
            f"{now} is not what {folder} was begun with{other}: it is other data, or its size or "
            "time has changed"
        )
    return task


def _before(folder: Path, resume: bool) -> dict[str, Any] | None:
    """The facts of the run to go on with, or None for a folder that is free."""
    if resume:
        return read_facts(folder)
    if int(os.environ.get("RANK", 0)):  # the first process has looked, and may have begun to write
        return None
    if (folder / START).exists():  # a start that was cut off: it wrote nothing else
        return None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} is not empty; continue its run with --resume, or choose another --out"
        )
    return None


def _start(
    folder: Path, task: Task, facts: dict[str, Any], config_text: str | None, new: bool
) -> None:
    """Write what a run must have to be gone on with, all of it or nothing."""
    # a start that was cut off is no run, and one that goes on stays one
    with write_files(folder, "start" if new else "settings") as into:
        facts["task_facts"] = task.save(into)
        write_facts(into, facts)
        if config_text is not None:
            write_text(into / "config.yaml", config_text)


def _same_training(before: dict[str, Any], config: TrainConfig) -> bool:
    # fields that a later version added have their defaults; JSON holds lists for tuples
    known = {**asdict(TrainConfig()), **before["train"]}
    return json.loads(json.dumps(known)) == json.loads(json.dumps(asdict(config)))


def _finished(
    before: dict[str, Any], config: TrainConfig, folder: Path, checkpoint: Path | None
) -> bool:
    """Is there nothing left to do? ValueError if there is nothing to go on from."""
    if "steps" not in before:
        return False
    if checkpoint is None:
        raise ValueError(
            f"{folder} is damaged: its run has {before['steps']:,} steps, and there is no "
            "checkpoint to go on from"
        )
    if before["stopped_by"] is not None or not _same_training(before, config):
        return False
    late = config.minutes is not None and before["seconds"] + 0.1 >= 60 * config.minutes
    return late or before["steps"] >= config.limit


def _command(before: dict[str, Any] | None, command: str, config: TrainConfig) -> str:
    """The commands that made the run: going on as it was begun adds none."""
    if before is None:
        return command
    if _same_training(before, config) or not command:
        return before["command"]
    return f"{before['command']} && {command}"


def _same_run(folder: Path, before: dict[str, Any], task: Task, arch: str, fields: dict) -> None:
    """ValueError if something else was trained here before."""
    now = {"task": task.name, "arch": arch, "model": fields, "task_facts": asdict(task.config)}
    # fields that a later version added have their defaults
    old = {**before, "task_facts": asdict(type(task.config)(**before["task_facts"]["config"]))}
    for name, value in json.loads(json.dumps(now)).items():
        was, prefix = old[name], _FLAGS.get(name, "")
        if was != value and prefix:  # the first field that differs
            name = next(key for key in {**was, **value} if was.get(key) != value.get(key))
            was, value = was.get(name), value.get(name)
        if was != value:
            raise ValueError(f"{folder} was begun with {prefix}{name} {was}, not {value}")


#: what the flags of fields begin with
_FLAGS = {"model": "--arch.", "task_facts": "--task."}


def _outcome(loop: Loop, before: dict[str, Any] | None) -> dict[str, Any]:
    state, pace = loop.state, loop.pace
    scored = [row for row in state.log_history if f"eval_{loop.task.metric}" in row]
    best = next((row for row in scored if row["step"] == state.best_global_step), {})
    return {
        "steps": state.global_step,
        "best_step": state.best_global_step,
        "tokens": state.global_step * loop.feed.tokens_per_step,
        "seconds": round(pace.elapsed, 1),
        "stopped_by": pace.stopped_by,
        "numbers": {k.removeprefix("eval_"): v for k, v in best.items() if k.startswith("eval_")},
        "protocol": loop.protocol or (before or {}).get("protocol", ""),
    }


def _versions() -> dict[str, str]:
    from subquad import __version__

    return {
        "subquad": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
