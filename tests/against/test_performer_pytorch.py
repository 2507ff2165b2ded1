"""Kernel attention against performer-pytorch 1.1.4, with the same projection."""

from __future__ import annotations

import warnings

import pytest
import torch

from subquad.nn.features import EluFeatures, PositiveRandomFeatures, ReLUFeatures
from subquad.ops.linear import kernel_attention

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it uses names of torch and distutils that are going away
    peer = pytest.importorskip("performer_pytorch.performer_pytorch")

D, F, N = 16, 40, 300


@pytest.fixture
def tensors():
    return torch.randn(3, 2, 3, N, D, dtype=torch.float64)


def theirs(features, q, k, v, causal):
    """Their attention on their features; the causal form without its own epsilon."""
    phi_q, phi_k = features(q, is_query=True), features(k, is_query=False)
    if causal:
        return peer.causal_linear_attention_noncuda(phi_q, phi_k, v, eps=0.0)
    return peer.linear_attention(phi_q, phi_k, v)


def softmax_kernel(projection, eps):
    def features(x, is_query):
        return peer.softmax_kernel(x, projection_matrix=projection, is_query=is_query, eps=eps)

    return features


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_their_features_in_our_loop(tensors, causal, eps):
    # the loop alone: with their map given as it is, epsilon and all, the results are equal
    projection = PositiveRandomFeatures(D, F).projection.double()
    features = softmax_kernel(projection, eps)
    got, _ = kernel_attention(*tensors, features, causal=causal)
    assert torch.allclose(got, theirs(features, *tensors, causal), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_random_features(tensors, causal):
    ours = PositiveRandomFeatures(D, F, seed=2).double()
    got, _ = kernel_attention(*tensors, ours, causal=causal)
    want = theirs(softmax_kernel(ours.projection, 0.0), *tensors, causal)
    assert torch.allclose(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_their_epsilon_is_all_that_differs(tensors, causal):
    # out is linear in eps to first order, so ten times less of it is ten times less of a gap
    ours = PositiveRandomFeatures(D, F, seed=2).double()
    got, _ = kernel_attention(*tensors, ours, causal=causal)
    gaps = [
        (theirs(softmax_kernel(ours.projection, eps), *tensors, causal) - got).abs().max()
        for eps in (1e-8, 1e-9)
    ]
    assert 0 < gaps[1] < 1e-2
    assert 9 < gaps[0] / gaps[1] < 11


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_relu_features(tensors, causal):
    ours = ReLUFeatures(D, F, seed=2).double()

    def features(x, is_query):
        return peer.generalized_kernel(x, projection_matrix=ours.projection)

    got, _ = kernel_attention(*tensors, ours, causal=causal)
    assert torch.allclose(got, theirs(features, *tensors, causal), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_elu_features(tensors, causal):
    def features(x, is_query):
        return peer.generalized_kernel(
            x,
            projection_matrix=None,
            kernel_fn=torch.nn.functional.elu,
            kernel_epsilon=1.0,
            normalize_data=False,
        )

    got, _ = kernel_attention(*tensors, EluFeatures(), causal=causal)
    assert torch.allclose(got, theirs(features, *tensors, causal), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "whole"])
def test_gradients(tensors, causal):
    ours = PositiveRandomFeatures(D, F, seed=2).double()
    mine, other = (tensors.clone().requires_grad_() for _ in range(2))
    got, _ = kernel_attention(*mine, ours, causal=causal)
    want = theirs(softmax_kernel(ours.projection, 0.0), *other, causal)
    weight = torch.randn_like(want)
    torch.autograd.backward([got, want], [weight, weight])
    assert torch.allclose(mine.grad, other.grad, rtol=1e-8, atol=1e-10)
