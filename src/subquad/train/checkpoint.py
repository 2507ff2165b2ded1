"""Checkpoints in a run folder: which is the newest, whether it is whole, what damage means.

A run goes on from all of its state or not at all: libraries that read a checkpoint start afresh
whatever they do not find, which would be another run under the same name.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["check_whole", "newest_checkpoint", "reading", "remove_older"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_OBJECTS = ("trainer_state.json", "clock.json")


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps, or None."""
    found = _checkpoints(folder)
    return max(found, key=found.__getitem__) if found else None


def remove_older(folder: Path, step: int) -> None:
    """Remove every checkpoint but that of a step."""
    for path, at in _checkpoints(folder).items():
        if at != step:
            shutil.rmtree(path, ignore_errors=True)


def check_whole(checkpoint: Path, process: int, processes: int) -> None:
    """ValueError if part of the state is missing that this one of so many processes needs."""
    state = "rng_state.pth" if processes == 1 else f"rng_state_{process}.pth"
    for name in ("optimizer.pt", "scheduler.pt", *_OBJECTS):
        if not (checkpoint / name).is_file():
            raise ValueError(f"{checkpoint} is damaged: it has no {name}")
    if not any((checkpoint / name).is_file() for name in _WEIGHTS):
        raise ValueError(f"{checkpoint} is damaged: it has no {_WEIGHTS[0]}")
    if not (checkpoint / state).is_file():
        raise ValueError(
            f"{checkpoint} has no {state}: it is damaged, or of another number of processes than "
            f"{processes}; a run goes on with as many as it was begun with"
        )
    for name in _OBJECTS:
        with reading(checkpoint / name):
            if not isinstance(json.loads((checkpoint / name).read_text("utf-8")), dict):
                raise TypeError("it holds no JSON object")


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
