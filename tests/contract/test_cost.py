"""Honest cost of every mixer: FLOPs and peak memory at N and 2N grow as its docstring declares.

Times are not looked at: they are measurements, these are facts.
"""

import pytest
import torch

from catalog import DIM, MIXERS, context, mixer
from peak import peak
from subquad.bench.count import counter, planned_as_long

pytestmark = [pytest.mark.no_poison, pytest.mark.filterwarnings("ignore::UserWarning")]

#: mixers over patterns of unbounded reach, O(N^2) time; strided and fixed ones also look at one in
#: so many of all tokens, which is a square too as long as the stride stays as it is
SQUARE = {
    "full",
    "causal",
    "causal-rotary",
    "causal-grouped",
    "causal-band",
    "causal-xl",
    "full-xl",
    "strided",
    "fixed",
    "fixed-by-head",
    "narrow-keys",
    "conv",
    "hashed-full",
    "conv-logsteps",  # its steps begin anew every 16 tokens
}
#: O(N log N): one key more for every query at twice the length
LOGARITHMIC = {"logsteps"}
#: tiles of one in five or six tokens have their full size only from here on; N / 4 distances take
#: too long to measure at more
FROM = {"strided": 4096, "fixed-by-head": 2048, "conv-logsteps": 512}
#: those that know at most so many tokens are measured at 64 and 128 of them
BOUNDED = {"low-rank", "low-rank-shared", "low-rank-rotary"}


def lengths(name):
    short = 64 if name in BOUNDED else FROM.get(name, 1024)
    return short, 2 * short


def run_of(name, length):
    m = mixer(name, torch.float32).train()
    x = torch.randn(1, length, DIM, requires_grad=True)
    at = context(x, None, [0, 5])

    def run():
        m(x, at)[0].sum().backward()
        m.zero_grad()
        x.grad = None

    return run


def flops(name, length):
    run = run_of(name, length)
    with planned_as_long(), counter() as seen:
        run()
    return seen.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXERS)
def test_flops_grow_as_declared(name):
    short, long = (flops(name, n) for n in lengths(name))
    if name in SQUARE:
        # what is linear beside it (projections, windows) makes the whole grow less
        assert 2.0 < long / short <= 4.0
        return
    # one chunk of a loop may be begun at either length; log2(2N) / log2(N) is 1.1 here
    assert 1.9 <= long / short <= (2.25 if name in LOGARITHMIC else 2.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXERS)
def test_memory_grows_no_faster_than_the_length(name):
    """Also where time is quadratic: no mixer keeps the matrix."""
    held = []
    for n in lengths(name):
        run = run_of(name, n)
        with planned_as_long():
            run()
            held.append(peak(run))
    assert held[1] <= (2.25 if name in LOGARITHMIC else 2.1) * held[0]
