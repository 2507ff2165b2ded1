"""Prefixes of CTC and the joint search, against all texts of tiny vocabularies, one by one."""

from itertools import product

import pytest
import torch

from subquad.nn.context import Context
from subquad.nn.joint import JointHeadConfig
from subquad.nn.losses import IGNORED
from subquad.tasks.ctc.beams import Beams
from subquad.tasks.ctc.joint import search
from subquad.tasks.ctc.ngrams import counted
from subquad.tasks.ctc.paths import collapse
from subquad.tasks.ctc.prefixes import Prefixes
from subquad.tasks.ctc.scorers import ByTokens

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES, WORDS, DIM = 4, 4, 8


def by_text(p, blank):
    """The probability of every text, from all paths."""
    found: dict[tuple[int, ...], float] = {}
    for path in product(range(p.shape[1]), repeat=len(p)):
        text = tuple(one.token for one in collapse(path, blank))
        said = float(torch.stack([p[n, v] for n, v in enumerate(path)]).sum().exp())
        found[text] = found.get(text, 0.0) + said
    return found


def drawn(frames, words, seed=0):
    torch.manual_seed(seed)
    return torch.randn(frames, words, dtype=torch.float64).mul(2).log_softmax(-1)


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_a_prefix_holds_all_texts_that_begin_with_it(frames, blank):
    p = drawn(frames, 3)
    texts, now, names = by_text(p, blank), Prefixes.empty(p, blank), [()]
    for _ in range(frames):
        for row, name in enumerate(names):
            whole = now.whole.exp()[row]
            torch.testing.assert_close(float(whole), texts.get(name, 0.0), rtol=1e-9, atol=1e-12)
            for token in range(3):
                begins = (*name, token)
                wanted = sum((q for t, q in texts.items() if t[: len(begins)] == begins), 0.0)
                got = float(now.longer()[row, token].exp())
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
        longer = [(row, token) for row in range(len(names)) for token in range(3)]
        longer = [one for one in longer if one[1] != blank]
        now = now.after(*torch.tensor(longer).unbind(1))
        names = [(*names[row], token) for row, token in longer]


def test_long_prefixes_are_what_the_recurrence_says():
    """Hundreds of frames, some of which cannot say the token at all."""
    p = drawn(300, 5, seed=1)
    p[40:60, 3] = -torch.inf
    p = p.log_softmax(-1)
    now, text = Prefixes.empty(p, 0), [3, 3, 1, 4, 3, 2, 2]
    said, silent = [-torch.inf] * 301, [0.0, *p[:, 0].cumsum(0).tolist()]

    def add(*nats):
        return float(torch.tensor(nats, dtype=torch.float64).logsumexp(0))

    for i, token in enumerate(text):
        now = now.after(torch.tensor([0]), torch.tensor([token]))
        again = i > 0 and text[i - 1] == token
        begins = silent if again else [add(a, b) for a, b in zip(said, silent, strict=True)]
        said, silent = [-torch.inf], [-torch.inf]
        for n in range(300):
            said.append(add(said[n], begins[n]) + float(p[n, token]))
            silent.append(add(silent[n], said[n]) + float(p[n, 0]))
    known = torch.tensor(said, dtype=torch.float64).isfinite() & (now.said[0] > -900)
    assert known.sum() > 100
    wanted = torch.tensor(said, dtype=torch.float64)[known]
    torch.testing.assert_close(now.said[0][known], wanted, rtol=0, atol=1e-8)
    torch.testing.assert_close(float(now.whole), add(said[-1], silent[-1]), rtol=0, atol=1e-8)


# --- with a decoder ---------------------------------------------------------------------------


def head(weight):
    torch.manual_seed(2)
    made = JointHeadConfig(weight=weight, num_layers=2, num_heads=2, ffn_dim=8).build(DIM, WORDS)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.6)
    return made.double().eval()


def ngrams():
    return ByTokens(counted([["b", "c", "d"], ["c", "c"]], 2, {"b", "c", "d"}), ["", "b", "c", "d"])


@torch.no_grad()
def scored(made, outputs, how):
    """Score and nats by CTC of every text, best first."""
    found = []
    for text, said in by_text(made(outputs).detach(), made.blank).items():
        labels = torch.tensor([[*text]], dtype=torch.int64).view(1, -1)
        labels = labels if text else torch.full((1, 1), IGNORED)
        lengths = torch.tensor([len(outputs)])
        written = float(made.written(outputs[None], lengths, labels))
        state, worth = how.scorer.start(), 0.0
        for token in text:
            state, nats, units = how.scorer.extend(state, token)
            worth += how.lm_weight * nats + how.bonus * units
        nats, units = how.scorer.finish(state)
        worth += how.lm_weight * nats + how.bonus * units
        heard = float(torch.tensor(said, dtype=torch.float64).log())
        found.append((made.weight * heard + (1 - made.weight) * written + worth, heard, text))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("weight", "bonus", "lm"),
    [(0.3, 0.0, False), (0.5, 0.7, False), (0.3, 0.0, True), (1.0, 0.4, True), (0.0, 0.0, False)],
)
def test_the_best_of_all_texts_is_found(seed, weight, bonus, lm):
    """Wide enough to keep every prefix, what is found has the score that its text has by itself,
    and the first is the best there is; narrow, nothing scores higher than it should."""
    made = head(weight)
    torch.manual_seed(seed)
    outputs = torch.randn(FRAMES, DIM, dtype=torch.float64) * 2
    how = Beams(200, bonus=bonus, **({"scorer": ngrams()} if lm else {}))
    every = scored(made, outputs, how)
    found = search(made, outputs, how)
    assert found[0].tokens == every[0][2]
    by = {text: (score, nats) for score, nats, text in every}
    for one in found:
        wanted = by[one.tokens]
        torch.testing.assert_close((one.score, one.nats), wanted, rtol=1e-8, atol=1e-8)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in search(made, outputs, Beams(1, how.scorer, bonus=bonus)):
        assert one.score == pytest.approx(by[one.tokens][0], abs=1e-8)


def test_the_decoder_goes_on_as_it_reads_whole():
    made, words = head(0.3), torch.tensor([[0, 2, 3, 3, 1]])
    x = torch.randn(1, 7, DIM, dtype=torch.float64)
    y, _ = made.decoder(made.words(words), Context(torch.arange(5)[None], memory=x))
    wanted = made.write(y).log_softmax(-1)
    state, memory = made.decoder.init_state(1), x
    for place in range(5):
        got, state = made.follow(words[:, place], place, state, memory)
        torch.testing.assert_close(got, wanted[:, place], rtol=1e-10, atol=1e-10)
        memory = None
