"""JupyterLab's debugger in real Chromium, on a cell that runs on a stock Flame server in a process of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from farside import wait_until
from lab import Lab, browser, open_lab, pick_kernel
from playwright.sync_api import Page, expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.leaves("Lab and the browser live as long as the module: nothing_is_left looks then"),
]

CELL = "def area(width, height):\n    product = width * height\n    return product\n\narea(6, 7)"


def variable(page: Page, name: str) -> str:
    """What the panel of variables shows of a name."""
    named = page.locator(".jp-DebuggerVariables-name", has_text=re.compile(f"^{name}$"))
    return page.locator(".jp-DebuggerVariables-body jp-tree-item", has=named).first.inner_text()


def frames(page: Page) -> list[bytes]:
    """What comes to the page over web sockets that it opens from now on."""
    heard: list[bytes] = []

    def keep(frame: str | bytes) -> None:
        heard.append(frame.encode() if isinstance(frame, str) else frame)

    page.on("websocket", lambda socket: socket.on("framereceived", keep))
    return heard


def test_a_breakpoint_in_the_gutter(lab: Lab, chromium: str, tmp_path: Path) -> None:
    with browser(chromium) as running:
        page = open_lab(running, lab)
        heard = frames(page)
        notebook = pick_kernel(page)
        notebook.wait_done(notebook.start("greeting = 'hello from there'"))
        # The debugger is switched on, and shows the session's variables.
        notebook.panel.locator(".jp-DebuggerBugButton").click()
        sidebar = page.locator(".jp-DebuggerSidebar")
        sidebar.wait_for()
        assert "hello from there" in variable(page, "greeting")
        # A breakpoint beside line 2, and the cell stops there.
        cell = notebook.write(CELL)
        beside = cell.locator(".cm-breakpoint-gutter .cm-gutterElement").nth(2)
        beside.click()
        expect(beside.locator(".cm-breakpoint-icon")).to_be_visible()
        expect(page.locator(".jp-DebuggerBreakpoint-line")).to_have_text("2")
        wait_until(lambda: page.wait_for_timeout(10) or any(b'"verified": true' in one for one in heard), "its reply")
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        stack = page.locator(".jp-DebuggerCallstackFrame-name")
        expect(stack).to_have_text(["area", "<module>"])
        assert "6" in variable(page, "width")
        assert "7" in variable(page, "height")
        expect(cell.locator(".jp-DebuggerEditor-highlight")).to_have_count(1)
        expect(cell.locator(".jp-InputPrompt")).to_have_text("[*]:")
        notebook.screenshot(tmp_path / "stopped.png")
        # A step, and on to the end.
        page.locator('[data-command="debugger:next"]').click()
        assert "42" in variable(page, "product")
        page.locator('[data-command="debugger:continue"]').click()
        notebook.wait_done(cell)
        expect(notebook.output(cell)).to_have_text(re.compile("42"))
        expect(stack).to_have_count(0)
