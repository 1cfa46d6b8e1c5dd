"""Apps of a host that has nothing but a loopback interface, in Chromium through forwards over links that are cut:
Bokeh, plainly, through a SOCKS proxy and from JupyterLab, and the dashboard of a Dask scheduler there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import farside
import netns
import pytest
from farside import FlameServer, wait_until
from flakylink import FlakyLink
from lab import PATIENCE, Lab, open_lab, pick_kernel
from playwright.sync_api import Browser, Page, expect
from ports import free_port, light

from flame_kernel.remote.remote import Remote

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.leaves(
        "the app, Lab, its kernel and the browser live as long as the module: nothing_is_left looks then"
    ),
]

# Its button counts there; the page shows what the far side says.
APP = """
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import Button, Div
button, said, count = Button(label="count"), Div(text="the far side has not counted"), [0]
def hear():
    count[0] += 1
    said.text = "the far side has counted %d" % count[0]
button.on_click(hear)
curdoc().add_root(column(button, said))
"""


class Host(NamedTuple):
    """A stock server, and the port of a Bokeh app beside it."""

    server: FlameServer
    port: int


@contextlib.contextmanager
def hosting(folder: Path, *options: str) -> Iterator[Host]:
    """The host and its app; in options for ``bokeh serve``, PORT is its port."""
    file = folder / "counter.py"
    file.write_text(APP)
    port = free_port()
    words = [sys.executable, "-m", "bokeh", "serve", str(file), "--port", str(port)]
    words += [one.replace("PORT", str(port)) for one in options]
    with contextlib.ExitStack() as stack:
        (within,) = stack.enter_context(netns.alone(1))
        server = stack.enter_context(farside.stopped(FlameServer(farside.pythons()[-1], unix=True, within=within)))
        app = stack.enter_context(
            subprocess.Popen([*within, *words], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        )
        stack.callback(app.terminate)
        assert app.stderr is not None
        assert any("Bokeh app running" in line for line in app.stderr), "Bokeh has ended"
        yield Host(server, port)


def _page(context: Browser) -> Page:
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    return page


def _counted(page: Page, number: int) -> None:
    """Press the button, and see what the far side says."""
    page.get_by_role("button", name="count").click()
    expect(page.get_by_text(f"the far side has counted {number}", exact=True)).to_be_visible()


def _cut(pi: Remote, link: FlakyLink) -> None:
    seen = pi.forwards.cuts
    link.cut()
    wait_until(lambda: pi.forwards.cuts > seen, "it has seen the cut")


def test_a_page_stays_alive_over_cuts(tmp_path: Path, chromium_browser: Browser) -> None:
    with (
        hosting(tmp_path) as host,
        FlakyLink(host.server.location) as link,
        light(link.location) as pi,
        pi.forward(host.port) as one,
    ):
        assert one.url == f"http://localhost:{host.port}/"
        page = _page(chromium_browser)
        sockets: list[str] = []
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.goto(one.url)
        for number in range(1, 5):
            _counted(page, number)
            _cut(pi, link)
        link.down()
        page.get_by_role("button", name="count").click()
        link.up()
        expect(page.get_by_text("the far side has counted 5", exact=True)).to_be_visible()
        assert len(sockets) == 1  # the one that it has opened first
        page.close()
        # The same as a browser's proxy: names and ports are those of the far side.
        with pi.forward(socks=True, local=0) as proxy:
            where = proxy.url.replace("socks5h", "socks5")
            context = chromium_browser.new_context(proxy={"server": where, "bypass": "<-loopback>"})
            page = _page(context)  # type: ignore[arg-type]
            page.goto(f"http://localhost:{host.port}/")
            _counted(page, 1)
            _cut(pi, link)
            _counted(page, 2)
            context.close()


@pytest.mark.long
def test_by_a_click_in_jupyterlab(tmp_path: Path, lab: Lab, chromium_browser: Browser) -> None:
    """Through jupyter-server-proxy. The paths in Bokeh's pages are absolute, so it has to be told where they are."""
    origin = urllib.parse.urlsplit(lab.url).netloc
    options = (f"--allow-websocket-origin={origin}", "--prefix=/proxy/absolute/PORT")
    with hosting(tmp_path, *options) as host:
        notebook = pick_kernel(open_lab(chromium_browser, lab))
        output = notebook.output(notebook.run(f"%flame connect {host.server.location}\n%flame forward {host.port}"))
        with notebook.page.expect_popup() as opened:
            output.locator("a[href*='/proxy/']").click()
        app = opened.value
        assert app.url.startswith(f"{lab.url}proxy/{host.port}/")
        app.goto(f"{lab.url}proxy/absolute/{host.port}/counter")
        _counted(app, 1)
        app.close()
        made = f"cluster = FlameCluster([{host.server.location!r}], scheduler='first', n_workers=1, quiet=True)"
        cell = notebook.run(f"%%local\nfrom flame import FlameCluster\n{made}\nprint(cluster.network); cluster")
        output = notebook.output(cell)
        expect(output).to_contain_text("link")
        with notebook.page.expect_popup() as opened:
            output.locator("a[href*='/status']").first.click()
        dashboard = opened.value
        assert "/proxy/" in dashboard.url
        expect(dashboard.locator("canvas").first).to_be_visible()
        dashboard.goto(dashboard.url.replace("/status", "/workers"))
        expect(dashboard.get_by_text("tls://127.0.0.1:").first).to_be_visible()  # its worker, in a table that is sent
        dashboard.close()
        notebook.run("%%local\ncluster.close()")
        notebook.run("%flame forwards --stop all")
