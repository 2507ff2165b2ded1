"""Multi30k, English to French: Lite Transformer against a Transformer of as many multiply-adds.

    python benchmarks/reproduce/multi30k.py --data FOLDER --seeds 3
    python benchmarks/reproduce/multi30k.py --data FOLDER --arms lite --budgets small --minutes 15

FOLDER holds multi30k.{train,val,test_2016_flickr}.{en,fr}, plain or .xz: 29,000, 1,014 and 1,000
captions of pictures (https://github.com/multi30k/dataset, task 1, raw). Two budgets of
multiply-adds for 20 tokens read and 20 written, logits included, as `subquad bench --count` counts
them: both arms have 3 + 3 layers and 4 heads, and widths at which they cost the same. The Lite
Transformer has a feed-forward part as wide as the model, as in its paper; the Transformer
(post-norm, ReLU, sinusoids) one of about 4.5 times that. All else is the same: one BPE of 2,000
entries for both languages, batches of about 2,048 tokens, label smoothing 0.1, cosine, the mean of
the weights at the last 4 of 12 reports if it validates no worse, 4 beams. BLEU by sacrebleu on
test_2016_flickr.

By --minutes each run has as long; on a machine that others use too, --steps gives each as many.

Published (https://arxiv.org/abs/2004.11886): WMT'14 en-fr 35.3, 39.1 and 39.6 BLEU at 90, 360 and
527 million multiply-adds (the authors' repository), 1.7 and 1.2 above the Transformer at 100 and
500 million (abstract); IWSLT'14 de-en up to 3.1 above it. Claim: better at equal multiply-adds
where the budget is tight.

Resumable: a run folder and a JSON per arm, budget and seed; the table is made from those that
exist, and names what is missing. A direction is claimed only where the ranges over seeds do not
overlap.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path

from subquad.archs import pair_parts
from subquad.bench.count import Count, count
from subquad.pair import build

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import subquad, trained, write

RESULTS = Path(__file__).resolve().parents[1] / "results" / "multi30k"
PUBLISHED = (
    "Published, at equal multiply-adds: Lite Transformer 1.7 BLEU above the Transformer at 100 "
    "million and 1.2 at 500 million on WMT'14 en-fr (https://arxiv.org/abs/2004.11886)."
)
PARTS = ("train", "val", "test_2016_flickr")
WORDS, TOKENS = 2000, 20
_PAPER = {"position": "none", "wiring": "post", "mlp": "relu"}

ARMS = {
    "lite": {
        "arch": "lite_pair",
        "cross_heads": 4,
        "conv": "light",
        "glu": False,
        "kernels": [3, 7, 15],
        "drop_weights": 0.0,
    },
    "dense": {
        "arch": "encoder_decoder",
        "position": "sinusoidal",
        "encoder_fields": _PAPER,
        "decoder_fields": _PAPER,
    },
}
BOTH = {"encoder_layers": 3, "decoder_layers": 3, "num_heads": 4, "dropout": 0.1}
#: budget -> arm -> width and that of the feed-forward part
BUDGETS = {
    "small": {"lite": (96, 96), "dense": (64, 292)},
    "large": {"lite": (160, 160), "dense": (104, 460)},
}


def fields_of(arm: str, budget: str) -> dict:
    """Fields of the pair, its architecture among them."""
    dim, ffn = BUDGETS[budget][arm]
    return {**ARMS[arm], **BOTH, "dim": dim, "ffn_dim": ffn}


def cost(arm: str, budget: str) -> Count:
    """Parameters and multiply-adds for the vocabulary with its special tokens."""
    fields = fields_of(arm, budget)
    parts = pair_parts(fields.pop("arch"), fields)
    return count(partial(build, **parts, vocab_size=WORDS + 3), TOKENS, TOKENS)


def files(folder: Path, language: str) -> str:
    """The files of the parts in one language."""
    found = []
    for part in PARTS:
        plain = folder / f"multi30k.{part}.{language}"
        packed = plain.with_name(f"{plain.name}.xz")
        found.append(str(packed if packed.exists() else plain))
    return ",".join(found)


def learn(arm: str, budget: str, seed: int, args: argparse.Namespace) -> dict:
    """Train one arm, or go on with it, and score it; what is known of it then."""
    fields = fields_of(arm, budget)
    words = ["translate", "--data", files(args.data, "en"), files(args.data, "fr")]
    words += ["--arch", fields.pop("arch"), "--task.tokenizer", f"bpe:{WORDS}"]
    for name, value in fields.items():
        words += [f"--arch.{name}", value if isinstance(value, str) else json.dumps(value)]
    budgeted = ("steps", args.steps) if args.steps else ("minutes", args.minutes)
    train = {
        "batch_tokens": 2048,
        "lr": args.lr,
        "label_smoothing": 0.1,
        "warmup": 0.1,
        "reports": 12,
        "average": 4,
        "seed": seed,
        budgeted[0]: budgeted[1],
    }
    for name, value in train.items():
        words += [f"--train.{name}", str(value)]
    folder = args.runs / f"{arm}-{budget}-{budgeted[1]:g}-{seed}"
    told = trained(folder, *words)
    subquad("eval", str(folder))
    test = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    kept = ("parameters", "steps", "tokens", "seconds", "numbers", "protocol")
    return {
        "arm": arm,
        "budget": budget,
        "seed": seed,
        **{name: told[name] for name in kept},
        "tokens_per_second": round(told["tokens"] / told["seconds"]),
        "cost": cost(arm, budget).facts(),
        "test": test,
    }


def table(folder: Path) -> str:
    """What exists, as Markdown; what does not, by name; what it says about the claim."""
    lines = ["| budget | arm | n | BLEU | mean | chrF | million multiply-adds | parameters |"]
    lines[0] += " steps | tokens/s |"
    lines.append("|---" * 10 + "|")
    says = []
    for budget in BUDGETS:
        scores: dict[str, list[float]] = {}
        for arm in ARMS:
            found = [
                json.loads(p.read_text()) for p in sorted(folder.glob(f"{arm}-{budget}-*.json"))
            ]
            spent = cost(arm, budget).total
            sizes = f"{spent.multiply_adds / 1e6:.2f} | {spent.parameters:,}"
            if not found:
                lines.append(f"| {budget} | {arm} | 0 | missing | | | {sizes} | | |")
                continue
            scores[arm] = [r["test"]["bleu"] for r in found]
            cells = [
                ", ".join(f"{x:.1f}" for x in scores[arm]),
                f"{statistics.mean(scores[arm]):.1f}",
                ", ".join(f"{r['test']['chrf']:.1f}" for r in found),
                sizes,
                ", ".join(f"{r['steps']:,}" for r in found),
                ", ".join(f"{r['tokens_per_second']:,}" for r in found),
            ]
            lines.append(f"| {budget} | {arm} | {len(found)} | {' | '.join(cells)} |")
        says.append(f"{budget}: {verdict(scores)}")
    return "\n".join([*lines, "", *says, "", PUBLISHED])


def verdict(scores: dict[str, list[float]]) -> str:
    """What the scores of two arms say about 'the Lite Transformer is better'."""
    if any(len(scores.get(arm, ())) < 2 for arm in ARMS):
        return "not resolved, for want of two seeds of each arm"
    lite, dense = scores["lite"], scores["dense"]
    if min(lite) > max(dense):
        return f"confirmed: every seed of lite is at least {min(lite) - max(dense):.1f} BLEU above"
    if max(lite) < min(dense):
        return f"refuted: every seed of lite is at least {min(dense) - max(lite):.1f} BLEU below"
    apart = statistics.mean(lite) - statistics.mean(dense)
    return f"not resolved at this budget, {apart:+.1f} BLEU, lite over dense; the ranges overlap"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of multi30k.*")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=BUDGETS)
    parser.add_argument("--minutes", type=float, default=15, help="of training, for each run")
    parser.add_argument("--steps", type=int, help="of training, in place of minutes")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "multi30k")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    for budget in args.budgets:
        for arm in args.arms:
            spent = cost(arm, budget).total
            print(f"{budget} {arm}: {spent.multiply_adds:,} multiply-adds", flush=True)
    for seed in range(args.seeds):
        for budget in args.budgets:
            for arm in args.arms:
                path = args.out / f"{arm}-{budget}-{seed}.json"
                if not path.exists():
                    write(path, learn(arm, budget, seed, args))
                    print(f"wrote {path}", flush=True)
    text = table(args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
