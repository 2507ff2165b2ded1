"""subquad export RUN --format onnx|torch [--out DEST] [--arch.FIELD V]

DEST gets model.onnx or model.pt2 (any batch and length, padding by its mask), and for a language
model that streams step.onnx or step.pt2, one token and its state in, logits and the state out, with
state.safetensors, the state before the first token. export.json names inputs and outputs. Every
file is compared with the model at other lengths before DEST appears.
"""

import shutil
from pathlib import Path

from subquad.cli import overrides
from subquad.cli.parser import Parser
from subquad.train.folder import read_facts
from subquad.train.run import load

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Write a run's model as files that run without this library."""
    from subquad.hf.exporting import FORMATS, export
    from subquad.train.atomic import finish_folder

    argv, words = overrides.split(argv)
    given = _parser().read(argv)
    source = Path(given.run)
    changed = overrides.read(words, read_facts(source))  # before anything slow
    if given.format not in FORMATS:
        raise ValueError(f"there is no format {given.format!r}; known: {', '.join(FORMATS)}")
    dest = source / given.format if given.out is None else Path(given.out)
    if dest.exists():
        raise ValueError(f"{dest} is there already; name another folder with --out")
    model = load(source, **changed).model
    dest.parent.mkdir(parents=True, exist_ok=True)
    part = dest.with_name(f".{dest.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        made = export(model, part, given.format)
        finish_folder(part, dest)
    except ImportError as error:
        raise ValueError(str(error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"{dest}: {', '.join(made.files)}")
    print(f"largest difference from the run, at other batches and lengths: {made.difference:.2g}")
    if made.lengths is not None:
        least, most = made.lengths
        print(f"lengths: from {least} tokens{' on' if most is None else f' to {most}'}")
    if made.no_step:
        print(f"no step: {made.no_step}")
    return 0


def _parser() -> Parser:
    says = "A run's model as files that run without this library"
    parser = Parser("subquad export", f"{says}. {overrides.HELP}.")
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument(
        "--format", type=str, default="onnx", help="onnx, or torch (a .pt2 of torch.export)"
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="the folder to write; default: RUN/FORMAT"
    )
    return parser
