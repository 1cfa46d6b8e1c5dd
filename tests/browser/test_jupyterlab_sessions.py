"""A user at JupyterLab in real Chromium, and what can come between: a link that is cut, a closed page, a dead kernel.

Every line that a cell prints is seen in the browser, once.
"""

from __future__ import annotations

import json
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import farside
import psutil
import pytest
from farside import FlameServer, wait_until
from flakylink import FlakyLink
from lab import KernelsHeard, Lab, browser, open_lab, open_notebook, pick_kernel
from playwright.sync_api import Locator, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

OUTAGE = 10.0  # seconds


@pytest.fixture
def far(global_state: None) -> Iterator[FlakyLink]:
    """A stock server behind a link that can be cut."""
    server = FlameServer(farside.pythons()[-1])
    try:
        with FlakyLink(server.location) as link:
            yield link
    finally:
        server.stop()


@pytest.fixture
def lab(far: FlakyLink) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        lab = Lab(Path(folder), {"FLAME_TARGET": far.location})
        # Cells that are out of sight stay in the page, where they can be read.
        tracker = lab.folder / "settings" / "@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
        tracker.write_text(json.dumps({**json.loads(tracker.read_text()), "windowingMode": "none"}))
        yield lab
        lab.stop()


def counting(folder: Path) -> str:
    """A cell that prints numbered lines until there is a file ``stop``, and pauses while there is a file ``pause``."""
    return (
        "import os, time\n"
        "number = 0\n"
        f"os.chdir({str(folder)!r})\n"
        "while not os.path.exists('stop'):\n"
        "    if os.path.exists('pause'):\n"
        "        open('paused', 'w').close()\n"
        "        time.sleep(0.01)\n"
        "        continue\n"
        "    print('line', number, flush=True)\n"
        "    number += 1\n"
        "    open('count', 'w').write(str(number))\n"
        "    time.sleep(0.02)\n"
        "print('total', number)"
    )


def count(folder: Path) -> int:
    """How many lines the cell has printed."""
    text = (folder / "count").read_text() if (folder / "count").exists() else ""
    return int(text or 0)


def lines(cell: Locator) -> list[int]:
    """The numbers of the lines that are seen in a cell."""
    text = cell.locator(".jp-Cell-outputArea").inner_text()
    return [int(number) for number in re.findall(r"^line (\d+)$", text, re.MULTILINE)]


def test_nothing_is_lost_on_the_way_to_the_browser(lab: Lab, far: FlakyLink, chromium: str, tmp_path: Path) -> None:
    with browser(chromium) as running:
        page = open_lab(running, lab)
        notebook = pick_kernel(page)
        name = re.search(r"session (\w+);", notebook.output(notebook.run("%flame status")).inner_text())
        assert name is not None

        # The link is cut for a while: that is said in the cell, and taken back.
        cell = notebook.start(counting(tmp_path))
        output = notebook.output(cell)
        expect(output).to_contain_text("line 20")
        far.down()
        began = time.monotonic()
        expect(output).to_contain_text("retrying; the cell goes on there")
        while time.monotonic() - began < OUTAGE:
            page.wait_for_timeout(100)
        printed = count(tmp_path)
        far.up()
        expect(output).to_contain_text(f"line {printed + 20}\n")
        expect(output).not_to_contain_text("retrying")
        seen = lines(cell)
        assert seen == list(range(len(seen)))

        # The tab is closed; the cell goes on to its end; a new page asks for what it printed.
        notebook.save(lab.root / "Untitled.ipynb")
        page.close()
        printed = count(tmp_path)
        wait_until(lambda: count(tmp_path) > printed + 50, "more lines")
        (tmp_path / "stop").touch()
        notebook = open_notebook(running, lab, "Untitled.ipynb")
        notebook.wait_whole(lab.root / "Untitled.ipynb")
        page = notebook.page
        again = notebook.run("%flame replay --missed")
        total = count(tmp_path)
        expect(notebook.output(again)).to_contain_text(f"total {total}")
        assert lines(again) == list(range(total))

        # The kernel is killed in a cell; Lab starts another one, which takes up the session.
        second = tmp_path / "second"
        second.mkdir()
        cell = notebook.start(counting(second))
        expect(notebook.output(cell)).to_contain_text("line 20")
        (second / "pause").touch()
        wait_until((second / "paused").exists, "the pause")
        expect(notebook.output(cell)).to_contain_text(f"line {count(second) - 1}")
        kernels = KernelsHeard(page)
        kernel_of(lab).send_signal(signal.SIGKILL)
        (second / "pause").unlink()
        page.locator(".jp-Dialog-button.jp-mod-accept").click()
        kernels.wait()
        attach = notebook.start(f"%flame attach {name[1]}")
        printed = count(second)
        expect(notebook.output(attach)).to_contain_text(f"line {printed + 20}\n")
        (second / "stop").touch()
        notebook.wait_done(attach)
        total = count(second)
        expect(notebook.output(attach)).to_contain_text(f"total {total}")
        assert lines(cell) + lines(attach) == list(range(total))
        value = notebook.run("number")
        expect(notebook.output(value)).to_contain_text(str(total))


def kernel_of(lab: Lab) -> psutil.Process:
    """The process of the kernel that Lab has started."""
    found = [
        process
        for process in psutil.Process(lab.process.pid).children(recursive=True)
        if any("flame_kernel" in part for part in process.cmdline())
    ]
    assert found, "no kernel runs"
    return found[0]
