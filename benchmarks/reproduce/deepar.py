"""DeepAR of GluonTS on a wide table of series: paths after the end of each, for m4_hourly.py.

    DEEPAR/bin/python benchmarks/reproduce/deepar.py --train TRAIN.csv.xz --minutes 15 --out P.npz

It runs in an environment of its own (deepar-requirements.txt) and imports nothing of subquad. The
last `horizon` values of each series choose the weights, as they do there; training sees what comes
before them. 3 layers of 64 cells, as many as the layers and the width there; else GluonTS's
defaults: Student's t, lags and calendar of the frequency, a vector for each series.

P.npz holds names (S,), samples (samples, S, horizon), and facts, a JSON text; no pickle.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import lzma
import tempfile
import time
import warnings
from pathlib import Path

import gluonts
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from gluonts.torch.model.deepar import DeepAREstimator


class Clock(pl.Callback):
    """Stops after so many seconds, in the middle of an epoch too."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if time.monotonic() > self.until:
            trainer.should_stop = True


def series_of(path: Path) -> dict[str, np.ndarray]:
    """name -> values; a row is a series, the first line names the columns."""
    with lzma.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = iter(csv.reader(file))
        next(rows)
        return {row[0]: np.asarray([float(x) for x in row[1:] if x], np.float32) for row in rows}


def entries(series: dict[str, np.ndarray], without: int, freq: str) -> list[dict]:
    """As GluonTS wants them; the last `without` values are left out."""
    return [
        {
            "item_id": name,
            "start": pd.Period("2001-01-01", freq=freq),
            "target": values[: len(values) - without],
            "feat_static_cat": [number],
        }
        for number, (name, values) in enumerate(series.items())
    ]


def learn(args: argparse.Namespace, folder: str) -> tuple[np.ndarray, list[str], dict]:
    """Train, then draw: samples (samples, S, horizon), names, and what was spent."""
    pl.seed_everything(args.seed, verbose=False)
    torch.set_num_threads(args.threads)
    series = series_of(args.train)
    clock = Clock(60 * args.minutes)
    estimator = DeepAREstimator(
        freq=args.freq,
        prediction_length=args.horizon,
        context_length=args.context,
        num_layers=3,
        hidden_size=64,
        num_feat_static_cat=1,
        cardinality=[len(series)],
        num_parallel_samples=args.samples,
        trainer_kwargs={
            "accelerator": "cpu",
            "callbacks": [clock],
            "default_root_dir": folder,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "logger": False,
            "max_epochs": 1_000_000,
        },
    )
    begun = time.monotonic()
    trained = estimator.train_model(
        entries(series, args.horizon, args.freq), entries(series, 0, args.freq)
    )
    spent = time.monotonic() - begun
    begun = time.monotonic()
    found = list(trained.predictor.predict(entries(series, 0, args.freq)))
    samples = np.stack([one.samples for one in found], 1).astype(np.float32)
    facts = {
        "steps": trained.trainer.global_step,
        "train seconds": round(spent, 1),
        "eval seconds": round(time.monotonic() - begun, 1),
        "parameters": sum(p.numel() for p in trained.trained_net.parameters()),
        "valid loss": float(trained.trainer.checkpoint_callback.best_model_score),
        "versions": {"gluonts": gluonts.__version__, "torch": torch.__version__},
    }
    return samples, [one.item_id for one in found], facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="a wide table, .csv.xz")
    parser.add_argument("--horizon", type=int, default=48)
    parser.add_argument("--context", type=int, default=168)
    parser.add_argument("--freq", default="h")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        samples, names, facts = learn(args, folder)
    np.savez(args.out, samples=samples, names=np.asarray(names), facts=json.dumps(facts))


if __name__ == "__main__":
    main()
