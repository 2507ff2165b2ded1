"""Which architectures leave as files: tiny models through `subquad export`'s own writer.

    python benchmarks/reproduce/exports.py [--archs performer local]

For each architecture and format the whole graph, and where it streams the graph of a step: the
largest difference from the model at other batches and lengths than it was captured with (1e-4 is
allowed), or why there is none. Resumable: a JSON per architecture; about two minutes each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

import subquad as sq
from subquad.hf import SubquadConfig, SubquadForCausalLM, SubquadForMaskedLM
from subquad.hf.exporting import FORMATS, step, whole, write

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write as keep


def model_of(arch: str) -> torch.nn.Module:
    """A tiny model with weights large enough to matter."""
    torch.manual_seed(0)
    fields = asdict(sq.ARCHS[arch].PRESETS["tiny"])
    config = SubquadConfig(arch=arch, model=fields, vocab_size=17)
    made = (SubquadForCausalLM if config.is_causal else SubquadForMaskedLM)(config).eval()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return made


def tried(arch: str) -> dict:
    """What is written of an architecture, and how far it is from the model."""
    model, found = model_of(arch), {}
    for what, graph_of in (("whole", whole), ("step", step)):
        if what == "step" and not model.config.is_causal:
            found[what] = "looks both ways"
            continue
        try:
            with torch.no_grad():
                graph = graph_of(model)
        except ValueError as error:
            found[what] = str(error)
            continue
        found[what] = {form: _written(graph, form) for form in FORMATS}
        if graph.lengths is not None:
            found["lengths"] = list(graph.lengths)
    return found


def _written(graph: object, form: str) -> dict | str:
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with torch.no_grad():
                name, far = write(graph, Path(folder) / "model", form)
        except ValueError as error:
            return str(error)
        size = (Path(folder) / name).stat().st_size
    return {"difference": far, "bytes": size, "processor seconds": time.process_time() - begun}


def table(folder: Path) -> str:
    """What exists, as Markdown."""
    columns = [(what, form) for what in ("whole", "step") for form in FORMATS]
    head = "| architecture | " + " | ".join(f"{w}, {f}" for w, f in columns) + " |"
    lines = [head, "|---" * (len(columns) + 1) + "|"]
    for arch in sq.ARCHS:
        path = folder / f"{arch}.json"
        told = json.loads(path.read_text())["found"] if path.is_file() else None
        cells = ["missing"] * 4 if told is None else [_cell(told[w], f) for w, f in columns]
        lines.append(f"| {arch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(told: dict | str, form: str) -> str:
    one = told if isinstance(told, str) else told[form]
    if isinstance(one, str):  # what torch says may look like a link
        return one.replace("[", "\\[").replace("|", "\\|")
    return f"{one['difference']:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", nargs="+", default=list(sq.ARCHS), choices=list(sq.ARCHS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results/exports")
    args = parser.parse_args()
    for arch in args.archs:
        path = args.out / f"{arch}.json"
        if not path.exists():
            keep(path, {"arch": arch, "found": tried(arch)})
            print(f"wrote {path.name}", flush=True)
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
