"""subquad show RUN [RUN] --input TEXT|FILE [--layers 1,2] [--heads 1,3] [--rows 5,7] [--out FILE]
subquad show RUN                        the report of a run, report.html in its folder
subquad show --pattern "Causal() & Window(64)" [--length N] [--out FILE]

The page of maps is one HTML file, and a PNG stands beside it; `--out FILE.png` or `.svg` writes
that alone. Two runs stand side by side. A folder of transformers' own models is shown as well.
"""

from pathlib import Path
from typing import Any

from subquad.cli.parser import Parser
from subquad.nn.choices import choose

__all__ = ["run"]

_MARKS = "Marked"


def run(argv: list[str]) -> int:
    """Write a page and a picture, and say where."""
    parser = _parser()
    given = parser.read(parser.words_first(argv))
    if given.pattern is not None:
        return _pattern(given)
    if not given.run:
        raise ValueError("show wants a run folder, or --pattern with the text of a pattern")
    if given.input is None:
        return _report(given)
    if len(given.run) > 2:
        raise ValueError(f"maps of two runs stand side by side, and {len(given.run)} are named")
    for name in given.run:
        if not Path(name).is_dir():
            raise ValueError(f"there is no run folder {name}")
    views = _views(given)
    page, picture = _files(given, Path(given.run[0]) / "show.html")

    from subquad.cli.showing import shown

    found = [shown(Path(name), given.input, views, given.limit) for name in given.run]
    _write(found, page, picture)
    return 0


def _views(given: Any) -> Any:
    from subquad.viz.shown import VIEWS, Views

    names = None
    if given.views is not None:
        names = [name.strip() for name in given.views.split(",") if name.strip()]
        for name in names:
            choose("view", name, dict.fromkeys(VIEWS))
    if given.memory < 1 or given.limit < 1:
        raise ValueError(
            f"--memory {given.memory} (MiB) and --limit {given.limit} (tokens) must be positive"
        )
    return Views(
        _numbers("layers", given.layers),
        _numbers("heads", given.heads),
        _numbers("rows", given.rows),
        names,
        given.memory << 20,
    )


def _numbers(flag: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--{flag} {text!r} must be whole numbers, as in 1,2") from None
    return found


def _files(given: Any, default: Path) -> tuple[Path | None, Path]:
    """The page, if there is to be one, and the picture."""
    out = default if given.out is None else Path(given.out)
    kind = out.suffix.lower()
    if kind not in (".html", ".png", ".svg"):
        raise ValueError(f"--out {out} must be a .html, .png or .svg file")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent} to write {out.name} in")
    return (out, out.with_suffix(".png")) if kind == ".html" else (None, out)


def _write(found: list[Any], page: Path | None, picture: Path) -> None:
    from subquad.viz.page import Page
    from subquad.viz.still import still

    for one in found:
        for name, value in one.facts.items():
            print(f"{name}: {value}")
    if page is not None:
        Page(found).write(page)
        print(f"page: {page}")
    still(found, picture)
    print(f"picture: {picture}")


def _pattern(given: Any) -> int:
    if given.run or given.input is not None:
        raise ValueError("--pattern is drawn by itself; leave the run and --input out")
    from subquad.ops.lowering import parse
    from subquad.viz.gallery import gallery

    pattern = parse(given.pattern)
    marks = _numbers("marks", given.marks) or ([0] if _MARKS in str(pattern) else [])
    page, picture = _files(given, Path("pattern.html"))
    shown = gallery(pattern, given.length, marks=marks, documents=given.documents)
    _write([shown], page, picture)
    return 0


def _report(given: Any) -> int:
    if len(given.run) != 1:
        raise ValueError(
            "a report is of one run, and maps of two want --input; `compare` reports on several"
        )
    for flag in ("layers", "heads", "rows", "views"):
        if given[flag] is not None:
            raise ValueError(f"--{flag} is for maps of an input; give --input TEXT or a file")
    from subquad.cli.showing import report

    out = None if given.out is None else Path(given.out)
    if out is not None and out.suffix.lower() != ".html":
        raise ValueError(f"--out {out}: a report is a .html file; maps want --input")
    print(f"report: {report(Path(given.run[0]), out)}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "subquad show",
        "What each head looks at, as a page and a picture; the report of a run; or a pattern.",
    )
    add = parser.add_argument
    add("run", type=str, nargs="*", help="run folders, one or two, or a model of transformers")
    add("--input", type=str | None, default=None, help="a text, or a file, that is looked at")
    add("--layers", type=str | None, default=None, help="numbers from 1 on, as in 1,2; default all")
    add("--heads", type=str | None, default=None, help="numbers from 1 on; default all")
    add(
        "--rows",
        type=str | None,
        default=None,
        help="queries from 0 on, kept token by token however long the input; default: 16, spread",
    )
    add(
        "--views",
        type=str | None,
        default=None,
        help="beside the maps: rollout, gradient, spans, buckets; default: all there are",
    )
    add("--out", type=str | None, default=None, help="a .html, .png or .svg; default RUN/show.html")
    add("--limit", type=int, default=16_384, help="tokens of an input, at most")
    add("--memory", type=int, default=256, help="MiB that matrices may take at once")
    add("--pattern", type=str | None, default=None, help="the text of a pattern to draw")
    add("--length", type=int, default=96, help="tokens of --pattern")
    add("--marks", type=str | None, default=None, help="marked tokens of --pattern, from 0 on")
    add("--documents", type=int, default=1, help="equal documents of --pattern, by SameLabel()")
    return parser
