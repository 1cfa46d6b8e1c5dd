"""JupyterLab on loopback, and a notebook in real Chromium as a user has it before him.

``Lab`` is the server, in folders of its own; ``Notebook`` one open notebook, whose methods are what hands and eyes do.
Nothing here sleeps: every step waits for what the user would wait to see.

    python tests/lab.py --screenshot picture.png        starts all of it, runs a few cells and takes a picture
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from farside import wait_until
from playwright.sync_api import Browser, Locator, Page, WebSocket, expect, sync_playwright

DISPLAY_NAME = "Remote Flame"

# Milliseconds that any one thing may take to show on a busy machine of two cores.
PATIENCE = 30_000

# For a container, where Chromium cannot make its sandbox, and for a machine without a screen or the outside world.
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# What Lab would ask or fetch when it is opened for the first time.
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/application-extension/shell": {"startMode": "multiple"},
    # Lab drops the completions of a kernel that takes more than a second, as any does on a busy machine.
    "@jupyterlab/completer-extension/manager": {"providerTimeout": 20_000},
    "@jupyterlab/docmanager-extension/plugin": {"renameUntitledFileOnSave": False},
    "@jupyterlab/notebook-extension/tracker": {"codeCellConfig": {"autoClosingBrackets": False}},
}


class Lab:
    """A JupyterLab server with a token, on a free port of loopback; ``root`` is where its notebooks lie."""

    def __init__(self, folder: Path, environ: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.root = folder / "notebooks"
        self.token = secrets.token_hex(16)
        env = {**os.environ, **(environ or {}), "JUPYTER_TOKEN": self.token}
        self.root.mkdir()
        # Kernels' sockets lie in "r": the path of one may have 107 bytes, and jupyter_server's names are long.
        for variable, name in (("CONFIG", "config"), ("DATA", "data"), ("RUNTIME", "r")):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
            env[f"JUPYTER_{variable}_DIR"] = str(folder / name)
        assert len(f"{folder}/r/kernel-{'0' * 36}-ipc-5") <= 107, folder
        for name in ("settings", "workspaces"):
            (folder / name).mkdir()
            env[f"JUPYTERLAB_{name.upper()}_DIR"] = str(folder / name)
        for plugin, settings in SETTINGS.items():
            path = folder / "settings" / f"{plugin}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
        command += ["--ServerApp.port=0", f"--ServerApp.root_dir={self.root}", "--LabApp.extension_manager=readonly"]
        command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
        # Ports are free while a kernel is restarted, and another test may take them: then it never comes back.
        command += ["--KernelManager.transport=ipc"]
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                command, env=env, cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self.url = wait_until(self._ready, "JupyterLab's start", 60)
        except BaseException:
            self.stop()
            raise

    def _ready(self) -> str | None:
        assert self.process.poll() is None, f"JupyterLab has ended:\n{self.log_text()}"
        for file in (self.folder / "r").glob("jpserver-*.json"):
            with contextlib.suppress(json.JSONDecodeError, OSError):  # it is being written, or not listening yet
                url = str(json.loads(file.read_text())["url"])
                request = urllib.request.Request(f"{url}api/status", headers={"Authorization": f"token {self.token}"})
                with urllib.request.urlopen(request, timeout=5):
                    return url
        return None

    def log_text(self) -> str:
        """What the server wrote, its kernels' own output too."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def stop(self) -> None:
        """End the server, and with it its kernels."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


@contextlib.contextmanager
def browser(executable: str) -> Iterator[Browser]:
    """Chromium, headless."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=list(CHROMIUM_ARGUMENTS))
        try:
            yield chromium
        finally:
            chromium.close()


def _new_page(chromium: Browser, width: int = 1280, height: int = 900) -> Page:
    page = chromium.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    return page


class KernelsHeard:
    """Watches a page's web sockets for the moment when a kernel has introduced itself to it.

    Lab says "idle" before there is a kernel at all, and then forgets a cell that is run.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._heard = False
        page.on("websocket", self._opened)

    def _opened(self, socket: WebSocket) -> None:
        if "/channels" in socket.url:
            socket.on("framereceived", self._received)

    def _received(self, frame: str | bytes) -> None:
        data = frame.encode() if isinstance(frame, str) else frame
        self._heard = self._heard or b"kernel_info_reply" in data

    def wait(self) -> None:
        """Until the next kernel is heard."""

        def heard() -> bool:
            self._page.wait_for_timeout(10)  # lets Playwright deliver its events
            return self._heard

        wait_until(heard, "a kernel's kernel_info_reply in the browser", PATIENCE / 1000)


def open_lab(chromium: Browser, lab: Lab, width: int = 1280, height: int = 900) -> Page:
    """JupyterLab's first page, with the launcher in sight."""
    page = _new_page(chromium, width, height)
    page.goto(f"{lab.url}lab?reset&token={lab.token}")  # not what was open in the page before
    page.locator(".jp-Launcher-body").wait_for()
    return page


def open_notebook_7(chromium: Browser, lab: Lab, name: str, kernel: str) -> Notebook:
    """A new notebook for the kernel (its name, not its title), in Notebook 7's page."""
    document = {
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
        "cells": [
            {"cell_type": "code", "id": "a", "metadata": {}, "source": "", "outputs": [], "execution_count": None}
        ],
    }
    (lab.root / name).write_text(json.dumps(document))
    page = _new_page(chromium)
    kernels = KernelsHeard(page)
    page.goto(f"{lab.url}notebooks/{name}?token={lab.token}")
    kernels.wait()
    return Notebook(page)


def open_notebook(chromium: Browser, lab: Lab, name: str) -> Notebook:
    """A notebook that is there, in a page of its own; if its kernel runs, it goes on with that."""
    page = _new_page(chromium)
    kernels = KernelsHeard(page)
    page.goto(f"{lab.url}lab/tree/{name}?token={lab.token}")
    kernels.wait()
    return Notebook(page)


def _saved_cells(path: Path) -> int:
    """How many code cells a notebook's file has; 0 while it is being written."""
    text = path.read_text()
    return sum(cell["cell_type"] == "code" for cell in json.loads(text)["cells"]) if text.endswith("}\n") else 0


def pick_kernel(page: Page, display_name: str = DISPLAY_NAME) -> Notebook:
    """Click the kernel's tile in the launcher's row of notebooks; the new notebook, its kernel ready."""
    tile = page.locator(f'.jp-LauncherCard[data-category="Notebook"][title="{display_name}"]')
    expect(tile).to_be_visible()
    kernels = KernelsHeard(page)
    tile.click()
    kernels.wait()
    return Notebook(page)


class Notebook:
    """The notebook in front."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        self.panel.wait_for()
        self.wait_idle()

    @property
    def cells(self) -> Locator:
        return self.panel.locator(".jp-Cell.jp-CodeCell")

    def wait_idle(self) -> None:
        """Until the indicator beside the kernel's name says that it is idle."""
        expect(self.panel.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')).to_be_attached()

    def write(self, code: str) -> Locator:
        """Make ``code`` the text of the last cell, cursor at its end; the cell."""
        cell = self.cells.nth(self.cells.count() - 1)
        cell.locator(".cm-content").click()
        expect(cell).to_have_class(re.compile("jp-mod-active"))
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(code)
        return cell

    def start(self, code: str) -> Locator:
        """Write and run, as Shift-Enter does, which adds a cell below; does not wait for the end.  The cell."""
        number = self.cells.count()
        self.write(code)
        cell = self.cells.nth(number - 1)
        self.page.keyboard.press("Shift+Enter")
        expect(self.cells).to_have_count(number + 1)
        return cell

    def run(self, code: str) -> Locator:
        """Write, run, and wait until the cell has its number; the cell."""
        cell = self.start(code)
        self.wait_done(cell)
        return cell

    def wait_running(self, cell: Locator) -> None:
        """Until the cell shows a star."""
        expect(cell.locator(".jp-InputPrompt")).to_have_text("[*]:")

    def wait_done(self, cell: Locator) -> None:
        """Until the cell shows its number: the kernel's reply is here."""
        expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"))

    @staticmethod
    def output(cell: Locator) -> Locator:
        """The cell's output area."""
        return cell.locator(".jp-Cell-outputArea")

    def completions(self, code: str) -> list[str]:
        """Write ``code``, press Tab; what the popup offers.  The popup and the cell are cleared."""
        self.write(code)
        self.page.keyboard.press("Tab")
        popup = self.page.locator(".jp-Completer:visible")
        popup.locator(".jp-Completer-item").first.wait_for()
        found = popup.locator(".jp-Completer-item .jp-Completer-match").all_inner_texts()
        self.page.keyboard.press("Escape")
        expect(popup).to_have_count(0)
        self._clear()
        return found

    def tooltip(self, code: str) -> str:
        """Write ``code``, press Shift-Tab; the text of the tooltip.  The tooltip and the cell are cleared."""
        self.write(code)
        self.page.keyboard.press("Shift+Tab")
        tooltip = self.page.locator(".jp-Tooltip")
        tooltip.locator(".jp-Tooltip-content").wait_for()
        text = tooltip.inner_text()
        self.page.keyboard.press("Escape")
        expect(tooltip).to_have_count(0)
        self._clear()
        return text

    def _clear(self) -> None:
        self.cells.nth(self.cells.count() - 1).locator(".cm-content").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.press("Delete")

    def answer(self, cell: Locator, text: str, prompt: str) -> None:
        """Type ``text`` in the box that asks ``prompt``, and Enter."""
        expect(cell.locator(".jp-Stdin-prompt")).to_have_text(prompt)
        box = cell.locator(".jp-Stdin-input")
        box.fill(text)
        box.press("Enter")

    def check_text_comes_at_once(self, folder: Path, before: str = "") -> None:
        """That text of a cell is seen while the cell still runs; ``before`` is what it begins with."""
        go_on = folder / "go on"
        cell = self.start(
            f"{before}import os, time\n"
            "print('the first half')\n"
            f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
            "print('the second half')"
        )
        output = self.output(cell)
        expect(output).to_contain_text("the first half")
        self.wait_running(cell)
        expect(output).not_to_contain_text("the second half")
        go_on.touch()
        expect(output).to_contain_text("the second half")
        self.wait_done(cell)

    def check_figure(self, cell: Locator) -> None:
        """That a picture which is no speck is in the output."""
        image = self.output(cell).locator('img[src^="data:image/png"]')
        expect(image).to_be_visible()
        assert image.evaluate("image => image.naturalWidth") > 100

    def stop(self) -> None:
        """The Stop button."""
        self.panel.locator('[data-jp-item-name="interrupt"]').click()

    def restart(self) -> None:
        """The Restart button, and Yes; until the new kernel is ready."""
        self.panel.locator('[data-jp-item-name="restart"]').click()
        dialog = self.page.locator(".jp-Dialog")
        with self.page.expect_response(re.compile("/api/kernels/[^/]+/restart")):
            dialog.locator(".jp-Dialog-button.jp-mod-accept").click()
        expect(dialog).to_have_count(0)
        self.wait_idle()

    def turn_dark(self) -> None:
        """Settings, Theme, JupyterLab Dark."""
        self.page.get_by_role("menuitem", name="Settings").click()
        self.page.get_by_text("Theme", exact=True).first.hover()
        self.page.get_by_text("JupyterLab Dark", exact=True).first.click()
        self.page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")

    def save(self, path: Path) -> None:
        """Control-S, until the file has all cells that the page has."""
        self.page.keyboard.press("Control+S")
        wait_until(lambda: _saved_cells(path) == self.cells.count(), "the saved notebook")

    def wait_whole(self, path: Path) -> None:
        """Until the page has all cells of the file: Lab shows them one by one."""
        expect(self.cells).to_have_count(_saved_cells(path))

    def screenshot(self, path: str | Path) -> None:
        """A picture of the whole window."""
        self.page.screenshot(path=path)


# The least contrast between a text and what is behind it, as WCAG counts it (level AA).
CONTRAST = 4.5
# The colour of an element's text, and of what is behind it.
COLOURS = """element => {
    const alpha = text => Number(text.match(/[\\d.]+/g)[3] ?? 1);
    let behind = element;
    while (behind && alpha(getComputedStyle(behind).backgroundColor) < 0.5) behind = behind.parentElement;
    return [getComputedStyle(element).color, behind ? getComputedStyle(behind).backgroundColor : 'rgb(255, 255, 255)'];
}"""


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as a browser writes them: ``rgb(1, 2, 3)``."""

    def light(colour: str) -> float:
        levels = [float(level) / 255 for level in re.findall(r"[\d.]+", colour)[:3]]
        red, green, blue = (at / 12.92 if at <= 0.04045 else ((at + 0.055) / 1.055) ** 2.4 for at in levels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((light(one), light(other)))
    return (lighter + 0.05) / (darker + 0.05)


# A slider, and below it what its callback says.
SLIDER = """
heat, told = w.IntSlider(description='heat'), w.Output()
def hear(change):
    with told:
        print('the far side hears', change.new)
heat.observe(hear, 'value')
w.VBox([heat, told])"""


def handle_of(cell: Locator) -> Locator:
    """The knob of the slider that a cell shows."""
    return cell.locator(".widget-slider .noUi-handle")


def push(cell: Locator, times: int = 1) -> None:
    """Move the slider of a cell by the right arrow key."""
    handle_of(cell).focus()
    for _ in range(times):
        cell.page.keyboard.press("ArrowRight")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a few cells in JupyterLab and take a picture.")
    parser.add_argument("--screenshot", required=True)
    parser.add_argument("--kernel", default=DISPLAY_NAME, help="the title of its tile")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--cell", action="append", help="a file with the code of a cell; repeatable")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser(options.chromium) as chromium:
        lab = Lab(Path(folder))
        try:
            notebook = pick_kernel(open_lab(chromium, lab), options.kernel)
            for path in options.cell or ():
                notebook.run(Path(path).read_text().rstrip("\n"))
            notebook.wait_idle()
            notebook.screenshot(options.screenshot)
        finally:
            lab.stop()


if __name__ == "__main__":
    main()
