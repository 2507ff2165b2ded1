"""What every test gets: two threads, one seed, no network, and fresh memory full of NaN."""

from __future__ import annotations

import os

# before torch or transformers is imported by anyone
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    TOKENIZERS_PARALLELISM="false",
    # threads that wait sleep instead of spinning: a busy machine then runs the tests several times
    # faster, an idle one hardly slower
    OMP_WAIT_POLICY="PASSIVE",
)

import functools
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from subquad.ops.pattern import Pattern

ROOT = Path(__file__).resolve().parent.parent
THREADS = 2  # sums are bitwise reproducible only for a fixed number of threads

# the same examples in every run: a failure seen once is a failure seen again
settings.register_profile("subquad", deadline=None, derandomize=True, database=None)
settings.load_profile("subquad")


def pytest_configure() -> None:
    torch.set_num_threads(THREADS)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Patterns are named by what they say, the rest as pytest does it."""
    return str(val) if isinstance(val, Pattern) else None


# --- tests that need something of the machine ---------------------------------------------------


def _no_gpu() -> str:
    return "" if torch.cuda.is_available() else "no CUDA device"


def _no_browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell", "firefox")
    return "" if any(map(shutil.which, names)) else f"no browser: none of {', '.join(names)}"


def _no_netns() -> str:
    if not shutil.which("unshare"):
        return "no `unshare` program"
    done = subprocess.run(["unshare", "-rn", "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"no network namespaces: {done.stderr.strip()}"


NEEDS: dict[str, Callable[[], str]] = {
    "gpu": functools.cache(_no_gpu),
    "browser": functools.cache(_no_browser),
    "netns": functools.cache(_no_netns),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in NEEDS.items():
        if item.get_closest_marker(marker) and (reason := missing()):
            pytest.skip(reason)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data: $SUBQUAD_DATA, or shared/data next to the checkout."""
    path = Path(os.environ.get("SUBQUAD_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip("no real data: set SUBQUAD_DATA to the folder that holds it")
    return path


# --- the same start for every test --------------------------------------------------------------


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seeds torch and the standard library; numpy too, where a test has imported it."""
    number = 0
    torch.manual_seed(number)
    random.seed(number)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(number)  # foreign code draws from the global state
    return number


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Connections leave the machine nowhere; loopback stays for servers and gloo."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address):
        host = address[0] if isinstance(address, tuple) else ""
        if host and host != "localhost" and not host.startswith("127.") and host != "::1":
            raise RuntimeError(f"a test tried to reach {host}: tests use no network")
        return connect(self, address)

    socket.socket.connect = guarded
    yield
    socket.socket.connect = connect


# --- fresh memory -------------------------------------------------------------------------------

# Memory from the allocator is often zero by chance, so an element that an engine forgets to write
# goes unseen. Torch can fill it by itself, but only together with deterministic algorithms, and
# those are not the ones that users run.
FRESH = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (torch, "empty_permuted"),
    (torch.Tensor, "new_empty"),
    (torch.Tensor, "new_empty_strided"),
)
# torch lists the functions that a device context reaches once, when one is first used: it has to
# meet the true ones, or models on "meta" take memory in every test after that
with torch.device("meta"):
    torch.empty(0)


def poison(x: torch.Tensor) -> torch.Tensor:
    """Fills with NaN, integers with their largest value; bool has no value to tell apart."""
    with torch.no_grad():
        if x.is_floating_point() or x.is_complex():
            x.fill_(float("nan"))
        elif x.dtype != torch.bool and not x.is_quantized:
            x.fill_(torch.iinfo(x.dtype).max)
    return x


def _poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(make)
    def fresh(*args, **kwargs):
        x = make(*args, **kwargs)
        # in a traced graph the filling would be one more operation; custom ops in it run eagerly
        return x if torch.compiler.is_compiling() else poison(x)

    return fresh


@pytest.fixture(autouse=True)
def poisoned_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("no_poison") is None:
        for owner, name in FRESH:
            monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))
