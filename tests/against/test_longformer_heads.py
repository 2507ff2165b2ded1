"""A whole Longformer against transformers' own: its weights in our stack, equal hidden states.

`test_transformers.py` compares one attention; here layers, norms and feed-forward parts stand
around it as in the checkpoints (norms after the sums, learned positions in the stem).
"""

from __future__ import annotations

import pytest
import torch
from transformers import LongformerConfig, LongformerForMaskedLM

import subquad as sq
from subquad.nn.context import Context
from subquad.nn.stacks import Stack

ARCH = sq.ARCHS["longformer"]
DIM, HEADS, WORDS = 32, 4, 60


def pair(windows: list[int]) -> tuple[LongformerForMaskedLM, Stack]:
    """Theirs and ours with the same weights, in float64; `windows` count one side."""
    torch.manual_seed(0)
    config = LongformerConfig(
        vocab_size=WORDS,
        hidden_size=DIM,
        num_hidden_layers=len(windows),
        num_attention_heads=HEADS,
        intermediate_size=48,
        attention_window=[2 * w for w in windows],
        max_position_embeddings=130,
        pad_token_id=1,
    )
    theirs = LongformerForMaskedLM(config)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.2)
    sizes = {"dim": DIM, "num_layers": len(windows), "num_heads": HEADS, "ffn_dim": 48}
    ours = ARCH.build(
        ARCH.Config(**sizes, causal=False, windows=tuple(windows), position="none", wiring="post")
    )
    for mine, layer in zip(ours.blocks, theirs.longformer.encoder.layer, strict=True):
        mixer, attention = mine.mixers[0], layer.attention
        parts = [(mixer.inner.out, attention.output.dense)]
        for name in ("query", "key", "value"):
            parts.append((getattr(mixer.inner, name), getattr(attention.self, name)))
            parts.append((getattr(mixer, name), getattr(attention.self, f"{name}_global")))
        parts += [(mine.norms[0], attention.output.LayerNorm)]
        parts += [(mine.norms[1], layer.output.LayerNorm)]
        parts += [(mine.mlp.up, layer.intermediate.dense), (mine.mlp.down, layer.output.dense)]
        for part, other in parts:
            part.load_state_dict(other.state_dict())
        for norm in mine.norms:
            norm.eps = config.layer_norm_eps
    return theirs.double().eval(), ours.double().eval()


@pytest.mark.parametrize("marks", [[], [0], [0, 17, 40]])
@pytest.mark.parametrize(("windows", "n"), [([4, 4], 48), ([2, 4, 8], 61), ([8], 128)])
def test_equal_hidden_states_and_logits(windows: list[int], n: int, marks: list[int]):
    theirs, ours = pair(windows)
    ids = torch.randint(2, WORDS, (2, n))
    mask = torch.ones_like(ids)
    mask[1, n - 9 :] = 0
    ids = ids.masked_fill(mask == 0, 1)
    chosen = torch.zeros_like(ids)
    chosen[:, marks] = 1
    given = {"attention_mask": mask, "global_attention_mask": chosen if marks else None}
    wanted = theirs(ids, **given, output_hidden_states=True)
    x, valid = theirs.longformer.embeddings(ids), mask > 0
    mark = chosen > 0 if marks else None
    found = ours(x, Context(torch.arange(n)[None], valid, mark=mark))[0]
    # their softmax is float32 whatever the weights are, once more in each layer
    few = 64 * torch.finfo(torch.float32).eps
    last = wanted.hidden_states[-1][:, :n]
    torch.testing.assert_close(found[valid], last[valid], rtol=few, atol=few)
    logits = theirs.lm_head(found)
    torch.testing.assert_close(logits[valid], wanted.logits[valid], rtol=4 * few, atol=4 * few)
