"""Pictures of what every architecture looks at, made by the command line: docs/maps.md.

    python docs/maps.py [ARCH ...]

Each tiny preset is trained for a few steps on Python's standard library (pictures, for patches;
translations, for encoders with a decoder) and shown; pictures that are there are kept, so delete
one to have it drawn again.
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
READ = "--task.context 64 --task.valid_bytes 2000"
#: task and its flags, where they are not those of text
TASKS = {
    "vit": "image --task.valid_rows 20",
    "longformer": "classify --task.context 64",  # the mark of a document sees all
    **dict.fromkeys(PAIRS, "translate --task.valid_rows 20"),
}
#: settings beside the preset's, so that a mechanism shows at 30 tokens
SETTINGS = {
    "longformer": "--arch.causal false --arch.windows [4,6] --arch.dilations [1,2]",
    "adaptive_span": "--arch.max_span 24 --arch.ramp 8 --train.steps 300",  # spans must grow apart
    "conformer": "--arch.mixer chunks --arch.chunk 8 --arch.left 1 --arch.conv chunk",
}
#: what of it is shown, where all layers would be too many
PARTS = {"perceiver": "--layers 1,2,7"}
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
        if arch == "vit":
            shown = f"{folder}/shapes.npz"
            _shapes(shown)
        if arch in PAIRS:
            shown = _translated()
        done = main(["train", *trained(arch), "--out", run])
        parts = PARTS.get(arch, "").split()
        done += main(["show", run, "--input", shown, *parts, "--out", str(out)])
    if done:
        raise SystemExit(f"{arch} was not shown")


def trained(arch: str) -> list[str]:
    """The words of `subquad train` for an architecture."""
    if (task := TASKS.get(arch)) is None:
        usual = "lm" if hasattr(ARCHS[arch].PRESETS["tiny"], "causal") else "mlm"
        task = f"{usual} {READ}"
    return [*task.split(), "--arch", arch, *TRAIN.split(), *SETTINGS.get(arch, "").split()]


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
        "Tiny presets after 40 steps (Adaptive Span after 300), drawn by `subquad show RUN --input "
        f'"{TEXT}"`; `python docs/maps.py` makes this page and its pictures. A row is a query, a '
        "column a key; colour grows with the root of the weight, orange is below zero, and what "
        "a query does not look at stays pale. *bits* is the mean entropy of a row: how many keys "
        "share the weight, as a power of two. The last line is the *rollout*, what reaches a "
        "position through all layers, and the same weighed by gradients. These are tiny models "
        "hardly trained: pictures of mechanisms, not of what they learn. Encoders with a decoder "
        "look at a translation: the source at itself, the target at what is written so far, and "
        "the target at the source.",
    ]
    for arch, module in {**ARCHS, **PAIRS}.items():
        says = " ".join((module.__doc__ or "").split("\n\n")[0].split())
        more = f" [Explained](papers/{arch}.md)."
        if changed := SETTINGS.get(arch) or PARTS.get(arch):
            more += f" Here with `{changed}`."
        lines += ["", f"## {arch}", "", says + more, "", f"![Maps of {arch}](maps/{arch}.png)"]
        lines[-1] += "{.matrix}"
    lines += ["", "## Patterns", "", '`subquad show --pattern "TEXT"` draws any, with its cost.']
    for name, text in PATTERNS.items():
        lines += ["", f"`{text}`", "", f"![{name}](maps/pattern-{name}.png)" + "{.matrix}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "maps").mkdir(exist_ok=True)
    for asked in sys.argv[1:] or (*ARCHS, *PAIRS):
        picture(asked)
    for one in PATTERNS:
        pattern(one)
    (HERE / "maps.md").write_text(page(), encoding="utf-8")
