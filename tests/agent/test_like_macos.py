"""A far side and a client that lack what macOS lacks, and take themselves for one: all that a user does works there."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import walk
from farside import HERE, FlameServer

import flame
from flame_kernel.agent.session.child import exit_reason
from flame_kernel.errors import FlameError

LIKE_MACOS = HERE / "apps" / "like_macos"

CLIENT = r"""
import pathlib, socket, sys
assert sys.platform == "darwin"
import flame
where, folder = sys.argv[1:]
here = pathlib.Path(folder)
with flame.connect(where) as pi:
    pi["x"] = b"x" * 3_000_000
    assert len(pi["x"]) == 3_000_000
    (here / "a").write_text("one")
    pi.put(here / "a", here / "there")
    pi.get(here / "there", here / "b")
    assert (here / "b").read_text() == "one"
    pi.execute("print('hi')")
    with pi.forward(9) as forward:
        print(forward.url[:17])
with flame.connect() as own:
    print(own.evaluate("__import__('sys').platform"))
    try:
        own.forward(9, local="/tmp/" + "x" * 100)
    except flame.TargetError as e:
        print(e)
import flame_kernel.kernel.app, flame_kernel.magics.extension
from flame_kernel.cli.__main__ import main
sys.argv = ["jupyter-flame", "exec", "-t", where, "print(6 * 7)"]
main()
"""


def path(more: str = "") -> str:
    return os.pathsep.join([str(LIKE_MACOS), *([more] if more else [])])


@pytest.mark.leaves("a session has a new child after a crash; what is left at the end of the test counts")
@pytest.mark.parametrize("place", ["child", "process"])
def test_all_a_user_does(flame_server: Callable[..., FlameServer], place: str, tmp_path: Path) -> None:
    server = flame_server(env={"PYTHONPATH": path()})
    with flame.connect(server.location, place=place) as pi:
        assert pi.evaluate("__import__('sys').platform") == "darwin"
        steps = [walk.cells, walk.asks, walk.values, walk.files, walk.tab, walk.subprocesses, walk.stop_computing]
        steps += [walk.stop_awaiting, walk.stop_subprocess]
        if place == "child":
            steps += [walk.descriptors, walk.stop_blocked, walk.crash]
        for step in steps:
            step(pi, tmp_path)
        assert "no cell" in pi.where()
        with pytest.raises(FlameError, match="needs psutil"):
            pi.top()


def test_a_client(server: FlameServer, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, server.location, tmp_path],
        capture_output=True,
        text=True,
        timeout=55,
        env={**os.environ, "PYTHONPATH": path()},
    )
    assert "Traceback" not in done.stderr
    long = f"/tmp/{'x' * 100} is too long for a socket: 103 bytes are the most; choose a shorter path"
    assert done.stdout.splitlines() == ["hi", "http://localhost:", "darwin", long, "42"]


def test_memory_is_counted_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert exit_reason.own_peak() >= kibibytes * 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kibibytes <= exit_reason.own_peak() < kibibytes * 2
