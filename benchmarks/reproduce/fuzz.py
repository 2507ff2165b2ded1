"""What do damaged and hostile files do to the readers and converters? Many cases of each.

    python benchmarks/reproduce/fuzz.py [--cases 2000] [--seconds 60] [--targets NAME ...]
    python benchmarks/reproduce/fuzz.py --guided [--cases 20000]      (needs atheris)

Targets are those of tests/hostile.py, each in a forked process whose memory is limited; the
cases are drawn by hypothesis, or grown from the seeds by atheris (libFuzzer) along the branches of
subquad's own code. A case is a finding if it ends in anything but a result, ValueError or OSError,
or takes more than 20 seconds; findings with one type and place count once. A target stops at
--cases or after --seconds. A JSON for each way, with all targets that have been run.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

#: bytes beyond what the process has when it begins, and seconds of one case
MEMORY, LONGEST = 4 << 30, 20


#: imported before processes are forked, so that no case waits for them
FIRST = (
    "subquad.hf",
    "subquad.cli.train",
    "subquad.tasks.lm",
    "transformers.models.gpt2",
    "PIL.Image",
)


class HangError(BaseException):
    """A case that takes too long; no reader catches it."""


class Count:
    """Runs cases of a target, and keeps what they did."""

    def __init__(self, name: str, cases: int, seconds: float) -> None:
        from hostile import TARGETS

        self.target, self.most = TARGETS[name], cases
        self.end = time.monotonic() + seconds
        self.came: collections.Counter[str] = collections.Counter()
        self.found: dict[str, dict] = {}
        signal.signal(signal.SIGALRM, _hang)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))

    @property
    def over(self) -> bool:
        """Have there been cases enough, or time enough?"""
        return self.came.total() >= self.most or time.monotonic() > self.end

    def one(self, data: bytes) -> None:
        """Run a case."""
        folder = tempfile.mkdtemp()
        signal.alarm(LONGEST)
        try:
            self.came[self.target.run(data, Path(folder))] += 1
        except (Exception, HangError) as error:
            self.came["findings"] += 1
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f for f in frames if "/src/subquad/" in f.filename]
            at = ours[-1] if ours else frames[-1]
            place = f"{at.filename.split('/src/')[-1].split('/tests/')[-1]}:{at.name}"
            kind = type(error).__name__
            self.found.setdefault(
                f"{kind} in {place}", {"says": str(error)[:200], "case": repr(data[:300])}
            )
        finally:
            signal.alarm(0)
            shutil.rmtree(folder, ignore_errors=True)

    def told(self) -> dict:
        """The figures."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "cases": self.came.total(),
            **self.came,
            "distinct findings": self.found,
            "peak MB": peak >> 10,
        }


def _hang(number: int, frame: object) -> None:
    raise HangError(f"more than {LONGEST} s")


def drawn(count: Count, seed: int) -> None:
    """Cases by hypothesis."""
    import hypothesis

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count.most,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(count.target.cases())
    def go(data: bytes) -> None:
        count.one(data)
        if count.over:
            raise KeyboardInterrupt  # hypothesis would draw all the others first

    with contextlib.suppress(KeyboardInterrupt):
        go()


def guided(count: Count, done: Callable[[], None]) -> None:
    """Cases by atheris; it ends the process itself, so `done` is called before."""
    import atheris

    corpus = tempfile.mkdtemp()
    for number, data in enumerate(count.target.seeds()):
        (Path(corpus) / str(number)).write_bytes(data)

    def go(data: bytes) -> None:
        count.one(data)
        if count.over:
            done()

    # its own alarm and memory limit would end the process without figures
    atheris.Setup([sys.argv[0], corpus, "-timeout=0", "-rss_limit_mb=0", "-max_len=65536"], go)
    atheris.Fuzz()


def child(name: str, told: Path, args: argparse.Namespace) -> NoReturn:
    """One target, in this process, which ends; its figures are written to a file."""

    def done() -> NoReturn:
        told.write_text(json.dumps(count.told()))
        os._exit(0)

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries log
        count = Count(name, args.cases, args.seconds)
        if args.guided:
            guided(count, done)
        drawn(count, args.seed)
        done()
    finally:
        os._exit(99)


def readers(guided: bool) -> dict:
    """The targets, imported before processes are forked; for atheris with its counters in all
    modules of subquad, which only those have that are imported here for the first time."""
    counted: contextlib.AbstractContextManager = contextlib.nullcontext()
    if guided:
        import atheris

        assert not any(name.startswith("subquad") for name in sys.modules)
        counted = atheris.instrument_imports(include=["subquad"])
    with counted:
        for name in FIRST:
            import_module(name)
        from hostile import TARGETS
    return TARGETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0, help="at most, for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--targets", nargs="+")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    targets = readers(args.guided)
    from measure import write

    way = "atheris" if args.guided else "hypothesis"
    path = args.out or ROOT / "benchmarks" / "results" / "fuzz" / f"{way}.json"
    found: dict[str, dict] = json.loads(path.read_text())["targets"] if path.exists() else {}
    for name in args.targets or targets:
        with tempfile.TemporaryDirectory() as folder:
            told = Path(folder) / "told.json"
            pid = os.fork()
            if not pid:
                child(name, told, args)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            found[name] = json.loads(told.read_text()) if told.exists() else {"died": code}
        print(name, json.dumps(found[name]), flush=True)
        cases = sum(one.get("cases", 0) for one in found.values())
        bad = sum(len(one.get("distinct findings", {"died": 0})) for one in found.values())
        write(path, {"way": way, "cases": cases, "distinct findings": bad, "targets": found})
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
