"""A served run under load: 32 clients at once by Locust, which must see no error.

    python benchmarks/reproduce/serve_load.py --locust locust --seconds 60 --out load.json

Locust (https://locust.io, `pip install locust`, best in an environment of its own) asks for
completions of 16 tokens, half of them streamed, as fast as answers come. A tiny byte model is
trained for a few steps first: what is measured is the server, not the model. A streamed answer must
end with [DONE]; any other status than 200 counts as an error.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

CLIENT = """
from locust import HttpUser, constant, task

ASK = {"prompt": "the", "max_tokens": 16, "temperature": 0}


class Client(HttpUser):
    wait_time = constant(0)

    @task
    def whole(self):
        self.client.post("/v1/completions", json=ASK, name="whole")

    @task
    def streamed(self):
        ask = {**ASK, "stream": True}
        with self.client.post(
            "/v1/completions", json=ask, name="streamed", catch_response=True
        ) as answer:
            if not answer.text.endswith("data: [DONE]\\n\\n"):
                answer.failure("the stream did not end with [DONE]")
"""


def trained(folder: Path) -> Path:
    """A tiny language model of bytes."""
    text, run = folder / "text.txt", folder / "run"
    text.write_text("the cat sat on the mat. " * 400)
    words = ["train", "lm", "--arch", "performer", "--preset", "tiny", "--data", str(text)]
    words += ["--out", str(run), "--train.steps", "10", "--task.context", "32"]
    subprocess.run([sys.executable, "-m", "subquad.cli", *words], check=True, capture_output=True)
    return run


def loaded(given: argparse.Namespace, folder: Path) -> list[dict[str, str]]:
    """The rows of Locust's table."""
    run = trained(folder)
    words = [sys.executable, "-m", "subquad.cli", "serve", str(run), "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://[\d.]+:\d+", server.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        (folder / "client.py").write_text(CLIENT)
        load = [given.locust, "-f", str(folder / "client.py"), "--headless", "--only-summary"]
        load += ["-u", str(given.clients), "-r", str(given.clients), "-t", f"{given.seconds}s"]
        load += ["--host", found[0], "--csv", str(folder / "found"), "--stop-timeout", "60"]
        subprocess.run(load, check=False, capture_output=True)
    finally:
        server.terminate()
        code = server.wait(120)
    if code != 0:
        raise SystemExit(f"the server ended with {code} on SIGTERM")
    with open(folder / "found_stats.csv", newline="") as rows:
        return list(csv.DictReader(rows))


def result(given: argparse.Namespace, rows: list[dict[str, str]]) -> dict[str, Any]:
    """What is kept: counts, rates and milliseconds by kind of request."""
    kept = (
        "Request Count",
        "Failure Count",
        "Requests/s",
        "50%",
        "95%",
        "99%",
        "Max Response Time",
    )
    table = {r["Name"]: {k: float(r[k]) for k in kept} for r in rows}
    version = subprocess.run(
        [given.locust, "--version"], check=True, capture_output=True, text=True
    )
    return {
        "command": f"python benchmarks/reproduce/serve_load.py --seconds {given.seconds}",
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "cores used": len(os.sched_getaffinity(0)),
        "load average of the machine": round(os.getloadavg()[0], 1),
        "tool": version.stdout.split(" from ")[0].strip(),
        "clients at once": given.clients,
        "seconds": given.seconds,
        "milliseconds": table,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--locust", default="locust", help="the program")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serve_load/load.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = result(given, loaded(given, Path(folder)))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    total = found["milliseconds"]["Aggregated"]
    print(json.dumps(total))
    if total["Failure Count"] or not total["Request Count"]:
        raise SystemExit("there were errors")


if __name__ == "__main__":
    main()
