"""The bar of long work: shown from the first report to the last, and again for the next input."""

import io
import time

from rich.console import Console

from subquad.cli import progress


def test_a_bar_is_gone_when_all_is_done(monkeypatch):
    out = io.StringIO()

    def console(stderr):
        return Console(file=out, force_terminal=True, width=90)

    monkeypatch.setattr(progress, "Console", console)
    with progress.bar("reading", "rows") as report:
        assert out.getvalue() == ""
        report(1, 2)
        assert "reading" in out.getvalue()
        assert " 50%" in out.getvalue()
        report(1, 2)
        shown = out.getvalue()
        time.sleep(0.3)  # nobody draws it anew
        assert out.getvalue() == shown
        report(1, 4)
        assert " 25%" in out.getvalue()[len(shown) :]
    shown = out.getvalue()
    time.sleep(0.3)
    assert out.getvalue() == shown


def test_nothing_is_drawn_where_there_is_no_terminal(capsys):
    with progress.bar("reading", "rows") as report:
        report(1, 2)
        report(1, 2)
    assert capsys.readouterr() == ("", "")
