"""Several architectures on the same data, seed, targets and budget, one after the other.

Each arm is an ordinary run folder, trained by `subquad train` in a process of its own, so that its
peak memory is its own and it resumes where it was stopped. Scores at several multiples of the
trained length follow, on the same tokens for every arm and every multiple.

FOLDER/NAME/            the run folder of an arm
FOLDER/NAME.json        what was measured of it
"""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from subquad.bench.process import watched
from subquad.nn.position import PositionError
from subquad.nn.state import ModelState, nbytes
from subquad.train.atomic import write_text
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


def compare(
    task: str,
    arms: Sequence[Arm],
    folder: Path,
    scoring: Scoring,
    key: Callable[[], str],
    tell: Report,
) -> None:
    """Train and score every arm; what is done already stays, if it was measured as asked now.

    key: the key of the data as it is at that moment, one for all arms. ValueError if an arm fails,
    was trained otherwise, or on other data. KeyboardInterrupt if it was told to stop.
    """
    _check_data(arms, folder, key())
    for arm in arms:
        words = _begun_with(arm, folder)
        if words != list(arm.words):
            raise ValueError(
                f"{folder} holds {arm.name} trained otherwise: {' '.join(words)}; "
                "choose another --out, or the same flags"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for arm in arms:
        _check_data(arms, folder, key())
        if not _finished(folder / arm.name):
            tell(f"{arm.name}: training")
            _train(task, arm, folder)
            _check_data(arms, folder, key())
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


def _begun_with(arm: Arm, folder: Path) -> list[str]:
    """The words that an arm was trained by, as far as it was; its own if it was not."""
    if found := _read(folder, arm):
        return found["words"]
    run = folder / arm.name
    if not (run / "run.json").is_file():
        return list(arm.words)
    words = shlex.split(read_facts(run)["command"])[3:]
    return words[: words.index("--out")] if "--out" in words else words


def _check_data(arms: Sequence[Arm], folder: Path, key: str) -> None:
    """ValueError if an arm has seen other data than there is now."""
    for arm in arms:
        run = folder / arm.name
        if (run / "run.json").is_file() and (data := read_facts(run)["data"])["key"] != key:
            raise ValueError(
                f"{data['source']} is not what {arm.name} in {folder} was trained on: it has "
                "moved, or its size or time has changed; choose another --out to begin anew"
            )


def _train(task: str, arm: Arm, folder: Path) -> None:
    """Run `subquad train` to its end, and keep the peak resident memory of the process, in MB."""
    found, run = {**_read(folder, arm), "words": list(arm.words)}, folder / arm.name
    _write(folder, arm, found)
    command = [sys.executable, "-m", "subquad.cli", "train", task, *arm.words, "--out", str(run)]
    if (run / "run.json").is_file():
        command.append("--resume")
    code, peak, stopped = watched(command)
    _write(folder, arm, {**found, "peak_mb": max(peak, found.get("peak_mb", 0.0))})
    if stopped:
        raise KeyboardInterrupt
    if code:
        raise ValueError(f"training {arm.name} ended with exit code {code}")


def _score(arm: Arm, folder: Path, scoring: Scoring, tell: Report) -> None:
    """Add the scores that are missing or were measured otherwise, each as soon as it is known."""
    found = {"words": list(arm.words), **_read(folder, arm)}
    key = read_facts(folder / arm.name)["data"]["key"]
    on = {"part": scoring.part, "bytes": scoring.max_bytes, "key": key}
    scores = {m: s for m, s in found.get("scores", {}).items() if s.get("on") == on}
    wanted = [m for m in scoring.multiples if str(m) not in scores]
    if not wanted and "state_bytes" in found:
        _write(folder, arm, {**found, "scores": scores})
        return
    run = load(folder / arm.name)
    # what is no row of tokens has no length to multiply
    context = getattr(run.task.config, "context", None)
    for multiple in wanted:
        if (how := run.task.compared(multiple, scoring.max_bytes)) is None:
            continue
        at = "" if context is None else f" at {multiple * context:,} tokens"
        tell(f"{arm.name}: scoring{at}")
        scores[str(multiple)] = {**_score_at(run, how, scoring.part), "on": on}
        found["scores"] = scores
        _write(folder, arm, found)
    lengths = [] if context is None else [context, 8 * context]
    found["state_bytes"] = {str(n): _state_bytes(run, n) for n in lengths}
    _write(folder, arm, found)


def _score_at(run: Run, how: dict[str, Any], part: str) -> dict[str, Any]:
    begun = time.monotonic()
    if "part" in run.task.Scoring.__dataclass_fields__:  # what is made as it is needed has none
        how = {**how, "part": part}
    try:
        result = run.task.evaluate_on(run.model, None, run.facts["data"], **how)
    except PositionError as error:
        return {"refused": str(error)}
    seconds = round(time.monotonic() - begun, 2)
    return {**result.numbers, "protocol": result.protocol, "seconds": seconds}


def _state_bytes(run: Run, tokens: int) -> int | str:
    """Bytes of the state of one stream after so many tokens, or why there are none."""
    if not getattr(run.model.model, "streams", False):  # a pair reads a whole source
        return "does not stream"
    try:
        return nbytes(_kept(run, tokens))
    except PositionError:
        return "refused"


def _kept(run: Run, tokens: int) -> ModelState:
    """A state of the shapes that one stream has after so many tokens."""
    try:
        # shapes alone: exact attention over eight times the length would take longer than training
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _read_tokens(run, tokens)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return _read_tokens(run, tokens)  # what is kept depends on what was read


@torch.no_grad()
def _read_tokens(run: Run, tokens: int) -> ModelState:
    """The state of one stream that has read so many tokens."""
    model = run.model.model
    ids, state = run.task.blank(run.model, tokens), model.init_state(1)
    # in pieces of the trained length: training has shown that they fit
    for piece in ids.split(run.task.config.context, 1):
        state = model(piece, state=state, last=1)[1]
    return state


def _finished(run: Path) -> bool:
    if not (run / "run.json").is_file():
        return False
    facts = read_facts(run)
    return "steps" in facts and facts.get("stopped_by") is None


def _path(folder: Path, arm: Arm) -> Path:
    return folder / f"{arm.name}.json"


def _read(folder: Path, arm: Arm) -> dict[str, Any]:
    path = _path(folder, arm)
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        return {**found, "words": [*map(str, found["words"])]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged: {type(error).__name__}: {error}; without it the arm is scored anew"
        ) from None


def _write(folder: Path, arm: Arm, found: dict[str, Any]) -> None:
    write_text(_path(folder, arm), json.dumps(found, indent=2) + "\n")
