"""ConvBERT of transformers attends with one half and convolves with the other: ours does as it.

Its kernels come of more than the token itself, so they are taken from it; what is done with them,
and the attention beside, is ours. float64 on both sides.
"""

import pytest
import torch
from transformers import ConvBertConfig
from transformers.models.convbert.modeling_convbert import ConvBertSelfAttention

import subquad as sq
from subquad.ops.conv import Taps
from subquad.ops.dynamic import dynamic

DIM, HEADS = 24, 3


@pytest.mark.parametrize(("kernel", "length"), [(3, 1), (5, 29), (9, 4), (31, 40)])
def test_both_halves(kernel, length):
    torch.manual_seed(0)
    config = ConvBertConfig(
        hidden_size=DIM, num_attention_heads=2 * HEADS, conv_kernel_size=kernel, head_ratio=2
    )
    theirs, seen = ConvBertSelfAttention(config).double().eval(), []
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    theirs.conv_kernel_layer.register_forward_hook(lambda part, x, y: seen.append(y))
    x = torch.randn(2, length, DIM, dtype=torch.float64, requires_grad=True)
    wanted = theirs(x)[0].unflatten(-1, (2 * HEADS, -1))
    weight = seen[0].unflatten(-1, (HEADS, kernel)).softmax(-1)
    near = dynamic(theirs.conv_out_layer(x), weight, Taps.around(kernel))
    q, k, v = (
        part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for part in (theirs.query, theirs.key, theirs.value)
    )
    far = sq.attend(q, k, v, sq.Full()).transpose(1, 2)
    found = torch.cat((far, near.unflatten(-1, (HEADS, -1))), 2)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    pull = torch.randn_like(wanted)
    given = [x, theirs.conv_out_layer.weight, theirs.conv_kernel_layer.weight, theirs.query.weight]
    grads = [
        torch.autograd.grad((y * pull).sum(), given, retain_graph=True) for y in (found, wanted)
    ]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)
