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
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    parser.add_argument("--top-p", type=float, default=0.95, help="mass of tokens to draw from")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    given = parser.read(argv)
    changed = overrides.read(words, read_facts(Path(given.run)))  # before anything slow
    prompt = sys.stdin.buffer.read() if given.prompt == "-" else os.fsencode(given.prompt)
    said = load(given.run, **changed).compose(
        prompt,
        None if given.out is None else Path(given.out),
        count=given.count,
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        seed=given.seed,
    )
    print(said)
    return 0
