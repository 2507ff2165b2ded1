"""Forecast a series from Python: train by the command line's own door, load, look at quantiles.

python examples/forecast.py --steps 300
"""

import argparse
import csv
import math
import random
from datetime import datetime, timedelta
from pathlib import Path

from subquad.cli import main as subquad


def write(path, days):
    """Hourly sales with a day and a week in them."""
    draw, start = random.Random(0), datetime(2026, 1, 5)
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["timestamp", "target"])
        for hour in range(24 * days):
            day = 1 + 0.6 * math.sin(2 * math.pi * (hour - 8) / 24)
            week = 0.5 if (hour // 24) % 7 == 6 else 1.0
            sold = 50 * day * week * draw.gauss(1, 0.05)
            table.writerow([start + timedelta(hours=hour), round(sold, 2)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--context", type=int, default=168)
    parser.add_argument("--out", type=Path, default=Path("runs/forecast-example"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    data, run, told = (str(given.out / name) for name in ("sales.csv", "run", "next.csv"))
    write(data, given.days)
    train = ["--arch", "logsparse", "--preset", "tiny", "--horizon", "24", "--freq", "H"]
    train += ["--task.context", str(given.context), "--train.steps", str(given.steps)]
    if code := subquad(["train", "forecast", "--data", data, "--out", run, *train]):
        raise SystemExit(code)
    subquad(["predict", run, data, "--out", told])
    with open(told) as file:
        for row in list(csv.DictReader(file))[:6]:
            print(row["timestamp"], "between", row["0.1"], "and", row["0.9"])


if __name__ == "__main__":
    main()
