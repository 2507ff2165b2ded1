"""Conformer: counts of parameters, what can be left out, padding, chunks, memory."""

from dataclasses import replace

import pytest
import torch

import subquad as sq
from catalog import DIM, MIXERS, tiny
from catalog import mixer as listed
from catalog import model as listed_model
from peak import peak
from subquad.model import build
from subquad.nn.context import Context
from subquad.nn.conv import ConvModule
from subquad.nn.frames import FrameStemConfig
from subquad.nn.macaron import Macaron
from subquad.nn.mlp import MLP
from subquad.nn.state import nbytes, select
from subquad.ops.conv import Taps
from subquad.ops.later import step
from subquad.ops.patterns import RandomBlocks

pytestmark = pytest.mark.usefixtures("one_thread")

BANDS = 8
ARCH = sq.ARCHS["conformer"]
#: the mixers and convolutions that stream by chunks of 4
STREAMING = [
    {"mixer": "chunks", "conv": "chunk"},
    {"mixer": "chunks", "conv": "behind"},
    {"mixer": "chunks", "conv": "none", "position": "rotary"},
    {"mixer": "chunks", "conv": "chunk", "norm": "layer", "wiring": "single", "left": 0},
]


def model(dtype=torch.float64, **fields):
    torch.manual_seed(5)
    given = {**tiny("conformer"), **fields}
    stem = {"kind": "frames", "bands": BANDS}
    head = {"kind": "tags", "num_labels": 5}
    made = build("conformer", given, vocab_size=1, stem=stem, head=head).to(dtype).eval()
    for p in made.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.2)
    for name, b in made.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            b.uniform_(0.5, 1.5)
    return made


def frames(batch, length, dtype=torch.float64):
    return torch.randn(batch, length, BANDS, dtype=dtype)


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "millions"), [("small", 8.69), ("medium", 27.27), ("large", 114.86)]
)
def test_as_many_parameters_as_the_papers_encoders(preset, millions):
    config = ARCH.PRESETS[preset]
    d, k = config.dim, config.kernel
    with torch.device("meta"):
        stem, one = FrameStemConfig().build(d, 0), ARCH.build(replace(config, num_layers=1))
    assert count(one) == 24 * d**2 + (k + 32) * d
    # 3 x 3 taps to d channels, d to d, and a map of 19 bands of d channels; biases
    assert count(stem) == (9 * d + d) + (9 * d**2 + d) + (19 * d**2 + d)
    assert round((count(stem) + config.num_layers * count(one)) / 1e6, 2) == millions


def test_what_is_left_out_leaves_no_parameters():
    d, k, hidden = 32, 8, 64
    whole = count(ARCH.build(ARCH.Config(**tiny("conformer"))))
    feed = 2 * d * hidden + hidden + d + 2 * d
    without = {
        "conv": ("none", 3 * d**2 + k * d + 8 * d),
        "wiring": ("single", feed),
        "position": ("none", d**2 + 2 * d),
    }
    for name, (value, less) in without.items():
        made = ARCH.build(ARCH.Config(**{**tiny("conformer"), name: value}))
        assert count(made) == whole - 2 * less, name


def test_a_single_feed_forward_part_counts_whole():
    mlp, x = MLP(DIM, 7).double(), torch.randn(1, 5, DIM, dtype=torch.float64)
    context = Context.of(x)

    class Nothing(sq.nn.Mixer):
        def forward(self, x, context, state=None):
            return torch.zeros_like(x), state

    one = Macaron(DIM, [Nothing()], mlp).double()
    two = Macaron(DIM, [Nothing()], mlp, before=MLP(DIM, 7)).double()
    norm = torch.nn.functional.layer_norm
    torch.testing.assert_close(one(x, context)[0], norm(x + mlp(norm(x, (DIM,))), (DIM,)))
    half = x + 0.5 * two.before(norm(x, (DIM,)))
    wanted = norm(half + 0.5 * mlp(norm(half, (DIM,))), (DIM,))
    torch.testing.assert_close(two(x, context)[0], wanted)


def test_misspelt_choices_are_answered_with_the_nearest():
    for name, value, near in (
        ("mixer", "chunk", "chunks"),
        ("mixer", "lowrank", "low_rank"),
        ("conv", "arround", "around"),
        ("norm", "batsh", "batch"),
        ("wiring", "makaron", "macaron"),
    ):
        with pytest.raises(ValueError, match=f"'{value}'; did you mean '{near}'"):
            ARCH.build(ARCH.Config(**{**tiny("conformer"), name: value}))


def test_a_mixer_gets_what_its_name_asks_for():
    config = ARCH.Config(**tiny("conformer"))
    made = {
        name: [b.mixers[0] for b in ARCH.build(replace(config, mixer=name, position="none")).blocks]
        for name in ("blocks", "hashed", "low_rank")
    }
    near = sq.Chunks(4, 2, 2) | RandomBlocks(4, 3, 1)
    assert made["blocks"][1].pattern == near & sq.SameLabel()
    first, second = made["hashed"]
    assert (first.window, first.causal, first.rounds) == (6, False, 4)
    assert not torch.equal(first.directions, second.directions)
    first, second = made["low_rank"]
    assert first.project_keys is second.project_values
    assert first.project_keys.weight.shape == (16, 1100)


@pytest.mark.parametrize(
    ("mixer", "position", "says"),
    [
        ("hashed", "xl", "position = 'xl' does not go with mixer = 'hashed'"),
        ("low_rank", "xl", "XLRelative adds to scores"),
        ("kernel", "xl", "XLRelative adds to scores"),
    ],
)
def test_positions_that_do_not_go_with_a_mixer(mixer, position, says):
    config = ARCH.Config(**{**tiny("conformer"), "mixer": mixer, "position": position})
    with pytest.raises(ValueError, match=says):
        ARCH.build(config)


# --- padding ------------------------------------------------------------------------------------

VARIANTS = [
    {},
    {"kernel": 32, "norm": "layer"},
    {"mixer": "local"},
    {"mixer": "kernel", "position": "none"},
    {"mixer": "blocks"},
    {"mixer": "blocks", "random_blocks": 0, "left": 0},
    {"mixer": "hashed", "position": "none"},
    {"mixer": "low_rank", "position": "rotary"},
    {"conv": "none"},
    *STREAMING,
]


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_batched_equals_alone(fields):
    m, lengths = model(**fields), [127, 65, 63, 2, 1, 0]
    given = frames(6, 127)
    valid = torch.arange(127) < torch.tensor(lengths)[:, None]
    y = m(given.masked_fill(~valid[..., None], torch.nan), valid=valid)[0]
    for row, x, n in zip(y, given, lengths, strict=True):
        alone = m(x[None, :n])[0][0]
        assert len(alone) == m.stem.count(n)
        torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fields", [{}, {"mixer": "chunks", "conv": "chunk"}], ids=str)
def test_padding_moves_nothing_in_training(fields):
    """More padding, whatever stands in it: outputs, gradients and running statistics stay."""
    given, lengths, found = frames(3, 60), torch.tensor([60, 33, 9]), []
    real = torch.arange(15) < torch.tensor([14, 7, 1])[:, None]
    for more, content in ((0, 0.0), (0, torch.nan), (23, torch.nan)):
        m = model(**fields).train()
        valid = torch.arange(60 + more) < lengths[:, None]
        x = torch.nn.functional.pad(given, (0, 0, 0, more))
        y = m(x.masked_fill(~valid[..., None], content), valid=valid)[0]
        y = y[:, :14][real[:, :14]]
        y.square().sum().backward()
        kept = [b for b in m.buffers() if b.is_floating_point()]
        found.append([y, *(p.grad for p in m.parameters()), *kept])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-10)


BOTH_SIDES = [name for name in MIXERS if listed(name).step != 1]


@pytest.mark.parametrize("name", BOTH_SIDES)
def test_any_mixer_that_looks_both_ways_takes_attentions_place(name):
    conv = ConvModule(DIM, Taps.around(6))
    block = Macaron(DIM, [listed(name)], MLP(DIM, 30), before=MLP(DIM, 30), conv=conv)
    block = block.double().eval()
    lengths = [33, 17, 1]
    valid = torch.arange(33) < torch.tensor(lengths)[:, None]
    x = torch.randn(3, 33, DIM, dtype=torch.float64)
    y = block(x.masked_fill(~valid[..., None], torch.nan), Context.of(x, valid))[0]
    for row, given, n in zip(y, x, lengths, strict=True):
        alone = block(given[None, :n], Context.of(given[None, :n]))[0][0]
        torch.testing.assert_close(row[:n], alone, rtol=1e-10, atol=1e-10)


# --- chunks -------------------------------------------------------------------------------------


def test_steps_of_patterns():
    for pattern, wanted in (
        (sq.Causal(), 1),
        (sq.Full(), None),
        (sq.Chunks(4, 2), 4),
        (sq.Chunks(4, 2, 1), None),
        (sq.Chunks(4, 2) & sq.SameLabel(), 4),
        (sq.Chunks(4, 2) & sq.Chunks(6, 0), 4),
        (sq.Chunks(4, 2) | sq.Blocks(6), 12),
        (sq.Chunks(4, 2) | sq.Window(3, 1), None),
        (sq.Chunks(4, 2) - sq.Causal(), 4),
        (sq.PerHead((1, sq.Chunks(4, 2)), (1, sq.Causal())), 4),
    ):
        assert step(pattern) == wanted, pattern


def test_a_token_sees_its_chunk_and_those_to_the_left():
    m = model(num_layers=1, mixer="chunks", conv="chunk", chunk=4, left=1, kernel=6)
    x = torch.randn(1, 19, 32, dtype=torch.float64, requires_grad=True)
    y = m.backbone(x, Context.of(x))[0]
    for i in range(19):
        (grad,) = torch.autograd.grad(y[0, i].abs().sum(), x, retain_graph=True)
        seen = grad[0].any(1).nonzero().flatten().tolist()
        # the convolution reads attention's output three tokens back, and that its own chunks
        first = max(0, (max(0, i - 3) // 4 - 1) * 4)
        assert seen == list(range(first, min(19, (i // 4 + 1) * 4))), i


def pieces(m, x, cut, valid=None):
    """Outputs of each call, joined, then of the flush; and how many came at the end."""
    state, parts, start = m.init_state(len(x)), [], 0
    for size in cut:
        part = slice(start, start + size)
        y, state = m(x[:, part], valid=None if valid is None else valid[:, part], state=state)
        parts.append(y)
        start += size
    y, state = m.flush(state)
    return torch.cat((*parts, y), 1), y.shape[1], state


@pytest.mark.parametrize("fields", STREAMING, ids=str)
def test_streamed_equals_whole(fields):
    m, x = model(**fields), frames(2, 83)
    whole = m(x)[0]
    for cut in ([1] * 83, [83], [16] * 5 + [3], [7, 0, 12, 64], [41, 42]):
        found, late, state = pieces(m, x, cut)
        torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)
        assert late == whole.shape[1] % 4
        assert state.length.tolist() == [whole.shape[1]] * 2


@pytest.mark.parametrize("fields", STREAMING, ids=str)
def test_streams_of_any_lengths_side_by_side(fields):
    """Rows end at different frames; one has not begun when the others have."""
    m, x, lengths = model(**fields), frames(4, 90), [90, 41, 23, 0]
    valid = torch.arange(90) < torch.tensor(lengths)[:, None]
    valid[2] = (torch.arange(90) >= 31) & (torch.arange(90) < 54)
    state, found = m.init_state(4), [[] for _ in lengths]
    calls = list(zip(x.split(18, 1), valid.split(18, 1), strict=True))
    for part, real in calls:
        before = state.length
        y, state = m(part.masked_fill(~real[..., None], torch.nan), valid=real, state=state)
        for rows, row, n in zip(found, y, (state.length - before).tolist(), strict=True):
            rows.append(row[:n])
    before = state.length
    y, state = m.flush(state)
    for rows, row, n in zip(found, y, (state.length - before).tolist(), strict=True):
        rows.append(row[:n])
    for rows, given, real in zip(found, x, valid, strict=True):
        alone = m(given[real][None])[0][0]
        torch.testing.assert_close(torch.cat(rows), alone, rtol=1e-10, atol=1e-10)


def test_a_flush_without_anything_withheld():
    for m, given in (
        (model(mixer="chunks", conv="chunk"), frames(2, 0)),
        (listed_model("local"), torch.zeros(2, 0, dtype=torch.int64)),
    ):
        y, state = m.flush(m.init_state(2))
        assert y.shape == (2, 0, 5 if given.dim() == 3 else 50)
        again, state = m.flush(m(given, state=state)[1])
        assert again.shape == y.shape
        assert state.length.tolist() == [0, 0]
    assert listed_model("local").delay == 0


def test_an_output_comes_after_its_delay_and_not_before():
    m, x = model(mixer="chunks", conv="chunk"), frames(1, 60)
    assert (m.stem.factor, m.stem.field, m.backbone.step, m.delay) == (4, 7, 4, 18)
    state, came = m.init_state(1), {}
    for i in range(60):
        y, state = m(x[:, i : i + 1], state=state)
        came |= dict.fromkeys(range(len(came), len(came) + y.shape[1]), i)
    waits = {i - m.stem.factor * j for j, i in came.items()}
    assert max(waits) == m.delay
    assert min(waits) == m.stem.field - 1


@pytest.mark.parametrize("fields", STREAMING, ids=str)
def test_later_frames_change_nothing_bit_for_bit(fields):
    m, x = model(torch.float32, **fields), frames(2, 120, torch.float32)
    before = m(x)[0]
    for chunk in (1, 3, 6):
        # frames that the last token of this chunk reads
        end = (4 * chunk - 1) * m.stem.factor + m.stem.field
        changed = x.clone()
        changed[:, end:] = frames(2, 120 - end, torch.float32)
        assert torch.equal(m(changed)[0][:, : 4 * chunk], before[:, : 4 * chunk])


@pytest.mark.parametrize("fields", STREAMING, ids=str)
def test_state_is_bounded_and_rows_can_be_chosen(fields):
    m, x = model(torch.float32, **fields), frames(3, 600, torch.float32)
    state, sizes = m.init_state(3), []
    for part in x.split(50, 1):
        _, state = m(part, state=state)
        sizes.append(nbytes(state))
        assert state.stem.frames.shape[1] < m.stem.factor * m.backbone.step + m.stem.field
    # frames left over differ from call to call; all else is full after the first calls
    most = 3 * BANDS * 4 * (m.stem.factor * m.backbone.step + m.stem.field)
    assert max(sizes[4:]) - min(sizes[4:]) <= most
    index = torch.tensor([2, 2, 0])
    picked = m(x[index, :40], state=select(state, index))[0]
    torch.testing.assert_close(picked, m(x[:, :40], state=state)[0][index], rtol=1e-4, atol=1e-5)


def test_what_does_not_stream_says_so():
    for fields in ({}, {"mixer": "chunks"}, {"mixer": "local", "conv": "chunk"}):
        m = model(**fields)
        assert not m.streams
        with pytest.raises(ValueError, match="looks ahead"):
            m.init_state(1)
    looking = ARCH.build(ARCH.Config(**tiny("conformer"))).blocks
    with pytest.raises(ValueError, match="block 0 looks farther ahead than a chunk"):
        sq.nn.ChunkEncoder(list(looking), 32)
    backbone = model(mixer="chunks", conv="chunk").backbone
    x = torch.randn(1, 6, 32, dtype=torch.float64)
    _, state = backbone(x, Context.of(x), backbone.init_state(1))
    with pytest.raises(ValueError, match="goes on after 6 tokens, which are not whole chunks of 4"):
        backbone(x, Context.of(x, start=torch.tensor([6])), state)


# --- cost ---------------------------------------------------------------------------------------


@pytest.mark.no_poison
@pytest.mark.parametrize(
    "fields", [{"mixer": "local"}, {"mixer": "chunks", "conv": "chunk", "chunk": 16}], ids=str
)
def test_memory_grows_no_faster_than_the_duration(fields):
    m = model(torch.float32, **fields).train()

    def run(length):
        x = frames(1, length, torch.float32)

        def both():
            torch.autograd.grad(m(x)[0].sum(), list(m.parameters()))

        both()
        return peak(both)

    n = 2048  # 512 tokens, of which a matrix for each head is as large as all that is kept else
    small, large = run(n), run(2 * n)
    assert large <= 2.1 * small
