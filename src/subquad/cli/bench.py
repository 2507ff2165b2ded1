"""subquad bench: speed and memory of mixers and architectures, advice, or what a model costs.

subquad bench [--mixers a,b] [--archs a,b] [--lengths N,N] [--what forward,..] [--peers]
subquad bench --advise --length N --task TASK
subquad bench --count RUN | --arch NAME [--arch.FIELD V], --length N [--target-length M]
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from subquad.archs import ARCHS, PAIRS, configure, pair_parts
from subquad.cli.advising import advised
from subquad.cli.parser import Parser, add_fields, fields_of
from subquad.cli.speed import add_speed_flags, measured
from subquad.nn.choices import choose

__all__ = ["run"]

_SHORT = {"--arch": "--arch.name", "--preset": "--arch.preset"}


def run(argv: list[str]) -> int:
    """Measure, advise or count."""
    argv = [_long(word) for word in argv]
    name, preset = _value(argv, "--arch.name"), _value(argv, "--arch.preset")
    parser = _parser()
    config: Any = None
    if name is not None:
        arch = choose("architecture", name, {**ARCHS, **PAIRS})
        start = arch.Config() if preset is None else choose("preset", preset, arch.PRESETS)
        add_fields(parser, "arch", config := arch.Config, start)
    given = parser.read(argv)
    if given.advise:
        return advised(given)
    if given.count:
        return _counted(given, name, config)
    if given.run is not None or name is not None:
        raise ValueError(
            "say what is to be measured: --count for parameters and multiply-adds, or name "
            "--mixers or --archs for time and memory"
        )
    return measured(given)


def _counted(given: Any, name: str | None, config: Any) -> int:
    """Print what a model costs: parameters, and multiply-adds at a length."""
    if (given.run is None) == (name is None):
        raise ValueError("name what is to be counted: either a run folder or --arch NAME")
    if given.length is None:
        raise ValueError("say at which length: --length N, or --length N --target-length M")

    from subquad.bench.count import count, table

    if name is None:
        model = _loaded(Path(given.run))
        found = count(lambda: model, given.length, given.target_length)
    else:
        make = partial(_built, name, fields_of(config, given.arch), given.words)
        found = count(make, given.length, given.target_length)
    print(json.dumps(found.facts(), indent=2) if given.json else table(found))
    return 0


def _built(name: str, fields: dict[str, Any], words: int) -> nn.Module:
    """A new model of words."""
    from subquad import model, pair

    if name in PAIRS:
        return pair.build(**pair_parts(name, fields), vocab_size=words)
    configure(name, fields)
    return model.build(name, fields, vocab_size=words)


def _loaded(folder: Path) -> nn.Module:
    """The model of a run."""
    from subquad.train.run import load

    return load(folder).model.model


def _long(word: str) -> str:
    flag, equals, value = word.partition("=")
    return _SHORT.get(flag, flag) + equals + value


def _value(argv: list[str], flag: str) -> str | None:
    """What follows a flag: the other flags depend on it."""
    value = None
    for at, word in enumerate(argv):
        if word == flag and at + 1 < len(argv):
            value = argv[at + 1]
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
    return value


def _parser() -> Parser:
    parser = Parser(
        "subquad bench",
        "Time, peak memory and FLOPs of mixers and architectures beside torch's attention, and "
        "from which length on they are faster; --advise: what fits and is fastest for a task; "
        "--count: what one model costs. --arch NAME is short for --arch.name, --preset P for "
        "--arch.preset; --arch.FIELD VALUE changes a field of that architecture.",
    )
    parser.add_argument("run", type=str | None, nargs="?", default=None, help="a run folder")
    parser.add_argument(
        "--count", action="store_true", help="parameters, and multiply-adds of one row"
    )
    parser.add_argument(
        "--advise", action="store_true", help="what fits the memory and is fastest, by --task"
    )
    parser.add_argument("--task", type=str | None, default=None, help="of --advise")
    parser.add_argument(
        "--length", type=int | None, default=None, help="tokens, frames or patches read"
    )
    parser.add_argument(
        "--target-length", type=int | None, default=None, help="tokens written; default: as read"
    )
    parser.add_argument("--words", type=int, default=256, help="of the vocabulary")
    add_speed_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    names = ", ".join((*ARCHS, *PAIRS))
    parser.add_argument("--arch.name", type=str | None, default=None, help=names)
    parser.add_argument("--arch.preset", type=str | None, default=None, help="of --arch")
    return parser
