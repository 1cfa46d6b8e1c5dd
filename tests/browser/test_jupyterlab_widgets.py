"""Widgets of the far side in JupyterLab in real Chromium: what a user moves there, and what is seen of it.

One Lab, one page, one notebook; each test uses cells of its own below the others, and the slider that is there.
"""

from __future__ import annotations

import pytest
from farside import FlameServer, wait_until
from kernels import remote_flame
from lab import SLIDER, Lab, Notebook, handle_of, open_lab, open_notebook, pick_kernel, push
from places import ok
from playwright.sync_api import Browser, expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(120),
    pytest.mark.leaves("Lab, its kernels and the browser live as long as the module: nothing_is_left looks then"),
]

IMPORTS = "import asyncio, os, time\nimport ipywidgets as w\nfrom IPython.display import display"


@pytest.fixture(scope="module")
def left(lab_server: FlameServer) -> str:
    """The name of a session with widgets that nobody is attached to.  Made before there is a browser, in whose presence
    jupyter_client would begin a thread for good."""
    with remote_flame(dict(lab_server.environ())) as k:
        ok(k.execute(f"import ipywidgets as w\nfrom IPython.display import display\n{SLIDER}"))
        ok(k.execute("heat.description = 'old'\nbox = w.VBox([heat, told])"))
        name = k.execute("%flame status").stdout.partition("; session ")[2].partition(";")[0]
        ok(k.execute("%flame detach"))
    return name


@pytest.fixture(scope="module")
def chromium_browser(left: str, chromium_browser: Browser) -> Browser:
    return chromium_browser


@pytest.fixture(scope="module")
def notebook(lab: Lab, chromium_browser: Browser) -> Notebook:
    notebook = pick_kernel(open_lab(chromium_browser, lab))
    notebook.run(IMPORTS)
    notebook.run(SLIDER)
    return notebook


def test_a_callback_prints_where_it_is_told_to(notebook: Notebook) -> None:
    cell = notebook.run(SLIDER)
    expect(handle_of(cell)).to_be_visible()
    push(cell, 3)
    expect(notebook.output(cell)).to_contain_text("the far side hears 3")
    notebook.run("heat.value = 42")
    expect(cell.locator(".widget-readout")).to_have_text("42")
    expect(notebook.output(cell)).to_contain_text("the far side hears 42")


def test_interact(notebook: Notebook) -> None:
    cell = notebook.run("@w.interact(x=(0, 10))\ndef square(x=3):\n    return f'{x} times {x} is {x * x}'")
    expect(notebook.output(cell)).to_contain_text("3 times 3 is 9")
    push(cell)
    expect(notebook.output(cell)).to_contain_text("4 times 4 is 16")
    expect(notebook.output(cell)).not_to_contain_text("3 times 3")


def test_the_bar_of_tqdm(notebook: Notebook) -> None:
    cell = notebook.run("from tqdm.auto import tqdm\nfor i in tqdm(range(5), desc='five'): time.sleep(0.02)")
    expect(cell.locator(".widget-hprogress, .jupyter-widget-hprogress").first).to_be_visible()
    expect(notebook.output(cell)).to_contain_text("five: 100%")
    expect(notebook.output(cell)).to_contain_text("5/5")


def test_a_picture_and_a_button(notebook: Notebook) -> None:
    """Binary buffers come here, and a click goes there; what fails in a callback is seen in the Output widget."""
    code = (
        "import io, matplotlib.figure\n"
        "def png(n):\n    file = io.BytesIO(); f = matplotlib.figure.Figure((n, 1), dpi=50); f.savefig(file); "
        "return file.getvalue()\n"
        "image, button, log = w.Image(value=png(2)), w.Button(description='wider'), w.Output()\n"
        "@log.capture()\ndef wider(_):\n    image.value = png(4); 1 / 0\n"
        "button.on_click(wider)\nw.VBox([image, button, log])"
    )
    cell = notebook.run(code)
    image = cell.locator("img.widget-image")
    expect(image).to_have_js_property("naturalWidth", 100)
    cell.get_by_role("button", name="wider").click()
    expect(image).to_have_js_property("naturalWidth", 200)
    expect(notebook.output(cell)).to_contain_text("ZeroDivisionError")


def test_while_a_cell_computes(notebook: Notebook) -> None:
    """Lab sends its comms by a subshell, so the callback runs beside the cell, which sees what it did."""
    cell = notebook.run(SLIDER)
    busy = notebook.start("print('computing')\nwhile heat.value < 5: time.sleep(0.01)\nprint('done at', heat.value)")
    expect(notebook.output(busy)).to_contain_text("computing")
    push(cell)
    expect(notebook.output(cell)).to_contain_text("the far side hears 1")
    notebook.wait_running(busy)
    push(cell, 4)
    notebook.wait_done(busy)
    expect(notebook.output(busy)).to_contain_text("done at 5")
    expect(notebook.output(cell)).to_contain_text("the far side hears 5")


def test_while_a_cell_awaits(notebook: Notebook) -> None:
    cell = notebook.run(SLIDER)
    busy = notebook.start(
        "turned = asyncio.Event()\nheat.observe(lambda c: turned.set(), 'value')\n"
        "print('waiting')\nawait turned.wait()\nprint('turned to', heat.value)"
    )
    expect(notebook.output(busy)).to_contain_text("waiting")
    push(cell)
    notebook.wait_done(busy)
    expect(notebook.output(busy)).to_contain_text("turned to 1")


def test_a_page_that_is_opened_again_has_its_widgets(notebook: Notebook, lab: Lab, chromium_browser: Browser) -> None:
    """Lab asks the far side for the widgets' states, as it asks a local kernel."""
    notebook.run("heat.value = 7\nheat")
    notebook.page.keyboard.press("Control+S")
    wait_until(lambda: "heat.value = 7" in (lab.root / "Untitled.ipynb").read_text(), "the notebook saved")
    again = open_notebook(chromium_browser, lab, "Untitled.ipynb")
    cell = again.cells.filter(has_text="heat.value = 7").last
    expect(cell.locator(".widget-readout")).to_have_text("7")
    push(cell)
    assert again.output(again.run("heat.value + 1000")).inner_text().strip().endswith("1008")
    again.page.close()


def test_widgets_of_a_session_that_is_taken_up(notebook: Notebook, left: str) -> None:
    """``%flame attach`` tells Lab of the widgets that are there, so they can be shown and answer."""
    notebook.run(f"%flame attach {left}")
    cell = notebook.run("box")
    expect(cell.locator(".widget-label").first).to_have_text("old")
    push(cell, 2)
    expect(notebook.output(cell)).to_contain_text("the far side hears 2")
    notebook.run(IMPORTS)  # for the tests that may come behind this one
