"""One sequence in several processes: outputs and gradients of one process, and few bytes sent."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import distributed

from across import CASES, LENGTHS, B, D, E, F, G, H, compare
from subquad.nn.features import PositiveRandomFeatures
from subquad.ops import across
from subquad.ops.partial import Distance
from subquad.ops.patterns import Causal, Marked, Window

SCRIPT = Path(__file__).parent.parent / "across.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
WIDE = 8  # bytes of a float64


def read(folder: Path, size: int) -> list[dict]:
    """What the processes have found: [process][case]."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """All cases in so many processes, run once."""
    found = {}

    def run(size: int) -> list[dict]:
        if size not in found:
            folder = tmp_path_factory.mktemp("across")
            words = ["--standalone", "--nproc-per-node", str(size), str(SCRIPT), str(folder)]
            done = subprocess.run(
                [*TORCHRUN, *words],
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            assert done.returncode == 0, done.stderr[-3000:]
            found[size] = read(folder, size)
        return found[size]

    return run


@pytest.fixture
def alone():
    """A group of one process, this one."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield across.Ranks.of(sum(LENGTHS[1]))
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", CASES)
def test_one_process_as_without_a_group(alone, name):
    found = compare(name)
    assert found["far"] < 1e-10
    assert found["sent"] == 0 or "marked" in name  # of which the gathered are kept, not sent


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_several_processes_compute_what_one_does(several, name, size):
    for rank, found in enumerate(several(size)):
        assert found[name]["far"] < 1e-10, f"process {rank}"


@pytest.mark.slow
def test_what_is_sent_is_what_the_docstrings_say(several):
    two, four = several(2), several(4)
    state = B * G * (F * (E + 1) + 1) * WIDE  # sums and log-scales, whatever the length
    for found in (two, four):
        sent = [one["kernel causal"]["forward"] for one in found]
        assert sent == [state] * (len(found) - 1) + [0]
        back = [one["kernel causal"]["sent"] - one["kernel causal"]["forward"] for one in found]
        assert back == [0] + [state - B * G * WIDE] * (len(found) - 1)
    keys = B * G * (D + E) * WIDE
    facts = 8 + B  # a label, and a mark in each row
    assert two[0]["window"]["forward"] == 5 * (keys + facts)
    assert two[1]["window"]["forward"] == 0
    # in the ring of two each sends its own keys; in a causal one the last sends none
    longest = max(LENGTHS[2])
    told = longest * facts
    for rank, length in enumerate(LENGTHS[2]):
        assert two[rank]["full"]["forward"] == length * keys + told
        assert two[rank]["causal"]["forward"] == (length * keys if rank == 0 else 0) + told


@pytest.mark.slow
@pytest.mark.netns
def test_two_hosts_compute_what_one_does(tmp_path):
    """Two network namespaces with a cable between them: two hosts that share nothing but files."""
    names = [f"sq{os.getpid()}{side}" for side in "ab"]
    with ExitStack() as after:

        def ip(*words: str) -> None:
            done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no two hosts here: ip {' '.join(words)}: {done.stderr.strip()}")

        if not shutil.which("ip"):
            pytest.skip("no two hosts here: no `ip` program")
        for name in names:
            ip("netns", "add", name)
            after.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable",
           "netns", names[1])  # fmt: skip
        for i, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", name, "link", "set", device, "up")
        words = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "10.77.0.1"]
        words += ["--master-port", "29500"]
        script = (str(SCRIPT), str(tmp_path))
        hosts = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, *TORCHRUN, *words, *("--node-rank", str(i)), *script],
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"},
            )
            for i, name in enumerate(names)
        ]
        said = [host.communicate(timeout=240)[1] for host in hosts]
        assert [host.returncode for host in hosts] == [0, 0], said
        counter = "/sys/class/net/cable/statistics/tx_bytes"
        through = [
            int(subprocess.check_output(["ip", "netns", "exec", name, "cat", counter]))
            for name in names
        ]
    for bytes_sent, found in zip(through, read(tmp_path, 2), strict=True):
        assert max(case["far"] for case in found.values()) < 1e-10
        # it went over the cable: what was counted, and what the protocol adds
        assert bytes_sent > sum(case["sent"] for case in found.values())


def test_other_lengths_than_told_are_refused(alone):
    q, k, v = torch.randn(B, H, 7, D), torch.randn(B, G, 7, D), torch.randn(B, G, 7, E)
    said = "process 0 gives 7 tokens and has told the others 46; make a new Ranks"
    with pytest.raises(ValueError, match=said):
        across.attend(q, k, v, Causal(), alone)
    with pytest.raises(ValueError, match=said):
        across.kernel_attention(q, k, v, PositiveRandomFeatures(head_dim=D, num_features=F), alone)
    with pytest.raises(ValueError, match=said):
        across.halo(q, alone, 1, 1)
    with pytest.raises(ValueError, match="2 lengths are given for 1 processes"):
        across.Ranks((3, 4))


def test_shapes_that_do_not_fit_are_refused(alone):
    q, k, v = torch.randn(B, H, 46, D), torch.randn(B, G, 46, D), torch.randn(B, G, 46, E)
    mark = torch.zeros(B, 46, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"mark is \(2, 46\); it must be \(2 or 1, 1, 46\)"):
        across.attend(q, k, v, Window(3) | Marked(), alone, mark=mark)
    with pytest.raises(ValueError, match=r"keys .* and values .* must agree but for the width"):
        across.attend(q, k, v[:, :, :40], Causal(), alone)


def test_nothing_marked_is_nothing(alone):
    q, k, v = torch.randn(B, H, 46, D), torch.randn(B, G, 46, D), torch.randn(B, G, 46, E)
    mark = torch.zeros(B, 1, 46, dtype=torch.bool)
    assert not across.attend(q, k, v, Marked(), alone, mark=mark).any()
    assert not across.attend(q, k, v, Marked(), alone).any()


def test_what_only_one_process_has_is_refused(alone):
    q, k, v = torch.randn(B, H, 46, D), torch.randn(B, G, 46, D), torch.randn(B, G, 46, E)
    slopes = Distance(None, None, torch.zeros(H, 9), zero=0)
    with pytest.raises(ValueError, match=r"what distance adds .* use rotary ones"):
        across.attend(q, k, v, Causal(), alone, distance=slopes)
    with pytest.raises(ValueError, match=r"dropout 0.1 of weights .* leave it at 0"):
        across.attend(q, k, v, Causal(), alone, dropout=0.1)
