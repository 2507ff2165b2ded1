"""One HTML document that needs nothing else: style and scripts inside, light and dark.

A policy inside the document forbids every request, so that it is the same with and without a
network, and tells nobody that it was opened.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

from subquad.viz.curves import Chart, svg

__all__ = ["asset", "document", "facts", "figure", "table"]


def document(title: str, body: str, script: str = "") -> str:
    """The page of a body; `script` stands behind it."""
    return _DOCUMENT.format(title=escape(title), style=asset("page.css"), body=body, script=script)


def asset(name: str) -> str:
    """The text of a file of ours."""
    return (files("subquad.viz") / "assets" / name).read_text(encoding="utf-8")


def facts(told: Mapping[str, object]) -> str:
    """A list of names and values; empty ones are left out."""
    rows = "\n".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in told.items()
        if value not in ("", None)
    )
    return f"<dl>\n{rows}\n</dl>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> str:
    """A table, the first cell of each row its name; it scrolls sideways where it must."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>\n'
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>"
    )


def figure(chart: Chart) -> str:
    """A chart as a figure that says in words where its lines end."""
    said = "; ".join(f"{line.name} ends at {line.y[-1]:.4f}" for line in chart.lines)
    return (
        f'<figure role="img" tabindex="0" aria-label="{escape(chart.title)}: {escape(said)}">'
        f"{svg(chart)}</figure>"
    )


_DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
{script}
</body>
</html>
"""
