"""reformer-pytorch's ReformerLM through the command line: equal logits for equal hashes, and back.

Against its definition, stated again here in plain torch, and that against the package where it is
installed. Theirs draws hashes in every call; here it is given those of ours. float64.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf
from safetensors.torch import load_file

import subquad.hf as shell
from subquad.cli import main
from subquad.ops.hashing import rotations

SIZES = {"num_tokens": 60, "dim": 24, "depth": 2, "max_seq_len": 40, "heads": 3, "dim_head": 6}
SIZES |= {"bucket_size": 4, "n_hashes": 2}
#: layers with all the defaults are causal or not, and turned by rotary positions
WAYS = {
    "rotary": {},
    "causal": {"causal": True},
    "axial": {"causal": True, "axial_position_emb": True},
    "grid": {"axial_position_emb": True, "axial_position_shape": [5, 8]},
    "absolute": {"causal": True, "absolute_position_emb": True, "ff_glu": True},
    "fixed": {"fixed_position_emb": True},
}


def shapes(told):
    """Their tensors that hold numbers of their own, by name."""
    dim, inner, hidden = told["dim"], told["heads"] * told["dim_head"], 4 * told["dim"]
    made = {"token_emb.weight": (told["num_tokens"], dim), "norm.weight": (dim,)}
    made |= {"norm.bias": (dim,), "out.1.weight": (told["num_tokens"], dim)}
    made |= {"out.1.bias": (told["num_tokens"],)}
    if told.get("axial_position_emb"):
        first, second = told.get("axial_position_shape") or (10, 4)
        made |= {"pos_emb.weights.0": (1, first, 1, dim), "pos_emb.weights.1": (1, 1, second, dim)}
    if told.get("absolute_position_emb"):
        made["pos_emb.emb.weight"] = (told["max_seq_len"], dim)
    up = (2 if told.get("ff_glu") else 1) * hidden
    layer = {"f.norm.weight": (dim,), "f.norm.bias": (dim,), "g.norm.weight": (dim,)}
    layer |= {"g.norm.bias": (dim,), "f.fn.toqk.weight": (inner, dim)}
    layer |= {"f.fn.tov.weight": (inner, dim), "f.fn.to_out.weight": (dim, inner)}
    layer |= {"f.fn.to_out.bias": (dim,), "g.fn.fn.w1.weight": (up, dim), "g.fn.fn.w1.bias": (up,)}
    layer |= {"g.fn.fn.w2.weight": (dim, hidden), "g.fn.fn.w2.bias": (dim,)}
    return made, layer


def tensors(told):
    """Random ones, those of layers under both of their names, and what they count out."""
    torch.manual_seed(0)
    outside, layer = shapes(told)

    def draw(shape):
        return torch.randn(shape, dtype=torch.float64) * 0.4 + float(len(shape) == 1)

    made = {name: draw(shape) for name, shape in outside.items()}
    for i in range(told["depth"]):
        for name, shape in layer.items():
            one = draw(shape)
            made[f"reformer.layers.blocks.{i}.{name[0]}.net{name[1:]}"] = one
            made[f"reformer.layers.irrev_blocks.{i}.{name}"] = one
    width = {"fixed_position_emb": told["dim"]} if told.get("fixed_position_emb") else {}
    if width:
        made["pos_emb.inv_freq"] = frequencies(told["dim"])
    elif not any(told.get(f"{n}_position_emb") for n in ("axial", "absolute")):
        made["layer_pos_emb.inv_freq"] = frequencies(told["dim_head"])
    return made


def frequencies(width):
    return 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def drawn(told, layer):
    """The rotations of ours (R, D, buckets / 2), for heads whose channels alternate there."""
    count = told["max_seq_len"] // told["bucket_size"]
    made = rotations(told["n_hashes"], [count], told["dim_head"], layer).double()
    if any(told.get(f"{name}_position_emb") for name in ("axial", "absolute", "fixed")):
        return made
    return torch.stack(made.chunk(2, 1), 2).flatten(1, 2)


def turned(x):
    """Rotary positions, of channels that alternate."""
    angle = torch.arange(len(x), dtype=x.dtype)[:, None] * frequencies(x.shape[-1])
    one, two = x[:, 0::2], x[:, 1::2]
    sin, cos = angle.sin(), angle.cos()
    return torch.stack((one * cos - two * sin, two * cos + one * sin), -1).flatten(-2)


def head(qk, v, told, directions, turn):
    """One head (N, D): sorted tokens of all rounds in one row of chunks, whose ends meet."""
    rotated = torch.einsum("nd,rdb->rnb", qk, directions)
    labels = torch.cat((rotated, -rotated), -1).argmax(-1)
    order = labels.sort(dim=-1, stable=True).indices
    chunks = order.view(-1, told["bucket_size"])
    qk = turned(qk) if turn else qk
    keys = nnf.normalize(qk, dim=-1)
    out, total = (torch.zeros(*labels.shape, w, dtype=qk.dtype) for w in (v.shape[-1], 1))
    each = len(chunks) // len(labels)
    for i, mine in enumerate(chunks):
        seen = torch.cat((mine, chunks[i - 1]))
        dots = qk[mine] @ keys[seen].T * qk.shape[-1] ** -0.5
        if told.get("causal"):
            dots = dots.masked_fill(mine[:, None] < seen, -torch.finfo(dots.dtype).max)
        dots = dots.masked_fill(mine[:, None] == seen, -5e4)
        total[i // each, mine] = dots.logsumexp(-1, keepdim=True)
        out[i // each, mine] = dots.softmax(-1) @ v[seen]
    return (total.softmax(0) * out).sum(0)


def restated(given, told, ids):
    """Logits of ReformerLM for one row of ids (N,)."""
    x = given["token_emb.weight"][ids]
    at, turn = torch.arange(len(ids)), "layer_pos_emb.inv_freq" in given
    if "pos_emb.weights.0" in given:
        grid = given["pos_emb.weights.0"] + given["pos_emb.weights.1"]
        x = x + grid.reshape(-1, told["dim"])[at]
    elif "pos_emb.emb.weight" in given:
        x = x + given["pos_emb.emb.weight"][at]
    elif "pos_emb.inv_freq" in given:
        angle = at[:, None] * given["pos_emb.inv_freq"]
        x = x + torch.cat((angle.sin(), angle.cos()), -1)
    one = two = x
    for i in range(told["depth"]):

        def part(name, i=i):
            return given[f"reformer.layers.irrev_blocks.{i}.{name}"]

        y = nnf.layer_norm(two, two.shape[-1:], part("f.norm.weight"), part("f.norm.bias"))
        qk, v = ((y @ part(f"f.fn.{w}.weight").T).unflatten(-1, (told["heads"], -1)) for w in LSH)
        directions = drawn(told, i)
        heads = [head(qk[:, h], v[:, h], told, directions, turn) for h in range(told["heads"])]
        out = torch.cat(heads, -1)
        one = one + out @ part("f.fn.to_out.weight").T + part("f.fn.to_out.bias")
        y = nnf.layer_norm(one, one.shape[-1:], part("g.norm.weight"), part("g.norm.bias"))
        y = y @ part("g.fn.fn.w1.weight").T + part("g.fn.fn.w1.bias")
        if told.get("ff_glu"):
            gate, y = y.chunk(2, -1)
            y = nnf.gelu(gate) * y
        else:
            y = nnf.gelu(y)
        two = two + y @ part("g.fn.fn.w2.weight").T + part("g.fn.fn.w2.bias")
    y = nnf.layer_norm((one + two) / 2, one.shape[-1:], given["norm.weight"], given["norm.bias"])
    return y @ given["out.1.weight"].T + given["out.1.bias"]


LSH = ("toqk", "tov")


def save(given, told):
    Path("theirs").mkdir()
    torch.save(given, "theirs/pytorch_model.bin")
    Path("theirs/config.json").write_text(json.dumps({"model_type": "reformer-pytorch", **told}))


@pytest.mark.parametrize("way", WAYS)
def test_equal_logits_and_the_way_back(way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = SIZES | WAYS[way]
    given = tensors(told)
    save(given, told)
    assert main(["convert", "theirs", "ours"]) == 0
    assert main(["convert", "ours", "back"]) == 0
    came = load_file("back/model.safetensors")
    assert given.keys() == came.keys()
    assert all(torch.equal(given[name], came[name]) for name in given)
    back = json.loads(Path("back/config.json").read_text())
    assert {name: back[name] for name in told} == told
    kind = shell.SubquadForCausalLM if told.get("causal") else shell.SubquadForMaskedLM
    ours = kind.from_pretrained("ours", dtype=torch.float64).eval()
    ids = torch.randint(60, (2, 40))
    wanted = torch.stack([restated(given, told, row) for row in ids])
    with torch.no_grad():
        found = ours(ids).logits
    assert wanted.std() > 0.1
    # sines of ours are formed in float32
    close = 1e-9 if way in ("axial", "grid", "absolute") else 1e-5
    torch.testing.assert_close(found, wanted, rtol=close, atol=close)
    # as it trains, activations forgotten
    torch.testing.assert_close(ours(ids).logits, wanted, rtol=close, atol=close)


@pytest.mark.parametrize("way", WAYS)
def test_the_definition_is_that_of_the_package(way, monkeypatch):
    peer = pytest.importorskip("reformer_pytorch", reason="reformer-pytorch is not installed")
    told = SIZES | WAYS[way]
    given = tensors(told)
    turns = iter([drawn(told, layer).permute(1, 0, 2)[None] for layer in range(told["depth"])])
    shape = told.get("axial_position_shape")
    model = peer.ReformerLM(**told | ({} if shape is None else {"axial_position_shape": (*shape,)}))
    model = model.double().eval()
    model.load_state_dict(given)

    def randn(shape, **how):
        made = next(turns)
        assert made.shape == tuple(shape)
        return made

    ids = torch.randint(60, (1, 40))
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(torch, "randn", randn)
        found = model(ids)
    torch.testing.assert_close(found[0], restated(given, told, ids[0]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_full_attn": True}, "has use_full_attn True, which ours does not compute"),
        ({"n_local_attn_heads": 1}, "has n_local_attn_heads 1, which ours does not compute"),
        ({"max_seq_len": 36}, "max_seq_len 36 is no multiple of two buckets of 4"),
        ({"axial_position_emb": True, "axial_position_shape": [40]}, "has 1 axes, and ours 2"),
    ],
)
def test_what_is_refused(fields, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tensors(SIZES), SIZES | fields)
    assert main(["convert", "theirs", "ours"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("ours").exists()
