"""Axial positions: equal to the table they stand for, counted by real tokens, limits said."""

import pytest
import torch

import subquad as sq
from subquad import nn
from subquad.model import build, load, save


def written_out(axial):
    """The table of all positions (prod(shape), C), in the way the release forms it."""
    tables = [table.weight for table in axial.tables]
    grid = []
    for axis, table in enumerate(tables):
        view = [1] * len(tables)
        view[axis] = len(table)
        grid.append(table.view(*view, -1).expand(*axial.shape, -1))
    return torch.cat(grid, -1).flatten(0, -2)


@pytest.mark.parametrize(
    ("shape", "dims", "widths"),
    [
        ((4, 8), (), (12, 12)),
        ((4, 8), (7, 17), (7, 17)),
        ((3, 5, 2), (), (8, 8, 8)),
        ((3, 5, 2, 2, 2), (), (5, 5, 5, 5, 4)),
        ((11,), (), (24,)),
    ],
)
def test_equals_the_table_it_stands_for(shape, dims, widths):
    axial = nn.Axial(24, shape, dims)
    assert axial.dims == widths
    table = written_out(axial)
    pos = torch.randint(0, len(table), (2, 9))
    assert torch.equal(axial(pos), table[pos])
    assert axial(pos[:1, :0]).shape == (1, 0, 24)
    assert sum(p.numel() for p in axial.parameters()) == sum(
        s * w for s, w in zip(shape, widths, strict=True)
    )


def test_gradients_of_the_table_it_stands_for():
    axial = nn.Axial(6, (3, 4)).double()
    pos, weight = torch.arange(11)[None], torch.randn(1, 11, 6, dtype=torch.float64)
    parameters = list(axial.parameters())
    found = torch.autograd.grad((axial(pos) * weight).sum(), parameters)
    wanted = torch.autograd.grad((written_out(axial)[pos] * weight).sum(), parameters)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


STEM = {"position": "axial", "axial_shape": [4, 8], "axial_dims": [12, 20]}


def model(**stem):
    torch.manual_seed(0)
    fields = vars(sq.ARCHS["local"].PRESETS["tiny"])
    return build("local", fields, vocab_size=50, stem={**STEM, **stem}).eval()


def test_chosen_by_the_configuration_and_saved(tmp_path):
    made, ids = model(), torch.randint(0, 50, (2, 32))
    assert isinstance(made.stem.position, nn.Axial)
    fields = vars(sq.ARCHS["local"].PRESETS["tiny"])
    save(made, tmp_path, {"arch": "local", "model": fields, "vocab_size": 50, "stem": STEM})
    again = load(tmp_path).eval()
    assert again.stem.position.shape == (4, 8)
    assert torch.equal(again(ids)[0], made(ids)[0])


def test_positions_count_real_tokens():
    made, ids = model().double(), torch.randint(0, 50, (1, 30))
    valid = torch.arange(50)[None] >= 20
    padded = torch.cat((torch.randint(0, 50, (1, 20)), ids), 1)
    whole = made(ids)[0]
    found = made(padded, valid=valid)[0][:, 20:]
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)
    state, parts = made.init_state(1), []
    for piece in ids.split(7, 1):
        y, state = made(piece, state=state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)


def test_the_default_grid_is_that_of_the_release():
    fields = {**vars(sq.ARCHS["local"].PRESETS["tiny"]), "dim": 768}
    made = build(
        "local", fields, vocab_size=9, stem={"position": "axial", "axial_dims": [256, 512]}
    )
    shapes = [tuple(table.weight.shape) for table in made.stem.position.tables]
    assert shapes == [(128, 256), (512, 512)]


@pytest.mark.parametrize(("context", "grid"), [(1, [1, 1]), (500, [16, 32]), (65536, [256, 256])])
def test_the_task_lm_takes_a_grid_for_its_context(context, grid):
    from subquad.data.vocabulary import Bytes
    from subquad.tasks.lm import LanguageModel, LanguageModelConfig

    task = LanguageModel(LanguageModelConfig(context=context, position="axial"), Bytes())
    made = task.build("local", vars(sq.ARCHS["local"].PRESETS["tiny"]))
    assert made.config.stem["axial_shape"] == grid
    assert grid[0] * grid[1] >= context


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"position 32, .* prod\(axial_shape\) = 32 of .*\(4, 8\)"):
        model()(torch.zeros(1, 33, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"axial_dims \(12, 20\) must .* width 24, not to 32"):
        nn.Axial(24, (4, 8), (12, 20))
    with pytest.raises(ValueError, match=r"axial_dims \(24,\) name 1 axes and .*\(4, 8\) 2"):
        nn.Axial(24, (4, 8), (24,))
    with pytest.raises(ValueError, match=r"axial_shape \(4, 0\) must name at least one place"):
        nn.Axial(24, (4, 0))
    with pytest.raises(ValueError, match=r"axial_shape \(\) must name at least one place"):
        nn.Axial(24, ())


def test_tables_that_are_added():
    added = nn.AxialSum(24, (4, 8))
    grid = added.tables[0].weight[:, None] + added.tables[1].weight
    pos = torch.randint(0, 32, (2, 9))
    assert torch.equal(added(pos), grid.flatten(0, 1)[pos])
    assert added(pos[:1, :0]).shape == (1, 0, 24)
    with pytest.raises(ValueError, match=r"prod\(axial_shape\) = 32 of axial_shape \(4, 8\)"):
        added(torch.tensor([[32]]))
    with pytest.raises(ValueError, match=r"axial_shape \(4, 0\) must name at least one place"):
        nn.AxialSum(24, (4, 0))
    stem = {"position": "axial_sum", "axial_shape": [4, 8]}
    fields = {"dim": 24, "num_layers": 1, "num_heads": 2, "ffn_dim": 32, "causal": False}
    made = build("local", fields, vocab_size=9, stem=stem)
    assert isinstance(made.stem.position, nn.AxialSum)
