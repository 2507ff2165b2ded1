"""What the benchmarks share: interleaved timing, memory of a fresh process, the machine, the file.

Parties run interleaved and medians are compared, because a shared machine is not equally fast from
second to second.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from subquad.bench.machine import machine
from subquad.bench.memory import peak
from subquad.bench.timing import growth_of, interleaved

MODES = ("forward", "forward+backward")
#: from something that attends, a length, and whether backward is wanted to one run of it
Party = Callable[[Callable, int, bool], Callable[[], object]]
#: what a column of a table says of the runs of an arm
Column = Callable[[Sequence[dict]], str]

__all__ = [
    "MODES",
    "Column",
    "Party",
    "arms_of",
    "budget",
    "compared",
    "each",
    "growth_of",
    "held",
    "interleaved",
    "machine",
    "main_of",
    "peak",
    "seconds_of",
    "subquad",
    "table_of",
    "trained",
    "write",
]


def compared(
    n: int, attends: Mapping[str, Callable], party: Party, reps: int | Mapping[str, int]
) -> dict:
    """Seconds of all at one length, and how many times faster the first is than each other one.

    reps: of all, or of each by its name.
    """
    runs = {
        f"{name} {mode}": party(attend, n, mode != MODES[0])
        for name, attend in attends.items()
        for mode in MODES
    }
    counts = {
        f"{name} {mode}": reps if isinstance(reps, int) else reps[name]
        for name in attends
        for mode in MODES
    }
    ours, *others = attends
    result: dict = {"n": n, "repetitions": counts}
    for kind, seconds in interleaved(runs, counts).items():
        times = {
            f"times faster than {name}, {mode}": seconds[f"{name} {mode}"]
            / seconds[f"{ours} {mode}"]
            for name in others
            for mode in MODES
        }
        result[kind] = {"seconds": seconds, **times}
    return result


def seconds_of(run: Callable[[], object]) -> float:
    """Processor seconds of a call: what other programs take does not count."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def held(n: int, attends: Mapping[str, Callable], party: Party) -> dict:
    """Peak bytes of each beyond its inputs, as torch's profiler sees them."""
    return {
        f"{name} {mode}": peak(party(attend, n, mode != MODES[0]))
        for name, attend in attends.items()
        for mode in MODES
    }


def write(path: Path, found: dict) -> None:
    """Keep what was found, with date, command and machine; commands name files, not where they lie.

    The command is this process's, unless `found` has its own.
    """
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    root = f"{Path(__file__).resolve().parent.parent}/"
    own = " ".join(["python", *(word.replace(root, "") for word in sys.argv)])
    command = re.sub(r"(?<![\w.])/(?:[^\s/,']+/)+", "", found.get("command", own))
    full = {"date": stamp, **found, "command": command, "machine": machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(full, indent=2) + "\n")


def subquad(*words: str) -> None:
    """One command of the library's command line."""
    subprocess.run([sys.executable, "-m", "subquad.cli", *words], check=True)


def trained(folder: Path, *words: str) -> dict:
    """The facts of the run in `folder`, begun by `subquad train` with these words, or gone on with.

    Exits if it was stopped before its end: the same command goes on.
    """
    told = folder / "run.json"
    go_on = ["--resume"] if told.is_file() else []  # one that is finished stays as it is
    subquad("train", *words, "--out", str(folder), *go_on)
    facts = json.loads(told.read_text())
    if facts["stopped_by"]:
        sys.exit(f"stopped by {facts['stopped_by']} at step {facts['steps']}: run again")
    return facts


def each(cell: Callable[[dict], str]) -> Column:
    """A column that says the same of every run."""
    return lambda found: ", ".join(map(cell, found))


def table_of(folder: Path, arms: Sequence[str], columns: Mapping[str, Column]) -> str:
    """The runs in a folder as Markdown, an arm a line; those that are missing, by name."""
    lines = [f"| {' | '.join(['arm', 'n', *columns])} |", "|---" * (len(columns) + 2) + "|"]
    for arm in arms:
        paths = sorted(folder.glob(f"{_slug(arm)}-[0-9]*.json"))
        found = [json.loads(path.read_text()) for path in paths]
        cells = [column(found) for column in columns.values()] if found else ["missing"]
        cells += [""] * (len(columns) - len(cells))
        told = (f"| {cell}".strip() for cell in (arm, str(len(found)), *cells))
        lines.append(f"{' '.join(told)} |")
    return "\n".join(lines)


def arms_of(
    learn: Callable[[str, int, argparse.Namespace], dict],
    arms: Sequence[str],
    columns: Mapping[str, Column],
    *,
    doc: str,
    file: str,
    minutes: float,
    data: str | None,
) -> Path:
    """The command line of a study: every arm for so many minutes, with so many seeds. data: what
    `--data` names; None: the study has its own. Where the results are.

    Resumable: a JSON for each arm and seed, which `learn` makes; the table of those that exist.
    """
    name = Path(file).stem
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    if data is not None:
        parser.add_argument("--data", type=Path, required=True, help=data)
    parser.add_argument("--arms", nargs="+", default=list(arms), choices=arms)
    parser.add_argument("--minutes", type=float, default=minutes, help="of training, for each arm")
    parser.add_argument("--steps", type=int, help="of training, in place of minutes")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / name)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / name)
    args = parser.parse_args()
    for seed in range(args.seeds):
        for arm in args.arms:
            path = args.out / f"{_slug(arm)}-{seed}.json"
            if not path.exists():
                write(path, learn(arm, seed, args))
                print(f"wrote {path}", flush=True)
    text = table_of(args.out, list(arms), columns)
    (args.out / "table.md").write_text(text + "\n")
    print(text)
    return args.out


def budget(args: argparse.Namespace) -> list[str]:
    """Words of `subquad train`: minutes, or on a machine that others use too, steps."""
    asked = args.minutes if args.steps is None else args.steps
    return ["--train.minutes" if args.steps is None else "--train.steps", str(asked)]


def _slug(arm: str) -> str:
    return arm.replace(" ", "_")


def main_of(report: Callable[[int, int], dict], doc: str, file: str) -> None:
    """The command line of one benchmark: repetitions, threads, where the JSON goes."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    default = Path(file).parent / "results" / f"{Path(file).stem.removeprefix('bench_')}.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--reps", type=int, default=15)
    parser.add_argument("--slow-reps", type=int, default=3, help="of peers that take seconds")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    found = report(args.reps, args.slow_reps)
    write(args.out, found)
    print(json.dumps(found, indent=2))
