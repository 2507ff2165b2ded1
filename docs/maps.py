"""Pictures of what every architecture looks at, made by the command line: docs/maps.md.

    python docs/maps.py [ARCH ...]

Each tiny preset is trained for a few steps on Python's standard library (pictures, for patches;
translations, for encoders with a decoder) and shown; pictures that are there are kept.
"""

import json
import sys
import tempfile
from pathlib import Path

from subquad.archs import ARCHS, PAIRS
from subquad.cli import main

HERE = Path(__file__).parent
TEXT = "for row in rows: total += row"
TRAIN = "--preset tiny --train.steps 40 --train.batch 4 --train.lr 3e-3 --train.reports 1"
PATTERNS = {
    "strided": "Causal() & (Window(8) | Strided(8))",
    "fixed": "Causal() & (Blocks(8) | Columns(8, 2))",
    "dilated": "Window(4, 4, 3)",
    "global": "Window(3, 3) | Marked()",
    "log-steps": "LogSteps(2)",
    "chunks": "Chunks(8, 1)",
    "random-blocks": "Chunks(6, 1, 1) | RandomBlocks(6, 2) | Marked()",
    "documents": "Causal() & SameLabel()",
}


def picture(arch: str) -> None:
    """Train and show one architecture."""
    out = HERE / "maps" / f"{arch}.png"
    if out.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        run, shown = f"{folder}/{arch}", TEXT
        task = ["lm" if arch in ARCHS and hasattr(ARCHS[arch].PRESETS["tiny"], "causal") else "mlm"]
        task += ["--task.context", "64", "--task.valid_bytes", "2000"]
        if arch in PAIRS:
            task, shown = ["translate", "--task.valid_rows", "20"], _translated()
        if arch == "vit":
            task, shown = ["image", "--task.valid_rows", "20"], f"{folder}/shapes.npz"
            _shapes(shown)
        done = main(["train", *task, "--arch", arch, *TRAIN.split(), "--out", run])
        done += main(["show", run, "--input", shown, "--out", str(out)])
    if done:
        raise SystemExit(f"{arch} was not shown")


def _translated() -> str:
    """A short one of the embedded translations, as a row of JSON."""
    from subquad.tasks.translate import Translate

    rows = Translate.default().rows["test"]
    return json.dumps(min((rows[i] for i in range(50)), key=lambda row: len(row["text"])))


def _shapes(path: str) -> None:
    """One of the embedded pictures, as a file."""
    import numpy as np

    from subquad.data.shapes import shapes

    row = shapes().rows["test"][0]
    np.savez(path, images=row["image"][None])


def pattern(name: str) -> None:
    """Draw one pattern."""
    out = HERE / "maps" / f"pattern-{name}.png"
    documents = "3" if "SameLabel" in PATTERNS[name] else "1"
    words = ["--pattern", PATTERNS[name], "--length", "48", "--documents", documents]
    if not out.exists() and main(["show", *words, "--out", str(out)]):
        raise SystemExit(f"{name} was not drawn")


def page() -> str:
    """docs/maps.md."""
    lines = [
        "# What each architecture looks at",
        "",
        "Tiny presets after 40 steps, drawn by `subquad show RUN --input ...` (this page and its "
        "pictures: `python docs/maps.py`). A row is a query, a column a key; colour grows with the "
        "root of the weight, orange is below zero. These are tiny models hardly trained: pictures "
        "of mechanisms, not of what they learn. Encoders with a decoder look at a translation: the "
        "source at itself, the target at what is written so far, and the target at the source.",
    ]
    for arch, module in {**ARCHS, **PAIRS}.items():
        says = " ".join((module.__doc__ or "").split("\n\n")[0].split())
        lines += ["", f"## {arch}", "", says, "", f"![Maps of {arch}](maps/{arch}.png)"]
    lines += ["", "# Patterns", "", '`subquad show --pattern "TEXT"` draws any, with its cost.']
    for name, text in PATTERNS.items():
        lines += ["", f"`{text}`", "", f"![{name}](maps/pattern-{name}.png)"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "maps").mkdir(exist_ok=True)
    for asked in sys.argv[1:] or (*ARCHS, *PAIRS):
        picture(asked)
    for one in PATTERNS:
        pattern(one)
    (HERE / "maps.md").write_text(page(), encoding="utf-8")
