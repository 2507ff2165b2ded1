"""Two other Conformers at tiny random size, their weights in our parts: equal outputs, gradients.

transformers' wav2vec2-conformer has the paper's relative positions; the package `conformer` has a
table of them (Shaw et al.) and an even kernel. Rows without padding: both mix padding into
convolutions. float64 on both sides, so that equal means to rounding.
"""

import pytest
import torch
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerEncoderLayer,
    Wav2Vec2ConformerRelPositionalEmbedding,
)

import subquad as sq
from subquad.nn.context import Context
from subquad.nn.conv import ConvModule
from subquad.nn.position import Position
from subquad.ops.conv import Taps
from subquad.ops.partial import Distance
from subquad.ops.positions import sinusoids

DIM, HEADS, HIDDEN, LAYERS = 24, 4, 40, 2
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def drawn(module):
    """Parameters large enough that every part matters, and running statistics that are not 0, 1."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    for name, b in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            b.copy_(torch.rand_like(b) + 0.5)
    return module.double().eval()


@torch.no_grad()
def take(part, theirs, weight=None):
    """Weight and bias of a part of theirs; zeros for a bias that they do not have."""
    part.weight.copy_((theirs.weight if weight is None else weight).view_as(part.weight))
    if theirs.bias is None:
        part.bias.zero_()
    else:
        part.bias.copy_(theirs.bias)
    for name, b in part.named_buffers():
        b.copy_(theirs.get_buffer(name))


def distances(length):
    """Sinusoids of the distances length - 1 .. 1 - length, interleaved as theirs."""
    ours = sinusoids(torch.arange(length - 1, -length, -1), DIM)
    return ours.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)[None].double()


def wav2vec2(kernel):
    torch.manual_seed(0)
    config = Wav2Vec2ConformerConfig(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        conv_depthwise_kernel_size=kernel,
        position_embeddings_type="relative",
        hidden_act="swish",
        attn_implementation="eager",
    )
    layers = torch.nn.ModuleList(Wav2Vec2ConformerEncoderLayer(config) for _ in range(LAYERS))
    return config, drawn(layers)


def take_layer(block, layer):
    """Weights of a layer of wav2vec2-conformer."""
    attention, conv, mixer = layer.self_attn, layer.conv_module, block.mixers[0]
    for name, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
        take(getattr(mixer, name), getattr(attention, f"linear_{theirs}"))
    with torch.no_grad():
        mixer.position.u.copy_(attention.pos_bias_u)
        mixer.position.v.copy_(attention.pos_bias_v)
        # sines, then cosines, where theirs alternate
        table = attention.linear_pos.weight.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1)
        mixer.position.table.weight.copy_(table)
    for mlp, ffn in ((block.before, layer.ffn1), (block.mlp, layer.ffn2)):
        take(mlp.up, ffn.intermediate_dense)
        take(mlp.down, ffn.output_dense)
    take(block.norm_before, layer.ffn1_layer_norm)
    take(block.norms[0], layer.self_attn_layer_norm)
    take(block.norm_conv, conv.layer_norm)
    take(block.norms[1], layer.ffn2_layer_norm)
    take(block.norm_out, layer.final_layer_norm)
    take(block.conv.up, conv.pointwise_conv1)
    take(block.conv.conv, conv.depthwise_conv)
    take(block.conv.norm, conv.batch_norm)
    take(block.conv.down, conv.pointwise_conv2)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("kernel", "length"), [(7, 29), (15, 2), (31, 40)])
def test_wav2vec2_conformer(kernel, length, training):
    config, theirs = wav2vec2(kernel)
    arch = sq.ARCHS["conformer"]
    fields = {"dim": DIM, "num_layers": LAYERS, "num_heads": HEADS, "ffn_dim": HIDDEN}
    ours = arch.build(arch.Config(**fields, kernel=kernel, dropout=0.0)).double().eval()
    for block, layer in zip(ours.blocks, theirs, strict=True):
        take_layer(block, layer)
    for model in (ours, theirs):
        for module in model.modules():  # batch statistics; dropout stays off
            module.training = training and isinstance(module, torch.nn.BatchNorm1d)
    x = torch.randn(2, length, DIM, dtype=torch.float64)
    table = distances(length)
    # theirs forms angles in float32: equal to its rounding at such distances
    made = Wav2Vec2ConformerRelPositionalEmbedding(config)(x)
    torch.testing.assert_close(made.double(), table, rtol=0, atol=length * 2**-22)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = ours(a, Context.of(a))[0], b
    for layer in theirs:
        wanted = layer(wanted, relative_position_embeddings=table)
    torch.testing.assert_close(found, wanted, **CLOSE)
    pull = torch.randn_like(x)
    (found * pull).sum().backward()
    (wanted * pull).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, **CLOSE)
    for name in ("up", "down"):
        grads = getattr(ours.blocks[0].before, name).weight.grad
        other = {"up": "intermediate_dense", "down": "output_dense"}[name]
        torch.testing.assert_close(grads, getattr(theirs[0].ffn1, other).weight.grad, **CLOSE)
    conv = theirs[0].conv_module.depthwise_conv.weight.grad[:, 0]
    torch.testing.assert_close(ours.blocks[0].conv.conv.weight.grad, conv, **CLOSE)


class Shaw(Position):
    """A learned vector for each distance, both signs: score += q_i . row (Shaw et al., 2018)."""

    scores = True

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def lower(self, q, scale, behind, ahead, x):
        zero = len(self.embedding.weight) // 2
        rows = self.embedding.weight[zero - ahead : zero + behind + 1]
        return q, Distance(q * scale, rows[None], None, ahead)


def take_public(block, theirs):
    """Weights of a block of the package `conformer`."""
    attention, conv = theirs.attn.fn, theirs.conv.net
    mixer = block.mixers[0]
    with torch.no_grad():
        mixer.query.weight.copy_(attention.to_q.weight)
        mixer.key.weight.copy_(attention.to_kv.weight.chunk(2)[0])
        mixer.value.weight.copy_(attention.to_kv.weight.chunk(2)[1])
        for part in (mixer.query, mixer.key, mixer.value):
            part.bias.zero_()
    take(mixer.out, attention.to_out)
    for mlp, ff in ((block.before, theirs.ff1.fn.fn), (block.mlp, theirs.ff2.fn.fn)):
        take(mlp.up, ff.net[0])
        take(mlp.down, ff.net[3])
    norms = (block.norm_before, block.norms[0], block.norm_conv, block.norms[1], block.norm_out)
    named = (theirs.ff1.fn.norm, theirs.attn.norm, conv[0], theirs.ff2.fn.norm, theirs.post_norm)
    for norm, other in zip(norms, named, strict=True):
        take(norm, other)
    take(block.conv.up, conv[2])
    take(block.conv.conv, conv[4].conv)
    take(block.conv.down, conv[7])
    if not isinstance(block.conv.norm, torch.nn.Identity):
        take(block.conv.norm, conv[5])


class Unchanged(torch.nn.Identity):
    """No norm: theirs has none where it is causal."""

    def __init__(self, dim):
        super().__init__()

    def forward(self, x, valid=None):
        return x


@pytest.mark.parametrize(
    ("taps", "options"),
    [
        (Taps.around(32), {"conv_kernel_size": 32}),
        (Taps.around(9), {"conv_kernel_size": 9}),
        (Taps.behind(8), {"conv_kernel_size": 8, "conv_causal": True}),
    ],
    ids=str,
)
def test_public_block(taps, options):
    conformer = pytest.importorskip("conformer")
    torch.manual_seed(0)
    sizes = {"dim_head": DIM // HEADS, "heads": HEADS, "conv_expansion_factor": 1, "ff_mult": 2}
    theirs = drawn(conformer.ConformerBlock(dim=DIM, **sizes, **options))
    norm = {"norm": Unchanged} if options.get("conv_causal") else {}
    position = Shaw(theirs.attn.fn.rel_pos_emb)
    mlps = [sq.nn.MLP(DIM, 2 * DIM, activation=torch.nn.functional.silu) for _ in range(2)]
    block = sq.nn.Macaron(
        DIM,
        [sq.nn.Attention(DIM, HEADS, sq.Full(), position=position)],
        mlps[1],
        before=mlps[0],
        conv=ConvModule(DIM, taps, **norm),
    )
    block = block.double().eval()
    take_public(block, theirs)
    x = torch.randn(2, 37, DIM, dtype=torch.float64)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = block(a, Context.of(a))[0], theirs(b)
    torch.testing.assert_close(found, wanted, **CLOSE)
    pull = torch.randn_like(x)
    (found * pull).sum().backward()
    (wanted * pull).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, **CLOSE)
