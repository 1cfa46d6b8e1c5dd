"""The debugger through the protocol: cells of a child and of a live app, stopped, looked at, stepped and let go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import farside
import psutil
import pytest
from debugging import Front, front
from farside import FlameServer, LiveApp, wait_until
from flakylink import FlakyLink
from kernels import remote_flame
from main_app import IS_MAIN, app, is_as_found, state
from places import Site, kernel_at, kernel_on, ok, uncoloured
from rawagent import raw_agent

FUNCTION = "def f(a, b):\n    c = a + b\n    return c\n\nf(2, 3)\n'done'"


@pytest.fixture(scope="module", params=["child", "process"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with kernel_at(request.param) as one:
        with front(one.kernel):
            pass  # debugpy is imported: threads and files of it that stay are not a test's
        yield one


@pytest.fixture
def debugger(site: Site) -> Iterator[Front]:
    with front(site.kernel) as one:
        yield one


def test_a_cell_is_stopped_and_looked_at(debugger: Front, site: Site) -> None:
    path = debugger.breakpoints(FUNCTION, 2)
    run = debugger.run_to_stop(FUNCTION)
    stop = run.of_type("debug_event")[0]
    assert (stop.content["event"], stop.content["body"]["reason"]) == ("stopped", "breakpoint")
    assert stop.content["body"]["threadId"] == 1
    assert debugger.stack() == [("f", 2), ("<module>", 5)], "the user's frames and no others"
    assert debugger.frames()[0]["source"]["path"] == path
    assert debugger.variables() == {"a": "2", "b": "3"}
    frame = debugger.frames()[0]["id"]
    assert debugger.ask("evaluate", expression="a + 100", frameId=frame, context="repl")["result"] == "102"
    assert debugger.ask("richInspectVariables", variableName="b", frameId=frame)["data"] == {"text/plain": "3"}
    # The far side answers an editor meanwhile.
    assert "append" in debugger.kernel.complete("[].app")["matches"]
    info = debugger.ask("debugInfo")
    assert (info["isStarted"], info["stoppedThreads"]) == (True, [1])
    assert info["breakpoints"] == [{"source": path, "breakpoints": [{"line": 2}]}]
    assert path.startswith(info["tmpFilePrefix"])
    debugger.step(run)
    assert debugger.stack()[0] == ("f", 3)
    assert debugger.variables()["c"] == "5"
    debugger.step(run, "stepOut")
    assert debugger.stack() == [("<module>", 5)]
    debugger.step(run, "stepIn")
    assert debugger.stack() == [("<module>", 6)]
    assert ok(debugger.go_on(run)).result == "'done'"
    debugger.kernel.wait_for(lambda: len(debugger.events("continued")) == len(debugger.events("stopped")), "continued")


# Each line calls code of the agent's: streams, the start of a thread, displays, the shell's own functions.
INTO_US = """import sys, threading
print('one')
sys.stdout.write('two')
sys.stdout.flush()
thread = threading.Thread(target=len, args=((),))
thread.start()
thread.join()
display('three')
get_ipython()
'done'"""


def steps_over_us(debugger: Front) -> None:
    debugger.breakpoints(INTO_US, 2)
    run = debugger.run_to_stop(INTO_US)
    for line in range(3, 11):
        debugger.step(run, "stepIn")
        assert debugger.stack() == [("<module>", line)], "a step into our code, which is none of the user's"
    assert ok(debugger.go_on(run)).result == "'done'"


def test_a_step_does_not_lead_into_our_code(debugger: Front) -> None:
    steps_over_us(debugger)


def test_nothing_listens(debugger: Front, site: Site) -> None:
    pid = debugger.kernel.execute("import os; os.getpid()").result
    listening = [one for one in psutil.Process(int(pid or 0)).net_connections() if one.status == psutil.CONN_LISTEN]
    assert len(listening) == (0 if site.in_child else 1), "no door but the app's own server"


def test_the_files_of_cells_go_with_the_debugger(site: Site) -> None:
    with front(site.kernel) as debugger:
        folder = Path(debugger.file(FUNCTION)).parent
        assert folder.stat().st_mode & 0o077 == 0
        assert [one.read_text() for one in folder.iterdir()] == [FUNCTION]
    assert not folder.exists()


def test_a_step_off_the_end_stops_no_other_cell(debugger: Front) -> None:
    debugger.breakpoints(FUNCTION, 6)
    run = debugger.run_to_stop(FUNCTION)
    debugger.ask("next", threadId=1)
    ok(debugger.kernel.wait(run))
    assert ok(debugger.kernel.execute("x = 1\nx + 1")).result == "2"


def test_a_module_of_the_far_side(debugger: Front, tmp_path: Path) -> None:
    module = tmp_path / "farside_module.py"
    module.write_text("def half(n):\n    result = n / 2\n    return result\n")
    debugger.set_breakpoints(str(module), 3)
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport farside_module\nfarside_module.half(8)"
    run = debugger.run_to_stop(code)
    assert debugger.stack() == [("half", 3), ("<module>", 4)]
    assert debugger.variables() == {"n": "8", "result": "4.0"}
    assert debugger.ask("source", source={"path": str(module)})["content"] == module.read_text()
    assert not debugger.request("source", source={"path": "/no/such/file.py"})["success"]
    assert ok(debugger.go_on(run)).result == "4.0"
    listed = debugger.ask("modules")["modules"]
    assert str(module) in [one["path"] for one in listed]
    ok(debugger.kernel.execute("sys.path.pop(0); del sys.modules['farside_module']"))


@pytest.mark.parametrize("filters", [["raised"], ["uncaught"]], ids=str)
def test_exceptions_stop(debugger: Front, filters: list[str]) -> None:
    debugger.ask("setExceptionBreakpoints", filters=filters)
    run = debugger.run_to_stop("def g():\n    z = 4\n    1 / 0\ng()")
    body = debugger.events("stopped")[-1].content["body"]
    assert (body["reason"], body["description"]) == ("exception", "division by zero")
    assert debugger.stack()[0] == ("g", 3)
    assert debugger.variables()["z"] == "4"
    debugger.ask("setExceptionBreakpoints", filters=[])
    debugger.go_on(run)
    assert run.error is not None
    assert run.error["ename"] == "ZeroDivisionError"


def test_conditions_and_copies(debugger: Front) -> None:
    code = "def g(n):\n    local = [n]\n    return local\n[g(n) for n in range(10)][-1]"
    debugger.breakpoints(code, 3, condition="n == 7")
    run = debugger.run_to_stop(code)
    frame = debugger.frames()[0]["id"]
    debugger.ask("copyToGlobals", srcVariableName="local", dstVariableName="copied", srcFrameId=frame)
    refused = debugger.request("copyToGlobals", srcVariableName="local", dstVariableName="x'] or 1", srcFrameId=frame)
    assert not refused["success"]
    assert ok(debugger.go_on(run)).result == "[9]"
    assert debugger.kernel.execute("copied").result == "[7]"


def test_a_running_cell_is_paused(site: Site) -> None:
    """The debugger is started, too, while a cell runs that was begun before."""
    run = site.kernel.submit("import time\nprint('go')\nend = False\nwhile not end:\n    time.sleep(0.01)")
    site.kernel.wait_for_output(run, "go")
    with front(site.kernel) as debugger:
        if not site.in_child:  # a thread that is not its own main one has to come by first
            refused = debugger.request("pause", threadId=1)
            assert "only later cells can be stopped" in refused["message"]
            site.kernel.interrupt()
            site.kernel.wait(run)
            run = site.kernel.submit("print('go')\nend = False\nwhile not end:\n    time.sleep(0.01)")
            site.kernel.wait_for_output(run, "go")
        stops = len(debugger.events("stopped"))
        debugger.ask("pause", threadId=1)
        debugger.wait_stopped(run, stops)
        assert debugger.stack()[0][0] == "<module>"
        frame = debugger.frames()[0]["id"]
        debugger.ask("setExpression", expression="end", value="True", frameId=frame)
        ok(debugger.go_on(run))


def test_breakpoint_stops_here_while_the_debugger_is_on(site: Site) -> None:
    code = "before = 1\nbreakpoint()\nafter = 2"
    with front(site.kernel) as debugger:
        run = debugger.run_to_stop(code)
        assert debugger.stack() == [("<module>", 3)]
        ok(debugger.go_on(run))
    run = ok(site.kernel.execute(code, answers=("p before + 41", "c")))
    assert "42" in run.stdout


def test_async_cells_and_threads(debugger: Front) -> None:
    code = "import asyncio\nasync def h():\n    await asyncio.sleep(0)\n    w = 5\n    return w\nawait h()"
    debugger.breakpoints(code, 5)
    run = debugger.run_to_stop(code)
    assert debugger.stack() == [("h", 5), ("<module>", 6)]
    assert ok(debugger.go_on(run)).result == "5"
    code = (
        "import threading\ndef work():\n    v = 7\n    return v\nt = threading.Thread(target=work)\nt.start()\nt.join()"
    )
    debugger.breakpoints(code, 4)
    run = debugger.run_to_stop(code)
    thread = debugger.events("stopped")[-1].content["body"]["threadId"]
    assert debugger.stack(thread) == [("work", 4)]
    assert thread in [one["id"] for one in debugger.ask("threads")["threads"]]
    ok(debugger.go_on(run))


def test_stop_ends_a_cell_that_is_stopped(debugger: Front) -> None:
    debugger.breakpoints(FUNCTION, 2)
    run = debugger.run_to_stop(FUNCTION)
    debugger.kernel.interrupt()
    debugger.kernel.wait(run)
    assert run.error is not None
    assert run.error["ename"] == "KeyboardInterrupt"
    assert "pydevd" not in run.traceback
    assert uncoloured(run.traceback).count("in f(a, b)") == 1
    run = debugger.run_to_stop(FUNCTION)  # the breakpoint is still there
    assert ok(debugger.go_on(run)).result == "'done'"


def test_stop_ends_an_evaluation_first(debugger: Front) -> None:
    debugger.breakpoints(FUNCTION, 2)
    run = debugger.run_to_stop(FUNCTION)
    frame = debugger.frames()[0]["id"]
    endless = "[print('evaluating'), [__import__('time').sleep(0.01) for _ in iter(int, 1)]]"
    asked = debugger.send("evaluate", expression=endless, frameId=frame, context="repl")
    debugger.kernel.wait_for(lambda: "evaluating" in str(debugger.events("output")), "the beginning of the evaluation")
    debugger.kernel.interrupt()
    debugger.kernel.wait(asked)
    assert asked.reply is not None
    assert asked.reply["message"] == "KeyboardInterrupt: the evaluation was interrupted"
    assert not run.done
    assert debugger.stack()[0] == ("f", 2)
    debugger.kernel.interrupt()
    debugger.kernel.wait(run)
    assert run.error is not None
    assert run.error["ename"] == "KeyboardInterrupt"


def test_an_end_while_stopped_and_another_start(site: Site) -> None:
    with front(site.kernel) as debugger:
        debugger.breakpoints(FUNCTION, 2)
        run = debugger.run_to_stop(FUNCTION)
    assert ok(site.kernel.wait(run)).result == "'done'"
    assert ok(site.kernel.execute(FUNCTION)).result == "'done'"
    with front(site.kernel) as debugger:
        assert debugger.ask("debugInfo")["breakpoints"] == []
        debugger.breakpoints(FUNCTION, 2)
        run = debugger.run_to_stop(FUNCTION)
        debugger.ask("terminate")
        site.kernel.wait(run)
        assert run.error is not None
        assert run.error["ename"] == "KeyboardInterrupt"


def test_variables_without_a_debugger(site: Site) -> None:
    ok(site.kernel.execute("globals()[7] = _index = 1"))  # a name that is none, and one of the user's
    ok(site.kernel.execute("number = 42; text = 'x' * 10**6; pair = {'a': [1, 2], 'b': number}\ndef func(): pass"))
    debugger = Front(site.kernel)
    found = {one["name"]: one for one in debugger.ask("inspectVariables")["variables"]}
    assert found["number"]["value"] == "42"
    assert found["number"]["type"] == "int"
    assert len(found["text"]["value"]) < 1000
    assert not {"In", "Out", "get_ipython", "_i1", "_ii", "__name__"} & set(found)
    assert found["_index"]["value"] == "1"
    ok(site.kernel.execute("del globals()[7]"))
    inside = debugger.ask("variables", variablesReference=found["pair"]["variablesReference"])["variables"]
    assert [(one["name"], one["value"]) for one in inside] == [("'a'", "[1, 2]"), ("'b'", "42")]
    functions = debugger.ask("variables", variablesReference=found["function variables"]["variablesReference"])
    assert "func" in [one["name"] for one in functions["variables"]]
    assert debugger.ask("richInspectVariables", variableName="pair")["data"]["text/plain"] == "{'a': [1, 2], 'b': 42}"
    assert not debugger.request("richInspectVariables", variableName="no_such_name")["success"]
    assert not debugger.ask("debugInfo")["isStarted"]
    assert not debugger.request("setBreakpoints", source={"path": "x.py"}, breakpoints=[])["success"]


def test_the_app_goes_on_while_a_cell_is_stopped(live_app: Callable[..., LiveApp]) -> None:
    app = live_app(key=farside.random_key())
    found = app.state()
    environ = app.ask("evaluate", "sorted(os.environ)")
    with kernel_on(app, "process") as site, front(site.kernel) as debugger:
        debugger.breakpoints(FUNCTION, 2)
        run = debugger.run_to_stop(FUNCTION)
        before = app.state()["counter"]
        wait_until(lambda: app.state()["counter"] > before + 20, "the app's own thread counting")
        app.say_in_thread("a new thread of the app")  # back when that thread has ended
        assert "trace" not in app.state()["changed"]
        assert [one["id"] for one in debugger.ask("threads")["threads"]] == [1]
        assert ok(debugger.go_on(run)).result == "'done'"
    wait_until(lambda: app.state()["changed"] == found["changed"], "all hooks as they were")
    assert app.ask("evaluate", "sorted(os.environ)") == environ
    left = [name for name in app.state()["threads"] if "flame-" in name or "pydevd" in name.lower()]
    assert left == []


@pytest.mark.parametrize("way", ["loop", "pumped"])
def test_on_the_main_thread_of_an_app(way: str) -> None:
    """Cells are stopped there, and what they call; what the thread does else is not traced, nor is another one."""
    with app(way) as one, raw_agent(one.location, "other") as other:
        state(other)  # its connection is there, and counted
        see = "__import__('__main__').%s"
        other.execute(
            "import __main__, threading, time\n__main__.ticks, __main__.ticking = 0, True\n"
            "def tick():\n    while __main__.ticking:\n        __main__.ticks += 1; time.sleep(0.001)"
        )
        with remote_flame({"FLAME_TARGET": one.location, "FLAME_PLACE": "main"}) as kernel:
            assert ok(kernel.execute(IS_MAIN)).result == "True"
            with front(kernel) as debugger:
                debugger.breakpoints(FUNCTION, 2)
                source = Path(farside.HERE, "apps", "main_app.py")
                line = source.read_text().splitlines().index("    rounds += 1") + 1
                debugger.set_breakpoints(str(source), line)
                run = debugger.run_to_stop(FUNCTION)
                assert debugger.stack() == [("f", 2), ("<module>", 5)]
                assert debugger.variables() == {"a": "2", "b": "3"}
                other.execute("threading.Thread(target=tick).start()")
                wait_until(lambda: other.evaluate(see % "ticks") > 20, "a thread that the app has started meanwhile")
                assert [thread["id"] for thread in debugger.ask("threads")["threads"]] == [1]
                debugger.step(run)
                assert debugger.variables()["c"] == "5"
                assert ok(debugger.go_on(run)).result == "'done'"
                # The app's own rounds do not stop at the breakpoint there; a cell that calls it does.
                if way == "pumped":
                    rounds = other.evaluate(see % "rounds")
                    wait_until(lambda: other.evaluate(see % "rounds") > rounds, "the app's own loop")
                run = debugger.run_to_stop("import __main__\n__main__.look()")
                assert debugger.stack() == [("look", line), ("<module>", 2)]
                assert ok(debugger.go_on(run)).result == "True"
                run = debugger.run_to_stop("before = 1\nbreakpoint()\nafter = 2")
                assert debugger.stack() == [("<module>", 3)]
                kernel.interrupt()
                kernel.wait(run)
                assert run.error is not None
                assert run.error["ename"] == "KeyboardInterrupt"
                run = debugger.run_to_stop(FUNCTION)  # and the debugger is ended
            assert ok(kernel.wait(run)).result == "'done'"
            assert ok(kernel.execute("import sys, threading; sys.gettrace()")).error is None
            left = "[name for name in vars(threading.main_thread()) if 'flame' in name or 'pydev_' in name]"
            assert kernel.execute(f"sys.gettrace() is None, {left}").result == "(True, [])"
            debugger = Front(kernel)  # once more, and the session ends while it is stopped
            debugger.start()
            debugger.breakpoints(FUNCTION, 2)
            debugger.run_to_stop(FUNCTION)
        assert other.evaluate(see % "traced") == 1  # when a cell called it
        other.execute("__main__.ticking = False")
        is_as_found(other)


def test_one_session_of_a_process_is_debugged_at_a_time(live_app: Callable[..., LiveApp]) -> None:
    app = live_app(key=farside.random_key())
    with kernel_on(app, "process") as one, kernel_on(app, "process") as other:
        second = Front(other.kernel)
        with front(one.kernel) as first:
            refused = second.request("initialize", clientID="tests", adapterID="")
            assert not refused["success"]
            assert "in the same process is being debugged: one at a time" in refused["message"]
            first.breakpoints(FUNCTION, 2)
            assert ok(other.kernel.execute(FUNCTION)).result == "'done'", "stopped by another's breakpoint"
        second.start()
        second.breakpoints(FUNCTION, 2)
        run = second.run_to_stop(FUNCTION)
        assert ok(second.go_on(run)).result == "'done'"


def test_a_far_side_without_debugpy() -> None:
    with kernel_at("child-bare") as site:
        assert site.kernel.kernel_info()["supported_features"] == ["kernel subshells"]
        debugger = Front(site.kernel)
        said = ok(site.kernel.execute("number = 42"))
        refused = debugger.request("initialize", clientID="tests", adapterID="")
        assert not refused["success"]
        version = ".".join(map(str, site.server.python.version[:2]))
        words = f"the debugger needs debugpy on {os.uname().nodename} (Python {version}): pip install debugpy there; "
        words += "without internet there: %flame pip install debugpy"
        assert refused["message"] == words
        # A front end shows none of that: it is said in the last cell, once.
        assert not debugger.request("initialize", clientID="tests", adapterID="")["success"]
        site.kernel.wait_for(lambda: said.stderr, "a sentence in the cell")
        advice = "%pip install debugpy, then restart the kernel; without internet there: %flame pip install debugpy"
        assert said.stderr == f"the debugger needs debugpy at {site.server.location}: {advice}\n"
        assert "number" in [one["name"] for one in debugger.ask("inspectVariables")["variables"]]
        assert debugger.ask("richInspectVariables", variableName="number")["data"] == {"text/plain": "42"}


@pytest.mark.parametrize("name", ["child-mini", "process-mini"])
def test_without_ipython(name: str) -> None:
    """Cells are known by their text as it stands in the notebook, magics and empty lines too."""
    with kernel_at(name) as site:
        assert "debugger" in site.kernel.kernel_info()["supported_features"]
        with front(site.kernel) as debugger:
            code = "\n\n%time print('magic')\ndef f(a):\n    return [a]\nf(1)"
            debugger.breakpoints(code, 5)
            run = debugger.run_to_stop(code)
            assert debugger.stack() == [("f", 5), ("<module>", 6)]
            frame = debugger.frames()[0]["id"]
            assert debugger.ask("richInspectVariables", variableName="a", frameId=frame)["data"] == {"text/plain": "1"}
            assert ok(debugger.go_on(run)).result == "[1]"
            steps_over_us(debugger)
            run = debugger.run_to_stop(code)
            site.kernel.interrupt()
            site.kernel.wait(run)
            assert "pydevd" not in run.traceback
            assert "KeyboardInterrupt" in run.traceback


def test_a_link_that_is_cut_while_stopped(flame_server: Callable[..., FlameServer]) -> None:
    with FlakyLink(flame_server().location) as link, remote_flame({"FLAME_TARGET": link.location}) as kernel:
        ok(kernel.execute("pass"))
        with front(kernel) as debugger:
            debugger.breakpoints(FUNCTION, 2)
            run = debugger.run_to_stop(FUNCTION)
            link.down()
            asked = debugger.send("stackTrace", threadId=1)
            kernel.take_all(0.5)
            assert not asked.done
            link.up()
            kernel.wait(asked)
            assert asked.reply is not None
            assert [frame["name"] for frame in asked.reply["body"]["stackFrames"]] == ["f", "<module>"]
            debugger.step(run)
            assert debugger.stack()[0] == ("f", 3)
            assert ok(debugger.go_on(run)).result == "'done'"


def test_a_child_that_dies_while_stopped() -> None:
    with kernel_at("child") as site:
        debugger = Front(site.kernel)
        debugger.start()
        debugger.breakpoints(FUNCTION, 2)
        run = debugger.run_to_stop(FUNCTION)
        asked = debugger.send("evaluate", expression="__import__('os')._exit(7)", frameId=debugger.frames()[0]["id"])
        site.kernel.wait(asked)
        site.kernel.wait(run)
        assert asked.reply is not None
        assert not asked.reply["success"]
        assert "exit status 7" in asked.reply["message"]
        assert not debugger.ask("debugInfo")["isStarted"]
        with front(site.kernel) as debugger:  # in the fresh one
            debugger.breakpoints(FUNCTION, 2)
            run = debugger.run_to_stop(FUNCTION)
            assert ok(debugger.go_on(run)).result == "'done'"


@pytest.mark.parametrize("place", ["child", "process"])
def test_restart_and_shutdown_while_stopped(place: str) -> None:
    with kernel_at(place) as site:
        for end in ("restart", "shutdown"):
            debugger = Front(site.kernel)
            debugger.start()
            debugger.breakpoints(FUNCTION, 2)
            debugger.run_to_stop(FUNCTION)
            began = time.monotonic()
            if end == "restart":
                site.kernel.restart()
                assert not debugger.ask("debugInfo")["isStarted"]
                assert ok(site.kernel.execute(FUNCTION)).result == "'done'"
            else:
                site.kernel.shutdown()
            print(f"{end}: {time.monotonic() - began:.1f} s")
        if not site.in_child:
            wait_until(lambda: not [n for n in site.app.state()["threads"] if "cells" in n], "the end of the session")


def test_a_session_that_is_taken_up_while_stopped(flame_server: Callable[..., FlameServer]) -> None:
    """The breakpoints, and the stop, are there for the next front end."""
    server = flame_server(key=farside.random_key())
    env = {**server.environ(), "FLAME_SESSION": "debugged"}
    with remote_flame(env) as kernel:
        debugger = Front(kernel)
        debugger.start()
        path = debugger.breakpoints(FUNCTION, 2)
        debugger.run_to_stop(FUNCTION)
        kernel.kill()
    with remote_flame(env) as kernel:
        debugger = Front(kernel)
        info = debugger.ask("debugInfo")
        assert (info["isStarted"], info["stoppedThreads"]) == (True, [1])
        assert info["breakpoints"] == [{"source": path, "breakpoints": [{"line": 2}]}]
        assert debugger.stack() == [("f", 2), ("<module>", 5)]
        debugger.ask("disconnect")
        assert ok(kernel.execute("f(1, 1)")).result == "2"
