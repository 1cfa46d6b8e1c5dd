"""``python -m tests.benchmarks.live``: what those who ask a live app notice of a notebook inside it.

The app is that of ``notebooks/live_app.py``; one visitor asks it again and again.  Without a notebook, with one that is
attached, while it runs short cells, while a cell waits, prints, or computes: in turn, in one run, so that what else the
machine does meets them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import flame

from .measure import Figure

APP = Path(__file__).parents[2] / "notebooks" / "live_app.py"

# name -> the cell that runs meanwhile, again and again; None: no session, "": one that does nothing
PHASES: dict[str, str | None] = {
    "no notebook": None,
    "attached, idle": "",
    "short cells": "app.kiln.celsius",
    "a cell that waits": "import time; time.sleep(0.2)",
    "a cell that prints": "for n in range(200): print(n)",
    "a cell that computes": "for n in range(100): sum(range(1000))",
}


@contextlib.contextmanager
def live_app(folder: str) -> Iterator[str]:
    """The app, running in ``folder``: its address."""
    command = [sys.executable, str(APP)]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdin is not None
        assert app.stdout is not None
        yield app.stdout.readline().split()[-1].partition("//")[2]
        app.stdin.close()
        app.stdout.read()


@contextlib.contextmanager
def busy_with(cell: str | None, config: str) -> Iterator[None]:
    """A session in the app that runs ``cell`` again and again meanwhile."""
    if cell is None:
        yield
        return
    with flame.connect("kiln", config=config) as session:
        session.execute("import __main__ as app")
        over = threading.Event()

        def run() -> None:
            while cell and not over.is_set():
                session.execute(cell)

        working = threading.Thread(target=run)
        working.start()
        try:
            yield
        finally:
            over.set()
            working.join()


def visit(address: str, seconds: float, pause: float = 0.0) -> list[float]:
    """Ask again and again for so long, with a pause after each answer: the seconds that each took."""
    connection = http.client.HTTPConnection(address)
    took, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        connection.request("GET", "/celsius")
        connection.getresponse().read()
        took.append(time.perf_counter() - began)
        if pause:
            time.sleep(pause)
    connection.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description="what visitors of a live app notice of a notebook inside it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each phase in each round")
    options = parser.parse_args()
    figures = {name: Figure(name) for name in PHASES}
    with tempfile.TemporaryDirectory() as folder, live_app(folder) as address:
        config = str(Path(folder, "kiln.toml"))
        for _ in range(options.rounds):
            for name, cell in PHASES.items():
                with contextlib.redirect_stdout(io.StringIO()), busy_with(cell, config):
                    figures[name].values += visit(address, options.seconds, pause=0.002)
    print(f"{'milliseconds for an answer':28}{'median':>9}{'p95':>9}{'answers':>9}")
    for name, figure in figures.items():
        print(f"{name:28}{1000 * figure.median:9.2f}{1000 * figure.p95:9.2f}{len(figure.values):9}")


if __name__ == "__main__":
    main()
