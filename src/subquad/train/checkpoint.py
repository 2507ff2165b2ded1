"""Checkpoints in a run folder: which is the newest, whether it is whole, what damage means.

A run goes on from all of its state or not at all: libraries that read a checkpoint start afresh
whatever they do not find, which would be another run under the same name. sums.json tells the
SHA-256 of every other file as it was saved, so that a bit that has changed on the disk is noticed;
checkpoints of older versions have none, and are read as they are.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["check_whole", "newest_checkpoint", "reading", "remove_older", "write_sums"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_OBJECTS = ("trainer_state.json", "clock.json")
_STATE = ("optimizer.pt", "scheduler.pt", *_OBJECTS)
_SUMS = "sums.json"
#: files that one process alone reads, by its number
_OWN = re.compile(r"(?:rng_state_|memory-)(\d+)\.\w+")


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps, or None."""
    found = _checkpoints(folder)
    return max(found, key=found.__getitem__) if found else None


def remove_older(folder: Path, step: int) -> None:
    """Remove every checkpoint but that of a step."""
    for path, at in _checkpoints(folder).items():
        if at != step:
            shutil.rmtree(path, ignore_errors=True)


def write_sums(checkpoint: Path) -> None:
    """Write down what every file of a checkpoint holds, once all processes have written theirs."""
    names = sorted(path.name for path in checkpoint.iterdir() if path.name != _SUMS)
    text = json.dumps(_sums(checkpoint, names), indent=2)
    (checkpoint / _SUMS).write_text(text + "\n", encoding="utf-8")


def check_whole(checkpoint: Path, process: int, processes: int) -> None:
    """ValueError if part of the state that this one of so many processes needs is missing, or is
    not as it was saved."""
    state = "rng_state.pth" if processes == 1 else f"rng_state_{process}.pth"
    for name in _STATE:
        if not (checkpoint / name).is_file():
            raise ValueError(f"{checkpoint} is damaged: it has no {name}")
    if not any((checkpoint / name).is_file() for name in _WEIGHTS):
        raise ValueError(f"{checkpoint} is damaged: it has no {_WEIGHTS[0]}")
    if not (checkpoint / state).is_file():
        raise ValueError(
            f"{checkpoint} has no {state}: it is damaged, or of another number of processes than "
            f"{processes}; a run goes on with as many as it was begun with"
        )
    if (checkpoint / _SUMS).is_file():
        _check_sums(checkpoint, process)
    for name in _OBJECTS:
        with reading(checkpoint / name):
            if not isinstance(json.loads((checkpoint / name).read_text("utf-8")), dict):
                raise TypeError("it holds no JSON object")


def _check_sums(checkpoint: Path, process: int) -> None:
    """ValueError names the first file that this process reads and that is not as it was saved."""
    with reading(checkpoint / _SUMS):
        told = dict(json.loads((checkpoint / _SUMS).read_text("utf-8")))
        if absent := [name for name in _STATE if name not in told]:
            raise KeyError(absent[0])
        owner = {name: _OWN.fullmatch(name) for name in told}
    mine = [n for n in told if (own := owner[n]) is None or int(own[1]) == process]
    # of one that is missing its reader tells, and why that may be
    mine = [n for n in mine if (checkpoint / n).is_file()]
    for name, found in _sums(checkpoint, mine).items():
        if found != told[name]:
            raise ValueError(
                f"{checkpoint / name} is damaged: it does not hold what was saved; its SHA-256 is "
                f"{found}, and {_SUMS} says {told[name]}"
            )


def _sums(checkpoint: Path, names: list[str]) -> dict[str, str]:
    """The SHA-256 of files by name; a large one holds up no other."""

    def of(name: str) -> str:
        with open(checkpoint / name, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(of, names), strict=True))


@contextlib.contextmanager
def reading(what: Path) -> Iterator[None]:
    """Turns whatever readers make of damage into a ValueError of one clear line."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{what} is damaged: {type(error).__name__}: {reason}") from error


def _checkpoints(folder: Path) -> dict[Path, int]:
    names = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in folder.glob("*")}
    return {path: int(name[1]) for path, name in names.items() if name}
