"""Models leave as files and compute the same elsewhere, or say why they cannot.

A minute each, so a few architectures stand for all here; benchmarks/reproduce/exports.py goes
through the list. `write` compares each file with the model at other batches and lengths than it was
captured with; here it is done once more from outside, and the loaded file needs nothing of ours.
"""

import subprocess
import sys

import pytest
import torch
from torch.utils import _pytree as pytree

from catalog import tiny
from subquad.hf import SubquadConfig, SubquadForCausalLM, SubquadForMaskedLM
from subquad.hf.exporting import step, whole, write

pytestmark = [
    pytest.mark.slow,
    # torch's exporter and onnxscript use what they themselves have deprecated
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

#: architectures whose streaming state follows from what it holds: no graph of a step
NO_STEP = {
    "reformer": "the step of reformer cannot be exported: which tokens it keeps",
    "perceiver_ar": "the step of perceiver_ar cannot be exported: its latents are formed again",
}


def model_of(arch: str, fewest: int = 1):
    """A tiny model of few layers, or as many as it needs, weights large enough to matter."""
    fields = tiny(arch)
    for layers in (fewest, fields["num_layers"]):
        try:
            config = SubquadConfig(arch=arch, model={**fields, "num_layers": layers}, vocab_size=17)
            kind = SubquadForCausalLM if config.is_causal else SubquadForMaskedLM
            made = kind(config).eval()
            break
        except ValueError:
            continue
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return made


def padded(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 17, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, : length // 3] = 0
    return ids, mask


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("arch", ["performer", "local"])
def test_whole_inputs(arch, tmp_path):
    import onnxruntime

    model = model_of(arch)
    graph = whole(model)
    least, most = graph.lengths
    assert least <= 20
    assert most is None or most >= 1000
    for form in ("torch", "onnx"):
        name, far = write(graph, tmp_path / "model", form)
        assert far < 1e-4, (name, far)
    ids, mask = padded(2, 173)
    want = model(input_ids=ids, attention_mask=mask).logits
    ours = torch.export.load(tmp_path / "model.pt2").module()(ids, mask)[0]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (theirs,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    for found in (ours, torch.from_numpy(theirs)):
        assert ((found - want) * mask.unsqueeze(-1)).abs().max() < 1e-4


@pytest.mark.parametrize("arch", NO_STEP)
def test_a_state_whose_shapes_follow_from_its_numbers_has_no_step(arch):
    with pytest.raises(ValueError, match=NO_STEP[arch]):
        step(model_of(arch, fewest=2))


@pytest.mark.parametrize("arch", ["performer"])
def test_steps(arch, tmp_path):
    model = model_of(arch)
    graph = step(model)
    bounded = model.model.bounded
    for form in ("torch", "onnx"):
        assert write(graph, tmp_path / "step", form)[1] < 1e-4
    run = torch.export.load(tmp_path / "step.pt2").module()
    ids = torch.randint(0, 17, (1, 70))
    want = model(input_ids=ids).logits
    state = list(graph.initial.values())
    sizes = [t.shape for t in state]
    for at in range(70):
        found, *state = run(ids[:, at : at + 1], state)
        assert (found[0, 0] - want[0, at]).abs().max() < 1e-4, at
    assert ([t.shape for t in state] == sizes) == bounded


def test_a_file_needs_nothing_of_ours(tmp_path):
    torch.manual_seed(0)
    write(whole(model_of("local")), tmp_path / "model", "torch")
    code = (
        "import sys, torch; sys.modules['subquad'] = None; "
        f"m = torch.export.load({str(tmp_path / 'model.pt2')!r}).module(); "
        "x = torch.ones(2, 9, dtype=torch.int64); print(tuple(m(x, x)[0].shape))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.strip() == "(2, 9, 17)", said.stderr


def test_leaves_are_all_tensors():
    graph = step(model_of("performer"))
    assert all(isinstance(t, torch.Tensor) for t in pytree.tree_leaves(graph.initial))
    assert graph.inputs[1:] == tuple(graph.initial)
