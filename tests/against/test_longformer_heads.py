"""A whole Longformer against transformers' own: several windows, depths, lengths and marks.

`test_transformers.py` compares one attention; here layers, norms and feed-forward parts stand
around it as in the checkpoints, and the converter carries the weights.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LongformerConfig, LongformerForMaskedLM

from converting import converted

DIM, HEADS, WORDS = 32, 4, 60


def theirs(windows: list[int]) -> LongformerForMaskedLM:
    """In float64; `windows` count one side."""
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
    model = LongformerForMaskedLM(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.double().eval()


@pytest.mark.parametrize("marks", [[], [0], [0, 17, 40]])
@pytest.mark.parametrize(("windows", "n"), [([4, 4], 48), ([2, 4, 8], 61), ([8], 128)])
def test_equal_hidden_states_and_logits(
    windows: list[int], n: int, marks: list[int], tmp_path: Path
):
    model = theirs(windows)
    ours = converted(model, tmp_path)
    assert [str(b.mixers[0].inner.pattern) for b in ours.model.backbone.blocks] == [
        f"((Window(behind={w}, ahead={w}, dilation=1) | Marked()) & SameLabel())" for w in windows
    ]
    ids = torch.randint(2, WORDS, (2, n))
    mask = torch.ones_like(ids)
    mask[1, n - 9 :] = 0
    ids = ids.masked_fill(mask == 0, 1)
    chosen = torch.zeros_like(ids)
    chosen[:, marks] = 1
    given = {"attention_mask": mask, "global_attention_mask": chosen if marks else None}
    wanted = model(ids, **given, output_hidden_states=True)
    found, _ = ours.features({"input_ids": ids, **given})
    real = mask > 0
    # their softmax is float32 whatever the weights are, once more in each layer
    few = 64 * torch.finfo(torch.float32).eps
    last = wanted.hidden_states[-1][:, :n]
    torch.testing.assert_close(found[real], last[real], rtol=few, atol=few)
    logits = ours(ids, **given).logits
    torch.testing.assert_close(logits[real], wanted.logits[real], rtol=4 * few, atol=4 * few)
