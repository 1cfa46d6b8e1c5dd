"""The flame graph in JupyterLab in real Chromium: it is drawn, zoomed and searched, and read in both themes; and who
holds an object."""

from __future__ import annotations

import pytest
from farside import FlameServer
from lab import CONTRAST, Lab, contrast, open_lab, pick_kernel
from playwright.sync_api import Browser, expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.leaves("Lab, its kernel and the browser live as long as the module: nothing_is_left looks then"),
]

CELL = """%%profile
import json, time
def slow_handler(until):
    while time.time() < until:
        json.dumps(list(range(300)))
def quick_handler(until):
    while time.time() < until: pass
slow_handler(time.time() + 1.0)
quick_handler(time.time() + 0.3)"""
HELD = """class Cart:
    __module__ = 'shop'
kept = [bytearray(1000)]
cart = Cart(); cart.lines = kept; cart.itself = cart
carts = {'anna': cart}"""
# Each text of the picture, its colour, and that of the box or the page behind it.
FILLS = """e => [...e.querySelectorAll('text')].filter(text => text.textContent).map(text => [text.textContent,
    getComputedStyle(text).fill, text.classList.contains('label')
        ? getComputedStyle(e.closest('.jp-Notebook')).backgroundColor
        : getComputedStyle(text.parentElement.querySelector('rect')).fill])"""


def test_a_flame_graph(lab: Lab, lab_server: FlameServer, chromium_browser: Browser) -> None:
    notebook = pick_kernel(open_lab(chromium_browser, lab))
    output = notebook.output(notebook.run(CELL))
    graph = output.locator(".flame-profile")
    slow = graph.locator("svg svg", has=notebook.page.locator("title", has_text="slow_handler")).first
    quick = graph.locator("svg svg", has=notebook.page.locator("title", has_text="quick_handler")).first
    expect(slow).to_be_visible()
    whole = graph.locator("svg[role=img]").bounding_box()
    assert whole is not None

    def share(box: object) -> float:
        found = slow.bounding_box() if box == "slow" else quick.bounding_box()
        assert found is not None
        return float(found["width"] / whole["width"])

    assert 0.5 < share("slow") < 0.95
    assert share("slow") > share("quick") > 0.05
    # Zoom to the call, and back.
    slow.click(position={"x": 5, "y": 8})
    expect(quick).to_be_hidden()
    assert share("slow") > 0.99
    graph.locator("button").click()
    expect(quick).to_be_visible()
    # Search: in the graph, and not by the notebook's own keys.
    graph.locator("input").fill("slow_h")
    expect(graph.locator(".said")).to_contain_text("% of the time")
    assert graph.locator("svg.found").count() >= 1
    expect(graph.locator("table")).to_contain_text("json.dumps(list(range(300)))")
    notebook.run(HELD)
    holders = notebook.output(notebook.run("%flame memory --of kept")).locator(".holders")
    expect(holders.locator("text", has_text="shop.Cart")).to_be_visible()
    expect(holders.locator("text.label", has_text=".lines")).to_be_visible()
    assert holders.locator("rect").count() == holders.locator("g:has(> rect) > title").count() > 3
    for theme in ("light", "dark"):
        if theme == "dark":
            notebook.turn_dark()
        colours = graph.evaluate(
            "e => [getComputedStyle(e).color, getComputedStyle(e.closest('.jp-Notebook')).backgroundColor]"
        )
        assert colours[0] != colours[1]
        fills = holders.evaluate(FILLS)
        assert len(fills) > 8
        for text, front, behind in fills:
            assert contrast(front, behind) >= CONTRAST, f"{text!r} in the {theme} theme"
