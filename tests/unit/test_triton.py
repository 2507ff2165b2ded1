"""The kernels for GPUs, run by Triton's interpreter on this processor.

TRITON_INTERPRET must be set before triton is imported, so another process runs them all, once, and
says how far it came from float64 (tests/triton_cases.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from triton_cases import CASES, Case

TESTS = Path(__file__).resolve().parent.parent

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed: pip install 'subquad[gpu]'"
)


@pytest.fixture(scope="module")
def found() -> Iterator[Callable[[str], Any]]:
    """Waits for what the other process finds, by name."""
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    told: dict = {}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, str(TESTS / "triton_cases.py")],
            env=env,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):

        def ask(name: str) -> Any:
            while name not in told and (line := process.stdout.readline()):
                told.update([json.loads(line)])
            if name not in told:
                errors.seek(0)
                raise AssertionError(f"{name}: nothing was found\n{errors.read()}")
            return told[name]

        yield ask
        process.kill()


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_loops_on_a_processor(found: Callable[[str], Any], case: Case):
    for name, (error, allowed) in found(str(case)).items():
        assert error <= allowed, f"{name}: {error} where {allowed} is allowed"


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize(
    "question",
    ["the future changes nothing", "a key that dwarfs all before", "no valid key gives zeros"],
)
def test_laws(found: Callable[[str], Any], question: str):
    assert found(question) is True


def test_the_operators_have_a_kernel_for_cuda():
    for name in ("kernel_causal", "kernel_causal_grad"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"subquad::{name}", "CUDA")


def test_without_triton_the_loops_run(monkeypatch):
    from subquad.ops import linear_causal
    from subquad.ops.linear import Sum

    q, rows = torch.randn(1, 2, 70, 8), torch.randn(16, 8)
    first = Sum.empty(1, 2, 16, 8, q)
    arguments = (q, q, q, None, rows, first.kv, first.top, "exp", 0.3)
    monkeypatch.setattr(linear_causal, "_kernels", lambda: None)
    got, want = linear_causal._causal_on_gpu(*arguments), linear_causal.kernel_causal(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    back = (got[0], got[3], *arguments[:7], *got[:3], "exp", 0.3, True)
    mine = linear_causal._causal_grad_on_gpu(*back)
    right = linear_causal.kernel_causal_grad(*back)
    assert all(torch.equal(a, b) for a, b in zip(mine, right, strict=True))
