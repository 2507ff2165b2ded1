"""Graphs as files, each compared with the model that it came from before anyone gets it.

Axes: B batch, N tokens.
"""

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from subquad.hf.exporting.graphs import Graph, whole
from subquad.hf.exporting.steps import step
from subquad.hf.modeling import SubquadForCausalLM

__all__ = ["FORMATS", "TOLERANCE", "Exported", "export", "write"]

FORMATS = ("onnx", "torch")
#: the largest difference from the model, of outputs whose largest is 1 or less
TOLERANCE = 1e-4
#: steps that a step graph is compared over
STEPS = 40

_HINT = 'exporting to ONNX needs onnx, onnxscript and onnxruntime: pip install "subquad[export]"'

Runner = Callable[[tuple[Any, ...]], list[Tensor]]


@dataclass(frozen=True)
class Exported:
    """What was written: files, the largest difference found, lengths, and why there is no step."""

    files: tuple[str, ...]
    difference: float
    lengths: tuple[int, int | None] | None
    no_step: str = ""


def export(model: Any, folder: Path, form: str) -> Exported:
    """Write `model.onnx` or `model.pt2` into a folder that exists, and for a language model that
    streams `step` beside it, with its first state as `state.safetensors` and names in export.json.

    Every graph is run and compared with the model at other batches and lengths than it was made
    with. ValueError if it differs by more than TOLERANCE, for a class or operator that cannot be
    exported, and for an unknown format; ImportError names what to install.
    """
    if form not in FORMATS:
        raise ValueError(f"there is no format {form!r}; known: {', '.join(FORMATS)}")
    if form == "onnx":
        _check_installed()
    model, main, no_step = model.float().cpu(), whole(model), ""
    name, worst = write(main, folder / "model", form)
    files, facts = [name], {"model": _facts(main, name)}
    if isinstance(model, SubquadForCausalLM):
        try:
            one = step(model)
        except ValueError as error:
            no_step = str(error)
        else:
            name, far = write(one, folder / "step", form)
            files += [name, _write_state(one, folder)]
            worst, facts["step"] = max(worst, far), _facts(one, name)
    (folder / "export.json").write_text(json.dumps(facts, indent=2) + "\n")
    return Exported((*files, "export.json"), worst, main.lengths, no_step)


def write(graph: Graph, stem: Path, form: str) -> tuple[str, float]:
    """Write one graph, run the file, and give its name and how far it is from the model.

    ValueError if that is too far.
    """
    path, runner = (_write_onnx if form == "onnx" else _write_torch)(graph, stem)
    try:
        if graph.initial:
            return path.name, _compare_steps(graph, runner, path.name)
        return path.name, max(_compare(graph, runner, i, path.name) for i in graph.more())
    except ValueError:
        path.unlink()
        raise


def _write_torch(graph: Graph, stem: Path) -> tuple[Path, Runner]:
    path = stem.with_suffix(".pt2")
    torch.export.save(graph.program, path)
    loaded = torch.export.load(path).module()
    return path, lambda inputs: list(loaded(*inputs))


def _write_onnx(graph: Graph, stem: Path) -> tuple[Path, Runner]:
    import onnxruntime

    path = stem.with_suffix(".onnx")
    try:
        with _silent():
            torch.onnx.export(
                graph.program,
                f=path,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        missing = sorted(set(re.findall(r"found for <OpOverload\(op='([\w.]+)'", str(error))))
        said = str(error.__cause__ or error)  # its own first line tells what to do next, coloured
        plain = re.sub(r"\x1b\[[\d;]*m", "", said).strip().split("\n")[0]
        reason = f"ONNX has no {', '.join(missing)}" if missing else plain
        raise ValueError(f"{path.name} cannot be written: {reason}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = [i.name for i in session.get_inputs()]

    def run(inputs: tuple[Any, ...]) -> list[Tensor]:
        flat = dict(zip(graph.inputs, pytree.tree_leaves(inputs), strict=True))
        found = session.run(list(graph.outputs), {n: flat[n].numpy() for n in wanted})
        return [torch.from_numpy(a) for a in found]

    return path, run


def _compare(graph: Graph, runner: Runner, inputs: tuple[Any, ...], what: str) -> float:
    """The largest difference of real outputs from the model's. ValueError if that is too much."""
    with torch.no_grad():
        want = graph.module(*inputs)
        try:
            found = runner(inputs)
        except AssertionError as error:  # a guard of the graph
            shape = " x ".join(map(str, inputs[0].shape))
            raise ValueError(f"{what} does not take inputs of {shape}: {error}") from None
    real = torch.ones((), dtype=torch.bool)
    if graph.lengths is not None and want[0].shape[:2] == inputs[0].shape:
        real = inputs[1].bool().view(*inputs[1].shape, *[1] * (want[0].dim() - 2))
    return max(_difference(a, b, real, what) for a, b in zip(found, want, strict=True))


def _compare_steps(graph: Graph, runner: Runner, what: str) -> float:
    """The same over STEPS steps, each side with its own state."""
    (ids, ours), worst = graph.more()[0], 0.0
    theirs, every = [t.clone() for t in ours], torch.ones((), dtype=torch.bool)
    for _ in range(STEPS):
        with torch.no_grad():
            want, *ours = graph.module(ids, ours)
            found, *theirs = runner((ids, theirs))
        worst = max(worst, _difference(found, want, every, what))
        ids = want.argmax(-1)
    return worst


def _difference(found: Tensor, want: Tensor, real: Tensor, what: str) -> float:
    if found.shape != want.shape:
        raise ValueError(f"{what} gives {tuple(found.shape)}, the model {tuple(want.shape)}")
    far = float(((found - want).abs() * real).max())
    scale = max(1.0, float((want.abs() * real).max()))
    if not far <= TOLERANCE * scale:
        raise ValueError(f"{what} differs from the model by {far:.3g}: it is not exported")
    return far


def _write_state(graph: Graph, folder: Path) -> str:
    from safetensors.torch import save_file

    save_file(graph.initial, folder / "state.safetensors")
    return "state.safetensors"


def _facts(graph: Graph, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "file": name,
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
    }
    if graph.lengths is not None:
        facts["lengths"] = list(graph.lengths)
    return facts


def _check_installed() -> None:
    """ImportError with the hint where a package that torch's exporter or the check needs is not."""
    missing = [n for n in ("onnx", "onnxscript", "onnxruntime") if find_spec(n) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} is missing: {_HINT}")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """torch reports on its exporter's progress by printing."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
