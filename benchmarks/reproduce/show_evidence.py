"""What `subquad show` shows, measured: copied symbols, random features, spans, a long map.

    python benchmarks/reproduce/show_evidence.py --runs runs/show

duplication   a Reformer layer trained on 0w0w: the weight on the diagonal of copied symbols
features      random features against exact softmax at several counts: pictures, and the error
spans         adaptive spans of each head after a short training on Python's standard library
long          a map of 16,384 tokens: seconds, and how far the process grew beyond the loaded model

Runs are trained into --runs by the command line where they are not there yet. Each part writes its
own files into benchmarks/results/show, and may be asked for by name.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import subquad as sq
from subquad.cli import main as subquad
from subquad.model import build
from subquad.nn.features import PositiveRandomFeatures
from subquad.nn.kernel import kernel_matrix
from subquad.viz import Page, Views, look, maps
from subquad.viz.curves import pyplot
from subquad.viz.still import still

RESULTS = Path(__file__).parents[1] / "results" / "show"

TRAINED = {
    "duplication": (
        "synthetic --arch reformer --arch.layers=[lsh] --arch.num_layers=1 --arch.dim=256 "
        "--arch.ffn_dim=256 --arch.num_heads=4 --arch.rounds=4 --arch.buckets=[8] --arch.window=16 "
        "--arch.dropout=0 --arch.wiring=pre --task.kind duplication --task.length 128 "
        "--task.symbols 127 --task.position learned --train.steps 200 --train.batch 32 "
        "--train.lr 2e-3 --train.reports 4 --train.schedule constant_with_warmup"
    ),
    "spans": (
        "lm --arch adaptive_span --arch.dim 64 --arch.num_layers 3 --arch.num_heads 4 "
        "--arch.ffn_dim 128 --arch.max_span 256 --arch.ramp 16 --arch.dropout 0 "
        "--task.context 128 --train.batch 8 --train.steps 400 --train.lr 2e-3"
    ),
}


def trained(name: str, runs: Path) -> Path:
    """The folder of a run, trained if it is not there."""
    folder = runs / name
    if not (folder / "model.safetensors").is_file():
        command = [sys.executable, "-m", "subquad.cli", "train", *TRAINED[name].split()]
        subprocess.run([*command, "--out", str(folder)], check=True)
    return folder


def duplication(runs: Path) -> dict:
    """The weight that each head gives to the symbol that comes next, of 20 unseen sequences."""
    folder = trained("duplication", runs)
    run, half, items = sq.load(folder), 64, 20
    weights = []
    for item in range(items):
        asked = run.task.look(run.model, f"item {item}").inputs["input_ids"]
        (one,) = maps(run.model, {"input_ids": asked})
        # behind the boundary stand 0 w 0 w: what follows a symbol came half a sequence less one ago
        rows = np.arange(half + 1, one.weights.shape[1])
        weights.append(one.weights[:, rows, rows - half + 1].mean(1))
    path = RESULTS / "duplication.png"
    subquad(["show", str(folder), "--input", "item 3", "--views", "rollout", "--out", str(path)])
    return {
        "command": f"subquad train {TRAINED['duplication']}",
        "token_accuracy": run.facts["numbers"]["token_accuracy"],
        "sequences": items,
        "weight on the symbol to copy, by head": np.mean(weights, 0).round(4).tolist(),
        "uniform over the past would be": round(1 / 96, 4),
    }


def features(runs: Path) -> dict:
    """Random features against exact softmax, queries and keys drawn from a normal distribution."""
    counts, n, width = (16, 64, 256, 1024), 64, 32
    torch.manual_seed(0)
    found: dict[str, dict] = {}
    plot = pyplot()
    figure, axes = plot.subplots(2, 1 + len(counts), figsize=(15, 6.4), layout="constrained")
    later = torch.arange(n) > torch.arange(n)[:, None]
    for line, spread in zip(axes, (0.25, 1.0), strict=True):
        # scores q.k / sqrt(D) with this standard deviation
        q, k = (spread**0.5 * torch.randn(1, 1, n, width, dtype=torch.float64) for _ in range(2))
        exact = (q @ k.mT / math.sqrt(width)).masked_fill(later, -torch.inf).softmax(-1)
        pictures = {"exact softmax": exact}
        for count in counts:
            errors = []
            for seed in range(20):
                phi = PositiveRandomFeatures(width, count, seed=seed).double()
                ours = kernel_matrix(q, k, phi, later)
                errors.append(float((ours - exact).norm() / exact.norm()))
                if seed == 0:
                    pictures[f"{count} features"] = ours
            mean, spread_of = float(np.mean(errors)), float(np.std(errors))
            found.setdefault(f"scores of deviation {spread:g}", {})[str(count)] = {
                "relative error": round(mean, 4), "deviation over 20 seeds": round(spread_of, 4),
            }  # fmt: skip
        told = found[f"scores of deviation {spread:g}"]
        for panel, (name, matrix) in zip(line, pictures.items(), strict=True):
            panel.imshow(matrix[0, 0].sqrt(), cmap="Blues", vmin=0, vmax=1)
            error = told.get(name.split()[0])
            says = "" if error is None else f"\nrelative error {error['relative error']:.3f}"
            panel.set_title(f"{name}{says}", fontsize=10)
        line[0].set_ylabel(f"scores of deviation {spread:g}")
    figure.savefig(RESULTS / "features.png", dpi=100, metadata={"Software": None})
    plot.close(figure)
    return {"tokens": n, "head width": width, "causal": True, **found}


def spans(runs: Path) -> dict:
    """The span of each head, and the map of a few lines of code."""
    folder = trained("spans", runs)
    text = "def total(rows):\n    out = 0\n    for row in rows:\n        out += row.value\n"
    run = sq.load(folder)
    inputs = run.task.look(run.model, text)
    shown = look(run.model, inputs.inputs, title="adaptive spans", labels=inputs.labels)
    still([shown], RESULTS / "spans.png")
    own = {layer.title: layer.spans[:, 0].round(1).tolist() for layer in shown.layers[:3]}
    return {
        "command": f"subquad train {TRAINED['spans']}",
        "bits per byte": run.facts["numbers"]["bits_per_byte"],
        "span of each head, tokens": own,
        "longest possible": 256,
    }


def long(runs: Path) -> dict:
    """Maps of 16,384 tokens, each in a process of its own."""
    found = {}
    for arch in ("transformer", "reformer"):
        done = subprocess.run(
            [sys.executable, __file__, "--alone", arch], check=True, capture_output=True, text=True
        )
        found[arch] = json.loads(done.stdout.strip().splitlines()[-1])
        print(arch, found[arch], flush=True)
    return found


def alone(arch: str) -> None:
    """Write the page and picture of one map; the peak of this process before and after."""
    length = 16_384
    torch.manual_seed(0)
    fields = {"dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 32, "dropout": 0.0}
    if arch == "reformer":
        fields |= {"layers": ["lsh"], "buckets": [16, 8], "window": 32, "rounds": 2}
    model = build(arch, fields, vocab_size=256).eval()
    ids = torch.randint(0, 256, (1, length))
    look(model, ids[:, :64], title="first", views=Views(views=[]))  # what any run loads
    pyplot()
    before, begun = _peak(), time.monotonic()
    views = Views(views=[], memory=1 << 28)
    shown = look(model, ids, title=f"{arch}, {length:,} tokens", views=views)
    page = RESULTS / f"long-{arch}.html"
    Page([shown]).write(page)
    still([shown], RESULTS / f"long-{arch}.png")
    size = page.stat().st_size
    page.unlink()  # too large to be kept
    print(
        json.dumps(
            {
                "tokens": length,
                "heads": 2,
                "whole matrices would take MiB": 2 * length**2 * 4 / 2**20,
                "growth of the process, MiB": round((_peak() - before) / 2**20, 1),
                "page, MiB": round(size / 2**20, 1),
                "seconds": round(time.monotonic() - begun, 1),
                "processor seconds": round(time.process_time(), 1),
            }
        )
    )


def _peak() -> int:
    """The most bytes that this process has held, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


PARTS = {"duplication": duplication, "features": features, "spans": spans, "long": long}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs/show"))
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if args.alone:
        alone(args.alone)
        return
    for name in args.parts or PARTS:
        found = {"torch": torch.__version__, **PARTS[name](args.runs)}
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found, indent=2), flush=True)


if __name__ == "__main__":
    main()
