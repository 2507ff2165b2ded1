"""subquad predict RUN INPUT... [--text TEXT] [--question TEXT] [--json] [--stream] [--out FILE.csv]
[--arch.FIELD V], and flags of the task, such as --times

An input is a file, a text, or - for the lines of stdin, each answered as it comes. A table (.jsonl,
.csv, .tsv, ..., packed or not) holds rows with the columns that training takes; so does a line that
begins with {. Rows are answered in JSON, on a line each.

--text TEXT is an input too, also where a file is called so. A text file is one input; in a run of
the task translate it is one on each line, packed or not, and an empty line is answered by an empty
one.

Each input is answered by itself; but in a run of the task match, pictures are ranked for each
text. In a run of the task forecast an input is a file of series; --out writes quantiles as a table,
--plot draws fans, and --attention how far back each head looks.

--stream reads the samples of one recording from stdin or a file, and prints what is said as it
comes; how long it may take is said first, on stderr.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from subquad.cli import overrides
from subquad.cli.parser import Parser, add_flags
from subquad.cli.progress import bar
from subquad.data.tables import lines, reader
from subquad.tasks import TASKS, find_task
from subquad.train.folder import read_facts
from subquad.train.run import Run, load

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Print what the run says to each input."""
    argv, words = overrides.split(argv)
    parser = _parser()
    given = parser.read(parser.words_first(argv))
    changed = overrides.read(words, read_facts(Path(given.run)))  # before anything slow
    how = _how(given)
    if given.stream:
        _check_stream(given, how)
    elif not given.input and given.text is None:
        raise ValueError("predict wants something to answer: inputs, - for stdin, or --text")
    run = load(given.run, **changed)
    if given.stream:
        return _stream(run, given)
    run.task.settle(**how)
    rows = _Rows(run.task, given)
    shown = [name for name in ("out", "plot", "attention") if given[name] is not None]
    try:
        if shown:
            from subquad.cli import forecasts

            print(forecasts.write(run, rows, **{name: Path(given[name]) for name in shown}))
            return 0
        with bar("hearing", "s") as run.task.report:
            for answer in run.predict_all(rows):
                told = run.task.told(answer)
                print(json.dumps(answer, ensure_ascii=False) if rows.plain else told)
                sys.stdout.flush()  # whoever reads us may wait for this line
    except ValueError as error:
        known = rows.where.removesuffix(": ") in str(error)
        raise ValueError(str(error) if known else f"{rows.where}{error}") from None
    return 0


def _how(given: Any) -> dict[str, Any]:
    """The flags of tasks that were given."""
    every = {field.name for name in TASKS for field in fields(find_task(name).Answering)}
    found = {name: given[name] for name in sorted(every) if given[name] is not None}
    return {name: value for name, value in found.items() if value is not False}


def _check_stream(given: Any, how: dict[str, Any]) -> None:
    """ValueError for anything but one input, and for what text that is out cannot heed."""
    if len(given.input) != 1 or given.question is not None or given.text is not None:
        raise ValueError(f"--stream takes one recording, and - is stdin, not {given.input}")
    if how:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in how)
        raise ValueError(
            "--stream says the likeliest token of each output as it comes, so it takes no "
            f"{flags}: leave them, or --stream"
        )


def _stream(run: Run, given: Any) -> int:
    """Print what one recording says while it comes."""
    (word,) = given.input
    # as much as is there, as soon as there is anything
    told, pieces = run.hear(sys.stdin.buffer.raw.read if word == "-" else Path(word))
    print(told, file=sys.stderr)
    for piece in pieces:
        line = json.dumps(piece, ensure_ascii=False) + "\n" if given.json else piece["text"]
        sys.stdout.write(line)
        sys.stdout.flush()
    if not given.json:
        print()
    return 0


class _Rows:
    """What the task is given, row by row; `where` the one that it has now comes from."""

    def __init__(self, task: Any, given: Any) -> None:
        self.task, self.given = task, given
        self.where, self.plain = "", given.json

    def __iter__(self) -> Iterator[Any]:
        for where, raw in _inputs(self.given, self.task):
            self.where = f"{where}: "
            self.plain = self.given.json or isinstance(raw, dict)
            row = self.task.read(raw)
            if remark := self.task.remark(row):
                print(remark, file=sys.stderr)
            if self.given.question is not None:
                row = self.task.asked(row, self.given.question)
            yield row
            self.where = ""  # errors from here on, until there is another row, are not of this one


def _inputs(given: Any, task: Any) -> Iterator[tuple[str, str | Path | dict[str, Any]]]:
    """(what it is called in errors, what the task reads) of each input."""
    if given.text is not None:
        yield "this text", given.text
    for word in given.input:
        # os.path and not pathlib, which raises for what is too long to be a name: a text may be
        is_file = os.path.isfile(word)
        if word == "-":
            yield from _lines("stdin", sys.stdin, task.lines)
        elif os.path.isdir(word):
            raise ValueError(f"{word} is a folder; name its files")
        elif Path(word).suffix == ".jsonl":
            if not is_file:
                raise ValueError(f"there is no file {word}")
            with open(word, encoding="utf-8") as rows:
                yield from _lines(word, rows)
        elif is_file and task.lines:
            yield from _lines(word, (line for _, line in lines(Path(word))), task.lines)
        elif is_file and task.by_row and (rows_of := reader(Path(word))):
            for number, row in enumerate(rows_of(Path(word)), 1):
                yield f"{word}, row {number}", row
        elif is_file:
            yield word, Path(word)
        else:
            yield "this text", word


def _lines(
    name: str, lines: Any, empty: bool = False
) -> Iterator[tuple[str, str | dict[str, Any]]]:
    """empty: an empty line is an input as well."""
    for number, line in enumerate(lines, 1):
        where = f"{name}, line {number}"
        if not line.lstrip().startswith("{"):
            if line.strip() or empty:
                yield where, line.rstrip("\r\n")
            continue
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON: {error}") from None


def _parser() -> Parser:
    parser = Parser(
        "subquad predict",
        f"What a run says to inputs: a label, spans, a summary, a translation. {overrides.HELP}.",
    )
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument(
        "input",
        type=str,
        nargs="*",
        help="files, texts, or - for the lines of stdin; a table: an input on each row",
    )
    parser.add_argument("--text", type=str | None, default=None, help="a text, as an input")
    parser.add_argument(
        "--question", type=str | None, default=None, help="asked of each input (task answer)"
    )
    parser.add_argument("--out", type=str | None, default=None, help="a .csv of forecasts to write")
    parser.add_argument("--plot", type=str | None, default=None, help="a .png of forecasts")
    parser.add_argument(
        "--attention", type=str | None, default=None, help="a .png of attention over lags"
    )
    parser.add_argument("--json", action="store_true", help="answers in JSON, all that is known")
    parser.add_argument(
        "--stream", action="store_true", help="one recording, heard as it comes (task asr)"
    )
    for name in TASKS:
        add_flags(parser, find_task(name).Answering)
    return parser
