"""What is answered beside the cells: an editor's question that takes its time holds up nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from farside import FlameServer

from flame_kernel.connect.target import Location, Target
from flame_kernel.session.session import Session

# An object of which the names are asked for, and told late.
SLOW = """
import threading
asked, go = threading.Event(), threading.Event()
class Slow:
    def __dir__(self):
        asked.set()
        go.wait(60)
        return ['slowly']
slow = Slow()
"""


@pytest.mark.parametrize("shell", ["ipython", "mini"])
@pytest.mark.parametrize("place", ["child", "process"])
def test_a_slow_completion_holds_up_nothing_else(
    flame_server: Callable[..., FlameServer], place: str, shell: str
) -> None:
    server = flame_server()
    session = Session(Target(Location.parse(server.location), place=place, shell=shell), lambda events: None)
    try:
        run = lambda code: session.execute(uuid.uuid4().hex, code).result(30)["status"]  # noqa: E731
        assert run(SLOW) == "ok"
        completion = session.complete(uuid.uuid4().hex, "slow.slow", 9)
        assert run("assert asked.wait(30)") == "ok"
        # What Lab asks for while somebody types; a lane that comes late has its widgets wait for the cell that runs.
        assert session.open_lane("beside").result(20)["status"] == "ok"
        assert session.comm_info().result(20)["status"] == "ok"
        assert session.usage(uuid.uuid4().hex).result(20)["pid"]
        assert session.execute(uuid.uuid4().hex, "1", lane="beside").result(20)["status"] == "ok"
        assert session.close_lane("beside").result(20)["status"] == "ok"
        assert not completion.done()
        assert run("go.set()") == "ok"
        assert completion.result(30)["matches"]
        # Nor is a thread left that waits for the next question.
        waiting = "import time\nuntil = time.monotonic() + 30\n"
        waiting += "while any(t.name in ('flame-editor', 'flame-side') for t in threading.enumerate()):\n"
        waiting += "    assert time.monotonic() < until\n    time.sleep(0.01)"
        assert run(waiting) == "ok"
    finally:
        session.close()
