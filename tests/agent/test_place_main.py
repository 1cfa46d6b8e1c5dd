"""Cells on the server's main thread (``place = main``): what works there only, who else is served, and what is left."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from farside import FlameServer, LiveApp, Python, wait_until
from kernels import Kernel, remote_flame
from main_app import IS_MAIN, app, is_as_found, state
from places import ok
from rawagent import RawAgent, raw_agent
from stopping import BLOCKING, STOPPABLE, stop

from flame_kernel.errors import AgentError
from flame_kernel.serve import hardening


@pytest.fixture(scope="module")
def inside(server: FlameServer) -> Iterator[Kernel]:
    with remote_flame({**server.environ(), "FLAME_PLACE": "main"}) as k:
        yield k


def test_cells_have_the_main_thread_and_its_signals(inside: Kernel) -> None:
    assert inside.execute(IS_MAIN).result == "True"
    run = ok(
        inside.execute(
            "import signal, time\n"
            "def ring(*_): raise TimeoutError('rang')\n"
            "before = signal.signal(signal.SIGALRM, ring); signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
            "try: time.sleep(60)\n"
            "except TimeoutError as e: print(e)\n"
            "finally: before = signal.signal(signal.SIGALRM, before)"
        )
    )
    assert run.stdout == "rang\n"
    assert "on the server's main thread" in inside.execute("%flame status").stdout


def test_a_task_goes_on_between_cells(inside: Kernel) -> None:
    ok(inside.execute("import asyncio\nasync def later():\n    await asyncio.sleep(0.05); print('later')"))
    run = ok(inside.execute("task = asyncio.ensure_future(later())"))
    wait_until(lambda: inside.execute("task.done()").result == "True", "the task's end")
    assert run.stdout == "later\n"


@pytest.mark.parametrize("name", [*BLOCKING, *STOPPABLE])
def test_a_stop_is_a_ctrl_c(inside: Kernel, name: str) -> None:
    """What blocks in the system is stopped as well, which no other thread of a process can have."""
    inside.execute("kept = 'names survive'")
    reply, seconds = stop(inside, BLOCKING[name][0] if name in BLOCKING else STOPPABLE[name])
    assert seconds < 10
    if name != "command":
        assert reply["status"] == "error"
        assert reply["ename"] == ("CancelledError" if name == "await" else "KeyboardInterrupt")
    assert inside.execute("kept").result == "'names survive'"


def test_a_call_that_hears_no_signal_is_named(server: FlameServer, inside: Kernel) -> None:
    run = inside.submit(
        "import sqlite3\nd = sqlite3.connect(':memory:', check_same_thread=False); print('go', __name__)\n"
        "d.execute('with recursive c(x) as (select 1 union all select x + 1 from c) select count(*) from c').fetchall()"
    )
    name = str(inside.wait_for_output(run, "go").content["text"]).split()[1]
    inside.interrupt()
    inside.wait_for_output(run, "that call does not listen to signals")
    assert "interrupt" in str(inside.complete("d.inter", 7))  # answered meanwhile
    with raw_agent(server.location, "helper") as other:
        other.execute(f"__import__('sys').modules[{name!r}].d.interrupt()")
    inside.wait(run)
    assert run.error is not None
    assert inside.execute("6 * 7").result == "42"


def test_others_are_served_while_a_cell_runs(server: FlameServer, inside: Kernel) -> None:
    run = inside.submit("print('go')\nimport time; time.sleep(100)")
    inside.wait_for_output(run, "go")
    with raw_agent(server.location, "another") as other:
        other.open(place="process")
        assert other.run("6 * 7") == "42"
    with (
        raw_agent(server.location, "second") as second,
        pytest.raises(AgentError, match="has the main thread of this server, which only one can have at a time"),
    ):
        second.open(place="main")
    inside.interrupt()
    inside.wait(run)


# -- what is left, seen from within ----------------------------------------------------------------------------------

# What a cell may do to the main thread, all of which is undone.
TOUCH = """
import asyncio, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 3600)
asyncio.get_event_loop().add_signal_handler(signal.SIGUSR1, print)
"""


@pytest.mark.parametrize(
    ("way", "servertype"),
    [("loop", "thread"), ("loop", "multiplex"), ("condition", "thread"), ("pumped", "thread"), ("pumped", "multiplex")],
)
def test_the_thread_is_given_back_as_it_was(way: str, servertype: str) -> None:
    with app(way, servertype) as one, raw_agent(one.location, "a") as a, raw_agent(one.location, "b") as b:
        state(b)  # its connection is there, and counted
        for _ in range(2):
            a.open(place="main")
            assert a.run(IS_MAIN) == "True"
            assert a.run("import asyncio; asyncio.get_event_loop().is_running()") == "True"
            a.run(TOUCH)
            assert state(b)["events"]
            stuck = a.submit("print('go')\nimport time; time.sleep(100)")
            a.wait_for("stream", stuck)
            assert b.evaluate("6 * 7") == 42
            with raw_agent(one.location, "c") as c:  # a new connection
                assert c.evaluate("6 * 7") == 42
            a.op("interrupt", request=stuck)
            assert a.wait_for("execute_reply", stuck)["content"]["ename"] == "KeyboardInterrupt"
            a.op("close")
            is_as_found(b)
        one.process.send_signal(signal.SIGHUP)
        wait_until(lambda: b.evaluate("__import__('__main__').heard") == [signal.SIGHUP], "the app's own handler")
        if way == "pumped":
            rounds = b.evaluate("__import__('__main__').rounds")
            wait_until(lambda: b.evaluate("__import__('__main__').rounds") > rounds, "the app's own loop")
        if servertype == "thread":  # of the other one a call that just ends may swallow it
            one.process.send_signal(signal.SIGINT)
            wait_until(lambda: not one.alive, "the end of the app by Ctrl-C at its terminal")
            assert ("app interrupted\n" in one.stdout_text()) == (way == "pumped")  # Pyro's own loop keeps it to itself


def test_detached_it_is_given_back_and_attached_taken_again() -> None:
    with app("loop") as one, raw_agent(one.location, "a") as a, raw_agent(one.location, "b") as b:
        state(b)
        a.open(place="main")
        a.run("kept = 7")
        cell = a.submit("import time\nwhile not kept == 8: time.sleep(0.01)\nprint('over')")
        a.op("detach", epoch=a.epoch)
        assert state(b)["events"]  # its cell runs yet
        b.execute("__import__('sys').modules['flame_session_a'].kept = 8")
        is_as_found_but_for_threads(b)
        b.open(place="main")  # now another may have it
        assert b.run(IS_MAIN) == "True"
        with pytest.raises(AgentError, match="cannot go on: the session b has the main thread"):
            a.open(place="main")
        b.op("close")
        a.open(place="main")
        a.wait_for("execute_reply", cell)
        assert a.run(IS_MAIN + ", kept") == "(True, 8)"


def is_as_found_but_for_threads(agent: RawAgent) -> None:
    wait_until(lambda: not state(agent)["events"], "the server's own accept loop", 10)
    found = json.loads(agent.evaluate("__import__('json').dumps(__import__('__main__').FOUND)"))
    assert state(agent)["handlers"] == found["handlers"]


def test_ended_while_detached_nothing_is_left() -> None:
    with app("loop") as one, raw_agent(one.location, "a") as a, raw_agent(one.location, "b") as b:
        state(b)
        a.open(place="main")
        a.run("import asyncio\nasync def for_ever():\n    while True: await asyncio.sleep(0.01)")
        a.run("task = asyncio.ensure_future(for_ever())")
        a.op("detach", epoch=a.epoch)
        is_as_found_but_for_threads(b)
        b.op("close", session="a")
        is_as_found(b)


def test_a_ctrl_c_for_the_server_ends_cell_and_server() -> None:
    with app("loop") as one, raw_agent(one.location, "a") as a:
        a.open(place="main")
        cell = a.submit("print('go')\nimport time; time.sleep(100)")
        a.wait_for("stream", cell)
        one.process.send_signal(signal.SIGINT)
        wait_until(lambda: not one.alive, "the end of the app")
        assert one.stdout_text().endswith("app left its loop\n")


@pytest.mark.parametrize("way", ["loop", "condition"])
def test_a_server_that_is_told_to_end_ends(way: str) -> None:
    with app(way) as one, raw_agent(one.location, "a") as a:
        a.open(place="main")
        assert a.run(IS_MAIN) == "True"
        if way == "condition":
            a.execute("__import__('__main__').stop = True")
        else:
            a.execute("__import__('threading').Thread(target=__import__('__main__').daemon.shutdown).start()")
        wait_until(lambda: not one.alive, "the end of the app")
        assert one.stdout_text().endswith("app left its loop\n")


def test_where_the_main_thread_cannot_be_had(live_app: Callable[..., LiveApp]) -> None:
    with (
        raw_agent(live_app().location) as a,
        pytest.raises(AgentError, match=r"belongs to the app: Flame runs in another thread; use place = process"),
    ):
        a.open(place="main")
    with (
        app("asyncio") as one,
        raw_agent(one.location) as a,
        pytest.raises(AgentError, match="runs an asyncio loop of the app's own"),
    ):
        a.open(place="main")


def test_a_kernel_is_told_in_one_sentence(live_app: Callable[..., LiveApp]) -> None:
    with remote_flame({"FLAME_TARGET": live_app().location, "FLAME_PLACE": "main"}) as k:
        run = k.execute("1")
        assert run.error is not None
        assert "the main thread there belongs to the app" in run.error["evalue"]
        assert "Traceback" not in run.traceback


def test_on_the_kernels_own_server() -> None:
    """Which ends with the kernel, as by Ctrl-C."""
    with remote_flame({"FLAME_PLACE": "main"}) as k:
        assert k.execute(IS_MAIN).result == "True"
        pid = int(k.execute("import os; os.getpid()").result or 0)
        run = k.submit("print('go')\nimport time; time.sleep(100)")
        k.wait_for_output(run, "go")
    wait_until(lambda: not psutil.pid_exists(pid), "the end of the server")


def test_on_every_python(each_python: Python) -> None:
    """And a hardened accept loop is one that goes on as well."""
    with app("loop", python=each_python) as one, raw_agent(one.location, "a") as a, raw_agent(one.location, "b") as b:
        state(b)
        b.link.call(
            "execute", (Path(hardening.__file__)).read_text() + "\nimport __main__; H = harden(__main__.daemon)"
        )
        a.open(place="main")
        assert a.run(IS_MAIN) == "True"
        cell = a.submit("print('go')\nimport threading; threading.Event().wait()")
        a.wait_for("stream", cell)
        with raw_agent(one.location, "c") as c:
            assert c.evaluate("6 * 7") == 42
        a.op("interrupt", request=cell)
        assert a.wait_for("execute_reply", cell)["content"]["ename"] == "KeyboardInterrupt"
        a.op("close")
        b.execute("H.undo()")
        is_as_found(b)
