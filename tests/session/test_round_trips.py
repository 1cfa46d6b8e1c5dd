"""A cell costs one round trip on the link: its request out, and its result comes with a poll that is already there."""

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
        assert said.count("submit") == CELLS
        # What else there is are polls: one for each batch of events, and one that waits.
        assert set(said) == {"submit", "poll"}
        assert said.count("poll") <= 2 * CELLS + 1


@pytest.mark.parametrize("code", ["x = 1", "1 + 1", "print('a line')"], ids=["statement", "value", "print"])
def test_on_a_long_link(code: str, flame_server: Callable[..., FlameServer]) -> None:
    delay = 0.05
    with (
        FlakyLink(flame_server().location, delay=delay) as link,
        remote_flame(env={"FLAME_TARGET": link.location}) as k,
    ):
        run(k, code)
        wait_until(lambda: ops(link.messages)[-1] == "poll", "a poll that waits")
        before = len(link.messages)
        seconds = [run(k, code) for _ in range(5)]
        wait_until(lambda: ops(link.messages)[-1] == "poll", "a poll that waits")
        said = ops(link.messages[before:])
        # Out goes the cell; in comes all of it, to the poll that waits there; and that one's successor goes out.
        assert re.search("submit poll( submit|$)", " ".join(said))
        # On a busy machine a reply may just miss the batch of its output, and takes the next one.
        assert said.count("submit") == 5
        assert set(said) == {"submit", "poll"}
        assert said.count("poll") <= 12
        print(f"round trip {2 * delay * 1000:g} ms: {code!r} takes {statistics.median(seconds) * 1000:.0f} ms")
