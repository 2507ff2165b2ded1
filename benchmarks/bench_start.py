"""Measures how long it takes to import the library, and to ask the command line for help.

    python benchmarks/bench_start.py --out benchmarks/results/start.json

Fresh processes, in turns with one that imports torch alone.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from measure import interleaved, main_of

COMMANDS = {
    "import torch": ("-c", "import torch"),
    "import subquad": ("-c", "import subquad"),
    "subquad --help": ("-m", "subquad.cli", "--help"),
}


def start(reps: int) -> dict:
    """Seconds of each, and of ours beyond torch."""
    runs = {
        name: partial(subprocess.run, [sys.executable, *words], check=True, capture_output=True)
        for name, words in COMMANDS.items()
    }
    result: dict = {}
    for kind, seconds in interleaved(runs, dict.fromkeys(runs, reps)).items():
        beyond = seconds["import subquad"] - seconds["import torch"]
        result[kind] = {"seconds": seconds, "beyond torch": beyond}
    return result


def report(reps: int, slow_reps: int) -> dict:
    """All that is measured here."""
    return start(reps)


if __name__ == "__main__":
    main_of(report, __doc__, __file__)
