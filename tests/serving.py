"""A served run, as a process of its own on loopback, and one who asks it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import sys


@contextlib.contextmanager
def serving(folder, *flags):
    """(process, port) of a server that answers; it is stopped by its number."""
    words = [sys.executable, "-m", "subquad.cli", "serve", str(folder), "--port", "0", *flags]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.match(r"serving on http://127\.0\.0\.1:(\d+)", line)
        assert found, line + process.stderr.read()
        yield process, int(found[1])
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
        process.stderr.close()


def ask(port, path, body=None, kind="application/json"):
    """Status and JSON of one request."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    link.request("GET" if body is None else "POST", path, raw, {"Content-Type": kind})
    answer = link.getresponse()
    status, said = answer.status, json.loads(answer.read())
    link.close()
    return status, said
