"""A cell that hangs in JupyterLab in real Chromium: looked at while it runs, stopped rung by rung, and gone on after.

What a user has for it is the next cell: ``%flame where``, ``watch`` and ``top`` overtake the one that runs.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import farside
import pytest
from farside import FlameServer
from lab import Lab, browser, open_lab, pick_kernel
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture
def server(global_state: None) -> Iterator[FlameServer]:
    server = FlameServer(farside.pythons()[-1], key=farside.random_key())
    yield server
    server.stop()


@pytest.fixture
def lab(server: FlameServer) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        lab = Lab(Path(folder), server.environ())
        yield lab
        lab.stop()


def test_from_where_to_a_fresh_child(lab: Lab, server: FlameServer, chromium: str, tmp_path: Path) -> None:
    with browser(chromium) as running:
        notebook = pick_kernel(open_lab(running, lab, height=1500))
        output = notebook.output
        notebook.run("import os, time\nresults = []\ndef spin(n):\n    return sum(range(n))")
        watch = notebook.run("%flame watch len(results) --every 0.5")
        view = notebook.run("%flame where --every 0.5")
        expect(output(view)).to_contain_text("no cell runs")
        # Python: seen by the next cells, stopped by one Stop.
        cell = notebook.start("while True:\n    results.append(1); time.sleep(0.01)")
        expect(output(view)).to_contain_text("results.append(1); time.sleep(0.01)")
        expect(output(watch)).to_contain_text(re.compile(r"len\(results\) = [1-9]"))
        where = notebook.run("%flame where")
        expect(output(where)).to_contain_text("line 2, in <module>")
        notebook.wait_running(cell)
        notebook.stop()
        notebook.wait_done(cell)
        expect(output(cell)).to_contain_text("KeyboardInterrupt")
        # A call in C that lets nobody else in.
        cell = notebook.start("print('spinning', os.getpid(), flush=True)\nspin(10 ** 13)")
        expect(output(cell)).to_contain_text("spinning")
        pid = output(cell).inner_text().split()[1]
        where = notebook.run("%flame where")
        expect(output(where)).to_contain_text("seen from outside")
        expect(output(where)).to_contain_text("spin(10 ** 13)")
        expect(output(where)).to_contain_text("return sum(range(n))")
        top = notebook.run("%flame top")
        expect(output(top)).to_contain_text(f"pid {pid} on ")
        notebook.wait_running(cell)
        notebook.stop()
        said = f"The next Stop ends the session's process {pid} with SIGTERM; its variables are then lost."
        expect(output(cell)).to_contain_text(said)
        notebook.wait_running(cell)
        notebook.screenshot(tmp_path / "hangs.png")
        notebook.stop()
        notebook.wait_done(cell)
        expect(output(cell)).to_contain_text("was ended by Stop with SIGTERM")
        after = notebook.run("os.getpid() if 'os' in globals() else 'fresh'")
        expect(output(after)).to_contain_text("fresh")
        expect(output(watch)).to_contain_text("NameError")
        expect(output(view)).to_contain_text("no cell runs")
        notebook.screenshot(os.environ.get("REMOTE_FLAME_SCREENSHOT") or tmp_path / "over.png")
