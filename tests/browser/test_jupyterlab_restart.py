"""A user at JupyterLab in real Chromium who restarts the kernel, has it crash, and opens the page again."""

from __future__ import annotations

import signal
from pathlib import Path

import farside
import psutil
import pytest
from farside import FlameServer, wait_until
from lab import KernelsHeard, Lab, browser, open_lab, open_notebook, pick_kernel
from playwright.sync_api import expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(240),
    pytest.mark.leaves("Lab and the browser live as long as the module: nothing_is_left looks then"),
]

BACK = "[restarted; back where cells ran before]"
WHERE = "import os; print('server', os.getppid())"


def test_restarts_and_a_page_that_is_opened_again(lab: Lab, chromium: str, tmp_path: Path) -> None:
    go, done = tmp_path / "go", tmp_path / "done"
    with farside.stopped(FlameServer(farside.pythons()[-1])) as server, browser(chromium) as running:
        notebook = pick_kernel(open_lab(running, lab))
        notebook.run(f"%flame connect {server.location}")
        # The button.
        notebook.restart()
        cell = notebook.run(WHERE)
        expect(notebook.output(cell)).to_contain_text(f"server {server.pid}")
        expect(notebook.output(cell)).to_contain_text(BACK)
        expect(notebook.output(notebook.run(WHERE))).not_to_contain_text("restarted")
        # A crash, after which Lab starts it again.
        kernels = KernelsHeard(notebook.page)
        kernel_of(lab).send_signal(signal.SIGKILL)
        notebook.page.locator(".jp-Dialog-button.jp-mod-accept").click()
        kernels.wait()
        cell = notebook.run(WHERE)
        expect(notebook.output(cell)).to_contain_text(f"server {server.pid}")
        expect(notebook.output(cell)).to_contain_text(BACK)
        # The page is closed while a cell runs, which goes on for longer than somebody takes to look once more.
        wait = f"import time\nprint('on')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\ntime.sleep(2.5)\n"
        cell = notebook.start(f"{wait}open({str(done)!r}, 'w').close()")
        expect(notebook.output(cell)).to_contain_text("on")
        notebook.save(lab.root / "Untitled.ipynb")
        notebook.page.close()
        go.touch()
        wait_until(done.exists, "the end of the cell")
        notebook = open_notebook(running, lab, "Untitled.ipynb")
        notebook.wait_whole(lab.root / "Untitled.ipynb")
        cell = notebook.run("print('mine')")
        expect(notebook.output(cell)).to_contain_text("show their output: %flame replay --missed")
        expect(notebook.output(cell)).to_contain_text("mine")
        notebook.screenshot(tmp_path / "again.png")


def kernel_of(lab: Lab) -> psutil.Process:
    """The process of the kernel that Lab has started."""
    children = psutil.Process(lab.process.pid).children(recursive=True)
    (found,) = [one for one in children if "-f" in one.cmdline() and any("flame_kernel" in p for p in one.cmdline())]
    return found
