"""What the benchmarks of forecasts share: one run by the command line, its file, its line."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BESIDE", "budget", "found_in", "learn", "lines_of", "spread", "write"]

#: what `subquad eval` prints beside a forecast
BESIDE = ("seasonal_naive", "ets")


def budget(steps: int | None, minutes: float | None) -> list[str]:
    """The flags of a training's length. ValueError unless one of both is given."""
    if (steps is None) == (minutes is None):
        raise ValueError(f"steps are {steps} and minutes {minutes}; give one of both")
    flag = ["--train.steps", str(steps)] if minutes is None else ["--train.minutes", str(minutes)]
    return [*flag, "--train.reports", str(20 if steps is None else min(20, steps))]


def learn(
    arch: str,
    fields: Mapping[str, Any],
    flags: Sequence[str],
    score: Sequence[str],
    hidden: Mapping[str, str],
) -> dict[str, Any]:
    """Train and evaluate by the command line: what it scored, what stands beside, what was spent.

    hidden: places of this machine -> what stands for them in the command that is kept.
    """
    own = [x for name, value in fields.items() for x in (f"--arch.{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = ["train", "forecast", "--arch", arch, *own, *flags, "--out", str(out)]
        for words in (command, ["eval", str(out), *score]):
            run = [sys.executable, "-m", "subquad.cli", *words]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        found = json.loads((out / "evaluations.jsonl").read_text().splitlines()[-1])
        facts = json.loads((out / "run.json").read_text())
    words = " && ".join(
        f"subquad {' '.join(part)}" for part in (command, ["eval", str(out), *score])
    )
    for place, name in {**hidden, str(out): "RUN"}.items():
        words = words.replace(place, name)
    spent = {"train seconds": facts["seconds"], "eval seconds": found.pop("seconds")}
    spent |= {name: facts[name] for name in ("steps", "best_step", "parameters")}
    about = {"machine": platform.machine(), "threads": threads(), "versions": facts["versions"]}
    return {**spent, **found, **about, "command": words}


def threads() -> int:
    """How many threads a run has: as the environment says, or all cores."""
    return int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Keep what was found, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=2) + "\n")
    part.replace(path)
    print(f"wrote {path.name}", flush=True)


def found_in(folder: Path, name: str) -> list[dict[str, Any]]:
    """All seeds of an arm that exist."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-seed*.json"))]


def spread(found: Sequence[float]) -> str:
    """The median, and the smallest and largest if there are several."""
    middle = f"{statistics.median(found):.4f}"
    return middle if len(found) == 1 else f"{middle} ({min(found):.4f} to {max(found):.4f})"


def lines_of(
    folder: Path,
    arms: Mapping[str, str],
    numbers: Sequence[str],
    paper: Mapping[str, str] | None = None,
) -> list[str]:
    """Lines of a table: arms (name -> its files' name), then what stands beside them."""
    lines, beside = list[str](), dict[str, dict[str, float]]()
    known = paper or {}
    for arm, name in arms.items():
        runs, last = found_in(folder, name), known.get(arm, "")
        if not runs:
            lines.append(f"| {arm} | 0 | missing" + " |" * (len(numbers) + 3) + f" {last} |")
            continue
        beside |= {other: runs[0]["beside"][other] for other in BESIDE}
        cells = [spread([run[name] for run in runs]) for name in numbers]
        cells += [spread_of(runs, key) for key in ("steps", "train seconds", "forecasts")]
        lines.append(f"| {arm} | {len(runs)} | " + " | ".join([*cells, last]) + " |")
    for name, one in beside.items():
        cells = [f"{one[key]:.4f}" for key in numbers]
        lines.append(f"| {name} | 1 | " + " | ".join(cells) + " | | | | |")
    for name in known.keys() - arms.keys():
        lines.append(f"| {name} (paper) |" + " |" * (len(numbers) + 4) + f" {known[name]} |")
    return lines


def spread_of(runs: Sequence[Mapping[str, Any]], key: str) -> str:
    """A count, or its smallest and largest."""
    low, high = (end(round(run[key]) for run in runs) for end in (min, max))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
