"""Patches, their positions and class tokens; every architecture behind them."""

import pytest
import torch

from catalog import BOTH_WAYS, tiny
from subquad.model import build
from subquad.nn.patches import GridPositions, PatchStemConfig

pytestmark = pytest.mark.usefixtures("one_thread")

STEM = {"kind": "patches", "image_size": [8, 12], "patch": 4, "channels": 2}


def model(arch, causal, **stem):
    torch.manual_seed(3)
    head = {"kind": "labels", "num_labels": 5, "pool": "mean"}
    fields = tiny(arch, causal=causal)
    made = build(arch, fields, vocab_size=1, stem={**STEM, **stem}, head=head).double().eval()
    for p in made.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.15)
    return made


def pictures(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_patches_are_convolved_and_stand_in_raster_order():
    stem = PatchStemConfig((8, 12), 4, 2, 0, "none").build(6, 0).double()
    x, context = stem(images := pictures(3, 2, 8, 12))
    weight = stem.embedding.weight.view(6, 2, 4, 4)
    wanted = torch.nn.functional.conv2d(images, weight, stem.embedding.bias, stride=4)
    torch.testing.assert_close(x, wanted.flatten(2).mT, rtol=1e-12, atol=1e-12)
    assert context.pos.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert context.mark is None


@pytest.mark.parametrize("count", [1, 3])
def test_class_tokens_stand_first_and_are_marked(count):
    stem = PatchStemConfig((8, 12), 4, 2, count).build(6, 0).double()
    x, context = stem(pictures(2, 2, 8, 12))
    assert x.shape == (2, count + 6, 6)
    table = stem.position.table.weight[:count]
    torch.testing.assert_close(x[1, :count], stem.classes.weight + table)
    assert context.mark.tolist() == [[True] * count + [False] * 6] * 2


def test_positions_of_another_grid():
    positions = GridPositions(5, (2, 3), class_tokens=2).double()
    table = positions.table.weight
    assert torch.equal(positions((2, 3)), table)
    assert torch.equal(positions((4, 7))[:2], table[:2])
    assert positions((4, 7)).shape == (2 + 28, 5)
    # vectors that are the same everywhere are so on any grid
    with torch.no_grad():
        table[2:] = 3.0
    same = torch.full((20, 5), 3.0, dtype=torch.float64)
    torch.testing.assert_close(positions((5, 4))[2:], same)
    assert GridPositions(5, (2, 3)).bfloat16()((4, 6)).dtype == torch.bfloat16


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_batched_equals_alone_at_any_size(arch, causal):
    m = model(arch, causal)
    for height, width in ((8, 12), (4, 4), (20, 16)):
        images = pictures(3, 2, height, width)
        found, state = m(images)
        assert found.shape == (3, 5)
        assert state is None
        for one, row in zip(images, found, strict=True):
            torch.testing.assert_close(m(one[None])[0][0], row, rtol=1e-10, atol=1e-10)
    assert m(images[:0])[0].shape == (0, 5)


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_every_parameter_learns(arch, causal):
    m = model(arch, causal)
    images = pictures(2, 2, 32, 36).requires_grad_()
    m(images)[0].square().mean().backward()
    assert images.grad.flatten(1).any(1).all()
    still = [n for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]
    # a bias added to every key moves all scores of a query alike, and softmax does not see it
    assert all(n.endswith("key.bias") for n in still), still


@pytest.mark.parametrize("mixer", ["full", "local", "kernel", "linear"])
def test_vit_with_any_mixer(mixer):
    fields = {**tiny("vit"), "mixer": mixer}
    m = build("vit", fields, vocab_size=1, stem=STEM, head={"kind": "none"}).double().eval()
    images = pictures(2, 2, 8, 12)
    before = m(images)[0]
    images[:, :, -1, -1] += 1  # the last patch is seen by the first token
    assert (m(images)[0][:, 0] != before[:, 0]).any()
    with pytest.raises(ValueError, match="looks ahead"):
        m.init_state(2)


def test_what_does_not_do_is_said():
    m = model("vit", False)
    with pytest.raises(ValueError, match=r"10 x 12 pixels is not made of patches of 4 x 4; crop"):
        m(pictures(1, 2, 10, 12))
    with pytest.raises(ValueError, match="0 x 12 pixels is not made"):
        m(pictures(1, 2, 0, 12))
    with pytest.raises(ValueError, match="have 3 channels and the stem reads 2; convert them"):
        m(pictures(1, 3, 8, 12))
    with pytest.raises(ValueError, match=r"\(batch, channels, height, width\), not torch.uint8"):
        m(torch.zeros(1, 2, 8, 12, dtype=torch.uint8))
    images, yes = pictures(1, 2, 8, 12), torch.ones(1, 7, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"valid is \(1, 7\) and the inputs are"):
        m(images, valid=yes, mark=yes)
    streaming = model("local", True)
    state = streaming.init_state(1)
    with pytest.raises(ValueError, match="an image or array comes whole"):
        streaming(images, state=state)
    with pytest.raises(ValueError, match="30 x 30 pixels is not made of patches of 4 x 4"):
        PatchStemConfig(30, 4).build(8, 0)
    with pytest.raises(ValueError, match=r"image_size \(8, 8, 3\) is a side, or height and width"):
        PatchStemConfig((8, 8, 3), 4).build(8, 0)
    with pytest.raises(ValueError, match="no stem position is called 'learnt'; did you mean"):
        PatchStemConfig(8, 4, position="learnt").build(8, 0)
    with pytest.raises(ValueError, match="cannot share the map of patches, which holds no words"):
        build("vit", tiny("vit"), vocab_size=9, stem=STEM)
    with pytest.raises(ValueError, match="no kind of layer is called 'fulll'; did you mean 'full'"):
        build("vit", {**tiny("vit"), "mixer": "fulll"}, vocab_size=9)
