"""The cross state of a decoder: written once, reordered with beams, never mixed up with another.

Through transformers' generate, for the dense baseline, a Performer on both sides (whose cross state
is one sum) and the Lite Transformer; sources of unequal length, their padding NaN.
"""

import pytest
import torch
from torch.utils import _pytree as pytree
from transformers.modeling_outputs import BaseModelOutput

import subquad as sq
from subquad.archs import pair_parts
from subquad.hf import SubquadConfig, SubquadForSeq2SeqLM
from subquad.nn.kernel import KernelCrossAttention
from subquad.nn.state import Cross, nbytes
from subquad.ops.linear import Sum
from subquad.pair import build, complete_cross

WORDS = 50
TOKENS = {"vocab_size": WORDS, "pad_token_id": 0, "eos_token_id": 49, "decoder_start_token_id": 48}
CASES = {
    "dense": ("encoder_decoder", "tiny"),
    "performer": ("encoder_decoder", "tiny-performer"),
    "lite": ("lite_pair", "tiny"),
}


def parts(case, **changed):
    pair, preset = CASES[case]
    return pair_parts(pair, {**vars(sq.PAIRS[pair].PRESETS[preset]), **changed})


def drawn(m):
    for p in m.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.15)
    return m.double().eval()


def seq2seq(case):
    torch.manual_seed(5)
    # with words of its own a head does not say again what it was given, whatever the source
    made = SubquadConfig(**parts(case), **TOKENS, tie_word_embeddings=False)
    return drawn(SubquadForSeq2SeqLM(made))


def pair(case, **changed):
    torch.manual_seed(5)
    return drawn(build(**parts(case, **changed), vocab_size=WORDS))


def source(side, lengths=(20, 13, 1)):
    """Embedded rows of unequal length, NaN where they have no token."""
    torch.manual_seed(6)
    slots, lengths = torch.arange(20), torch.tensor(lengths)[:, None]
    real = slots < lengths if side == "right" else slots >= 20 - lengths
    rows = torch.randn(3, 20, 32, dtype=torch.float64).masked_fill(~real[..., None], torch.nan)
    return {"inputs_embeds": rows, "attention_mask": real.long()}


MODES = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "beams-returned": {"num_beams": 4, "num_return_sequences": 2},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_generated_with_a_state_as_without(case, mode):
    m, options = seq2seq(case), {"max_new_tokens": 10, **MODES[mode]}
    scored = {"output_scores": True, "return_dict_in_generate": True}
    for side in ("right", "left"):
        given, found, scores = source(side), [], []
        for use_cache in (True, False):
            out = m.generate(**given, use_cache=use_cache, **scored, **options)
            found.append(out.sequences)
            scores.append(out.scores[-1] if mode == "greedy" else out.sequences_scores)
        assert torch.equal(*found)
        torch.testing.assert_close(*scores, rtol=1e-10, atol=1e-10)
        assert len({tuple(row) for row in found[0].tolist()}) > 1  # sources decide what is said
        rows = options.get("num_return_sequences", 1)
        assert len(found[0]) == 3 * rows
        for b in range(3):
            real = given["attention_mask"][b] > 0
            alone = m.generate(inputs_embeds=given["inputs_embeds"][b][real][None], **options)
            mine = found[0][b * rows : b * rows + rows]
            # rows that end early are filled up to the longest of the batch
            assert torch.equal(mine[:, : alone.shape[1]], alone)
            assert not mine[:, alone.shape[1] :].any()


def crosses(state):
    """The state of what reads the memory, layer by layer."""
    return [layer[-1] for layer in state.layers]


@pytest.mark.parametrize("case", CASES)
def test_it_is_written_once(case):
    m, words = pair(case), torch.randint(0, WORDS, (2, 12))
    memory, known = m.encode(torch.randint(0, WORDS, (2, 17)))
    state = m.decode(words[:, :1], memory, known, state=m.init_state(2))[1]
    first = crosses(state)
    kind = Sum if case == "performer" else Cross
    assert [type(c) for c in first] == [kind] * 2
    for word in words[:, 1:].split(1, 1):
        state = m.decode(word, None, state=state)[1]
    for before, after in zip(first, crosses(state), strict=True):
        old, new = ([t for t in pytree.tree_leaves(c) if t is not None] for c in (before, after))
        assert all(a is b for a, b in zip(old, new, strict=True))  # the very tensors


def test_the_source_is_held_once_and_a_sum_is_as_large_for_any():
    sizes, more = {}, {}
    for case in CASES:
        m, whole = pair(case).float(), []
        for length in (10, 200):
            memory, _ = m.encode(torch.randint(0, WORDS, (1, length)))
            state = m.decode(torch.zeros(1, 1, dtype=torch.int64), memory, state=m.init_state(1))[1]
            sizes[case, length] = nbytes(crosses(state))
            whole.append(nbytes(state))
        more[case] = whole[1] - whole[0]
    # keys and values, 32 wide, in two layers of floats
    assert sizes["dense", 200] == sizes["lite", 200] == 2 * 2 * 200 * 32 * 4
    # 16 features and a scale for each of 4 heads, 8 values and 1 sum wide
    assert sizes["performer", 10] == sizes["performer", 200] == 2 * 4 * (16 * 9 + 1) * 4
    # and nothing else of the state grows with the source
    assert more == {"dense": 2 * 2 * 190 * 32 * 4, "lite": 2 * 2 * 190 * 32 * 4, "performer": 0}


@pytest.mark.parametrize("case", CASES)
def test_an_old_state_with_another_source_is_refused(case):
    m, words = seq2seq(case), torch.randint(1, 48, (2, 6))
    ids, others = torch.randint(1, 48, (2, 2, 9)).unbind(1)
    read, other = m.get_encoder()(input_ids=ids), m.get_encoder()(input_ids=others)
    whole = m(encoder_outputs=read, decoder_input_ids=words).logits

    def begun():
        out = m(encoder_outputs=read, decoder_input_ids=words[:, :4], use_cache=True)
        return {"decoder_input_ids": words[:, 4:], "past_key_values": out.past_key_values}

    # the same again, as generate() passes it, or equal to it
    same = (read, read.to_tuple(), BaseModelOutput(last_hidden_state=read[0].clone()))
    for given in same:
        found = m(encoder_outputs=given, **begun())
        torch.testing.assert_close(found.logits, whole[:, 4:], rtol=1e-10, atol=1e-10)
        assert found.encoder_last_hidden_state is given[0]
    for given in ({"encoder_outputs": other}, {"input_ids": others}):
        with pytest.raises(ValueError, match="past_key_values have read another source"):
            m(**given, **begun())
    half = BaseModelOutput(last_hidden_state=read[0].float())
    with pytest.raises(ValueError, match="past_key_values have read another source"):
        m(encoder_outputs=half, **begun())
    state, inner = begun()["past_key_values"].state, m.model
    with pytest.raises(ValueError, match="this state has read a memory and was given another"):
        inner.decode(words[:, 4:], other[0], state=state)


def test_kinds_of_cross_attention():
    made = pair("lite", cross_heads=2)
    assert [b.mixers[-1].num_heads for b in made.decoder.backbone.blocks] == [2, 2]
    assert made.decoder.backbone.blocks[0].mixers[-1].query.out_features == 32
    made = pair("performer")
    maps = [b.mixers[-1].feature_map for b in made.decoder.backbone.blocks]
    own = [b.mixers[0].feature_map for b in made.decoder.backbone.blocks]
    rows = [phi.lower()[1] for phi in (*maps, *own)]
    assert len({tuple(r.flatten().tolist()) for r in rows}) == 4  # every layer draws its own
    made = pair("dense", cross="linear")
    assert type(made.decoder.backbone.blocks[0].mixers[-1]) is KernelCrossAttention
    made = pair("dense", cross="low_rank", cross_fields={"rank": 5, "max_len": 40})
    memory, _ = made.encode(torch.randint(0, WORDS, (1, 33)))
    state = made.decode(torch.zeros(1, 1, dtype=torch.int64), memory, state=made.init_state(1))[1]
    assert [c.k.shape for c in crosses(state)] == [(1, 4, 5, 8)] * 2
    whole = {"kind": "full", "num_heads": None, "dropout": None}
    assert complete_cross(None) == whole
    whole = SubquadConfig(**parts("performer"), **TOKENS).pair_parts()["cross"]
    assert whole == {"kind": "kernel", "num_heads": None, "features": 16, "seed": 0}
    # a configuration from before there was a choice
    old = SubquadConfig(**{**parts("dense"), "cross": None}, **TOKENS)
    assert old.cross == {"kind": "full", "num_heads": None, "dropout": None}
    with pytest.raises(ValueError, match="no cross-attention is called 'kernal'; did you mean"):
        pair("dense", cross="kernal")
    with pytest.raises(ValueError, match="cross has no field 'feature'; did you mean 'features'"):
        pair("performer", cross_fields={"feature": 3})
    with pytest.raises(ValueError, match="5 heads do not divide 32"):
        pair("lite", cross_heads=5)


def test_how_much_attention_to_a_source_is_dropped():
    def rates(case, **changed):
        blocks = pair(case, dropout=0.3, **changed).decoder.backbone.blocks
        return [b.mixers[-1].dropout for b in blocks]

    assert rates("dense") == [0.3, 0.3]
    assert rates("dense", cross_fields={"dropout": 0.0}) == [0.0, 0.0]
    low = {"rank": 5, "max_len": 40}
    assert rates("dense", cross="low_rank", cross_fields=low) == [0.3, 0.3]
    assert rates("dense", cross="low_rank", cross_fields={**low, "dropout": 0.1}) == [0.1, 0.1]
    # the paper's attention weights have a rate of their own, on both sides and between them
    assert rates("lite", drop_weights=0.2) == [0.2, 0.2]
    made = pair("lite", dropout=0.3, drop_weights=0.2)
    assert made.decoder.backbone.blocks[0].mixers[0].first.dropout == 0.2
