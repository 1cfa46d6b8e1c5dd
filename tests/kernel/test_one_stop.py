"""One Stop ends a cell with all that it has begun: tasks, commands, processes, a debugger that asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels import Kernel
from places import PLACES, Site, kernel_at, ok


@pytest.fixture(scope="module", params=PLACES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with kernel_at(request.param) as site:
        ok(site.kernel.execute(MADE))
        yield site


MADE = """
import asyncio, os, pdb, subprocess, sys, time
n = 0
async def one(seconds=0.2):
    global n
    time.sleep(seconds); n += 1
async def both(): await asyncio.gather(*[asyncio.ensure_future(one()) for _ in range(40)])
def stands():
    local = 1
    pdb.set_trace()
    return local
"""

TASKS = {
    "gather": "await asyncio.gather(*[asyncio.ensure_future(one()) for _ in range(40)])",
    "wait": "await asyncio.wait([asyncio.ensure_future(one()) for _ in range(40)])",
    "a coroutine's own": "await both()",
    "one after the other": "for _ in range(40): await one()",
    "not awaited": "for _ in range(40): asyncio.ensure_future(one())\nawait asyncio.sleep(60)",
    "as_completed": "for f in asyncio.as_completed([one() for _ in range(40)]): await f",
}


def stop(kernel: Kernel, code: str, ready: str) -> str:
    """Send a cell, stop it once it says that it is under way, and return the name of its error."""
    run = kernel.submit(f"print({ready!r}, flush=True)\n{code}")
    kernel.wait_for_output(run, ready)
    time.sleep(0.3)  # so that the call after it blocks; a Stop that comes earlier must end it as well
    kernel.interrupt()
    kernel.wait(run, 20)
    assert "abandon" not in run.stderr
    assert run.reply is not None
    return str(run.reply.get("ename"))


@pytest.mark.parametrize("how", TASKS)
def test_tasks(kernel: Kernel, how: str) -> None:
    ok(kernel.execute("n = 0"))
    assert stop(kernel, TASKS[how], "tasks") in ("KeyboardInterrupt", "CancelledError")
    ran = ok(kernel.execute("n")).result
    assert ran is not None
    assert int(ran) < 30
    ok(kernel.execute("await asyncio.sleep(0.5)"))
    assert ok(kernel.execute("n")).result == ran


def test_tasks_of_earlier_cells_go_on(kernel: Kernel) -> None:
    code = "ticks = 0\nasync def tick():\n    global ticks\n    while True: await asyncio.sleep(0.01); ticks += 1\n"
    ok(kernel.execute(code + "ticking = asyncio.ensure_future(tick())\nawait asyncio.sleep(0.1)"))
    assert stop(kernel, "await asyncio.gather(asyncio.sleep(60), asyncio.sleep(61))", "waits") != "None"
    before = int(str(ok(kernel.execute("ticks")).result))
    assert int(str(ok(kernel.execute("await asyncio.sleep(0.2); r = ticks; ticking.cancel(); r")).result)) > before


COMMANDS = {
    "system": "os.system('sleep 61.{0}')",
    "run": "subprocess.run(['sleep', '61.{0}'])",
    "shell": "subprocess.call('sleep 61.{0}', shell=True)",
    "pipe": "subprocess.run('sleep 61.{0} | cat', shell=True)",
    "output": "subprocess.check_output(['sh', '-c', 'sleep 61.{0}; echo'])",
    "!": "get_ipython().system('sleep 61.{0}')",
}


@pytest.mark.parametrize("how", COMMANDS)
def test_commands(kernel: Kernel, how: str) -> None:
    mark = f"{list(COMMANDS).index(how)}{id(kernel) % 10**8}"
    stop(kernel, COMMANDS[how].format(mark), how)
    deadline = time.monotonic() + 10
    while (left := _running(f"61.{mark}")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    assert ok(kernel.execute("6 * 7")).result == "42"


def _running(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"sleep") and mark.encode() in words:
            found.append(int(path.parent.name))
    return found


DEBUGGERS = {
    "set_trace": "pdb.set_trace()\nx = 1",
    "breakpoint": "breakpoint()\nx = 1",
    "in a function": "stands()",
    "run": "pdb.run('1 + 1')",
    "runcall": "pdb.runcall(lambda: 5)",
    "post mortem": "try: 1 / 0\nexcept ZeroDivisionError: pdb.post_mortem(sys.exc_info()[2])",
    "of IPython": "from IPython.core.debugger import set_trace\nset_trace()\nx = 1",
}


@pytest.mark.parametrize("how", DEBUGGERS)
def test_debuggers_that_ask(kernel: Kernel, site: Site, how: str) -> None:
    if how == "of IPython" and not site.has_ipython:
        pytest.skip("no IPython there")
    run = kernel.submit(DEBUGGERS[how])
    kernel.wait_for(lambda: run.prompts, "pdb's prompt")
    kernel.interrupt()
    kernel.wait(run, 20)
    assert len(run.prompts) == 1
    assert run.reply is not None
    if site.name == "child":  # IPython's own debugger there, as in ipykernel: it tells of the Stop itself
        assert "KeyboardInterrupt" in run.stdout + run.stderr + run.traceback
    else:
        assert run.reply["ename"] == "KeyboardInterrupt"
    assert "flame_agent" not in run.traceback
    assert ok(kernel.execute("sys.gettrace() is None, 6 * 7")).result == "(True, 42)"


def test_a_thread_that_asks(kernel: Kernel, site: Site) -> None:
    """The cell waits for the thread, not for the user: it is not taken for one that waits for an answer."""
    run = kernel.submit("import threading\nt = threading.Thread(target=input, args=('?',))\nt.start(); t.join()")
    kernel.wait_for(lambda: run.prompts, "the question")
    kernel.interrupt()
    if not site.in_child:
        kernel.wait_for(lambda: run.done or "still in t.join, line 3" in run.stderr, "what the cell is in")
        if not run.done:  # else the Stop came before it waited
            kernel.interrupt()
    kernel.wait(run, 20)
    assert run.error is not None
    assert run.error["ename"] == "KeyboardInterrupt"
    assert ok(kernel.execute("input('?')", answers=("yes",))).result == "'yes'"


def test_a_fork_pool(site: Site, kernel: Kernel) -> None:
    if not site.in_child:
        pytest.skip("a server with threads is not to be forked")
    code = "import multiprocessing as mp\ndef spin(v):\n    while True: v += 1\n"
    stop(kernel, code + "with mp.get_context('fork').Pool(2) as p: p.map(spin, range(4))", "pool")
    assert ok(kernel.execute("mp.active_children()")).result == "[]"
