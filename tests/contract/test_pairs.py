"""The laws for encoders with a decoder: padding on both sides, streaming, causality, any length.

Every pair of PAIRS, every architecture that can as a decoder, and every one that can as an encoder.
"""

import dataclasses
import json

import pytest
import torch

import subquad as sq
from catalog import BOTH_WAYS, CAUSAL, cuts, tiny
from subquad import nn
from subquad.archs import configure, pair_parts
from subquad.nn.choices import fill
from subquad.nn.pairs import attending
from subquad.nn.state import select
from subquad.pair import build, complete_encoder

PAIRS = list(sq.PAIRS)
WORDS = 50


def cross():
    return nn.CrossAttention(32, 4)  # as wide as every tiny preset


def _attends(arch):
    try:
        attending(sq.ARCHS[arch].build(configure(arch, tiny(arch))), cross)
    except ValueError:
        return False
    return True


DECODERS = [arch for arch in CAUSAL if _attends(arch)]
ENCODERS = [arch for arch, causal in BOTH_WAYS if not causal]
#: a pair of PAIRS, or "encoder > decoder"
CASES = [
    *PAIRS,
    *(f"transformer > {arch}" for arch in DECODERS),
    *(f"{arch} > transformer" for arch in ENCODERS if arch != "transformer"),
]


def parts(case):
    if case in sq.PAIRS:
        return pair_parts(case, vars(sq.PAIRS[case].PRESETS["tiny"]))
    reader, writer = case.split(" > ")
    encoder = {"arch": reader, "model": tiny(reader, causal=False)}
    return {"arch": writer, "model": tiny(writer), "encoder": encoder}


def pair(case, dtype=torch.float64):
    torch.manual_seed(7)
    made = build(**parts(case), vocab_size=WORDS).to(dtype).eval()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return made


def tokens(batch, length):
    return torch.randint(0, WORDS, (batch, length))


def ragged(side, lengths, slots):
    at, lengths = torch.arange(slots), torch.tensor(lengths)[:, None]
    return at < lengths if side == "right" else at >= slots - lengths


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [0, 1, 2, 63, 65])
@pytest.mark.parametrize("case", CASES)
def test_any_length(case, length):
    m = pair(case, torch.float32)
    with torch.no_grad():
        for source, target in ((length, 9), (9, length), (length, length)):
            y = m(tokens(2, source), tokens(2, target))
            assert y.shape == (2, target, WORDS)
            assert torch.isfinite(y).all()


@pytest.mark.parametrize("case", CASES)
def test_what_was_read_decides(case):
    m, written = pair(case), tokens(1, 5)
    source = tokens(1, 30)
    other = source.clone()
    other[:, -1] = (other[:, -1] + 1) % WORDS
    assert (m(source, written) != m(other, written)).any(-1).all()


@pytest.mark.parametrize("source_side", ["left", "right"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", CASES)
def test_batched_equals_alone(case, side, source_side):
    m = pair(case)
    source, written = torch.randn(3, 40, 32).double(), torch.randn(3, 30, 32).double()
    known, valid = ragged(source_side, [40, 23, 1], 40), ragged(side, [1, 30, 17], 30)
    mark = known & (known.cumsum(1) == 1)
    source, written = (
        t.masked_fill(~real[..., None], torch.nan)
        for t, real in ((source, known), (written, valid))
    )
    y = m(source, written, source_valid=known, mark=mark, valid=valid)
    for b in range(3):
        alone = m(
            source[b][known[b]][None], written[b][valid[b]][None], mark=mark[b][known[b]][None]
        )
        close(y[b][valid[b]], alone[0])


@pytest.mark.parametrize("case", CASES)
def test_a_source_of_padding_is_an_empty_source(case):
    m, written = pair(case), tokens(2, 9)
    known = torch.zeros(2, 12, dtype=torch.bool)
    close(m(tokens(2, 12), written, source_valid=known), m(tokens(2, 0), written))


@pytest.mark.parametrize("case", CASES)
def test_streamed_equals_whole(case):
    m, source, written = pair(case), tokens(2, 33), tokens(2, 40)
    known = ragged("left", [33, 20], 33)
    memory, known = m.encode(source, valid=known)
    whole = m.decode(written, memory, known)[0]
    for cut in cuts(40):
        state, made = m.init_state(2), []
        # the memory is read at the first call; nothing that comes later is asked
        seen = [(memory, known), *[(None, None)] * (len(cut) - 1)]
        for part, what in zip(written.split(cut, 1), seen, strict=True):
            y, state = m.decode(part, *what, state=state)
            made.append(y)
        close(torch.cat(made, 1), whole)
        assert state.length.tolist() == [40, 40]


@pytest.mark.parametrize("case", CASES)
def test_streams_on_after_left_padding(case):
    m, source, written, more = pair(case), tokens(2, 21), tokens(2, 12), tokens(2, 5)
    valid = ragged("left", [12, 3], 12)
    state = m.decode(written, *m.encode(source), valid=valid, state=m.init_state(2))[1]
    y = m.decode(more, None, state=state)[0]
    for b in range(2):
        said = torch.cat((written[b][valid[b]], more[b]))[None]
        close(y[b], m(source[b : b + 1], said)[0, -5:])


@pytest.mark.parametrize("case", CASES)
def test_the_future_changes_nothing_bit_for_bit(case):
    m, source, written = pair(case, torch.float32), tokens(2, 30), tokens(2, 60)
    before = m(source, written)
    for cut in (1, 30, 59):
        changed = written.clone()
        changed[:, cut:] = tokens(2, 60 - cut)
        assert torch.equal(m(source, changed)[:, :cut], before[:, :cut])


@pytest.mark.parametrize("case", CASES)
def test_selecting_a_state_is_reindexing_the_batch(case):
    m, source, written, index = pair(case), tokens(3, 25), tokens(3, 20), torch.tensor([1, 1, 2])
    known = ragged("right", [25, 9, 14], 25)
    state = m.decode(written[:, :8], *m.encode(source, valid=known), state=m.init_state(3))[1]
    rest = m.decode(written[:, 8:], None, state=state)[0]
    picked = m.decode(written[index, 8:], None, state=select(state, index))[0]
    torch.testing.assert_close(picked, rest[index], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_of_both_sides_learns(case):
    m, source = pair(case), tokens(2, 30)
    mark = torch.zeros_like(source, dtype=torch.bool)
    mark[:, 0] = True
    m(source, tokens(2, 20), mark=mark).square().mean().backward()
    still = [n for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias added to every key moves all scores of a query alike, and softmax does not see it
    assert all(n.endswith("key.bias") for n in still), still


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_takes_part_in_every_step(case):
    m = pair(case).train()
    m(tokens(2, 30), tokens(2, 20)).square().mean().backward()
    assert all(p.grad is not None for p in m.parameters())


@pytest.mark.parametrize("case", PAIRS)
def test_gradients_with_forgotten_activations(case):
    m, source, written, found = pair(case).train(), tokens(2, 30), tokens(2, 20), []
    for forget in (False, True):
        for side in (m.encoder, m.decoder):
            side.backbone.gradient_checkpointing = forget
        m.zero_grad()
        m(source, written).square().mean().backward()
        found.append([p.grad.clone() for p in m.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_config_round_trip(name):
    for preset in sq.PAIRS[name].PRESETS.values():
        fields = json.loads(json.dumps(dataclasses.asdict(preset)))
        assert fill(name, sq.PAIRS[name].Config, fields) == preset
        made = pair_parts(name, fields)
        full = complete_encoder(made["encoder"])
        assert json.loads(json.dumps(full)) == full == complete_encoder(full)
        assert not configure(full["arch"], full["model"]).causal
        assert configure(made["arch"], made["model"]).causal


@pytest.mark.parametrize("name", PAIRS)
def test_paper_card(name):
    card = sq.PAIRS[name].__doc__
    for part in ("http", "Time O(", "streams", "Ours differs"):
        assert part in card, f"{name} lacks {part!r}"


def test_a_table_of_words_is_shared_where_sizes_agree():
    made = build(**parts("led"), vocab_size=WORDS)
    words = made.decoder.stem.embedding.weight
    assert made.encoder.stem.embedding.weight is words is made.decoder.head.project.weight
    apart = build(**parts("led"), vocab_size=WORDS, tie=False)
    assert len({id(p) for n, p in apart.named_parameters() if p.shape == words.shape}) == 3
    narrow = {"arch": "local", "model": {**tiny("local", causal=False), "dim": 16}}
    made = build(**{**parts("encoder_decoder"), "encoder": narrow}, vocab_size=WORDS)
    assert made.encoder.stem.embedding.weight.shape == (WORDS, 16)
    assert made(tokens(1, 7), tokens(1, 5)).shape == (1, 5, WORDS)


def test_branches_begin_smaller_the_more_there_are():
    wide = {"dim": 256, "num_layers": 2, "num_heads": 4, "ffn_dim": 512}
    encoder = {"arch": "transformer", "model": wide}
    m = build("transformer", wide, encoder=encoder, vocab_size=WORDS)
    for block in m.decoder.backbone.blocks:
        ends = [*(mixer.out for mixer in block.mixers), block.mlp.down]
        assert [round(end.weight.std().item() * 6**0.5, 3) for end in ends] == [0.02] * 3
        assert [type(n) for n in block.norms] == [torch.nn.LayerNorm] * 3
        assert len({id(n) for n in block.norms}) == 3
    for block in m.encoder.backbone.blocks:
        assert round(block.mixers[0].out.weight.std().item() * 4**0.5, 3) == 0.02


@pytest.mark.parametrize("arch", [arch for arch in CAUSAL if arch not in DECODERS])
def test_architectures_that_cannot_attend_say_so(arch):
    made = sq.ARCHS[arch].build(configure(arch, tiny(arch)))
    with pytest.raises(ValueError, match=f"a {type(made).__name__} cannot read a memory"):
        attending(made, cross)


def test_what_does_not_fit_is_said():
    assert {"transformer", "performer", "longformer", "sparse_transformer"} <= {*DECODERS}
    assert not {"reformer", "perceiver_ar"} & {*DECODERS}
    plain = {**tiny("reformer"), "wiring": "pre"}
    attending(sq.ARCHS["reformer"].build(configure("reformer", plain)), cross)
    encoder = sq.ARCHS["local"].build(configure("local", tiny("local", causal=False)))
    with pytest.raises(ValueError, match=r"an Encoder looks ahead, .* take causal=True"):
        attending(encoder, cross)

    class Other(nn.blocks.Block):
        @property
        def streams(self):
            return True

    block = Other(32, [cross()], torch.nn.Identity())
    with pytest.raises(ValueError, match="an Other block cannot read a memory"):
        attending(nn.Decoder([block], 32), cross)
    with pytest.raises(ValueError, match="no pair is called 'ledd'; did you mean 'led'"):
        pair_parts("ledd", {})
    with pytest.raises(ValueError, match="no field 'encoder_layer'; did you mean 'encoder_layers'"):
        pair_parts("led", {"encoder_layer": 3})
    with pytest.raises(ValueError, match="no part of an encoder is called 'modle'; did you mean"):
        complete_encoder({"modle": {}})
    m, source = pair("led"), tokens(2, 9)
    memory, known = m.encode(source, valid=torch.ones(2, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="the memory holds 2 rows and the batch has 3"):
        m.decode(tokens(3, 4), memory, known)
    with pytest.raises(ValueError, match=r"memory_valid is \(2, 5\) and the memory \(2, 9\)"):
        m.decode(tokens(2, 4), memory, known[:, :5])
    with pytest.raises(ValueError, match=r"needs Context\.memory, or a state that has read one"):
        m.decode(tokens(2, 4), None)


def test_an_encoder_with_fewer_outputs_takes_no_padding():
    class Halved(torch.nn.Module):
        def forward(self, x, context, state):
            return x[:, ::2], state

    m, source = pair("encoder_decoder"), tokens(2, 8)
    m.encoder.backbone = Halved()
    assert m(source, tokens(2, 3)).shape == (2, 3, WORDS)
    known = ragged("right", [8, 5], 8)
    with pytest.raises(ValueError, match="the encoder gives 4 outputs for 8 tokens"):
        m.encode(source, valid=known)
