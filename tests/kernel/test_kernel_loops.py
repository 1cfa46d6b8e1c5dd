"""Cells that stop the loop, or raise what ends a program in a task, a callback or a thread: the session goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernels import Kernel
from places import PLACES, Site, kernel_at, ok


@pytest.fixture(scope="module", params=PLACES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with kernel_at(request.param) as site:
        ok(site.kernel.execute("import asyncio, sys, threading\nkept = 'kept'"))
        yield site


DO = {
    "stop": "asyncio.get_event_loop().stop()",
    "stop and await": "asyncio.get_event_loop().stop(); await asyncio.sleep(0)",
    "stop later": "asyncio.get_event_loop().call_later(0.01, asyncio.get_event_loop().stop)",
    "SystemExit in a task": "async def end(): sys.exit(2)\nt = asyncio.get_event_loop().create_task(end())",
    "KeyboardInterrupt in a task": "async def end(): raise KeyboardInterrupt\n"
    "t = asyncio.get_event_loop().create_task(end())",
    "SystemExit in a callback": "asyncio.get_event_loop().call_soon(sys.exit, 2)",
    "SystemExit in a thread": "t = threading.Thread(target=sys.exit, args=(3,)); t.start(); t.join()",
    "SystemExit in an executor": "f = asyncio.get_event_loop().run_in_executor(None, sys.exit, 4)",
    "SystemExit in a task that is awaited": "async def end(): sys.exit(2)\n"
    "await asyncio.gather(end(), asyncio.sleep(0.05))",
    "SystemExit of a future's callback": "f = asyncio.get_event_loop().create_future()\n"
    "f.add_done_callback(lambda f: sys.exit(5)); f.set_result(1)",
}


@pytest.mark.parametrize("code", DO.values(), ids=DO.keys())
def test_the_session_goes_on(kernel: Kernel, code: str) -> None:
    run = kernel.execute(code)
    assert run.reply is not None
    kernel.execute("await asyncio.sleep(0.05)")  # meanwhile it happens
    assert ok(kernel.execute("await asyncio.sleep(0.01, 'awaited')")).result == "'awaited'"
    assert ok(kernel.execute("kept")).result == "'kept'"
