"""A process that is measured, and told to stop when we are."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

__all__ = ["watched"]

# A process that is started counts what its starter holds at that moment into its own peak. So a
# small one stands between, which starts the command, passes on the request to stop, and tells.
_BETWEEN = """
import os, signal, subprocess, sys

told, running = [], []

def ask(number, frame):
    told.append(number)
    if running:
        os.kill(running[0], signal.SIGTERM)

signal.signal(signal.SIGTERM, ask)
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, start_new_session=True)
running.append(process.pid)
if told:
    os.kill(process.pid, signal.SIGTERM)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def watched(command: Sequence[str]) -> tuple[int, float, bool]:
    """Exit code and peak MB of a process, and whether we were told to stop, which it then was too.

    The process has a session of its own, so that Ctrl-C reaches it once, through us: it saves at
    the first signal, and a second one would end it while it does.
    """
    told: list[int] = []
    running: list[int] = []

    def ask(number: int) -> None:
        if running and not told:
            os.kill(running[0], signal.SIGTERM)
        told.append(number)

    between = [sys.executable, "-c", _BETWEEN, *command]
    with _signals(ask):
        process = subprocess.Popen(
            between, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        running.append(process.pid)
        if told:  # while it was starting
            os.kill(process.pid, signal.SIGTERM)
        said, _ = process.communicate()
    # nothing is said by one that was ended before it could start the command
    code, peak = map(int, said.split()) if said else (process.returncode, 0)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # bytes there, kB elsewhere
    return code, peak / unit, bool(told)


@contextlib.contextmanager
def _signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Requests to stop go to `handle`; in a thread that gets none, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asks = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {ask: signal.signal(ask, lambda number, frame: handle(number)) for ask in asks}
    try:
        yield
    finally:
        for ask, handler in before.items():
            signal.signal(ask, handler)
