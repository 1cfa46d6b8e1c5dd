"""Forwarded ports as users ask for them: in the kernel, by the magics, and by ``jupyter flame forward``."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import shell as command
from farside import FlameServer, wait_until
from kernels import remote_flame
from notebook_shell import ipython
from ports import echoed, free_port, light, serving

from flame_kernel.forward import browser, commands
from flame_kernel.forward.forwards import Forward, Forwards


def port_in(text: str) -> int:
    found = re.search(r"http://localhost:(\d+)/", text)
    assert found is not None, text
    return int(found[1])


def test_in_the_kernel_while_a_cell_runs(flame_server: Callable[..., FlameServer]) -> None:
    with remote_flame(env={"FLAME_TARGET": flame_server().location}) as k, serving() as port:
        running = k.submit("import time\nwhile not globals().get('stop'): time.sleep(0.01)")
        k.wait_for(lambda: running.messages, "it runs")
        asked = k.execute(f"%flame forward {port} --local 0")
        (shown,) = asked.of_type("display_data")
        html, text = shown.content["data"]["text/html"], shown.content["data"]["text/plain"]
        assert f'href="http://localhost:{port_in(text)}/"' in html
        assert "every user of this machine" in text.lower()
        assert echoed(port_in(text), b"through the kernel") == b"through the kernel"
        assert f"localhost:{port} at" in k.execute("%flame forwards").stdout
        assert "ended" in k.execute(f"%flame forward --stop {port}").stdout
        assert "no port is forwarded" in k.execute("%flame forwards").stdout
        k.manager.interrupt_kernel()
        k.wait(running)
        k.execute(f"%flame forward {port} --local 0")
        k.execute("%flame disconnect")
        assert "no port" in k.execute("%flame forwards").stdout


def test_by_the_magics(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    with ipython(tmp_path) as shell, serving() as port:
        shell.ok(f"%flame connect {flame_server().location} --as pi")
        ran = shell.ok(f"%flame forward {port} --local 0")
        assert echoed(port_in(ran.out), b"x" * 100_000) == b"x" * 100_000
        back = free_port()
        assert "→" in shell.ok(f"%flame forward {back}:localhost:{port} -R").out
        assert echoed(back, b"and back") == b"and back"
        assert len(shell.ok("%flame forwards").out.splitlines()) == 2
        assert "nothing is forwarded as 1" in shell.run("%flame forwards --stop 1").text
        assert shell.ok("%flame forwards --stop all").out.count("ended") == 2
        for wrong in ("", "--local 1 --unix x 80", "80 81 --local 5", "http://x", "99999"):
            assert shell.run(f"%flame forward {wrong}").error is not None


@contextlib.contextmanager
def forwarding(*words: object) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """``jupyter flame forward`` with these words, and what it said first."""
    process = subprocess.Popen(
        [command.COMMAND, "forward", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=command._clean(),
    )
    assert process.stdout is not None
    said = [process.stdout.readline() for word in words[1:] if str(word)[0].isdigit()]
    try:
        yield process, said
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_by_the_command_line_until_ctrl_c(flame_server: Callable[..., FlameServer]) -> None:
    where = flame_server().location
    with serving() as port, serving() as other:
        first, second = free_port(), free_port()
        with forwarding(where, f"{first}:{port}", f"{second}:localhost:{other}") as (process, _):
            wait_until(lambda: _echoes(first), "the first one")
            assert echoed(second, b"second") == b"second"
        assert process.returncode == 130
        with pytest.raises(ConnectionRefusedError):
            echoed(first, b"x")
        # Options may stand between the words.
        with forwarding(where, "-R", f"0:{port}", "--host", "localhost", f"{second}:{other}") as (_, (told, *_)):
            assert echoed(int(told.partition(" ")[0].rpartition(":")[2]), b"back") == b"back"
            assert echoed(second, b"too") == b"too"
    done = command.flame("forward", "8080")
    assert done.code == 1
    assert "jupyter flame forward TARGET 8080" in done.err
    done = command.flame("forward", where)
    assert "name a port" in done.err


def _echoes(port: int) -> bool:
    try:
        return echoed(port, b"first") == b"first"
    except OSError:
        return False


@pytest.mark.timeout(150)
def test_a_link_that_works_from_another_machine(
    flame_server: Callable[..., FlameServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind jupyter-server-proxy the answer is a link below Jupyter's own address, and it leads there."""
    runtime = tmp_path / "runtime"
    environ = {**os.environ, "JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    words = ["--no-browser", "--ServerApp.token=secret", "--ServerApp.base_url=/user/me/", "--allow-root"]
    words += [f"--ServerApp.port={free_port()}", "--ip=127.0.0.1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "server", *words, f"--ServerApp.root_dir={tmp_path}"],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        monkeypatch.setenv("JPY_PARENT_PID", str(server.pid))
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
        browser.proxied.cache_clear()
        wait_until(lambda: browser._server() is not None, "Jupyter's server tells of itself", 50)
        info = browser._server()
        assert info is not None
        wait_until(lambda: _answers(f"{info['url']}api"), "it answers", 40)

        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"a page of the far side")

            def log_message(self, *args: object) -> None:
                pass

        with light(flame_server().location) as pi, serving(Page) as port, pi.forward(port, local=0) as one:
            shown = commands.bundle([one])
            assert f'href="/user/me/proxy/{one.local_port}/"' in shown["text/html"]
            assert f'href="http://localhost:{one.local_port}/"' in shown["text/html"]
            assert "jupyter-server-proxy" not in shown["text/plain"]
            origin = info["url"].removesuffix("/user/me/")
            request = urllib.request.Request(origin + browser.link(one), headers={"Authorization": "token secret"})
            assert urllib.request.urlopen(request, timeout=20).read() == b"a page of the far side"
    finally:
        browser.proxied.cache_clear()
        server.terminate()
        server.wait(20)


def _answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=5).status == 200)
    except OSError:
        return False


@pytest.mark.parametrize("described", [True, False])
def test_a_link_under_jupyterhub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, described: bool) -> None:
    """Its servers have a prefix, and no token that could be used to ask them."""
    monkeypatch.setenv("JPY_PARENT_PID", "4711")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    if described:
        told = {"base_url": "/user/ann%20a/", "url": "http://10.0.0.7:8888/user/ann%20a/", "token": ""}
        (tmp_path / "jpserver-4711.json").write_text(json.dumps(told))
    else:
        monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann%20a/")
    browser.proxied.cache_clear()
    session: Any = SimpleNamespace(target=SimpleNamespace(name="pi"), location="x", before_end=[])
    one = Forward(Forwards(session), 1, ("127.0.0.1", 8080), ("localhost", 80), False, None)
    try:
        assert 'href="/user/ann%20a/proxy/8080/"' in commands.bundle([one])["text/html"]
    finally:
        browser.proxied.cache_clear()


def test_without_a_proxy_the_link_says_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "proxied", lambda: None)
    session: Any = SimpleNamespace(target=SimpleNamespace(name="<b>evil</b>"), location="x", before_end=[])
    one = Forward(Forwards(session), 1, ("127.0.0.1", 8080), ("localhost", 80), False, None)
    shown = commands.bundle([one])
    assert "your browser is on this machine" in shown["text/plain"]
    assert "<b>" not in shown["text/html"]
