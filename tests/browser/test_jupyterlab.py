"""A user at JupyterLab in real Chromium, whose cells run on a stock Flame server in a process of its own.

One Lab, one page, one notebook for all steps but the last ones; each step uses a cell of its own below the others.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path

import farside
import pytest
from farside import FlameServer
from kernels import KERNEL_NAME
from lab import DISPLAY_NAME, Lab, Notebook, open_lab, open_notebook_7, pick_kernel
from playwright.sync_api import Browser, expect
from shell import flame

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(120),
    pytest.mark.leaves("Lab, its kernels and the browser live as long as the module: nothing_is_left looks then"),
]


@pytest.fixture(scope="module")
def notebook(lab: Lab, chromium_browser: Browser) -> Notebook:
    """A notebook that was made by a click on the kernel's tile."""
    return pick_kernel(open_lab(chromium_browser, lab), DISPLAY_NAME)


def test_the_tile_has_our_logo(lab: Lab, chromium_browser: Browser) -> None:
    page = open_lab(chromium_browser, lab)
    icon = page.locator(f'.jp-LauncherCard[title="{DISPLAY_NAME}"] img').first
    expect(icon).to_be_visible()
    assert icon.evaluate("image => image.complete && image.naturalWidth > 0")
    assert f"/kernelspecs/{KERNEL_NAME}/" in (icon.get_attribute("src") or "")
    page.close()


def test_cells_run_on_the_server(notebook: Notebook, lab_server: FlameServer) -> None:
    cell = notebook.run("import os\nos.getpid(), os.getppid()")
    pids = [int(number) for number in re.findall(r"\d+", notebook.output(cell).inner_text().replace("[1]:", ""))]
    assert lab_server.pid in pids


def test_text_is_seen_before_the_cell_ends(notebook: Notebook, tmp_path: Path) -> None:
    notebook.check_text_comes_at_once(tmp_path)


def test_a_figure_is_shown_inline(notebook: Notebook) -> None:
    cell = notebook.run("import matplotlib.pyplot as plt\nplt.plot([3, 1, 4, 1, 5])\nplt.show()")
    notebook.check_figure(cell)


def test_html_is_shown(notebook: Notebook) -> None:
    cell = notebook.run("from IPython.display import HTML\nHTML('<b id=\"bold\">bold</b>')")
    expect(notebook.output(cell).locator("b#bold")).to_have_text("bold")


def test_tab_offers_the_servers_names(notebook: Notebook) -> None:
    notebook.run("flame_colour_inner = 'blue'\nflame_colour_outer = 'yellow'")
    found = notebook.completions("flame_colour_")
    assert [name for name in found if name.startswith("flame_colour_")] == ["flame_colour_inner", "flame_colour_outer"]


def test_shift_tab_shows_the_docstring(notebook: Notebook) -> None:
    notebook.run('def ignite(what, hot=True):\n    """Set fire to what is there."""')
    text = notebook.tooltip("ignite(")
    assert "Set fire to what is there." in text
    assert "what" in text
    assert "hot=True" in text


def test_input_is_asked_and_answered(notebook: Notebook, lab_server: FlameServer) -> None:
    cell = notebook.start("name = input('Your name? ')\nprint('Hello,', name.upper())")
    notebook.answer(cell, "ada", f"[{lab_server.location}] Your name? ")
    notebook.wait_done(cell)
    expect(notebook.output(cell)).to_contain_text("Hello, ADA")


def test_an_error_shows_the_cells_own_line(notebook: Notebook) -> None:
    cell = notebook.run("def divide(a, b):\n    return a / b\n\ndivide(1, 0)")
    error = notebook.output(cell).locator('[data-mime-type="application/vnd.jupyter.stderr"], .jp-RenderedText')
    expect(error.last).to_contain_text("ZeroDivisionError")
    expect(error.last).to_contain_text("return a / b")


def test_stop_ends_a_sleep(notebook: Notebook) -> None:
    cell = notebook.start("import time\nprint('asleep')\ntime.sleep(100)")
    expect(notebook.output(cell)).to_contain_text("asleep")
    began = time.monotonic()
    notebook.stop()
    notebook.wait_done(cell)
    expect(notebook.output(cell)).to_contain_text("KeyboardInterrupt")
    # The limit is the kernel's second and what a browser needs on a busy machine.
    assert time.monotonic() - began < 5
    expect(notebook.output(notebook.run("2 ** 10"))).to_contain_text("1024")


def test_restart_clears_the_names(notebook: Notebook, lab_server: FlameServer) -> None:
    notebook.run("kept = 1")
    notebook.restart()
    cell = notebook.run("kept")
    expect(cell.locator(".jp-InputPrompt")).to_have_text("[1]:")
    expect(notebook.output(cell)).to_contain_text("NameError")
    cell = notebook.run("import os\nos.getpid(), os.getppid()")
    assert str(lab_server.pid) in notebook.output(cell).inner_text()


def test_notebook_7(lab: Lab, chromium_browser: Browser) -> None:
    notebook = open_notebook_7(chromium_browser, lab, "seven.ipynb", KERNEL_NAME)
    cell = notebook.run("print('in', 'Notebook', 3 + 4)")
    expect(notebook.output(cell)).to_contain_text("in Notebook 7")
    notebook.page.close()


def test_picture(notebook: Notebook) -> None:
    """The whole of it in a picture, kept where REMOTE_FLAME_SCREENSHOT says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(os.environ.get("REMOTE_FLAME_SCREENSHOT") or Path(folder, "picture.png"))
        notebook.screenshot(path)
        assert path.stat().st_size > 10_000


def test_a_kernel_that_was_made_for_another_server(lab: Lab, chromium_browser: Browser) -> None:
    """``jupyter flame install``: a tile with the name that was chosen and our picture; its cells run on its server."""
    other = FlameServer(farside.pythons()[-1])
    try:
        words = ["--name", "flame-box", "--display-name", "Remote Flame: box", "--place", "process", "--shell", "mini"]
        data = str(lab.folder / "data")
        assert flame("install", other.location, *words, JUPYTER_DATA_DIR=data).code == 0
        page = open_lab(chromium_browser, lab)
        tile = page.locator('.jp-LauncherCard[data-category="Notebook"][title="Remote Flame: box"]')
        expect(tile.locator("img")).to_have_attribute("src", re.compile("/kernelspecs/flame-box/logo"))
        notebook = pick_kernel(page, "Remote Flame: box")
        cell = notebook.run("import os; os.getpid()")
        expect(notebook.output(cell)).to_contain_text(str(other.process.pid))
        page.close()
    finally:
        other.stop()
