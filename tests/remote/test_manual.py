"""Every line of Pyro4's manual on Flame, through the library, against a stock server."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from farside import FlameServer, LiveApp

import flame
from flame_kernel.remote.remote import Remote


@pytest.mark.parametrize("far", ["bare server", "app", "a server with a key", "unix socket"])
def test_the_example(
    far: str,
    flame_server: Callable[..., FlameServer],
    live_app: Callable[..., LiveApp],
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = "a key of the server, 0123456789" if far == "a server with a key" else None
    server = live_app() if far == "app" else flame_server(key=key, unix=far == "unix socket")

    pi = flame.connect(server.location, key=key)
    socketmodule = pi.module("socket")
    osmodule = pi.module("os")
    print("remote host name=", socketmodule.gethostname())
    print("remote server directory contents=", osmodule.listdir("."))

    pi.execute("import math")
    root = pi.evaluate("math.sqrt(500)")
    print("calculated square root=", root)
    with pytest.raises(ZeroDivisionError):
        print("remote exceptions also work", pi.evaluate("1//0"))

    # print something on the remote std output
    pi.builtin("print")("Hello there, remote server stdout!")
    pi.close()

    assert capsys.readouterr().out.splitlines() == [
        f"remote host name= {socket.gethostname()}",
        f"remote server directory contents= {os.listdir(os.path.join(server.folder, 'cwd'))}",
        "calculated square root= 22.360679774997898",
        "Hello there, remote server stdout!",
    ]


def test_the_methods_of_flame(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    """The rest of what stock Flame has: sendmodule, getmodule, sendfile, getfile."""
    with flame.connect(flame_server().location) as pi:
        pi.sendmodule("flame_manual_module", "def answer():\n    return 42\n")
        assert pi.module("flame_manual_module").answer() == 42
        assert "return 42" in pi.getmodule("flame_manual_module")
        there = pi.modules.tempfile.mkdtemp()
        pi.sendfile(f"{there}/data", b"some bytes")
        assert pi.getfile(f"{there}/data") == b"some bytes"
        pi.modules.shutil.rmtree(there)


def test_the_examples_of_the_library(
    flame_server: Callable[..., FlameServer], capsys: pytest.CaptureFixture[str]
) -> None:
    """What the documentation of the library shows."""
    with flame.connect(flame_server().location, timeout=10) as pi:
        assert isinstance(pi, Remote)
        assert isinstance(pi.modules.os.listdir("."), list)
        assert pi.modules.numpy.linalg.norm([3, 4]) == 5
        assert pi.modules.os.environ["HOME"]
        assert pi.builtins.max(3, 4) == 4
        assert pi.builtins.open("/etc/passwd").read().startswith("root")
        pi.execute("import math")
        assert pi.evaluate("math.sqrt(500)") == 500**0.5
        pi["x"] = 3
        assert pi["x"] == 3
        assert "x" in pi
        del pi["x"]
        assert "x" not in pi
        assert pi.module("socket").gethostname() == socket.gethostname()
        pi.builtin("print")("Hello")
        assert capsys.readouterr().out == "Hello\n"


def test_text_of_descriptors_belongs_to_the_call_that_runs(pi: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    earlier: list[Any] = []
    assert pi.cell("import os, sys", earlier.append).result(30)["status"] == "ok"
    pi.execute("os.write(sys.stdout.fileno(), b'raw\\n')")
    assert capsys.readouterr().out == "raw\n"
    assert earlier == []
