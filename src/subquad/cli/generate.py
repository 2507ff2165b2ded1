"""subquad generate RUN --prompt TEXT [--arch.FIELD V]"""

import sys

from subquad.cli import overrides
from subquad.cli.parser import Parser
from subquad.train.folder import read_facts
from subquad.train.run import load

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Print the prompt's continuation."""
    argv, words = overrides.split(argv)
    parser = Parser("subquad generate", f"Continue a text. {overrides.HELP}.")
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument("--prompt", type=str, default="", help="the beginning; - reads stdin")
    parser.add_argument("--max-new-tokens", type=int, default=300, help="tokens at most")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    parser.add_argument("--top-p", type=float, default=0.95, help="mass of tokens to draw from")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    given = parser.read(argv)
    from pathlib import Path

    changed = overrides.read(words, read_facts(Path(given.run)))  # before anything slow
    prompt = sys.stdin.buffer.read() if given.prompt == "-" else given.prompt.encode()
    out = load(given.run, **changed).generate(
        prompt,
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        seed=given.seed,
    )
    print(out)
    return 0
