"""``%%flame -t …`` in JupyterLab in real Chromium: folded output, a grid of figures, hosts that fail."""

from __future__ import annotations

import pytest
from farside import FlameServer
from lab import COLOURS, CONTRAST, Lab, Notebook, contrast, open_lab, pick_kernel
from playwright.sync_api import Browser, expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(120),
    pytest.mark.leaves("Lab, its kernel and the browser live as long as the module: nothing_is_left looks then"),
]


@pytest.fixture(scope="module")
def notebook(lab: Lab, lab_server: FlameServer, chromium_browser: Browser) -> Notebook:
    """A notebook of the ordinary Python kernel; three sessions on the server and a place where there is none."""
    notebook = pick_kernel(open_lab(chromium_browser, lab), "Python 3 (ipykernel)")
    notebook.run(f"%load_ext flame\n%flame connect {lab_server.location}*3,127.0.0.1:9")
    notebook.run(f"%flame connect {lab_server.location}*3")
    return notebook


def test_equal_output_is_told_once_and_who_is_done_is_shown(notebook: Notebook) -> None:
    output = notebook.output(notebook.run("%%flame --progress-after 0\nprint('hello from ' + 'there')"))
    expect(output).to_contain_text("all 3 hosts")
    expect(output).to_contain_text("3 done")
    assert output.inner_text().count("hello from there") == 1


def test_figures_stand_side_by_side(notebook: Notebook) -> None:
    cell = notebook.run(
        "%%flame\nimport os, matplotlib.pyplot as plt\n"
        "plt.figure(figsize=(2.5, 1.5))\nplt.plot([1, os.getpid() % 97])\nplt.show()"
    )
    images = notebook.output(cell).locator("figure img")
    expect(images).to_have_count(3)
    tops = [images.nth(number).evaluate("image => image.getBoundingClientRect().top") for number in range(3)]
    assert max(tops) - min(tops) < 5
    assert images.first.evaluate("image => image.naturalWidth") > 100
    expect(notebook.output(cell).locator("figcaption")).to_have_count(3)


def test_those_that_fail_and_that_are_not_there_are_told_apart(notebook: Notebook, lab_server: FlameServer) -> None:
    notebook.run("%%flame -t 0\nodd = True")
    cell = notebook.run(f"%%flame -t {lab_server.location}*3,127.0.0.1:9\nprint('odd:', odd)")
    output = notebook.output(cell)
    expect(output).to_contain_text("odd: True")
    expect(output).to_contain_text("NameError: name 'odd' is not defined")
    expect(output).to_contain_text("not reachable: 127.0.0.1:9")
    expect(output).to_contain_text("3 of 4 hosts failed")


@pytest.fixture(scope="module")
def kernel_notebook(lab: Lab, lab_server: FlameServer, chromium_browser: Browser) -> Notebook:
    """A notebook of the Remote Flame kernel, connected to a group: three sessions, and a place where there is none."""
    notebook = pick_kernel(open_lab(chromium_browser, lab))
    output = notebook.output(notebook.run(f"%flame connect {lab_server.location}*3,127.0.0.1:9"))
    expect(output).to_contain_text("cells run on 4 hosts")
    expect(notebook.output(notebook.run(f"%%flame -t {lab_server.location}/2\nodd = print('odd')"))).to_have_text("odd")
    return notebook


@pytest.mark.timeout(300)  # three far sides load matplotlib
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_kernel_on_a_group_is_read_in_both_themes(kernel_notebook: Notebook, theme: str) -> None:
    notebook = kernel_notebook
    if theme == "dark":
        notebook.turn_dark()
    figures = notebook.output(
        notebook.run(
            "import os, matplotlib.pyplot as plt\n"
            "plt.figure(figsize=(2.5, 1.5))\nplt.plot([1, os.getpid() % 97])\nplt.show()"
        )
    )
    expect(figures.locator("figure img")).to_have_count(3)
    failed = notebook.output(notebook.run("print('before')\nodd"))
    expect(failed).to_contain_text("NameError: name 'odd' is not defined")
    expect(failed).to_contain_text("not reachable: 127.0.0.1:9")
    expect(failed).to_contain_text("failed: 2 of 4 hosts")
    for text in (
        figures.locator("figcaption").first,
        failed.locator("pre").first,
        failed.locator("[data-mime-type='application/vnd.jupyter.stderr'] pre").last,
    ):
        found = contrast(*text.evaluate(COLOURS))
        assert found >= CONTRAST, f"{text.inner_text()[:60]!r} in the {theme} theme: {found:.1f}"
