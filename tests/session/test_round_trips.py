"""A cell costs one round trip on the link: its request out, its events in, with the answer or a poll that waits."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable

import pytest
from farside import FlameServer, LiveApp, wait_until
from flakylink import FlakyLink
from kernels import Kernel, remote_flame
from trips import ops

CELLS = 50


def run(kernel: Kernel, code: str) -> float:
    """Seconds until the reply."""
    done = kernel.execute(code)
    assert done.error is None
    assert done.reply_at is not None
    return done.reply_at


@pytest.mark.parametrize(("code", "far"), [("x = 1", "child"), ("1 + 1", "process"), ("print('a line')", "child")])
def test_fifty_cells(
    code: str, far: str, flame_server: Callable[..., FlameServer], live_app: Callable[..., LiveApp]
) -> None:
    server = flame_server() if far == "child" else live_app()
    with (
        FlakyLink(server.location) as link,
        remote_flame(env={"FLAME_TARGET": link.location}) as k,
    ):
        run(k, code)
        before = len(link.messages)
        for _ in range(CELLS):
            run(k, code)
        said = ops(link.messages[before:])
        assert said.count("do") == CELLS
        # Where the machine was too busy for a cell to end at once, a poll brings its events. And the last one is
        # acknowledged when no other cell does that.
        assert set(said) <= {"do", "poll", "read"}
        assert said.count("poll") <= CELLS / 2


@pytest.mark.parametrize("code", ["x = 1", "1 + 1", "print('a line')"], ids=["statement", "value", "print"])
def test_on_a_long_link(code: str, flame_server: Callable[..., FlameServer]) -> None:
    delay = 0.05
    with (
        FlakyLink(flame_server().location, delay=delay) as link,
        remote_flame(env={"FLAME_TARGET": link.location}) as k,
    ):
        run(k, code)
        wait_until(lambda: ops(link.messages)[-1] in ("poll", "read"), "the end")
        before = len(link.messages)
        seconds = [run(k, code) for _ in range(5)]
        wait_until(lambda: ops(link.messages)[-1] in ("poll", "read"), "the end")
        said = ops(link.messages[before:])
        # Out goes the cell; in comes all of it: on a busy machine to the poll that waits, whose successor goes out.
        assert re.search("do( read)? do", " ".join(said))
        assert said.count("do") == 5
        assert set(said) <= {"do", "poll", "read"}
        assert said.count("poll") <= 4
        print(f"round trip {2 * delay * 1000:g} ms: {code!r} takes {statistics.median(seconds) * 1000:.0f} ms")
