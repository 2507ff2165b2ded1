"""Sinusoids that must be remembered: LogSparse, dense attention and an LSTM, by distance.

    python benchmarks/reproduce/sinusoid.py --starts 24 96 192 --steps 2000 --minutes 20

Li et al., 2019, https://arxiv.org/abs/1907.00235, section 5.1: a series of t0 + 24 steps is
    A_k sin(pi x / 6) + 72 + N(0, 1)    for x in [0, 12), [12, 24), [24, t0), k = 1, 2, 3
    A_4 sin(pi x / 12) + 72 + N(0, 1)   for the 24 steps from t0 on
with A_1, A_2, A_3 from U(0, 60) and A_4 = max(A_1, A_2): to forecast the last 24, the first 24 must
be remembered. 4,500 series train, 500 choose the weights by their loss, 1,000 are forecast; R0.5
and R0.9. Every arm has the same Gaussian head, scale, batches and steps (--minutes ends a training
that takes longer, and the table shows its steps); the LSTM (3 layers, its width given) stands for
the paper's DeepAR. The rate falls to 0 by half a cosine. Resumable: a JSON per t0, arm and seed;
the table is made from those that exist and says what is missing. The paper shows a figure without
numbers: at t0 = 24 both are good, from t0 = 96 on DeepAR is worse and the transformer is not.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import time
from pathlib import Path

import torch
from forecasting import found_in, spread, threads, write
from torch import Tensor, nn

from subquad.hf import SubquadConfig, SubquadForTimeSeries
from subquad.nn import ForecastHead
from subquad.nn.likelihoods import Gaussian, mean_scale
from subquad.tasks.forecast_scores import pinball, quantile

AHEAD = 24
STARTS = (24, 96, 192)
COUNTS = {"train": 4500, "valid": 500, "test": 1000}
FIELDS = {"dim": 64, "num_layers": 3, "num_heads": 8, "ffn_dim": 128, "dropout": 0.0}
#: name -> fields of the architecture logsparse; the LSTM has its width alone
ARMS: dict[str, dict] = {
    "logsparse": {"kernel": 9},
    "full": {"kernel": 9, "pattern": "full"},
    "full-kernel1": {"kernel": 1, "pattern": "full"},
    "lstm": {"width": 120},  # as many parameters
}


class Recurrent(nn.Module):
    """An LSTM with the calls of `SubquadForTimeSeries` that are used here."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, width, num_layers=3, batch_first=True)
        self.head = ForecastHead(width, Gaussian())

    def loss(self, inputs: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        params = self.head(self.lstm(inputs)[0])
        return self.head.likelihood.loss(params, targets, None, scale)

    @torch.no_grad()
    def paths(self, context: Tensor, future: Tensor, scale: Tensor, samples: int) -> Tensor:
        y, state = self.lstm(context)
        state = tuple(part.repeat_interleave(samples, 1) for part in state)
        params = self.head(y[:, -1:].repeat_interleave(samples, 0))
        scale, future = (t.repeat_interleave(samples, 0) for t in (scale, future))
        drawn = [self.head.likelihood.sample(params, scale)]
        for step in range(AHEAD - 1):
            value = (drawn[-1] / scale[:, None])[..., None]
            y, state = self.lstm(torch.cat([value, future[:, step : step + 1]], 2), state)
            drawn.append(self.head.likelihood.sample(self.head(y), scale))
        return torch.cat(drawn, 1).unflatten(0, (-1, samples))


class Attending(nn.Module):
    """The same calls for a transformer."""

    def __init__(self, fields: dict) -> None:
        super().__init__()
        stem = {"kind": "series", "covariates": 1}
        config = SubquadConfig(
            arch="logsparse", model={**FIELDS, **fields}, stem=stem, head={"kind": "forecast"}
        )
        self.model = SubquadForTimeSeries(config)

    def loss(self, inputs: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        return self.model(inputs=inputs, targets=targets, scale=scale).loss

    def paths(self, context: Tensor, future: Tensor, scale: Tensor, samples: int) -> Tensor:
        return self.model.paths(context, future, scale, horizon=AHEAD, num_samples=samples)


def series(start: int, count: int, draw: torch.Generator) -> Tensor:
    """(count, start + AHEAD) sinusoids."""
    x = torch.arange(start + AHEAD)
    sizes = 60 * torch.rand(count, 3, generator=draw)
    sizes = torch.cat([sizes, sizes[:, :2].amax(1, keepdim=True)], 1)
    which = (x >= 12).long() + (x >= 24).long() + (x >= start).long()
    which[x >= start] = 3  # t0 = 24 has no third stretch
    wave = torch.sin(math.pi * x / torch.where(x < start, 6, 12))
    noise = torch.randn(count, len(x), generator=draw)
    return sizes[:, which] * wave + 72 + noise


def told(z: Tensor) -> tuple[Tensor, Tensor]:
    """inputs (n, N, 2), the value before and the age, and the scale (n,) of what comes before."""
    scale = mean_scale(z[:, :-AHEAD])
    before = torch.cat([torch.full_like(z[:, :1], float("nan")), z[:, :-1]], 1) / scale[:, None]
    age = (torch.arange(z.shape[1]) / 100 - 1).expand_as(z)
    return torch.stack([before, age], -1), scale


def learn(start: int, arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one arm, keep its best weights, forecast the test series."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(1_000 * seed + start)
    z = {part: series(start, count, draw) for part, count in COUNTS.items()}
    model = Recurrent(**ARMS[arm]) if arm == "lstm" else Attending(ARMS[arm])
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    best, kept, begun, done, reported = math.inf, None, time.monotonic(), 0.0, 0
    for step in range(1, args.steps + 1):
        optimizer.param_groups[0]["lr"] = args.lr * (1 + math.cos(math.pi * done)) / 2
        some = z["train"][torch.randint(len(z["train"]), (args.batch,), generator=draw)]
        loss = loss_of(model, some)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        spent = time.monotonic() - begun
        done = max(step / args.steps, 0.0 if args.minutes is None else spent / (60 * args.minutes))
        if done >= 1 or done * 20 >= reported + 1:
            reported = int(done * 20)
            with torch.no_grad():
                valid = float(loss_of(model, z["valid"][: args.scored]))
            if valid < best:
                best, kept = valid, copy.deepcopy(model.state_dict())
        if done >= 1:
            break
    model.load_state_dict(kept)
    target, found = z["test"][: args.scored, -AHEAD:], []
    # what is copied at each step of a path must fit the heap
    together = max(1, 65_536 // ((start + AHEAD) * args.samples))
    for group in z["test"][: args.scored].split(together):
        inputs, scale = clean(model, group)
        first = group.shape[1] - AHEAD + 1
        found.append(model.paths(inputs[:, :first], inputs[:, first:, 1:], scale, args.samples))
    samples = torch.cat(found).transpose(0, 1).sort(0).values
    size = target.abs().sum()
    numbers = {
        f"r{round(100 * rho)}": float(pinball(target, quantile(samples, rho), rho).sum() / size)
        for rho in (0.5, 0.9)
    }
    size_of = sum(p.numel() for p in model.parameters())
    about = {"machine": platform.machine(), "torch": torch.__version__, "threads": threads()}
    what = {"t0": start, "arm": arm, "seed": seed, "steps": step, "parameters": size_of}
    what |= {"train seconds": round(spent, 1), "batch": args.batch}
    return {**what, **numbers, "valid loss": best, "scored": len(target), **about}


def clean(model: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    """What a model is told of series; an LSTM knows no missing values, and sees 0 for them."""
    inputs, scale = told(z)
    return (inputs.nan_to_num(0.0) if isinstance(model, Recurrent) else inputs), scale


def loss_of(model: nn.Module, z: Tensor) -> Tensor:
    """The loss over whole windows."""
    inputs, scale = clean(model, z)
    return model.loss(inputs, z, scale)


def table(folder: Path) -> str:
    """What exists, as Markdown; an arm without a run is named as missing."""
    lines = ["| t0 | arm | n | R0.5 | R0.9 | steps | parameters |", "|---|---|---|---|---|---|---|"]
    for start in STARTS:
        for arm in ARMS:
            runs = found_in(folder, f"{start}-{arm}")
            if not runs:
                lines.append(f"| {start} | {arm} | 0 | missing | | | |")
                continue
            cells = [spread([run[name] for run in runs]) for name in ("r50", "r90")]
            for name in ("steps", "parameters"):
                cells.append(", ".join(map(str, sorted({run[name] for run in runs}))))
            lines.append(f"| {start} | {arm} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    results = Path(__file__).resolve().parents[1] / "results" / "sinusoid"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, nargs="+", default=list(STARTS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=None, help="of training, at most")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument(
        "--scored", type=int, default=1000, help="series of valid and test, at most"
    )
    parser.add_argument("--out", type=Path, default=results)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for start, arm, seed in [
        (t, a, s) for s in range(args.seeds) for t in args.starts for a in args.arms
    ]:
        path = args.out / f"{start}-{arm}-seed{seed}.json"
        if not path.exists():
            found = learn(start, arm, seed, args)
            write(path, found)
    text = table(args.out)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
