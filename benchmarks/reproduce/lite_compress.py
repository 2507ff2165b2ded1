"""How small a trained translator can be: magnitude pruning and 8-bit weights, size and BLEU.

    python benchmarks/reproduce/lite_compress.py RUN --amounts 0 0.3 0.5 --tune 200

RUN is a run folder of the task translate. The smallest weights of all matrices together are set to
zero (`torch.nn.utils.prune`, an amount at a time, from the trained weights), the rest may be tuned
for some steps on the run's own training part with the zeros held. Then each row of a matrix is
rounded to 8 bits with a scale of its own (torch's per-channel observer and fake quantisation);
activations stay float32. Sizes are those of safetensors files, as they are and packed by xz, which
does for zeros and frequent values what entropy coding does. BLEU is that of the run's test part.

Published (https://arxiv.org/abs/2004.11886, abstract): 18.2 times smaller with pruning and
quantisation together, on WMT'14 en-fr.
"""

from __future__ import annotations

import argparse
import copy
import lzma
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.ao.quantization.observer import PerChannelMinMaxObserver
from torch.nn.utils import prune

import subquad as sq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

RESULTS = Path(__file__).resolve().parents[1] / "results" / "lite_compress"


def matrices(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where the parameters of two and more dimensions are, each that is shared once."""
    found, seen = [], set[int]()
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if p.dim() > 1 and id(p) not in seen:
                seen.add(id(p))
                found.append((module, name))
    return found


def pruned(model: nn.Module, amount: float) -> list[tuple[nn.Parameter, Tensor]]:
    """Set the smallest weights to zero; the parameters with what is left of each."""
    where = matrices(model)
    if amount:
        prune.global_unstructured(where, prune.L1Unstructured, amount=amount)
        for module, name in where:
            prune.remove(module, name)
    return [(p, p != 0) for p in (getattr(module, name) for module, name in where)]


def tune(run: Any, model: nn.Module, left: list[tuple[nn.Parameter, Tensor]], steps: int) -> None:
    """Train on, with the zeros held."""
    task = run.task
    task.prepare(run.facts["data"]["path"])
    batches = task.token_batches(steps, 1, 2048)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    for step in range(steps):
        task.loss(model, batches[step], 0.1).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for p, kept in left:
                p.mul_(kept)
    model.eval()


@torch.no_grad()
def rounded(model: nn.Module) -> dict[str, Tensor]:
    """Give each matrix the values that 8 bits hold; what a file of them has to hold."""
    held = {}
    inside = {id(getattr(module, name)) for module, name in matrices(model)}
    for name, p in model.named_parameters():
        if id(p) not in inside:
            held[name] = p.detach().clone()
            continue
        watch = PerChannelMinMaxObserver(
            ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_symmetric
        )
        watch(p)
        scales, zeros = watch.calculate_qparams()
        values = torch.fake_quantize_per_channel_affine(p, scales, zeros.int(), 0, -128, 127)
        apart = scales.view(-1, *[1] * (p.dim() - 1))
        held[name], held[f"{name}.scale"] = (values / apart).round().to(torch.int8), scales
        p.copy_(values)
    return held


def sizes(held: dict[str, Tensor]) -> dict[str, int]:
    """Bytes of a file, and of the same packed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({name: t.contiguous() for name, t in held.items()}, path)
        raw = path.read_bytes()
    return {"bytes": len(raw), "packed": len(lzma.compress(raw))}


def measured(run: Any, amounts: list[float], steps: int, rows: int | None) -> list[dict]:
    """A line for each amount, with weights of 32 and of 8 bits."""
    found = []
    for amount in amounts:
        model = copy.deepcopy(run.model).eval()
        left = pruned(model, amount)
        if steps and amount:
            tune(run, model, left, steps)
        zeros = 1 - sum(int((p != 0).sum()) for p, _ in left) / sum(p.numel() for p, _ in left)
        for bits in (32, 8):
            held = rounded(model) if bits == 8 else dict(model.named_parameters())
            result = run.task.evaluate_on(model, None, run.facts["data"], rows=rows)
            line = {"pruned": amount, "zeros": zeros, "bits": bits, **sizes(held)}
            found.append(line | result.numbers | {"protocol": result.protocol})
            print(line, {k: result.numbers[k] for k in ("bleu", "chrf")}, flush=True)
    return found


def table(lines: list[dict]) -> str:
    """What was measured, as Markdown."""
    whole = lines[0]["bytes"]
    rows = ["| pruned | bits | kB | kB packed | times smaller | BLEU | chrF |", "|---" * 7 + "|"]
    for line in lines:
        rows.append(
            f"| {line['pruned']:.0%} | {line['bits']} | {line['bytes'] / 1000:,.0f} | "
            f"{line['packed'] / 1000:,.0f} | {whole / line['packed']:.1f} | {line['bleu']:.1f} | "
            f"{line['chrf']:.1f} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder of the task translate")
    parser.add_argument("--amounts", type=float, nargs="+", default=[0.0, 0.3, 0.5, 0.7])
    parser.add_argument("--tune", type=int, default=0, help="steps after pruning")
    parser.add_argument("--rows", type=int, help="score only so many rows of the test part")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    run = sq.load(args.run)
    if run.facts["task"] != "translate":
        sys.exit(f"{args.run} is a run of the task {run.facts['task']}, not of translate")
    torch.manual_seed(0)
    lines = measured(run, [0.0, *(x for x in args.amounts if x)], args.tune, args.rows)
    write(args.out / f"{args.run.name}.json", {"tuned": args.tune, "lines": lines})
    (args.out / f"{args.run.name}.md").write_text(table(lines) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
