"""Cells through the kernel, at every place: values, history, requests' options, await, and what they leave alone."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
from farside import LiveApp, wait_until
from kernels import Kernel, Run
from places import PLACES, kernel_at, kernel_on, ok, server_at, uncoloured


def count_of(run: Run) -> int:
    assert run.reply is not None
    return int(run.reply["execution_count"])


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "stdout", "result"),
    [
        ("1 + 1", "", "2"),
        ("a = 20\nb = 22\na + b", "", "42"),
        ("def f(x):\n    return x * 2\n\nfor i in range(3):\n    print(f(i))\n\nf('ab')\n", "0\n2\n4\n", "'abab'"),
        ("class C:\n    'doc'\n    def __repr__(self):\n        return 'a C'\n\nC()  # a comment", "", "a C"),
        ("if True:\n    7", "", None),
        ("1;2", "", "2"),
        ("'not shown';", "", None),
        ("None", "", None),
        ("x = 5", "", None),
        ("print('one'); print('two', end='')", "one\ntwo", None),
        ("'é 漢 🔥'", "", "'é 漢 🔥'"),
        ("# nothing but a comment", "", None),
        ("s = '''first\n  second\n'''\ns", "", "'first\\n  second\\n'"),
        ("with open('/dev/null') as f:\n    n = f.read()\nn", "", "''"),
        ("import builtins\n\n\n\nbuiltins is __builtins__ or vars(builtins) is __builtins__", "", "True"),
    ],
)
def test_code_and_its_value(kernel: Kernel, code: str, stdout: str, result: str | None) -> None:
    run = ok(kernel.execute(code))
    assert (run.stdout, run.stderr, run.result) == (stdout, "", result)
    assert [m.content["code"] for m in run.of_type("execute_input")] == [code]
    states = [m.content["execution_state"] for m in run.of_type("status")]
    assert states == ["busy", "idle"]


def test_names_live_from_cell_to_cell(kernel: Kernel) -> None:
    ok(kernel.execute("import math\nkept = {'n': 1}\ndef twice():\n    return 2 * kept['n']"))
    ok(kernel.execute("kept['n'] = math.floor(21.5)"))
    assert ok(kernel.execute("twice()")).result == "42"
    ok(kernel.execute("del kept"))
    run = kernel.execute("kept")
    assert run.error is not None
    assert run.error["ename"] == "NameError"


def test_in_out_and_underscores(kernel: Kernel) -> None:
    first = count_of(ok(kernel.execute("'fir' 'st'")))
    second = count_of(ok(kernel.execute("'second'")))
    assert second == first + 1
    run = ok(kernel.execute("(_, __, _i, _ii)"))
    assert run.result == repr(("second", "first", "'second'", "'fir' 'st'"))
    run = ok(kernel.execute(f"(Out[{first}], _{second}, In[{first}], _i{second}, len(In), _oh is Out, _ih is In)"))
    assert run.result == repr(("first", "second", "'fir' 'st'", "'second'", second + 3, True, True))
    ok(kernel.execute("None"))
    assert ok(kernel.execute(f"{second} in Out, {second + 3} in Out")).result == "(True, False)"


def test_counts_go_up_by_one_a_cell(kernel: Kernel) -> None:
    start = count_of(ok(kernel.execute("pass")))
    for n, (code, shown) in enumerate([("1", True), ("x = 1", False), ("1/0", False), ("(", False), ("2", True)], 1):
        run = kernel.execute(code)
        assert count_of(run) == start + n
        assert [m.content["execution_count"] for m in run.of_type("execute_input")] == [start + n]
        assert [m.content["execution_count"] for m in run.of_type("execute_result")] == [start + n] * shown


@pytest.mark.parametrize("place", ["child", "process", "child-bare"])
def test_all_that_has_a_number_has_the_same(place: str) -> None:
    """Input, value, reply, In, Out, and the traceback; behind cells that are not counted, and those for elsewhere."""
    with kernel_at(place) as site:
        number_everything(site.kernel)


def number_everything(kernel: Kernel) -> None:
    n = count_of(ok(kernel.execute("0")))
    for code, options in (
        ("None", {"silent": True}),
        ("3", {"store_history": False}),
        ("", {}),
        ("1/0", {"silent": True}),
    ):
        run = kernel.execute(code, **options)  # type: ignore[arg-type]
        assert count_of(run) == n
        assert [m.content["execution_count"] for m in run.of_type("execute_input")] in ([], [n])
    for number, code in enumerate(
        ("'a'", "%flame status", "%%local\n'b'", "%flame nothing", "# none\n%flame status\n'c'", "%%local\n1/0", "1/0"),
        n + 1,
    ):
        run = kernel.execute(code)
        numbers = [m.content["execution_count"] for m in run.of_type("execute_input", "execute_result")]
        assert set(numbers) | {count_of(run)} == {number}, code
        if code.endswith("1/0"):
            assert f"In[{number}]" in uncoloured(run.traceback)
    last = ok(kernel.execute("[In[n] for n in range(-8, 0)], len(In)"))
    inputs = ["'a'", "", "", "", "'c'", "", "1/0", "[In[n] for n in range(-8, 0)], len(In)"]
    assert ast.literal_eval(last.result or "") == (inputs, n + 9)
    assert ok(kernel.execute(f"Out[{n + 1}], _{n + 5}, _i{n + 1}")).result == repr(("a", "c", "'a'"))
    local = ok(kernel.execute("%%local\nIn[-1], len(In), Out"))
    assert local.result == repr(("In[-1], len(In), Out", n + 11, {n + 3: "b"}))


def test_a_cell_of_a_subshell_has_its_own_number(kernel: Kernel, tmp_path: Path) -> None:
    """While one of the main shell runs, and shows its value later."""
    go = tmp_path / "go"
    n = count_of(ok(kernel.execute("import os, time")))
    shell = kernel.ask("create_subshell_request", {}, channel="control")["subshell_id"]
    try:
        first = kernel.submit(f"print('on')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n'first'")
        kernel.wait_for_output(first, "on")
        second = kernel.execute("'second'", subshell=shell)
        go.touch()
        kernel.wait(first)
        third = kernel.execute("'third'")
        for number, run in enumerate((first, second, third), n + 1):
            numbers = [m.content["execution_count"] for m in run.of_type("execute_input", "execute_result")]
            assert set(numbers) | {count_of(run)} == {number}
        kept = kernel.execute(f"[Out[n] for n in range({n + 1}, {n + 4})], In[{n + 2}]")
        assert kept.result == repr((["first", "second", "third"], "'second'"))
    finally:
        kernel.ask("delete_subshell_request", {"subshell_id": shell}, channel="control")


def test_a_silent_cell_leaves_no_trace(kernel: Kernel) -> None:
    before = ok(kernel.execute("'value before'"))
    run = ok(kernel.execute("quiet = 1\n'not to be seen'", silent=True))
    assert run.of_type("execute_input", "execute_result", "display_data", "stream", "error") == []
    after = ok(kernel.execute("(quiet, _, In[-2])"))
    assert after.result == repr((1, "value before", "'value before'"))
    assert count_of(after) == count_of(before) + 1


def test_what_a_silent_cell_answers(kernel: Kernel) -> None:
    run = kernel.execute("1/0", silent=True, stop_on_error=False)
    assert run.reply is not None
    assert run.reply["status"] == "error"
    assert run.reply["ename"] == "ZeroDivisionError"
    run = ok(kernel.execute("pass", silent=True, user_expressions={"six": "2 * 3"}))
    assert run.reply is not None
    assert run.reply["user_expressions"]["six"]["data"]["text/plain"] == "6"


def test_without_history_a_cell_is_not_remembered(kernel: Kernel) -> None:
    before = ok(kernel.execute("'remembered'"))
    run = ok(kernel.execute("unremembered = 3; unremembered", store_history=False))
    assert run.result == "3"
    assert len(run.of_type("execute_input")) == 1
    after = ok(kernel.execute("In[-2]"))
    assert after.result == repr("'remembered'")
    assert count_of(after) == count_of(before) + 1
    inputs = [entry[2] for entry in kernel.history(n=2)["history"]]
    assert inputs == ["'remembered'", "In[-2]"]


def test_user_expressions(kernel: Kernel) -> None:
    code = "class H:\n    __repr__ = lambda self: 'an H'\n    _repr_html_ = lambda self: '<b>h</b>'"
    wanted = {"sum": "1 + 2", "bad": "1 / 0", "rich": "H()", "gone": "no_such_name", "wrong": "a b"}
    run = ok(kernel.execute(code, user_expressions=wanted))
    assert run.reply is not None
    values: dict[str, Any] = run.reply["user_expressions"]
    assert values["sum"] == {"status": "ok", "data": {"text/plain": "3"}, "metadata": {}}
    assert values["rich"]["data"] == {"text/plain": "an H", "text/html": "<b>h</b>"}
    found = {name: value["ename"] for name, value in values.items() if value["status"] == "error"}
    assert found == {"bad": "ZeroDivisionError", "gone": "NameError", "wrong": "SyntaxError"}
    assert run.of_type("execute_result", "error") == []
    # After an error they are not evaluated.
    run = kernel.execute("1 / 0", user_expressions={"sum": "1 + 2"})
    assert run.reply is not None
    assert run.reply.get("user_expressions", {}) == {}


@pytest.mark.parametrize(
    "code", ["input('who? ')", "import getpass; getpass.getpass('word? ')"], ids=["input", "getpass"]
)
def test_without_stdin_nothing_is_asked(kernel: Kernel, code: str) -> None:
    run = kernel.execute(code, allow_stdin=False)
    assert run.error is not None
    assert run.error["ename"] == "StdinNotImplementedError"
    assert "does not support input requests" in run.error["evalue"]
    assert run.prompts == []
    assert ok(kernel.execute("input('now: ')", answers=("it may",))).result == "'it may'"


def test_a_stop_at_a_question_shows_the_cells_own_line(kernel: Kernel) -> None:
    run = kernel.submit("input('sure? ')")
    kernel.wait_for(lambda: run.prompts, "the question")
    kernel.interrupt()
    kernel.wait(run)
    assert run.error is not None
    assert run.error["ename"] == "KeyboardInterrupt"
    assert "input('sure? ')" in uncoloured(run.traceback)
    assert "flame_agent" not in run.traceback


def test_an_error_drops_the_cells_that_wait(kernel: Kernel) -> None:
    failing = kernel.submit("input(); ran = ['first']; 1/0")
    kernel.wait_for(lambda: failing.prompts, "the prompt")
    queued = [kernel.submit("ran.append('queued')") for _ in range(3)]
    kernel.complete("ran")  # is answered when the kernel has those before it: what is on its way is not dropped
    kernel.answer_input("")
    replies = [kernel.wait(run).reply for run in [failing, *queued]]
    assert [reply and reply["status"] for reply in replies] == ["error", "aborted", "aborted", "aborted"]
    assert all(not run.of_type("execute_input", "stream", "error") for run in queued)
    assert ok(kernel.execute("ran")).result == "['first']"


def test_without_stop_on_error_they_run(kernel: Kernel) -> None:
    failing = kernel.submit("input(); ran = ['first']; 1/0", stop_on_error=False)
    kernel.wait_for(lambda: failing.prompts, "the prompt")
    queued = [kernel.submit("ran.append('queued')") for _ in range(2)]
    kernel.answer_input("")
    replies = [kernel.wait(run).reply for run in [failing, *queued]]
    assert [reply and reply["status"] for reply in replies] == ["error", "ok", "ok"]
    assert ok(kernel.execute("ran")).result == "['first', 'queued', 'queued']"


def test_cells_that_wait_run_in_order(kernel: Kernel) -> None:
    runs = [kernel.submit(f"print('cell {n}')\n{n}") for n in range(20)]
    for n, run in enumerate(runs):
        kernel.wait(run)
        assert (run.stdout, run.result) == (f"cell {n}\n", str(n))


# -- await -----------------------------------------------------------------------------------------------------------


def test_await_at_the_top_of_a_cell(kernel: Kernel) -> None:
    run = ok(kernel.execute("import asyncio\nprint('before')\nv = await asyncio.sleep(0.01, 'slept')\nv + '!'"))
    assert (run.stdout, run.result) == ("before\n", "'slept!'")
    code = "async def numbers():\n    for n in range(3):\n        await asyncio.sleep(0)\n        yield n\n"
    assert ok(kernel.execute(code + "[n async for n in numbers()]")).result == "[0, 1, 2]"
    code = "class Door:\n    async def __aenter__(self):\n        return 'in'\n    async def __aexit__(self, *a):\n"
    code += "        print('out')\nasync with Door() as d:\n    print(d)"
    assert ok(kernel.execute(code)).stdout == "in\nout\n"
    assert ok(kernel.execute("await asyncio.gather(*[asyncio.sleep(0.01, n) for n in range(3)])")).result == "[0, 1, 2]"


def test_a_task_goes_on_between_cells(kernel: Kernel) -> None:
    code = """
import asyncio
ticks, stop = 0, False
async def tick():
    global ticks
    while not stop:
        ticks += 1
        await asyncio.sleep(0.001)
    print('stopped')
    return 'result of the task'
task = asyncio.ensure_future(tick())
"""
    first = ok(kernel.execute(code))
    seen = [0]

    def it_ticks() -> bool:
        seen.append(int(ok(kernel.execute("ticks")).result or 0))
        return seen[-1] > 3

    wait_until(it_ticks, "the task's progress while no cell runs", 10)
    assert ok(kernel.execute("stop = True\nawait task")).result == "'result of the task'"
    # What it prints belongs to the cell that made it.
    kernel.wait_for(lambda: first.stdout == "stopped\n", "the task's print in its own cell")


# -- %%local ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["child", "process-bare"])
def test_a_local_cell_runs_here(place: str) -> None:
    with kernel_at(place) as site:
        kernel = site.kernel
        first = count_of(ok(kernel.execute("where = 'far'")))
        run = ok(kernel.execute("%%local\nwhere = 'here'\nimport os, sys\nprint(os.getpid())\nwhere"))
        assert run.result == "'here'"
        here = int(run.stdout)
        ours = psutil.Process(kernel.pid).children(recursive=True)
        assert here in [process.pid for process in ours]
        assert os.path.realpath(f"/proc/{here}/exe") == os.path.realpath(f"/proc/{kernel.pid}/exe")
        assert int(ok(kernel.execute("import os\nprint(os.getpid())")).stdout) != here
        # Two namespaces.
        assert ok(kernel.execute("where")).result == "'far'"
        assert ok(kernel.execute("%%local\nwhere")).result == "'here'"
        failed = kernel.execute("%%local\nwhere + 1")
        assert failed.error is not None
        assert failed.error["ename"] == "TypeError"
        assert "where + 1" in uncoloured(failed.traceback)
        asked = ok(kernel.execute("%%local\ninput('local? ')", answers=("yes",)))
        assert (asked.prompts, asked.result) == ([("local? ", False)], "'yes'")
        # It counts as a cell, and takes no number from those of the far side.
        counts = [count_of(ok(kernel.execute(code))) for code in ("2", "%%local\n3", "4")]
        assert counts[0] > first
        assert sorted(counts) == counts


# -- two notebooks ---------------------------------------------------------------------------------------------------

AT_ONCE = """
import os, sys, threading, time
def chatter(n):
    for i in range(50):
        sys.stdout.write('%s %d %d\\n' % (mine, n, i))
        display({'text/plain': '%s display %d %d' % (mine, n, i)}, raw=True)
        sys.stderr.write('%s %d %d\\n' % (mine, n, i))
        if i == 10 and n == 0:
            sys.stdout.write('under way\\n')
            while not os.path.exists(GO):
                time.sleep(0.001)
threads = [threading.Thread(target=chatter, args=(n,)) for n in range(4)]
for t in threads:
    t.start()
chatter(4)
for t in threads:
    t.join()
mine
"""


@pytest.mark.parametrize("place", PLACES)
def test_two_notebooks_on_one_server_never_mix(place: str, tmp_path: Path) -> None:
    with server_at(place) as server, kernel_on(server, place) as one, kernel_on(server, place) as other:
        both = (("one", one.kernel), ("other", other.kernel))
        for name, kernel in both:
            ok(kernel.execute(f"mine = {name!r}; only_{name} = 1; import string; string.{name} = mine"))
        for name, kernel in both:
            foreign = "only_other" if name == "one" else "only_one"
            assert ok(kernel.execute(f"(mine, '{foreign}' in globals(), '{foreign}' in dir())")).result == repr(
                (name, False, False)
            )
        go = tmp_path / "go"
        runs = [(name, kernel, kernel.submit(f"GO = {str(go)!r}\n" + AT_ONCE)) for name, kernel in both]
        for _, kernel, run in runs:
            kernel.wait_for_output(run, "under way")
        go.touch()
        for name, kernel, run in runs:
            ok(kernel.wait(run))
            lines = [line for line in run.stdout.splitlines() if line != "under way"]
            assert sorted(lines) == sorted(f"{name} {n} {i}" for n in range(5) for i in range(50))
            assert sorted(run.stderr.splitlines()) == sorted(lines)
            shown = [data["text/plain"] for data in run.displays]
            assert sorted(shown) == sorted(f"{name} display {n} {i}" for n in range(5) for i in range(50))
            assert run.result == repr(name)
            assert [m for m in kernel.strays if m.type in ("stream", "display_data", "error")] == []
        # Each has its own In and Out, and its own last error.
        for name, kernel in both:
            ok(kernel.execute(f"'{name} value'"))
        for name, kernel in both:
            assert ok(kernel.execute("_")).result == repr(f"{name} value")


# -- the process that lets us in -------------------------------------------------------------------------------------

# What state() of the app does not tell; evaluated in its __main__.
MORE = {
    # But for the fonts that matplotlib keeps open for each thread.
    "descriptors": "sorted(os.readlink(p) for p in ('/proc/self/fd/' + n for n in os.listdir('/proc/self/fd')) "
    "if os.path.lexists(p) and not os.readlink(p).endswith('.ttf'))",
    "linecache": "[n for n in __import__('linecache').cache if not n.startswith('<flame_') and not os.path.exists(n)]",
    "warnings": "__import__('warnings').filters",
    "class of sys": "type(sys)",
    "meta_path": "sys.meta_path",
    "trace": "threading._trace_hook, threading._profile_hook",
    "getpass": "__import__('getpass').getpass",
    "fork": "os.fork, os.system",
    "handlers": "[signal.getsignal(n) for n in range(1, 32)]",
    "gc": "__import__('gc').isenabled()",
    "last error": "[n for n in vars(sys) if n.startswith('last_')]",
    "event loop": "__import__('asyncio').get_event_loop_policy()._local.__dict__",
    "loggers": "__import__('logging').getLogger().handlers",
    "main": "sys.modules['__main__'].__dict__ is globals()",
    "umask": "os.umask(0o22)",
    "files": "sorted(os.listdir('.'))",
    "figures": "sys.modules['matplotlib.pyplot'].get_fignums() if 'matplotlib' in sys.modules else None",
    "backend": "sys.modules['matplotlib'].get_backend() if 'matplotlib' in sys.modules else None",
}

# The app draws too: what matplotlib opens and filters at its first figure is then there.
DRAW = "(lambda plt: (plt.plot([1, 2]), plt.savefig('f.png')))(__import__('matplotlib.pyplot').pyplot) and None"

BUSY = [
    "import os, sys, subprocess, threading, asyncio, time, warnings",
    "print('out'); print('err', file=sys.stderr); 42",
    "display('shown')",
    "1/0",
    "warnings.warn('beware')",
    "t = threading.Thread(target=print, args=('in a thread',)); t.start(); t.join()",
    "subprocess.run(['echo', 'from a process'], stdout=sys.stdout)",
    "!echo a command",
    "await asyncio.sleep(0.01)",
    "task = asyncio.ensure_future(asyncio.sleep(1000))",
    "pid = os.fork()\nif pid == 0:\n    os._exit(0)\nos.waitpid(pid, 0)[1]",
    "class Later:\n    def __del__(self):\n        print('deleted')\nlater = Later()",
    "def forever():\n    pass\nforever??",
    "sys.stdout = sys.stdout; sys.displayhook(7)",
    "%timeit -n1 -r1 pass",
    "%cd .",
    "from concurrent.futures import ThreadPoolExecutor as Pool\n"
    "with Pool(2) as p:\n  p.submit(print, 'by a worker').result()",
]


def found(app: LiveApp) -> dict[str, Any]:
    """How the app's process is: what it says of itself and MORE, as text."""
    more = {name: app.ask("evaluate", expression) for name, expression in MORE.items()}
    state = app.state()
    threads = [name for name in state["threads"] if not name.startswith("Pyro-Worker")]
    return {**more, "changed": state["changed"], "threads": threads, "main names": state["main"]}


@pytest.mark.parametrize("place", ["process", "process-bare"])
def test_the_app_is_as_it_was_found(place: str) -> None:
    with server_at(place, env={"MPLBACKEND": "agg"}) as app:
        assert isinstance(app, LiveApp)
        if place == "process":
            assert app.ask("evaluate", DRAW) == "None"
        found(app)  # what this itself imports is there from now on
        before = found(app)
        assert before["changed"] == []
        with kernel_on(app, place) as site:
            for code in BUSY:
                run = site.kernel.execute(code)
                wanted = "error" if code == "1/0" else "ok"
                assert run.reply is not None
                assert run.reply["status"] == wanted, str(run)
            if site.has_ipython:
                ok(site.kernel.execute("%matplotlib inline\nimport matplotlib.pyplot as plt; plt.plot([1, 2]);"))
            ok(site.kernel.execute("input('? ')", answers=("x",)))
            site.kernel.complete("os.pa")
            site.kernel.inspect("os.path.join")
            # What the app itself sees while the session lives.
            app.say("the app speaks")
            app.say_in_thread("the app's thread speaks")
            app.ask("write", "the app writes\n")
            app.ask("fail_in_thread", "the app's own trouble")
            during = app.state()
            seen = site.kernel.execute("print('end')")
            assert seen.stdout == "end\n"
            everything = [*site.kernel.strays, *(m for run in site.kernel.runs.values() for m in run.messages)]
            assert not [m for m in everything if "the app" in str(m.content)]
        after = found(app)
        planted = app.state()["planted"]
        text = app.stdout_text()
        errors = app.stderr_text()

    for line in ("the app speaks", "the app's thread speaks", "the app writes"):
        assert text.count(line + "\n") == 1
    for foreign in ("out\n", "in a thread", "from a process", "a command", "deleted", "by a worker"):
        assert foreign not in text
    assert errors.count("RuntimeError: the app's own trouble") == 1
    assert "ZeroDivisionError" not in errors
    assert "err\n" not in errors
    assert "beware" not in errors

    assert during["main_is_ours"]
    names = {"stdout", "stderr", "stdin", "displayhook", "excepthook", "threading.excepthook", "open", "print"}
    names |= {"SIGINT", "SIGTERM", "SIGCHLD", "path", "argv", "cwd", "environ", "ps1", "trace", "profile"}
    assert not names & set(during["changed"])

    assert {name: after[name] for name in before if after[name] != before[name]} == {}
    assert {name.split(".")[0] for name in planted} == {planted[0].split(".")[0]}
    assert planted[0].startswith("flame_agent_")


@pytest.mark.parametrize("place", ["child", "process"])
def test_a_hundred_cells_at_once_with_values_and_text(place: str) -> None:
    """All of them are queued before the first one ends: each is answered, in order, with its own value and text."""
    with kernel_at(place) as site:
        k = site.kernel
        ok(k.execute("import sys\na = 0"))
        runs = [k.submit("a += 1\nprint(a, flush=True)\nprint(-a, file=sys.stderr, flush=True)\na") for _ in range(100)]
        for n, run in enumerate(runs, 1):
            ok(k.wait(run))
            assert (run.result, run.stdout, run.stderr) == (str(n), f"{n}\n", f"{-n}\n")
        runs = [k.submit("a += 1\na") for _ in range(100)]
        for n, run in enumerate(runs, 101):
            assert ok(k.wait(run)).result == str(n)
