"""Is anything lost? Training is killed at random moments and resumed, and put in other trouble.

    python benchmarks/reproduce/faults.py [--kills 51]

Kills: for transformer, performer whose features are redrawn every 3 steps and transformer_xl with
the memory that it carries, a process of `subquad train` gets SIGKILL after a time drawn evenly from
0 to 1.1 times that of an undisturbed run, and the same folder goes on with --resume, until it ends;
then the next folder. All that a run leaves (weights, best weights, optimizer, memory, numbers) must
equal those of the undisturbed run bit for bit.

Troubles, each while the run trains: files may not grow (as on a full disk), a file system of
little room, a folder that may not be written, data removed, SIGTERM. Each must end in one clear
line, with the last checkpoint whole; with the trouble gone, --resume must end in the same bits.

Processes are forked from one that has imported everything, so that most of a run is training. Kills
hit every phase behind that: reading data, building, steps, reports, writing. Resumable: a JSON for
each arm, and one for the troubles.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

from subquad.cli import main

STEPS, REPORTS = 24, 8
ARMS = {
    "transformer": [],
    "performer": ["--arch.redraw", "3"],
    "transformer_xl": ["--arch.segment", "32", "--arch.memory", "32"],
}
#: imported before processes are forked, so that they need not
FIRST = ("subquad.tasks.lm", "subquad.train.fit", "torch.utils.tensorboard", "accelerate")
#: what must be equal at the end; the first two hold the weights
KEPT = ("model.safetensors", "{last}/model.safetensors", "{last}/memory-0.safetensors")


class Case:
    """A run folder, and the processes that train it."""

    def __init__(self, arm: str, data: Path, out: Path, words: tuple[str, ...] = ()) -> None:
        self.out, self.log = out, out.with_name(f"{out.name}.log")
        self.words = [
            *("train", "lm", "--arch", arm, "--preset", "tiny", *ARMS[arm], "--data", str(data)),
            *("--task.context", "32", "--task.valid_bytes", "600", "--train.batch", "2"),
            *("--train.steps", str(STEPS), "--train.reports", str(REPORTS)),
            *("--train.log_every", "1", *words, "--out", str(out)),
        ]

    def start(self, user: int | None = None) -> int:
        """The id of a process that trains, or goes on where there is something to go on from."""
        begun = (self.out / "run.json").is_file() and not (self.out / ".start.part").exists()
        words = [*self.words, "--resume"] if begun else self.words
        if child := os.fork():
            return child
        code = 99
        try:
            said = os.open(self.log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o666)
            os.dup2(said, 1)
            os.dup2(said, 2)
            if user is not None:
                os.setgid(user)
                os.setuid(user)
            code = main(words)
            sys.stdout.flush()
        finally:
            os._exit(code)

    def finish(self, user: int | None = None) -> int:
        """Train to the end, undisturbed. The exit code."""
        return ended(self.start(user))

    def said(self) -> str:
        """What the last process printed, without what libraries log."""
        return self.log.read_text(errors="replace").strip()

    def when(self, name: str, then: Callable[[int], None], user: int | None = None) -> int:
        """Train, and do something as soon as a file is there. The exit code."""
        child = self.start(user)
        while not (self.out / name).exists():
            if (code := ended(child, wait=False)) is not None:
                raise RuntimeError(f"it ended with {code} before {name} was there: {self.said()}")
            time.sleep(0.005)
        then(child)
        return ended(child)

    def bits(self) -> dict[str, str]:
        """What is left, file -> hash, and the numbers."""
        last = f"checkpoint-{STEPS}"
        files = [self.out / name.format(last=last) for name in KEPT]
        found = {
            f.relative_to(self.out).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()[:16]
            for f in files
            if f.is_file()
        }
        state = torch.load(self.out / last / "optimizer.pt", weights_only=True)["state"]
        moments = [t.numpy().tobytes() for s in state.values() for t in s.values()]
        found["optimizer"] = hashlib.sha256(b"".join(moments)).hexdigest()[:16]
        facts = json.loads((self.out / "run.json").read_text())
        return {**found, "numbers": repr(sorted(facts["numbers"].items()))}


def ended(child: int, wait: bool = True) -> int | None:
    """The exit code of a process, below 0 the signal that ended it; None: it goes on."""
    found, status = os.waitpid(child, 0 if wait else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def killed(arm: str, kills: int, data: Path, where: Path, draw: random.Random) -> dict:
    """Kill and resume until there were so many kills, and compare every folder."""
    whole = Case(arm, data, where / f"{arm}-whole")
    begin = time.monotonic()
    assert whole.finish() == 0, whole.said()
    seconds = time.monotonic() - begin
    wanted, done, folders, unequal, afresh, refused = whole.bits(), 0, 0, [], 0, []
    steps = []
    while done < kills:
        case = Case(arm, data, where / f"{arm}-{folders}")
        folders += 1
        while True:
            last = done >= kills
            child = case.start()
            end = time.monotonic() + (1e9 if last else draw.uniform(0, 1.1 * seconds))
            while (code := ended(child, wait=False)) is None and time.monotonic() < end:
                time.sleep(0.002)
            if code is None:
                os.kill(child, signal.SIGKILL)
                ended(child)
                done += 1
                steps.append(_step(case.out))
                afresh += not (case.out / "run.json").is_file()
                continue
            if code:
                refused.append(f"{code}: {case.said()[-300:]}")
            break
        if refused:
            break
        found = case.bits()
        unequal += [name for name in wanted if found.get(name) != wanted[name]]
        shutil.rmtree(case.out)
    return {
        "kills": done,
        "folders": folders,
        "killed before the run had begun": afresh,
        "checkpoints at the kills": steps,
        "unequal": unequal,
        "refused to resume": refused,
        "seconds of an undisturbed run": round(seconds, 2),
        "bits": wanted,
    }


def _step(out: Path) -> int:
    return max((int(p.name.split("-")[1]) for p in out.glob("checkpoint-*")), default=0)


# --- other troubles -----------------------------------------------------------------------------


def full(case: Case) -> tuple[int, Callable[[], None]]:
    """Files may not grow beyond 2,000 bytes from the second checkpoint on."""
    limit = (2000, 2000)
    set_ = lambda child: resource.prlimit(child, resource.RLIMIT_FSIZE, limit)  # noqa: E731
    return case.when("checkpoint-6", set_), lambda: None


def small(case: Case) -> tuple[int, Callable[[], None]] | None:
    """The run lies on a file system that is filled up; None where none can be mounted."""
    case.out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(case.out)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return None
    filler = case.out / ".filler"

    def fill(child: int) -> None:
        handle = os.open(filler, os.O_CREAT | os.O_WRONLY)
        with contextlib.suppress(OSError):
            while os.write(handle, bytes(4096)):
                pass
        os.close(handle)

    return case.when("checkpoint-6", fill), filler.unlink


def read_only(case: Case) -> tuple[int, Callable[[], None]]:
    """Another user's process may not write the folder any more."""
    user = 65534 if os.geteuid() == 0 else None
    case.out.mkdir()
    os.chmod(case.out, 0o777)
    stop = lambda child: _modes(case.out, 0o555)  # noqa: E731
    return case.when("checkpoint-6", stop, user), lambda: _modes(case.out, 0o777)


def _modes(folder: Path, mode: int) -> None:
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            os.chmod(Path(place) / name, mode & 0o666)
        os.chmod(place, mode)


def removed(case: Case, data: Path) -> tuple[int, Callable[[], None]]:
    """The data are moved away in mid-run, and the process is stopped; what --resume says."""
    away = data.with_name("away")

    def move(child: int) -> None:
        os.rename(data, away)
        os.kill(child, signal.SIGKILL)

    case.when("checkpoint-6", move)
    return case.finish(), lambda: os.rename(away, data)


def terminated(case: Case) -> tuple[int, Callable[[], None]]:
    """SIGTERM, as a scheduler sends it."""
    return case.when("checkpoint-6", lambda child: os.kill(child, signal.SIGTERM)), lambda: None


def troubles(data: Path, where: Path, wanted: dict[str, str]) -> dict[str, dict]:
    """What came of each trouble."""
    found = {}
    kinds: dict[str, Callable] = {
        "files may not grow": full,
        "file system full": small,
        "folder read-only": read_only,
        "data removed": lambda case: removed(case, data),
        "SIGTERM": terminated,
    }
    for name, make in kinds.items():
        case = Case("transformer", data, where / name.replace(" ", "-"))
        try:
            came = make(case)
        except RuntimeError as error:  # the trouble came too early, or the run was too fast
            came, found[name] = None, {"failed": str(error).replace(f"{where}/", "")}
            continue
        if came is None:
            found[name] = {"skipped": "nothing can be mounted here"}
            continue
        code, cure = came
        said, kept = case.said(), _step(case.out)
        cure()
        again = case.finish()
        equal = again == 0 and case.bits() == wanted
        if make is small:
            subprocess.run(["umount", str(case.out)], check=False)
        lines = [line for line in said.splitlines() if line.startswith("subquad: error")]
        found[name] = {
            "exit code": code,
            "said": [line.replace(f"{where}/", "") for line in lines or said.splitlines()[-3:]],
            "traceback": "Traceback" in said,
            "checkpoint left": kept,
            "resumed with": again,
            "equal": equal,
        }
    return found


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=51, help="in all, a third for each arm")
    parser.add_argument("--seed", type=int, default=0)
    results = Path(__file__).parents[1] / "results" / "faults"
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    for name in FIRST:
        import_module(name)

    torch.set_num_threads(1)
    draw = random.Random(args.seed)
    with TemporaryDirectory() as folder:
        where = Path(folder)
        os.chmod(where, 0o777)
        os.environ["SUBQUAD_CACHE"] = str(where / "cache")
        (where / "cache").mkdir()
        os.chmod(where / "cache", 0o777)
        data = where / "text.txt"
        data.write_text(" ".join(str(i * i) for i in range(3000)))
        for arm in ARMS:
            if not (path := args.out / f"{arm}.json").exists():
                found = killed(arm, args.kills // len(ARMS), data, where, draw)
                write(path, {"steps": STEPS, "reports": REPORTS, "seed": args.seed, **found})
            print(path.read_text(), flush=True)
        _modes(where / "cache", 0o777)
        wanted = json.loads((args.out / "transformer.json").read_text())["bits"]
        if not (path := args.out / "troubles.json").exists():
            write(path, troubles(data, where, wanted))
        print(path.read_text())


if __name__ == "__main__":
    run()
