"""Stop, prompts, restart and shutdown, as a front end asks for them, in a child and inside a live app.

Tables of what blocks, a storm of Stops, what a Stop finds at odd moments, what waits behind the cell, and the processes
that a cell has started. A Stop in a flood is in test_agent_sessions, one that the link delays in test_faults_link.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from farside import FlameServer, LiveApp, wait_until
from kernels import Kernel, Run, remote_flame
from places import Site, kernel_at
from stopping import BLOCKING, STOPPABLE, stop

# Seconds, on a machine that is busy with other tests; alone it is a few hundredths. What is stopped would run for 100.
SOON = 20


@pytest.fixture(scope="module")
def child() -> Iterator[Kernel]:
    with remote_flame(env={"FLAME_PLACE": "child"}) as k:
        k.execute("import os")  # now all its processes are there
        yield k


@pytest.fixture
def inside(live_app: Callable[..., LiveApp]) -> Iterator[Kernel]:
    with remote_flame(env={"FLAME_TARGET": live_app().location}) as k:
        yield k


@pytest.mark.parametrize("name", [*BLOCKING, *STOPPABLE])
def test_a_child_is_stopped_soon(child: Kernel, name: str) -> None:
    child.execute("kept = 'names survive'")
    reply, seconds = stop(child, BLOCKING[name][0] if name in BLOCKING else STOPPABLE[name])
    assert seconds < SOON
    if name == "command":  # IPython's own !cmd swallows the interrupt, and the cell goes on behind it
        assert reply["status"] in ("ok", "error")
    else:
        assert reply["status"] == "error"
        assert reply["ename"] == ("CancelledError" if name == "await" else "KeyboardInterrupt")
    assert child.execute("kept").result == "'names survive'"


# Of the calls that block, those whose way to end by a signal has changed from one Python to the next.
@pytest.mark.parametrize("version", ["3.6", "3.8", "3.13"])
def test_a_child_of_another_python_is_stopped_soon(version: str, flame_server: Callable[..., FlameServer]) -> None:
    """Without IPython: all of the table in one session."""
    with remote_flame(env={"FLAME_TARGET": flame_server(version).location, "FLAME_PLACE": "child"}) as k:
        k.execute("kept = 'names survive'")
        for name in (*BLOCKING, "subprocess", "loop", "await"):
            if name == "await" and version == "3.6":
                continue  # no await outside of functions there
            reply, seconds = stop(k, BLOCKING[name][0] if name in BLOCKING else STOPPABLE[name])
            # subprocess of 3.6 may kill, in the middle of its interrupt, what it has waited for already.
            known = ("KeyboardInterrupt", "CancelledError", *(["ProcessLookupError"] if version == "3.6" else []))
            assert reply["ename"] in known, (name, reply)
            assert seconds < SOON, name
        assert k.execute("kept").result == "'names survive'"


@pytest.mark.parametrize("name", STOPPABLE)
def test_in_a_process_what_runs_python_is_stopped_soon(inside: Kernel, name: str) -> None:
    inside.execute("kept = 'names survive'")
    reply, seconds = stop(inside, STOPPABLE[name])
    assert seconds < SOON
    if name != "command":
        assert reply["status"] == "error"
        assert reply["ename"] == ("CancelledError" if name == "await" else "KeyboardInterrupt")
    assert inside.execute("kept").result == "'names survive'"


@pytest.mark.parametrize("name", BLOCKING)
def test_in_a_process_a_stuck_call_is_named_and_a_second_stop_abandons_it(inside: Kernel, name: str) -> None:
    code, call = BLOCKING[name]
    inside.execute("kept = 'names survive'")
    run = inside.submit(code)
    inside.wait_for_output(run, "go")
    began = time.monotonic()
    inside.interrupt()
    said = inside.wait_for_output(run, "A second Stop abandons it")
    assert time.monotonic() - began < SOON
    assert f"still in {call}" in said.content["text"]
    assert run.reply is None
    inside.interrupt()
    inside.wait(run)
    assert run.reply is not None
    assert (run.reply["status"], run.reply["ename"]) == ("error", "KeyboardInterrupt")
    again = inside.execute("import threading; print(threading.current_thread().name); kept")
    assert again.result == "'names survive'"
    assert again.stdout.startswith("flame-")


def test_what_an_abandoned_cell_prints_later_stays_its_own(inside: Kernel) -> None:
    code = "import time, threading\nlater = threading.Event()\nprint('go')\nlater.wait()\nprint('late')"
    run = inside.submit(code)
    inside.wait_for_output(run, "go")
    inside.interrupt()
    inside.wait_for_output(run, "A second Stop abandons it")
    inside.interrupt()
    inside.wait(run)
    other = inside.execute("later.set(); print('mine')")
    assert "late" not in other.stdout


def test_a_stop_with_nothing_running_stops_nothing(child: Kernel) -> None:
    for _ in range(3):
        assert child.ask("interrupt_request", channel="control")["status"] == "ok"
    assert child.execute("1 + 1").result == "2"


def test_cells_behind_a_stopped_one_are_dropped(child: Kernel) -> None:
    first = child.submit("print('go')\nwhile True: pass")
    second, third = child.submit("ran = 2"), child.submit("ran = 3")
    child.wait_for_output(first, "go")
    child.interrupt()
    for run in (first, second, third):
        child.wait(run)
    assert [run.reply["status"] for run in (first, second, third) if run.reply] == ["error", "aborted", "aborted"]
    assert child.execute("'ran' in globals()").result == "False"


def test_clean_up_of_an_interrupted_cell_has_its_time(child: Kernel) -> None:
    code = "import time\ntry:\n    print('go'); time.sleep(100)\nfinally:\n    time.sleep(0.3); print('cleaned up')"
    run = child.submit(code)
    child.wait_for_output(run, "go")
    child.interrupt()
    child.wait(run)
    assert "cleaned up" in run.stdout


@pytest.mark.parametrize("place", ["child", "process"])
def test_a_storm_of_stops_loses_no_cell(flame_server: Callable[..., FlameServer], place: str) -> None:
    """Every cell has its reply, whenever the stop comes; and the lane lives."""
    with remote_flame(env={"FLAME_TARGET": flame_server().location, "FLAME_PLACE": place}) as k:
        outcomes = []
        for n in range(60):
            run = k.submit(f"for i in range({(n * 97) % 3000}): pass\n'done {n}'")
            for _ in range(n % 3 + 1):
                k.interrupt()
            k.wait(run)
            assert run.reply is not None
            outcomes.append(run.reply["status"])
            if run.reply["status"] == "ok":
                assert run.result == f"'done {n}'"
            else:
                assert run.reply["ename"] in ("KeyboardInterrupt", "CancelledError")
        assert set(outcomes) <= {"ok", "error"}
        # One more, and its answer: till then the latest Stops may be on their way, and are for whatever runs then.
        assert k.ask("interrupt_request", channel="control")["status"] == "ok"
        assert k.execute("'usable'").result == "'usable'"
        profiled = k.execute("%prun -q 1 + 1")  # CPython 3.11 hangs here after a careless SetAsyncExc(id, NULL)
        assert profiled.reply is not None
        assert profiled.reply["status"] == "ok"


# -- step by step -----------------------------------------------------------------------------------------------------


def said(k: Kernel, run: Run, words: str) -> str:
    """Press Stop, and wait for what the notebook says then; the line with ``words``."""
    before = len(run.stderr)
    k.interrupt()
    k.wait_for(lambda: words in run.stderr[before:] or run.done, words)
    assert words in run.stderr[before:], run
    return next(line for line in run.stderr[before:].splitlines() if words in line)


# It keeps the interpreter to itself, and looks at no signal.
HELD = "print('go', flush=True)\nsum(range(10**13))"


def climb_to_the_end(k: Kernel, code: str, line: int) -> Run:
    """Stop a cell that holds the interpreter until its process has ended; the cell."""
    run = k.submit(code)
    k.wait_for_output(run, "go")
    words = said(k, run, "The next Stop")
    assert "still in sum(range(10**13))" in words
    assert f", line {line};" in words
    assert "its interpreter does not answer" in words
    assert re.search(r"The next Stop ends the session's process \d+ with SIGTERM; its variables are then lost\.", words)
    return run


@pytest.mark.parametrize("far", ["ipython", "mini", "3.6", "3.13"])
def test_a_cell_that_holds_the_interpreter_is_ended_with_its_child(
    far: str, flame_server: Callable[..., FlameServer]
) -> None:
    """What no interrupt reaches: the server says where it hangs, as the child cannot; each step is a
    Stop of its own; the server and other sessions live on."""
    server = flame_server(None if far in ("ipython", "mini") else far)
    environ = {"FLAME_TARGET": server.location, "FLAME_PLACE": "child"}
    with contextlib.ExitStack() as stack:
        k = stack.enter_context(remote_flame(env=environ | ({"FLAME_SHELL": "mini"} if far == "mini" else {})))
        k.execute("kept = 'names'")
        if far == "ipython":
            other = stack.enter_context(remote_flame(env=environ))
            other.execute("mine = 1")
        run = climb_to_the_end(k, HELD, 2)
        k.interrupt()
        k.wait(run)
        assert run.error is not None
        assert run.error["ename"] == "SessionDied"
        assert "was ended by Stop with SIGTERM (peak memory" in run.error["evalue"] or "(memory" in run.error["evalue"]
        assert run.error["evalue"].endswith("its variables are lost; the next cell starts a new one")
        assert k.execute("'kept' in globals()").result == "False"
        assert server.process.poll() is None
        if far != "ipython":
            return
        assert other.execute("mine").result == "1"
        # A process that will not hear of SIGTERM has one step more.
        ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        run = climb_to_the_end(k, ignore + HELD, 3)
        assert re.search(r"The next Stop kills .*\(SIGKILL\)", said(k, run, "SIGTERM has not ended it within 2 s."))
        k.interrupt()
        k.wait(run)
        assert run.error is not None
        assert "was ended by Stop with SIGKILL" in run.error["evalue"]
        assert k.execute("1 + 1").result == "2"


CLEANS_UP = "import time\ntry:\n    print('go', flush=True)\n    while True: pass\nfinally:\n    {}"


@pytest.fixture(scope="module", params=["child", "process"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A kernel with its cells in a child, and one inside a live app."""
    with kernel_at(request.param) as site:
        site.kernel.execute("import os")
        yield site


def test_slow_cleaning_up_is_told_apart_and_a_second_stop_only_interrupts_it(anywhere: Site) -> None:
    """In ``finally``. Nobody goes a step further by himself."""
    k = anywhere.kernel
    k.execute("kept = 'names survive'")
    run = k.submit(CLEANS_UP.format("while True: time.sleep(0.01)"))
    k.wait_for_output(run, "go")
    words = said(k, run, "A second Stop interrupts it again")
    assert "the cell received it and still runs, in time.sleep, line 6; perhaps it is cleaning up" in words
    assert run.reply is None
    k.interrupt()
    k.wait(run)
    assert run.reply is not None
    assert run.reply["ename"] == "KeyboardInterrupt"
    assert "The Stop has ended the cell after all; its variables are kept." in run.stderr
    assert "flame_agent" not in run.traceback
    assert k.execute("kept").result == "'names survive'"


def test_a_cell_that_catches_every_interrupt(anywhere: Site) -> None:
    """The next step is told each time, and taken only then."""
    k = anywhere.kernel
    code = "over = []\nprint('go', flush=True)\nwhile not over:\n    try:\n        while not over: pass\n"
    run = k.submit(code + "    except BaseException: pass")
    k.wait_for_output(run, "go")
    said(k, run, "A second Stop interrupts it again")
    if anywhere.in_child:
        said(k, run, "The next Stop ends the session's process")
        k.execute("over.append(1)", subshell=k.ask("create_subshell_request", channel="control")["subshell_id"])
        k.wait(run)
        assert run.reply is not None
        assert run.reply["status"] == "ok"
        return
    said(k, run, "A second Stop abandons it")
    k.interrupt()
    k.wait(run)
    assert run.reply is not None
    assert run.reply["ename"] == "KeyboardInterrupt"
    assert "the variables are kept" in run.stderr
    assert k.execute("over.append(1); 'usable'").result == "'usable'"


def test_a_stopped_cell_that_asks_the_user_has_all_the_time(anywhere: Site) -> None:
    """Nothing is said about a cell that waits for an answer, and a Stop there ends the question."""
    k = anywhere.kernel
    run = k.submit(CLEANS_UP.format("answer = input('sure? ')"), allow_stdin=True)
    k.wait_for_output(run, "go")
    k.interrupt()
    k.wait_for(lambda: run.prompts, "the prompt")
    k.take_all(4.0)
    assert run.stderr == ""
    k.answer_input("yes")
    k.wait(run)
    assert run.reply is not None
    assert run.reply["ename"] == "KeyboardInterrupt"
    assert k.execute("answer").result == "'yes'"


def test_processes_that_a_cell_waits_for_are_stopped_with_it(anywhere: Site) -> None:
    """None of the tree is left."""
    k = anywhere.kernel
    code = (
        "import subprocess, sys\n"
        'script = \'import subprocess; print(1, flush=True); subprocess.run(["sleep", "100"])\'\n'
        "p = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE)\np.stdout.readline()\n"
        "print('go', p.pid, flush=True)\np.wait()"
    )
    run = k.submit(code)
    k.wait_for_output(run, "go")
    tree = [psutil.Process(int(run.stdout.split()[1]))]
    wait_until(lambda: tree[0].children(), "the process below it")
    tree += tree[0].children()
    k.interrupt()
    k.wait(run)
    wait_until(lambda: not any(one.is_running() and one.status() != "zombie" for one in tree), "the end of the tree")
    k.execute("p.stdout.close(); p.wait()")


# -- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["child", "process"])
def test_prompts(flame_server: Callable[..., FlameServer], place: str) -> None:
    with remote_flame(env={"FLAME_TARGET": flame_server().location, "FLAME_PLACE": place}) as k:
        run = k.execute("name = input('name? '); print('hello', name)", answers=("Ada",))
        assert (run.stdout, run.prompts) == ("hello Ada\n", [("name? ", False)])
        run = k.execute("import getpass; len(getpass.getpass('secret: '))", answers=("pässwort",))
        assert (run.result, run.prompts) == ("8", [("secret: ", True)])
        assert "pässwort" not in str(run)
        run = k.execute("import sys; sys.stdin.readline()", answers=("a line",))
        assert run.result == "'a line\\n'"
        run = k.execute("input()", answers=("\x04",))
        assert run.reply is not None
        assert run.reply["ename"] == "EOFError"
        run = k.execute("input('no front end')", allow_stdin=False)
        assert run.reply is not None
        assert run.reply["ename"] == "StdinNotImplementedError"
        run = k.submit("input('wait')", allow_stdin=True)
        k.wait_for(lambda: run.prompts, "the prompt")
        began = time.monotonic()
        k.interrupt()
        k.wait(run)
        assert time.monotonic() - began < SOON
        assert run.reply is not None
        assert run.reply["ename"] == "KeyboardInterrupt"
        assert k.execute("input('and again ')", answers=("yes",)).result == "'yes'"


# -- restart and shutdown --------------------------------------------------------------------------------------------


def test_restart_gives_fresh_names_on_the_same_target(flame_server: Callable[..., FlameServer]) -> None:
    server = flame_server()
    with remote_flame(env={"FLAME_TARGET": server.location}) as k:
        k.execute("x = 1")
        k.restart()
        assert k.execute("'x' in globals()").result == "False"
        assert server.location in k.execute("%flame status").stdout


def test_restart_and_shutdown_while_a_cell_runs(flame_server: Callable[..., FlameServer]) -> None:
    """Gone within five seconds, with what the cell runs on the far side."""
    with remote_flame(env={"FLAME_TARGET": flame_server().location}) as k:
        run = k.submit("import subprocess, os\nprint('go', os.getpid())\nsubprocess.run(['sleep', '1000'])")
        k.wait_for_output(run, "go")
        began = time.monotonic()
        k.restart()
        assert time.monotonic() - began < 5 + 2  # two for the start of the next one
        run = k.submit("print('go')\nwhile True: pass")
        k.wait_for_output(run, "go")
        assert k.shutdown() < 5


def test_a_stop_after_pdb_has_continued(child: Kernel) -> None:
    """pdb leaves a handler of SIGINT behind, which would ask at the next Stop; so may a cell."""
    child.execute("import pdb; pdb.set_trace()\nx = 1", answers=("c",))
    reply, _ = stop(child, "print('go')\nwhile True: pass")
    assert reply["ename"] == "KeyboardInterrupt"
