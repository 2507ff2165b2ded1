"""The laws, over every architecture: streaming, causality, padding, any length, round trips."""

import dataclasses
import json
import lzma

import pytest
import torch

import subquad as sq
from catalog import BOTH_WAYS, CAUSAL, GROWING, STACKS, STREAMS, cuts, model, tiny
from subquad.archs import configure
from subquad.model import build, load, save
from subquad.nn.state import nbytes, select

ARCHS = list(sq.ARCHS)


def tokens(batch, length):
    return torch.randint(0, 50, (batch, length))


@pytest.mark.parametrize("length", [0, 1, 2, 63, 65, 127, 1025])
@pytest.mark.parametrize(("arch", "causal"), STACKS)
def test_any_length(arch, length, causal):
    m = model(arch, causal=causal, dtype=torch.float32)
    with torch.no_grad():
        y, state = m(tokens(1, length))
    assert y.shape == (1, length, 50)
    assert torch.isfinite(y).all()
    assert state is None


@pytest.mark.parametrize("arch", STREAMS)
def test_streamed_equals_whole(arch):
    m, ids = model(arch), tokens(2, 60)
    whole = m(ids)[0]
    for cut in cuts(60):
        state, parts = m.init_state(2), []
        for part in ids.split(cut, 1):
            y, state = m(part, state=state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
        assert state.length.tolist() == [60, 60]


@pytest.mark.parametrize("arch", STREAMS)
def test_prefix(arch):
    m, ids = model(arch), tokens(1, 300)
    whole = m(ids)[0]
    for n in (1, 100, 299):
        torch.testing.assert_close(m(ids[:, :n])[0], whole[:, :n], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("arch", STREAMS)
def test_the_future_changes_nothing_bit_for_bit(arch):
    m, ids = model(arch, dtype=torch.float32), tokens(2, 200)
    before = m(ids)[0]
    for cut in (1, 100, 199):
        changed = ids.clone()
        changed[:, cut:] = tokens(2, 200 - cut)
        assert torch.equal(m(changed)[0][:, :cut], before[:, :cut])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("arch", "causal"), STACKS)
def test_batched_equals_alone(arch, side, causal):
    m, ids, lengths = model(arch, causal=causal), tokens(3, 40), torch.tensor([40, 23, 1])
    slots = torch.arange(40)
    valid = slots < lengths[:, None] if side == "right" else slots >= 40 - lengths[:, None]
    y = m(ids, valid=valid)[0]
    for b in range(3):
        alone = m(ids[b][valid[b]][None])[0][0]
        torch.testing.assert_close(y[b][valid[b]], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("arch", STREAMS)
def test_streams_on_after_left_padding(arch):
    m, ids, lengths = model(arch), tokens(3, 30), [30, 12, 2]
    valid = torch.arange(30) >= 30 - torch.tensor(lengths)[:, None]
    more = tokens(3, 9)
    state = m(ids, valid=valid, state=m.init_state(3))[1]
    first, state = m(more[:, :1], state=state)
    rest, state = m(more[:, 1:], state=state)
    assert state.length.tolist() == [n + 9 for n in lengths]
    for b, n in enumerate(lengths):
        whole = m(torch.cat((ids[b, 30 - n :], more[b]))[None])[0][0, n:]
        found = torch.cat((first, rest), 1)[b]
        torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("arch", ["transformer", "longformer", "local"])
def test_packed_documents_equal_documents_alone(arch, causal):
    m, ids, sizes = model(arch, causal=causal), tokens(2, 60), [25, 1, 34]
    label = torch.repeat_interleave(torch.tensor([4, 0, 7]), torch.tensor(sizes)).expand(2, -1)
    packed, start = m(ids, label=label)[0], 0
    for size in sizes:
        part = slice(start, start + size)
        torch.testing.assert_close(packed[:, part], m(ids[:, part])[0], rtol=1e-9, atol=1e-9)
        start += size


@pytest.mark.parametrize("arch", ["transformer", "longformer", "local"])
def test_streams_with_marks_and_labels(arch):
    m, ids = model(arch), tokens(2, 50)
    label = (torch.arange(50) >= 30).long().expand(2, -1)
    mark = torch.zeros(2, 50, dtype=torch.bool)
    mark[:, [1, 31]] = True
    whole = m(ids, label=label, mark=mark)[0]
    for cut in ([32, 18], [32, *[1] * 18], [32, 5, 13]):
        state, parts, start = m.init_state(2), [], 0
        for size in cut:
            part = slice(start, start + size)
            y, state = m(ids[:, part], label=label[:, part], mark=mark[:, part], state=state)
            parts.append(y)
            start += size
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("position", ["alibi", "xl", "rotary", "rotary_llama3:100,8,1,4,60"])
@pytest.mark.parametrize("arch", ["transformer", "local"])
def test_rows_that_begin_late_stream_with_any_position(arch, position):
    torch.manual_seed(7)
    fields = {**tiny(arch), "position": position}
    m = build(arch, fields, vocab_size=50).double().eval()
    ids, lengths = tokens(2, 90), [90, 20]
    valid = torch.arange(90) >= 90 - torch.tensor(lengths)[:, None]
    state, parts = m.init_state(2), []
    for part, real in zip(ids.split(30, 1), valid.split(30, 1), strict=True):
        y, state = m(part, valid=real, state=state)
        parts.append(y)
    found = torch.cat(parts, 1)
    for b, n in enumerate(lengths):
        alone = m(ids[b : b + 1, 90 - n :])[0][0]
        torch.testing.assert_close(found[b, 90 - n :], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("arch", STREAMS)
def test_selecting_a_state_is_reindexing_the_batch(arch):
    m, ids, index = model(arch), tokens(3, 40), torch.tensor([1, 1, 2])
    state = m(ids[:, :30], state=m.init_state(3))[1]
    picked = m(ids[index, 30:], state=select(state, index))[0]
    torch.testing.assert_close(picked, m(ids[:, 30:], state=state)[0][index], rtol=0, atol=1e-12)


@pytest.mark.parametrize("arch", [a for a in STREAMS if a not in GROWING])
def test_state_stays_bounded(arch):
    m = model(arch, dtype=torch.float32)
    sizes = []
    with torch.no_grad():
        for length in (200, 400):
            sizes.append(nbytes(m(tokens(1, length), state=m.init_state(1))[1]))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("arch", STREAMS)
def test_bounded_is_what_does_not_grow(arch):
    assert model(arch).bounded == (arch not in GROWING)


@pytest.mark.parametrize(("arch", "causal"), STACKS)
def test_every_parameter_takes_part_in_every_step(arch, causal):
    m = model(arch, causal=causal).train()
    m(tokens(2, 50))[0].square().mean().backward()
    assert all(p.grad is not None for p in m.parameters())


@pytest.mark.parametrize(("arch", "causal"), STACKS)
def test_every_parameter_learns(arch, causal):
    m = model(arch, causal=causal)
    ids = tokens(2, 50)
    mark = torch.zeros_like(ids, dtype=torch.bool)
    mark[:, 0] = True
    m(ids, mark=mark)[0].square().mean().backward()
    still = [n for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias added to every key moves all scores of a query alike, and softmax does not see it
    assert all(n.endswith("key.bias") for n in still), still


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_gradients_with_forgotten_activations(arch, causal):
    torch.manual_seed(7)
    fields = {**tiny(arch, causal=causal), "dropout": 0.2}
    m, ids = build(arch, fields, vocab_size=50).double().train(), tokens(2, 50)
    found = []
    for forget in (False, True):
        m.backbone.gradient_checkpointing = forget
        m.zero_grad()
        torch.manual_seed(8)
        m(ids)[0].square().mean().backward()
        found.append([p.grad.clone() for p in m.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("arch", ARCHS)
def test_config_round_trip(arch):
    for preset in sq.ARCHS[arch].PRESETS.values():
        fields = json.loads(json.dumps(dataclasses.asdict(preset)))
        assert configure(arch, fields) == preset


@pytest.mark.parametrize("arch", ARCHS)
def test_saved_and_loaded_bit_for_bit(arch, tmp_path):
    fields = tiny(arch)
    torch.manual_seed(1)
    m = build(arch, fields, vocab_size=50).eval()
    save(m, tmp_path, {"arch": arch, "model": fields, "vocab_size": 50})
    again = load(tmp_path).eval()
    ids = tokens(1, 33)
    assert torch.equal(m(ids)[0], again(ids)[0])


@pytest.mark.parametrize("arch", ARCHS)
def test_the_same_seed_builds_the_same_bits(arch):
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(build(arch, tiny(arch), vocab_size=50).state_dict())
    assert all(torch.equal(made[0][k], made[1][k]) for k in made[0])


@pytest.mark.parametrize("arch", ARCHS)
def test_paper_card(arch):
    card = sq.ARCHS[arch].__doc__
    for part in ("http", "Time O(", "treams", "Ours differs"):
        assert part in card, f"{arch} lacks {part!r}"


def test_misspelt_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'transfomer'; did you mean 'transformer'"):
        configure("transfomer", {})
    with pytest.raises(ValueError, match=r"no field 'num_head'; did you mean 'num_heads'"):
        configure("transformer", {"num_head": 3})
    with pytest.raises(ValueError, match="7 heads do not divide 32"):
        build("transformer", {**tiny("transformer"), "num_heads": 7}, vocab_size=9)
    with pytest.raises(ValueError, match="looks ahead"):
        model("transformer", causal=False).init_state(1)


def test_what_does_not_agree_is_said():
    m, ids = model("local"), tokens(3, 4)
    with pytest.raises(ValueError, match=r"mark is \(3, 5\) and the inputs are \(3, 4\)"):
        m(ids, mark=torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"valid must be bool, True for yes, not torch.float32"):
        m(ids, valid=torch.ones(3, 4))
    with pytest.raises(ValueError, match="the state holds 2 rows and the batch has 3"):
        m(ids, state=m.init_state(2))
    with pytest.raises(
        ValueError, match="position 21, but positions are learned up to max_len = 20"
    ):
        build("local", tiny("local"), vocab_size=50, stem={"position": "learned", "max_len": 20})(
            tokens(1, 22)
        )


def test_another_format_version_is_refused(tmp_path):
    fields = tiny("transformer")
    save(
        build("transformer", fields, vocab_size=9),
        tmp_path,
        {"arch": "transformer", "model": fields, "vocab_size": 9},
    )
    text = (
        (tmp_path / "config.json").read_text().replace('"format_version": 1', '"format_version": 7')
    )
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="format version 7; this library reads 1"):
        load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", CAUSAL)
def test_sixteen_kilobytes_of_real_text_streamed(arch, data_dir):
    with lzma.open(data_dir / "text" / "tinyshakespeare.txt.xz") as file:
        ids = torch.tensor(list(file.read(16_384)))[None] % 50
    m = model(arch)
    with torch.no_grad():
        whole = m(ids)[0]
        state, parts = m.init_state(1), []
        for part in ids.split([1] * 40 + [777] * 20 + [16_384 - 40 - 777 * 20], 1):
            y, state = m(part, state=state)
            parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
