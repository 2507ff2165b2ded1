"""The guards in conftest.py hold: a guard that does nothing would never be missed."""

from __future__ import annotations

import socket
import warnings

import pytest
import torch


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(3),
        lambda: torch.empty(2, 3, dtype=torch.bfloat16),
        lambda: torch.empty(3, requires_grad=True),
        lambda: torch.empty(3, dtype=torch.complex64),
        lambda: torch.empty_like(torch.zeros(3)),
        lambda: torch.empty_strided((2, 2), (1, 2)),
        lambda: torch.empty_permuted((2, 2), (1, 0)),
        lambda: torch.zeros(1).new_empty(4),
        lambda: torch.zeros(1).new_empty_strided((2,), (1,)),
    ],
)
def test_fresh_memory_is_nan(make):
    assert make().isnan().all()


def test_fresh_integers_are_no_index():
    assert (torch.empty(3, dtype=torch.int32) == 2**31 - 1).all()
    assert torch.empty(3, dtype=torch.bool).shape == (3,)


def test_shapes_dtypes_and_gradients_survive():
    x = torch.empty(2, 0, 3, dtype=torch.float64, requires_grad=True)
    assert x.shape == (2, 0, 3)
    assert x.dtype == torch.float64
    assert x.requires_grad
    assert x.is_leaf
    assert torch.empty(4, device="meta").device.type == "meta"
    out = torch.zeros(3)
    assert torch.empty(3, out=out) is out


@pytest.mark.no_poison
def test_no_poison_leaves_torch_alone():
    assert type(torch.empty).__name__ == "builtin_function_or_method"


def _double(name: str, first: int):
    """A custom op that doubles x[..., first:] and forgets the columns before."""

    @torch.library.custom_op(f"subquad_tests::{name}", mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        out = x.new_empty(x.shape)
        out[..., first:] = 2 * x[..., first:]
        return out

    @double.register_fake
    def _(x):
        return torch.empty_like(x)

    return double


def test_poison_reaches_custom_ops():
    out = _double("forgetful", 1)(torch.ones(2, 5))
    assert out[:, 0].isnan().all()
    assert (out[:, 1:] == 2).all()


def test_opcheck_bears_the_poison():
    results = torch.library.opcheck(_double("whole", 0), (torch.ones(2, 5),))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.slow
def test_compile_bears_the_poison():
    op = _double("compiled", 1)

    def pad(x):
        out = x.new_empty(x.shape[0] + 1)
        out[0] = 7
        out[1:] = x
        return op(out)

    out = torch.compile(pad, fullgraph=True)(torch.ones(3))
    assert out[0].isnan()
    assert out[1:].tolist() == [2, 2, 2]


def test_threads_are_fixed():
    assert torch.get_num_threads() == 2


def test_each_test_starts_from_the_seed(seed):
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))


def test_network_is_refused():
    with socket.socket() as s, pytest.raises(RuntimeError, match="tests use no network"):
        s.connect(("192.0.2.1", 80))


def test_warnings_are_errors():
    with pytest.raises(UserWarning, match="seen"):
        warnings.warn("seen", stacklevel=1)
