"""``%%flame`` in JupyterLab in real Chromium: an ordinary Python notebook whose marked cells run on a stock server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from farside import FlameServer, wait_until
from lab import SLIDER, Lab, Notebook, open_lab, pick_kernel, push
from playwright.sync_api import Browser, expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(120),
    pytest.mark.leaves("Lab, its kernel and the browser live as long as the module: nothing_is_left looks then"),
]


@pytest.fixture(scope="module")
def notebook(lab: Lab, lab_server: FlameServer, chromium_browser: Browser) -> Notebook:
    """A notebook of the ordinary Python kernel, connected as ``pi``."""
    notebook = pick_kernel(open_lab(chromium_browser, lab), "Python 3 (ipykernel)")
    cell = notebook.run(f"%load_ext flame\n%flame connect {lab_server.location} --as pi")
    expect(notebook.output(cell)).to_contain_text("pi: cells run at")
    return notebook


def test_text_is_seen_before_the_cell_ends(notebook: Notebook, tmp_path: Path) -> None:
    notebook.check_text_comes_at_once(tmp_path, before="%%flame\n")


def test_a_figure_is_shown_inline(notebook: Notebook) -> None:
    cell = notebook.run("%%flame\nimport matplotlib.pyplot as plt\nplt.plot([3, 1, 4, 1, 5]);")
    notebook.check_figure(cell)


def test_stop_ends_a_sleep(notebook: Notebook) -> None:
    cell = notebook.start("%%flame\nimport time\nprint('asleep')\ntime.sleep(100)")
    expect(notebook.output(cell)).to_contain_text("asleep")
    began = time.monotonic()
    notebook.stop()
    notebook.wait_done(cell)
    expect(notebook.output(cell)).to_contain_text("KeyboardInterrupt")
    assert time.monotonic() - began < 5
    expect(notebook.output(notebook.run("%flame eval 2 ** 10"))).to_contain_text("1024")


def test_a_jobs_output_stays_in_its_cell(notebook: Notebook, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    job = notebook.run(
        "%%flame --bg\nimport os, time\n"
        f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
        "print('of the ' + 'job')"
    )
    other = notebook.run("%%flame\nprint('of the ' + 'cell')")
    go_on.touch()
    expect(notebook.output(job)).to_contain_text("of the job")
    expect(notebook.output(other)).to_have_text("of the cell\n")


def test_input_is_asked_and_answered(notebook: Notebook) -> None:
    cell = notebook.start("%%flame\nname = input('Your name? ')\nprint('Hello,', name.upper())")
    box = cell.locator(".jp-Stdin-input")
    expect(cell.locator(".jp-Stdin-prompt")).to_contain_text("Your name? ")
    box.fill("ada")
    box.press("Enter")
    notebook.wait_done(cell)
    expect(notebook.output(cell)).to_contain_text("Hello, ADA")


def test_tab_offers_the_far_sides_names(notebook: Notebook) -> None:
    notebook.run("%%flame\nfar_colour_inner = 'blue'\nfar_colour_outer = 'yellow'")

    def offered() -> list[str]:  # Lab gives up on a kernel after a second, and shows what others have found
        return [name for name in notebook.completions("%%flame\nfar_colour_") if name.startswith("far_colour_")]

    assert wait_until(offered, "the far side's names") == ["far_colour_inner", "far_colour_outer"]


def test_a_slider_of_the_far_side(notebook: Notebook) -> None:
    """Its callback runs there, also while a cell is waited for, which Lab's subshell for comms makes possible."""
    cell = notebook.run(f"%%flame\nimport time, ipywidgets as w{SLIDER}")
    push(cell, 2)
    expect(notebook.output(cell)).to_contain_text("the far side hears 2")
    waits = "print('computing')\nwhile heat.value < 5: time.sleep(0.01)\nprint('at', heat.value)"
    busy = notebook.start(f"%%flame\n{waits}")
    expect(notebook.output(busy)).to_contain_text("computing")
    push(cell, 3)
    notebook.wait_done(busy)
    expect(notebook.output(busy)).to_contain_text("at 5")
    expect(notebook.output(cell)).to_contain_text("the far side hears 5")
