"""subquad generate RUN [--prompt TEXT] [--out FILE] [--arch.FIELD V]"""

import os
import sys
from pathlib import Path

from subquad.cli import overrides
from subquad.cli.parser import Parser
from subquad.train.folder import read_facts
from subquad.train.run import load

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Print the prompt's continuation, or write what is no text to a file."""
    argv, words = overrides.split(argv)
    given = _parser().read(argv)
    changed = overrides.read(words, read_facts(Path(given.run)))  # before anything slow
    prompt = sys.stdin.buffer.read() if given.prompt == "-" else os.fsencode(given.prompt)
    run = load(given.run, **changed)
    # where most tokens are alike, as the black of a picture, a cut leaves nothing else
    text = getattr(getattr(run.task, "kind", None), "name", "text") == "text"
    usual = (0.8, 0.95) if text else (1.0, 1.0)
    said = run.compose(
        prompt,
        None if given.out is None else Path(given.out),
        count=given.count,
        max_new_tokens=given.max_new_tokens,
        temperature=usual[0] if given.temperature is None else given.temperature,
        top_p=usual[1] if given.top_p is None else given.top_p,
        seed=given.seed,
    )
    print(said)
    return 0


def _parser() -> Parser:
    says = "Continue a text, or draw new pictures, proteins, music"
    parser = Parser("subquad generate", f"{says}. {overrides.HELP}.")
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument(
        "--prompt",
        type=str,
        default="",
        help="the beginning; - reads stdin; pixels and music: numbers of tokens",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="the file to write: .png or .npz for pictures, .npz for music, text for the rest",
    )
    parser.add_argument("--count", type=int, default=1, help="how many to draw")
    parser.add_argument(
        "--max-new-tokens",
        type=int | None,
        default=None,
        help="tokens at most; default: 300, or whole pictures",
    )
    parser.add_argument(
        "--temperature",
        type=float | None,
        default=None,
        help="0: always the likeliest; default: 0.8 for text, 1 for the rest",
    )
    parser.add_argument(
        "--top-p",
        type=float | None,
        default=None,
        help="mass of tokens to draw from; default: 0.95 for text, 1 for the rest",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    return parser
