"""Adaptive spans over training: which heads learn to look far, and what the others save.

    python benchmarks/reproduce/adaptive_spans.py --data enwik8.xz --seeds 2

Sukhbaatar et al., 2019, figure 4, in small: 4 layers, dim 128, 4 heads, S 512, R 16, bytes,
segments of 128 with a carried memory. At steps 0, half and end: the span of each head, counted
FLOPs to read a byte, bytes of a stream's state, and milliseconds of a training step; beside them
the last weights with all spans at S. Resumable: a run that was cut goes on; a JSON for each seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from subquad.hf import SubquadForCausalLM
from subquad.nn.state import nbytes
from subquad.tasks.lm import LanguageModel, LanguageModelConfig
from subquad.train.config import TrainConfig
from subquad.train.fit import fit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from measure import interleaved, write

LAYERS, HEADS, SPAN, RAMP, SEGMENT, BATCH = 4, 4, 512, 16, 128, 8
FIELDS = {"dim": 128, "num_layers": LAYERS, "num_heads": HEADS, "ffn_dim": 512, "dropout": 0.0}
FIELDS |= {"max_span": SPAN, "ramp": RAMP}
MOMENTS = ("start", "half", "end")


class Snapshots(TrainerCallback):
    """Keeps the weights of steps 0, half and end."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.at = {0: "start", steps // 2: "half", steps: "end"}

    def on_train_begin(self, args, state, control, model=None, **_) -> None:
        if state.global_step == 0:
            model.save_pretrained(self.folder / "start")

    def on_step_end(self, args, state, control, model=None, **_) -> None:
        if state.global_step in self.at:
            model.save_pretrained(self.folder / self.at[state.global_step])


def train(folder: Path, data: str, steps: int, seed: int, cost: float) -> dict:
    """The facts of the run in `folder`, begun or gone on with; snapshots lie beside it."""
    run = folder / "run"
    if run.is_dir():
        facts = json.loads((run / "run.json").read_text())
        if facts.get("steps") == steps:
            return facts
    config = TrainConfig(
        steps=steps, batch=BATCH, lr=2e-3, weight_decay=0.0, seed=seed, reports=2, warmup=0.05
    )
    task = LanguageModel(LanguageModelConfig(context=SEGMENT, valid_bytes=16_384))
    facts = fit(
        task,
        "adaptive_span",
        {**FIELDS, "cost": cost},
        config,
        run,
        data=data,
        resume=run.is_dir(),
        callbacks=(Snapshots(folder, steps),),
    )
    if facts["steps"] < steps:
        sys.exit(f"stopped by {facts['stopped_by']} at step {facts['steps']} of {steps}: run again")
    return facts


def spans(model: SubquadForCausalLM) -> list[list[float]]:
    """z of every head in tokens, by layer."""
    layers = [block.mixers[0].position for block in model.model.backbone.blocks]
    return [[round(z, 1) for z in layer.spans().tolist()] for layer in layers]


def reading(model: SubquadForCausalLM) -> dict:
    """FLOPs to read a byte after a long past, and what that past takes up."""
    ids = torch.randint(0, 256, (1, 2 * SPAN + SEGMENT))
    with torch.no_grad():
        state = model.model(ids[:, : 2 * SPAN], state=model.model.init_state(1))[1]
        with FlopCounterMode(display=False) as count:
            model.model(ids[:, 2 * SPAN :], state=state)
    return {
        "spans": spans(model),
        "FLOPs per byte": round(count.get_total_flops() / SEGMENT),
        "state bytes": nbytes(state.layers),
    }


def training(model: SubquadForCausalLM):
    """One training step on a segment after a full memory."""
    ids = torch.randint(0, 256, (BATCH, 2 * SPAN))
    memory = model.model.init_memory(BATCH)
    with torch.no_grad():
        for part in ids.split(SEGMENT, 1):
            memory = model.model(part, state=memory)[1]

    def step() -> None:
        model.zero_grad()
        model.model(ids[:, :SEGMENT], state=memory)[0].logsumexp(-1).mean().backward()

    return step


def measure(folder: Path, reps: int) -> dict:
    """All moments, and the last weights with every span at S; times interleaved."""
    models = {m: SubquadForCausalLM.from_pretrained(folder / m).train() for m in MOMENTS}
    models["end, all spans at S"] = fixed = SubquadForCausalLM.from_pretrained(folder / "end")
    for block in fixed.train().model.backbone.blocks:
        block.mixers[0].position.span.data.fill_(1.0)
    found = {name: reading(model) for name, model in models.items()}
    times = interleaved(
        {name: training(model) for name, model in models.items()}, dict.fromkeys(models, reps)
    )
    for name, facts in found.items():
        facts["ms per step"] = {k: round(1000 * t[name], 1) for k, t in times.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cost", type=float, default=2e-6, help="the paper's lambda")
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/adaptive_spans"))
    parser.add_argument("--out", type=Path, default=here / "results" / "adaptive_spans")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for seed in range(args.seeds):
        path = args.out / f"{seed}.json"
        if not path.exists():
            folder = args.work / f"{args.steps}-{args.cost}-{seed}"
            facts = train(folder, args.data, args.steps, seed, args.cost)
            told = {k: facts[k] for k in ("parameters", "steps", "tokens", "seconds", "protocol")}
            told |= {"seed": seed, "cost": args.cost, "fields": FIELDS, "segment": SEGMENT}
            told |= {"batch": BATCH, "bits per byte": facts["numbers"]["bits_per_byte"]}
            write(path, {**told, "moments": measure(folder, args.reps)})
    print(table(args.out))


def table(folder: Path) -> str:
    """Paper against ours, as Markdown, from the seeds that exist."""
    lines = ["| seed | when | spans by layer | mean span | MFLOPs / byte | state KiB | ms / step |"]
    lines.append("|---|---|---|---|---|---|---|")
    notes = []
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        for when, m in run["moments"].items():
            every = [z for layer in m["spans"] for z in layer]
            layers = "; ".join(" ".join(f"{z:.0f}" for z in layer) for layer in m["spans"])
            lines.append(
                f"| {run['seed']} | {when} | {layers} | {sum(every) / len(every):.0f} | "
                f"{m['FLOPs per byte'] / 1e6:.2f} | {m['state bytes'] / 1024:.0f} | "
                f"{m['ms per step']['median']:.0f} |"
            )
        notes.append(note(run))
    lines += [
        "",
        "Paper (S 4096, 12 layers, figure 4): the lowest 5 layers stay at the ramp, a few heads of",
        "upper layers pass several thousand; mean span 314 of 8192 (4 %); up to 70 % fewer FLOPs.",
        *notes,
    ]
    return "\n".join(lines)


def note(run: dict) -> str:
    """What a seed says to the paper's sentences."""
    end, fixed = run["moments"]["end"], run["moments"]["end, all spans at S"]
    every = [z for layer in end["spans"] for z in layer]
    lower, upper = every[: len(every) // 2], every[len(every) // 2 :]
    mean = sum(every) / len(every)
    less = {k: 100 - 100 * end[k] / fixed[k] for k in ("FLOPs per byte", "state bytes")}
    return (
        f"Ours, seed {run['seed']}: {sum(z <= RAMP for z in lower)} of {len(lower)} heads in the "
        f"lower half of the layers within the ramp; the widest of the upper half {max(upper):.0f}; "
        f"mean {mean:.0f} of {SPAN} ({100 * mean / SPAN:.0f} %); {less['FLOPs per byte']:.0f} % "
        f"fewer FLOPs and {less['state bytes']:.0f} % less state than with all spans at S; "
        f"{run['bits per byte']:.3f} bits per byte after {run['tokens']:,} bytes."
    )


if __name__ == "__main__":
    main()
