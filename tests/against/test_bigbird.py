"""BigBird against transformers' own at tiny random size, its weights in our parts.

Their blocks are drawn in training mode only (else every draw is block 0, counted once more for each
draw), so theirs trains here, without dropout. float64 on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BigBirdConfig, BigBirdModel

import subquad as sq
from subquad.nn.context import Context
from subquad.nn.stacks import Stack
from subquad.ops.pattern import Coords, Pattern, PerHead
from subquad.ops.patterns import Chunks, Marked, RandomBlocks

ARCH = sq.ARCHS["bigbird"]
DIM, HEADS, LAYERS = 32, 4, 2


def pair(block: int, draws: int, kind: str = "block_sparse") -> tuple[BigBirdModel, Stack]:
    """Theirs and ours, alike but for the random blocks."""
    torch.manual_seed(0)
    sizes = {"hidden_size": DIM, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config = BigBirdConfig(
        vocab_size=60,
        intermediate_size=48,
        max_position_embeddings=1024,
        attention_type=kind,
        block_size=block,
        num_random_blocks=draws,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **sizes,
    )
    theirs = BigBirdModel(config, add_pooling_layer=False)
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.2)
    fields = {"dim": DIM, "num_layers": LAYERS, "num_heads": HEADS, "ffn_dim": 48, "dropout": 0.0}
    look = {"position": "none", "mlp": "gelu_tanh", "wiring": "post"}
    ours = ARCH.build(ARCH.Config(**fields, **look, block=block, random_blocks=draws))
    for mine, layer in zip(ours.blocks, theirs.encoder.layer, strict=True):
        mixer, inner = mine.mixers[0], layer.attention
        parts = [(mixer.query, inner.self.query), (mixer.key, inner.self.key)]
        parts += [(mixer.value, inner.self.value), (mixer.out, inner.output.dense)]
        parts += [(mine.mlp.up, layer.intermediate.dense), (mine.mlp.down, layer.output.dense)]
        parts += [(mine.norms[0], inner.output.LayerNorm), (mine.norms[1], layer.output.LayerNorm)]
        for part, other in parts:
            part.load_state_dict(other.state_dict())
        for norm in mine.norms:
            norm.eps = config.layer_norm_eps
    return theirs.double().train(), ours.double().eval()


def encoded(theirs: BigBirdModel, x: Tensor, valid: Tensor) -> Tensor:
    """What their encoder makes of features (B, N, C)."""
    mask = valid.double()
    size = theirs.config.block_size
    blocked, band, rows, columns = theirs.create_masks_for_block_sparse_attn(mask, size)
    masks = {"band_mask": band, "from_mask": rows, "to_mask": columns}
    out = theirs.encoder(x, **masks, blocked_encoder_mask=blocked)
    return out.last_hidden_state


@dataclass(frozen=True)
class Given(Pattern):
    """Random blocks that somebody else drew: for query blocks 1, 2, ... a row of key blocks."""

    size: int
    rows: tuple[tuple[int, ...], ...]

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        block, other = q.pos // self.size - 1, k.pos // self.size
        inside = (block >= 0) & (block < len(self.rows))
        drawn = torch.tensor(self.rows)[block.clamp(0, len(self.rows) - 1)]
        return (drawn == other.unsqueeze(-1)).any(-1) & inside


@pytest.mark.parametrize("blocks", [12, 16])
def test_blocks_that_they_drew(blocks: int):
    """Their window, their draws by head, and their global first and last block, as a pattern."""
    size, draws = 4, 2
    theirs, ours = pair(size, draws)
    n = size * blocks
    for layer, mine in zip(theirs.encoder.layer, ours.blocks, strict=True):
        inner = layer.attention.self
        np.random.seed(inner.seed)  # noqa: NPY002 - their own generator
        rows = inner._bigbird_block_rand_mask_with_head(
            n, n, size, size, HEADS, *inner._get_rand_attn_plan(n, size, draws)
        )
        given = (Given(size, tuple(map(tuple, head.tolist()))) for head in rows)
        far = PerHead(*((1, one) for one in given))
        mine.mixers[0].pattern = Chunks(size, 1, 1) | far | Marked()
    x = torch.randn(2, n, DIM, dtype=torch.float64)
    valid = torch.arange(n) < torch.tensor([n, n - 2])[:, None]
    mark = torch.zeros(2, n, dtype=torch.bool)
    mark[:, :size] = mark[:, -size:] = True
    found = ours(x, Context(torch.arange(n)[None], valid, mark=mark))[0]
    torch.testing.assert_close(found[valid], encoded(theirs, x, valid)[valid], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("size", "blocks"), [(4, 14), (16, 24)])
def test_blocks_that_we_drew(size: int, blocks: int, monkeypatch: pytest.MonkeyPatch):
    """Our draws in their attention. The last block, global to them, is padding here, and stands in
    where a draw is the window's, or global already: they would count such a block twice.

    24 blocks of 16 are long enough for the engines of the parts.
    """
    draws = 3
    theirs, ours = pair(size, draws)
    for layer, mine in enumerate(theirs.encoder.layer):
        random = RandomBlocks(size, draws, layer)
        assert str(random) in str(ours.blocks[layer].mixers[0].pattern)
        rows = np.full((blocks - 2, draws), blocks - 1)
        for block in range(1, blocks - 1):
            for which in range(draws):
                key = int(random.drawn(torch.tensor(block), which))
                if 0 < key < blocks - 1 and abs(key - block) > 1:
                    rows[block - 1, which] = key
        assert (rows < blocks - 1).sum() > draws * blocks / 4
        monkeypatch.setattr(
            mine.attention.self,
            "_bigbird_block_rand_mask_with_head",
            lambda rows=rows, **_: [rows] * HEADS,
        )
    n = size * blocks
    x = torch.randn(2, n, DIM, dtype=torch.float64)
    valid = torch.arange(n) < torch.tensor([n - size, n - 2 * size - 3])[:, None]
    mark = torch.zeros(2, n, dtype=torch.bool)
    mark[:, :size] = True
    found = ours(x, Context(torch.arange(n)[None], valid, mark=mark))[0]
    torch.testing.assert_close(found[valid], encoded(theirs, x, valid)[valid], rtol=1e-9, atol=1e-9)


def test_original_full():
    """Where a block holds the whole input, everything is looked at."""
    theirs, ours = pair(64, 0, "original_full")
    x = torch.randn(2, 50, DIM, dtype=torch.float64)
    wanted = theirs.encoder(x).last_hidden_state
    torch.testing.assert_close(ours(x, Context.of(x))[0], wanted, rtol=1e-9, atol=1e-9)
