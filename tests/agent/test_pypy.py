"""PyPy as the far side: all places work, and what cannot work there says so.

Where PyPy is missing, a CPython that lacks the same functions stands for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import farside
import pytest
from farside import HERE, FlameServer, bare_pyro
from kernels import Kernel, remote_flame


@pytest.fixture(scope="module")
def server() -> Iterator[FlameServer]:
    python, env = farside.pypy(), {}
    if python is None:
        python = next(one for one in reversed(farside.pythons()) if not one.pyro)
        env = {"PYTHONPATH": os.pathsep.join([str(HERE / "apps" / "like_pypy"), bare_pyro()])}
    with farside.stopped(FlameServer(python, env=env)) as one:
        yield one


@pytest.fixture(params=["child", "main", "process"])
def kernel(request: pytest.FixtureRequest, server: FlameServer) -> Iterator[Kernel]:
    with remote_flame({**server.environ(), "FLAME_PLACE": request.param}) as one:
        one.place = request.param  # type: ignore[attr-defined]
        yield one


def test_cells_stops_and_memory(kernel: Kernel) -> None:
    assert kernel.execute("6 * 7").result == "42"
    run = kernel.submit("import asyncio\nprint('begun')\nawait asyncio.sleep(60)")
    kernel.wait_for_output(run, "begun")
    kernel.interrupt()
    assert kernel.wait(run).error is not None
    run = kernel.submit("print('begun')\nwhile True: pass")
    kernel.wait_for_output(run, "begun")
    kernel.interrupt()
    if kernel.place == "process":  # type: ignore[attr-defined]
        kernel.wait_for(lambda: "place = child" in run.stderr, "a sentence")
        assert "PyPy cannot stop code in a thread" in run.stderr
        assert "A second Stop abandons it" in run.stderr
        kernel.interrupt()
    assert kernel.wait(run).error is not None
    assert kernel.execute("1 + 1").result == "2"
    assert "gives no information about its memory; %flame top shows" in str(
        kernel.execute("%flame memory --types").error
    )
