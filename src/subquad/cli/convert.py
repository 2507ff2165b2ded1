"""subquad convert SOURCE DEST [--to FAMILY]"""

import shutil
from pathlib import Path

from subquad.cli.parser import Parser

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Write a checkpoint of another library as ours, or ours as theirs."""
    from subquad.convert.folder import convert
    from subquad.train.atomic import finish_folder

    given = _parser().read(argv)
    source, dest = Path(given.source), Path(given.dest)
    if not source.exists():
        raise ValueError(f"there is nothing at {source}")
    if dest.exists():
        raise ValueError(f"{dest} is there already; name a folder that is not")
    dest.parent.mkdir(parents=True, exist_ok=True)
    part = dest.with_name(f".{dest.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        said = convert(source, part, given.to)
        finish_folder(part, dest)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"{said}\nmodel: {dest}")
    return 0


def _parser() -> Parser:
    parser = Parser("subquad convert", "A checkpoint of another library as ours, and back.")
    parser.add_argument("source", type=str, help="the folder of a saved model, or a torch file")
    parser.add_argument("dest", type=str, help="the folder that is written; it must not exist")
    parser.add_argument(
        "--to", type=str | None, default=None, help="of ours: the family; by default its origin"
    )
    return parser
