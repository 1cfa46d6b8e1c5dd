"""Round trips: the same work through a link of 20 ms there and back; its time in round trips, what it takes on loopback
taken off. To connect takes TCP a round trip of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .measure import timed
from .peers import _FlameServer

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from flakylink import SlowDial

ROUND_TRIP = 0.020


def round_trips() -> dict[str, float]:
    """What each operation takes on the slow link beyond what it takes on loopback, in round trips."""
    with contextlib.ExitStack() as stack:
        server = _FlameServer(stack)
        slow = stack.enter_context(SlowDial(server.location, delay=ROUND_TRIP / 2))
        near, far = _operations(stack, server.location), _operations(stack, slow.location)
        return {name: (_best(far[name]) - _best(near[name])) / ROUND_TRIP for name in near}


def _best(work: Callable[[], Any]) -> float:
    return min(timed(work) for _ in range(5))


def _operations(stack: contextlib.ExitStack, location: str) -> dict[str, Callable[[], Any]]:
    import flame

    pi = stack.enter_context(flame.connect(location))
    pi.execute("class A: b = None\na = A(); a.b = A(); a.b.c = [1, 2, 3]")
    pi.session.complete("warm-up", "a", 1).result()

    def tab() -> Any:
        import uuid

        return pi.session.complete(uuid.uuid4().hex, "a.b.", 4).result()

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    small = Path(folder, "small")
    small.write_bytes(bytes(1024))

    def queued() -> None:
        for cell in [pi.cell("1", lambda event: None) for _ in range(50)]:
            cell.result()

    def connect() -> None:
        flame.connect(location, place="process").close()  # a child would have its interpreter to start

    return {
        "connect and close, agent there": connect,
        "cell": lambda: pi.execute("1"),
        "cell that prints": lambda: pi.cell("print(1)", lambda event: None).result(),
        "Tab": tab,
        "attribute chain and call": lambda: pi.modules.os.path.join("a", "b"),
        "a name of the session": lambda: pi["a"],
        "push a number": lambda: pi.__setitem__("x", 1),
        "50 cells at once": queued,
        "a small file there": lambda: pi.put(small, f"{folder}/{os.urandom(4).hex()}"),
        "a small file here": lambda: pi.get(str(small), f"{folder}/{os.urandom(4).hex()}"),
        "1,000 items of a remote iterator": lambda: list(pi.evaluate("iter(range(1000))", ref=True)),
    }
