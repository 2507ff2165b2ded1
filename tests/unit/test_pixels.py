"""A stem whose tokens are pixels, and a head that asks for a label."""

import pytest
import torch

from subquad.nn.pixels import PixelStemConfig
from subquad.ops.positions import fourier


def test_colours_then_places():
    stem = PixelStemConfig(bands=2, image_size=(4, 6)).build(13, 1)
    image = torch.rand(2, 3, 5, 3)
    x, context = stem(image)
    assert x.shape == (2, 15, 13)
    assert context.valid is None
    assert torch.equal(x[:, :, :3], image.permute(0, 2, 3, 1).flatten(1, 2))
    places = fourier((5, 3), 2, (4, 6), x.device)
    torch.testing.assert_close(x[1, :, 3:], places.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_mapped_colours_and_learned_places(size):
    fields = {"position": "learned", "mapped": True, "place_dim": 6, "image_size": (4, 4)}
    stem = PixelStemConfig(**fields).build(16, 1)
    x, _ = stem(torch.rand(2, 3, *size))
    assert x.shape == (2, size[0] * size[1], 16)
    assert torch.equal(x[0, :, 10:], x[1, :, 10:])


def test_what_is_refused():
    with pytest.raises(ValueError, match="width of 14 is not that of places, 10, and colours, 3"):
        PixelStemConfig(bands=2).build(14, 1)
    with pytest.raises(ValueError, match=r"image_size \(4,\) must be rows and columns"):
        PixelStemConfig(image_size=(4,)).build(13, 1)
    stem = PixelStemConfig(bands=2).build(13, 1)
    with pytest.raises(ValueError, match=r"\(batch, 3 channels, height, width\), not torch.float"):
        stem(torch.rand(2, 4, 4, 3))
    with pytest.raises(ValueError, match="comes whole: it cannot be fed piece by piece"):
        stem(torch.rand(2, 3, 4, 4), None, torch.zeros(2))
