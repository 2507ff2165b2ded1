"""N-grams: the table row of every string, pieces, padding, documents; every architecture behind."""

import pytest
import torch

from catalog import BOTH_WAYS, CAUSAL, tiny
from subquad.hf import SubquadConfig, SubquadForCausalLM
from subquad.model import build
from subquad.nn.ngrams import MIX, STEP, NGrams
from subquad.nn.stems import NGramStemConfig
from subquad.tasks.classify import Classify, ClassifyConfig
from subquad.tasks.lm_config import LanguageModelConfig

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS, SIZES, ROWS = 11, (2, 3, 5), 97
STEM = {"kind": "ngrams", "sizes": list(SIZES), "rows": ROWS}


def model(arch, causal=True, **stem):
    torch.manual_seed(3)
    head = {"kind": "tokens"} if causal else {"kind": "tags", "num_labels": 5}
    made = build(
        arch, tiny(arch, causal=causal), vocab_size=WORDS, stem={**STEM, **stem}, head=head
    )
    for p in made.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.2)
    return made.double().eval()


def ids(*shape):
    return torch.randint(0, WORDS, shape, generator=torch.Generator().manual_seed(1))


def signed(number):
    """A whole number as 64 bits hold it."""
    return (number + 2**63) % 2**64 - 2**63


def row_of(string):
    """The row of a string of numbers, by whole numbers alone, last token first."""
    mixed = 0
    for number in reversed(string):
        mixed = signed((mixed + number) * STEP)
    spread = signed((mixed ^ (mixed >> 31)) * MIX)
    return (spread ^ (spread >> 29)) % ROWS


@pytest.mark.parametrize("length", [0, 1, 2, 7, 65])
def test_vectors_of_strings_that_end_at_a_token(length):
    stem = NGramStemConfig(sizes=SIZES, rows=ROWS).build(6, WORDS).double()
    given = ids(2, length)
    x = stem(given)[0]
    assert x.shape == (2, length, 6)
    for row, found in zip(given.tolist(), x, strict=True):
        padded = [0] * (SIZES[-1] - 1) + [number + 1 for number in row]
        for i, number in enumerate(row):
            wanted = stem.embedding.weight[number].clone()
            for which, n in enumerate(SIZES):
                end = i + SIZES[-1]
                wanted += stem.ngrams.table.weight[which * ROWS + row_of(padded[end - n : end])]
            torch.testing.assert_close(found[i], wanted / 4, rtol=1e-12, atol=1e-12)


def test_strings_spread_over_the_rows():
    """Strings that differ in one token anywhere fall apart: 4,096 of them into 2^20 rows."""
    made = NGrams(1, sizes=(4,), rows=2**20)
    digits = torch.cartesian_prod(*[torch.arange(1, 9)] * 4)
    found = made.places(digits)[:, 0, 0].unique().numel()
    # so many pairs meet by chance: 4096^2 / 2 / 2^20 = 8; five deviations more
    assert found >= 4096 - 8 - 15


def test_gradients_reach_the_rows_used_and_no_others():
    made = NGrams(3, sizes=(2, 4), rows=50).double()
    given = ids(1, 9)
    held = made.begin(1)
    made(given, None, held)[0].sum().backward()
    used = made.places(torch.cat((held.tokens, given + 1), 1)).flatten()
    wanted = torch.bincount(used, minlength=100)[:, None].expand(100, 3).double()
    torch.testing.assert_close(made.table.weight.grad, wanted)


@pytest.mark.parametrize("arch", CAUSAL)
def test_pieces_equal_the_whole(arch):
    m, given = model(arch), ids(2, 24)
    whole = m(given)[0]
    state, parts = m.init_state(2), []
    for a, b in ((0, 4), (4, 8), (8, 20), (20, 24)):
        y, state = m(given[:, a:b], state=state)
        parts.append(y)
    y, _ = m.flush(state)
    streamed = torch.cat([*parts, y], 1)[:, -whole.shape[1] :]
    torch.testing.assert_close(streamed, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", ["transformer_xl", "adaptive_span"])
def test_training_memory_reads_on(arch):
    m, given = model(arch), ids(1, 12)
    first, memory = m(given[:, :6], state=m.init_memory(1))
    second, _ = m(given[:, 6:], state=memory)
    torch.testing.assert_close(torch.cat((first, second), 1)[:, :6], m(given)[0][:, :6])
    assert memory.stem.tokens.tolist() == (given[:, 2:6] + 1).tolist()
    forgetful, _ = m(
        given[:, 6:], state=type(memory)(memory.length, memory.layers, m.stem.init_state(1, 1))
    )
    assert not torch.equal(second, forgetful)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_batched_equals_alone(arch, causal, side):
    m, lengths = model(arch, causal), torch.tensor([21, 8, 1])
    slots = torch.arange(21)
    valid = slots < lengths[:, None] if side == "right" else slots >= 21 - lengths[:, None]
    given = ids(3, 21)
    y = m(given, valid=valid)[0]
    if y.shape[1] != 21:
        pytest.skip("gives its last positions alone")
    for row, real, x in zip(y, valid, given, strict=True):
        alone = m(x[real][None])[0][0]
        torch.testing.assert_close(row[real], alone, rtol=1e-9, atol=1e-9)


def test_ragged_rows_hold_their_own_last_tokens():
    m, given = model("transformer"), ids(2, 9)
    valid = torch.arange(9) < torch.tensor([9, 4])[:, None]
    _, state = m(given, valid=valid, state=m.init_state(2))
    y, _ = m(more := ids(2, 3), state=state)
    for row, (old, new, real) in enumerate(zip(given, more, valid, strict=True)):
        whole = m(torch.cat((old[real], new))[None])[0][0, -3:]
        torch.testing.assert_close(y[row], whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_by_state_equals_reading_all_again(beams):
    torch.manual_seed(0)
    config = SubquadConfig(arch="local", model=tiny("local"), stem=STEM, vocab_size=WORDS)
    m = SubquadForCausalLM(config).double().eval()
    for p in m.parameters():
        torch.nn.init.normal_(p, std=0.2)
    how = {"max_new_tokens": 9, "num_beams": beams, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones(2, 5, dtype=torch.int64)
    mask[0, :2] = 0
    given = {"input_ids": ids(2, 5), "attention_mask": mask, **how}
    streamed = m.generate(**given)
    assert streamed.tolist() == m.generate(**given, use_cache=False).tolist()


def test_weights_come_back(tmp_path):
    torch.manual_seed(0)
    config = SubquadConfig(arch="local", model=tiny("local"), stem=STEM, vocab_size=WORDS)
    m = SubquadForCausalLM(config).eval()
    m.save_pretrained(tmp_path)
    again = SubquadForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.stem["sizes"] == list(SIZES)
    assert torch.equal(again(ids(1, 9)).logits, m(ids(1, 9)).logits)


def test_documents_are_not_packed():
    label = torch.tensor([[0, 0, 1, 1]])
    with pytest.raises(ValueError, match=r"NGramStem reads several inputs .* a row of its own"):
        model("local")(ids(1, 4), label=label)


def test_features_have_no_strings():
    with pytest.raises(ValueError, match=r"made of token numbers, not of torch.float64 features"):
        model("local")(torch.zeros(1, 4, tiny("local")["dim"], dtype=torch.float64))


def test_pieces_need_the_stems_state():
    m = model("local")
    with pytest.raises(ValueError, match="a stream of n-grams needs the state of its stem"):
        m.stem(ids(1, 4), None, torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize(("sizes", "rows"), [((3, 2), 5), ((1, 2), 5), ((), 5), ((2,), 0)])
def test_sizes_that_cannot_be(sizes, rows):
    with pytest.raises(ValueError, match=f"of {rows} rows: sizes must rise from 2 on"):
        NGrams(4, sizes=sizes, rows=rows)


def test_tasks_ask_for_them():
    config = LanguageModelConfig(ngrams=(3, 4), ngram_rows=10)
    assert config.tables == {"kind": "ngrams", "sizes": [3, 4], "rows": 10}
    assert config.head == {"kind": "tokens"}
    assert Classify(ClassifyConfig(ngrams=(2,))).tables["sizes"] == [2]
    assert Classify(ClassifyConfig()).tables is None
    with pytest.raises(ValueError, match=r"ngrams \[3\] and cutoffs \[9\] exclude each other"):
        LanguageModelConfig(ngrams=(3,), cutoffs=(9,))
