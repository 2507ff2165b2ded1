"""Several architectures on the same data, seed, targets and budget, one after the other.

Each arm is an ordinary run folder, trained by `subquad train` in a process of its own, so that its
peak memory is its own and it resumes where it was stopped. Scores at several multiples of the
trained length follow, on the same tokens for every arm and every multiple.

FOLDER/NAME/            the run folder of an arm
FOLDER/NAME.json        what was measured of it
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from subquad.nn.state import nbytes
from subquad.train.folder import read_facts
from subquad.train.run import Run, load

__all__ = ["Arm", "Report", "Scoring", "compare", "rows"]

Report = Callable[[str], None]


@dataclass(frozen=True)
class Arm:
    """One architecture: its name in the table, and the words that follow `subquad train TASK`."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Scoring:
    """Which lengths are scored: multiples of the trained one, over so many bytes of a part."""

    multiples: tuple[int, ...] = (1, 2, 4, 8)
    max_bytes: int = 65_536
    part: str = "test"


def compare(task: str, arms: Sequence[Arm], folder: Path, scoring: Scoring, tell: Report) -> None:
    """Train and score every arm; what is done already stays. ValueError if an arm fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for arm in arms:
        found = _read(folder, arm)
        if found and found["words"] != list(arm.words):
            raise ValueError(
                f"{folder} holds {arm.name} trained otherwise: {' '.join(found['words'])}; "
                "choose another --out, or the same flags"
            )
        if not _finished(folder / arm.name):
            tell(f"{arm.name}: training")
            peak = _train(task, arm, folder)
            found["peak_mb"] = max(peak, found.get("peak_mb", 0.0))
        _write(folder, arm, {**found, "words": list(arm.words)})
        _score(arm, folder, scoring, tell)


def rows(arms: Sequence[Arm], folder: Path) -> Iterator[dict[str, Any]]:
    """What is known of each arm: measured numbers, facts of its run, its course of training."""
    for arm in arms:
        found = _read(folder, arm)
        run = folder / arm.name
        if not found or not _finished(run):
            yield {"name": arm.name, "missing": True}
            continue
        facts = read_facts(run)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        course = [json.loads(line) for line in lines]
        yield {"name": arm.name, "missing": False, **found, "facts": facts, "course": course}


def _train(task: str, arm: Arm, folder: Path) -> float:
    """Run `subquad train` to its end; the peak resident memory of the process, in MB."""
    run = folder / arm.name
    command = [sys.executable, "-m", "subquad.cli", "train", task, *arm.words, "--out", str(run)]
    if (run / "run.json").is_file():
        command.append("--resume")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()  # it saves, and the next call goes on from there
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"training {arm.name} ended with exit code {process.returncode}")
    return usage.ru_maxrss / 1024


def _score(arm: Arm, folder: Path, scoring: Scoring, tell: Report) -> None:
    """Add the scores that are missing, each written as soon as it is known."""
    found = _read(folder, arm)
    scores = found.setdefault("scores", {})
    wanted = [m for m in scoring.multiples if str(m) not in scores]
    if not wanted and "state_bytes" in found:
        return
    run = load(folder / arm.name)
    context = run.task.config.context
    for multiple in wanted:
        tell(f"{arm.name}: scoring at {multiple * context:,} tokens")
        scores[str(multiple)] = _score_at(run, multiple * context, scoring)
        _write(folder, arm, found)
    found["state_bytes"] = {str(n): _state_bytes(run, n) for n in (context, 8 * context)}
    _write(folder, arm, found)


def _score_at(run: Run, context: int, scoring: Scoring) -> dict[str, Any]:
    begun = time.monotonic()
    try:
        result = run.task.evaluate_on(  # type: ignore[attr-defined]
            run.model,
            None,
            run.facts["data"],
            part=scoring.part,
            limit=scoring.max_bytes,
            context=context,
            stride=max(1, context // 2),
            carry=False,
        )
    except ValueError as error:  # a learned table of positions ends somewhere
        return {"refused": str(error)}
    seconds = round(time.monotonic() - begun, 2)
    return {**result.numbers, "protocol": result.protocol, "seconds": seconds}


@torch.no_grad()
def _state_bytes(run: Run, tokens: int) -> int | str:
    """Bytes of the state of one stream after so many tokens, or why there are none."""
    model = run.model.model
    if not model.streams:
        return "does not stream"
    ids, state = torch.zeros(1, tokens, dtype=torch.int64), model.init_state(1)
    try:
        # in pieces of the trained length: training has shown that they fit
        for piece in ids.split(run.task.config.context, 1):
            state = model(piece, state=state, last=1)[1]
    except ValueError:  # positions end before
        return "refused"
    return nbytes(state)


def _finished(run: Path) -> bool:
    if not (run / "run.json").is_file():
        return False
    facts = read_facts(run)
    return "steps" in facts and facts.get("stopped_by") is None


def _path(folder: Path, arm: Arm) -> Path:
    return folder / f"{arm.name}.json"


def _read(folder: Path, arm: Arm) -> dict[str, Any]:
    path = _path(folder, arm)
    return json.loads(path.read_text()) if path.is_file() else {}


def _write(folder: Path, arm: Arm, found: dict[str, Any]) -> None:
    part = folder / f".{arm.name}.part"
    part.write_text(json.dumps(found, indent=2) + "\n")
    part.replace(_path(folder, arm))
