"""Waves to words: in batches, in windows, and as they come."""

import pytest
import torch
from torch.nn.functional import ctc_loss

from subquad.hf import SubquadConfig, SubquadForCTC
from subquad.nn.logmel import LogMel
from subquad.tasks.ctc.beams import Beams
from subquad.tasks.hearing import Hearing, Spelling

pytestmark = pytest.mark.usefixtures("one_thread")

LETTERS = [b"", b" ", b"a", b"b", "é".encode()[:1], "é".encode()[1:], b"c d"]
SIZES = {"dim": 16, "num_heads": 2, "num_layers": 2, "ffn_dim": 16, "dropout": 0.0}
CHUNKS = {"mixer": "chunks", "conv": "chunk", "chunk": 4, "left": 2, "kernel": 5}
NEAR = {"mixer": "local", "window": 2, "kernel": 5}


def hearing(fields, head="ctc", arch="conformer", **how):
    torch.manual_seed(3)
    config = SubquadConfig(
        arch=arch,
        model=SIZES | fields,
        stem={"kind": "frames", "dropout": 0.0},
        head={"kind": head},
        vocab_size=len(LETTERS),
        pad_token_id=0,
    )
    model = SubquadForCTC(config).eval()
    with torch.no_grad():  # so that it says something
        model.model.head.project.weight.normal_(std=1.5)
    mean = torch.full((80,), -3.0)
    return Hearing(model, LogMel(mean, torch.ones(80)), LETTERS.__getitem__, **how)


def heard(h, *waves):
    return [h.log_probs(y) for y in h.outputs(waves)]


def wave(samples, seed=1):
    torch.manual_seed(seed)
    loud = torch.rand(samples // 400 + 1).repeat_interleave(400)[:samples]
    return 0.1 * loud * torch.randn(samples)


def test_side_by_side_equals_alone():
    h = hearing(NEAR)
    waves = [wave(n) for n in (9000, 3111, 500)]
    for found, one in zip(heard(h, *waves), waves, strict=True):
        torch.testing.assert_close(found, heard(h, one)[0], rtol=0, atol=1e-5)
    assert heard(h, wave(500))[0].shape == (0, len(LETTERS))
    assert h.transcripts([]) == []
    assert [h.transcripts([one])[0].text for one in waves] == [
        said.text for said in h.transcripts(waves)
    ]


@pytest.mark.parametrize("piece", [1000, 7777, 40_000])
def test_windows_are_the_whole_where_their_margins_cover_what_is_seen(piece):
    """Two layers see 2 + 2 outputs on each side each, and a margin has 10; the last outputs of a
    window would hear the wave mirrored at its end."""
    h = hearing(NEAR, window=2.4)
    long = wave(80_000)
    whole = heard(h, long)[0]
    found = h.log_probs(torch.cat(list(h._by_windows(long.split(piece)))))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    said = h.transcript(long.split(piece))
    assert said == h.transcripts([long])[0]
    assert len(said.words) > 5


@pytest.mark.parametrize("piece", [61, 999, 30_000])
def test_stream_is_the_whole(piece):
    h = hearing(CHUNKS)
    long = wave(30_011 if piece > 61 else 8000)
    whole = heard(h, long)[0]
    found = h.log_probs(torch.cat(list(h._by_pieces(long.split(piece)))))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    pieces = list(h.stream(long.split(piece)))
    assert "".join(one["text"] for one in pieces) == h.transcripts([long])[0].text
    assert h.transcript(long.split(piece)) == h.transcripts([long])[0]
    ends = [one["end"] for one in pieces]
    assert ends == sorted(ends)


def test_later_samples_change_nothing_that_was_said():
    """Perturbed from sample s on: what is said of sounds that ended `delay` before s stays, in the
    stream and in the whole, bit for bit; and the delay is not longer than it has to be."""
    h = hearing(CHUNKS)
    delay = h.delay * 16  # samples
    # a chunk of 4 outputs, and 2 frames and half a window that they look ahead
    assert delay == -(-(4 * 640 + 2 * 160 + 200) // 16) * 16
    long = wave(20_000)
    whole = heard(h, long)[0]
    nearest = 0
    for s in range(6000, 8600, 97):
        other = torch.cat((long[:s], wave(len(long) - s, 5)))
        again = heard(h, other)[0]
        # outputs whose sound begins `delay` or more before s
        safe = max(0, (s - delay) // 640 + 1)
        assert torch.equal(again[:safe], whole[:safe])
        changed = int((again != whole).any(1).long().argmax())
        nearest = max(nearest, s - 640 * (changed - 1))
        if s % 4:
            continue
        early = [p for p in h.stream([long[:s]]) if p["end"] * 16_000 <= s - delay]
        there = "".join(p["text"] for p in h.stream(torch.tensor_split(other, [s])))
        assert there.startswith("".join(p["text"] for p in early))
    assert delay - 200 < nearest


def test_what_was_said_comes_before_later_samples_are_asked_for():
    h = hearing(CHUNKS)
    asked = []

    def waves():
        for n, piece in enumerate(wave(32_000).split(800)):
            asked.append(n)
            yield piece

    for piece in h.stream(waves()):
        heard = 800 * len(asked)
        assert heard - round(piece["start"] * 16_000) <= h.delay * 16 + 800
    assert len(asked) == 40


def test_a_model_that_looks_ahead_does_not_stream():
    with pytest.raises(ValueError, match=r"looks ahead without a limit.*--arch\.mixer chunks"):
        next(hearing(NEAR).stream([wave(100)]))
    with pytest.raises(ValueError, match="hears whole recordings only"):
        _ = hearing(NEAR).lateness


def test_a_state_that_grows_is_for_streams_alone(monkeypatch):
    """A recording is heard in windows, in bounded memory, and a stream says that it is not."""
    h = hearing({"causal": True}, arch="transformer")
    assert h.model.model.streams
    assert not h.model.model.bounded
    assert "; its memory grows with the length, since it looks back" in h.lateness
    long = wave(16_000)
    assert "".join(one["text"] for one in h.stream([long])) == h.transcripts([long])[0].text
    chunks = hearing(CHUNKS)
    assert chunks.model.model.bounded
    assert "grows" not in chunks.lateness
    monkeypatch.setattr(Hearing, "_by_windows", lambda self, waves: iter(()))
    assert h.transcript([long]).text == ""
    assert chunks.transcript([long]).text != ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_told_of(bad):
    h, long = hearing(CHUNKS), wave(9000)
    long[8000] = bad
    says = r"holds samples that are no numbers, the first at 0\.500 s, sample 8,000"
    with pytest.raises(ValueError, match=says):
        h.transcript(long.split(3000))
    with pytest.raises(ValueError, match=says):
        list(h.stream(long.split(3000)))


def test_beams_say_what_is_likelier_than_the_best_path():
    long = wave(20_000)
    greedy, wide = hearing(NEAR), hearing(NEAR, beams=Beams(30, least=0.0))
    (outputs,) = greedy.outputs([long])
    p = greedy.log_probs(outputs)
    found = wide.beams.search(p, 0)
    tokens = tuple(one.token for one in greedy.said(outputs))

    def nats(tokens):
        """All paths of a text together."""
        sizes = torch.tensor([len(p)]), torch.tensor([len(tokens)])
        return -ctc_loss(p.double()[:, None], torch.tensor([tokens]), *sizes, reduction="sum")

    assert found[0].tokens != tokens
    assert nats(found[0].tokens) > nats(tokens)
    # of paths that beams gave up nothing is counted
    assert nats(tokens) < found[0].nats <= nats(found[0].tokens) + 1e-9
    assert tuple(one.token for one in wide.said(outputs)) == found[0].tokens
    assert wide.transcript([long]).plain()["words"]


def test_a_decoder_ranks_what_beams_have_found():
    (outputs,) = hearing(NEAR).outputs([wave(9000)])
    h = hearing(NEAR, "joint", beams=Beams(8, least=0.0))
    head = h.model.model.head
    found = h.beams.search(h.log_probs(outputs), 0)
    lengths = torch.tensor([len(outputs)])

    def score(one):
        labels = torch.tensor([one.tokens], dtype=torch.int64)
        with torch.no_grad():
            written = head.written(outputs[None], lengths, labels).item()
        return 0.3 * one.nats + 0.7 * written

    best = max(found, key=score)
    assert best != found[0]
    assert tuple(one.token for one in h.said(outputs)) == best.tokens


def test_spelling():
    s = Spelling()
    assert [s.more(raw) for raw in (b"  a", b" ", b" b", b"\xc3", b"\xa9 ", b" ")] == [
        "a", "", " b", "", "é", "",
    ]  # fmt: skip
