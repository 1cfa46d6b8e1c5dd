"""The agent's IPython shell, run where it would run: an interpreter of the far side, a thread of a process or a child.

``python ishell_cases.py AGENT_FOLDER PLACE [case …]`` runs the cases and prints a line of JSON for each. The agent is
loaded as a package of another name and alone, as on a server; the host is a small one of its own. Syntax of Python 3.7.
"""

# ruff: noqa: B905, PT018, UP031  (many small checks in a row; the far side may be Python 3.7)

import asyncio
import atexit
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import types

CASES = []


def case(*places):
    """Registers a test; without places it runs in both."""

    def register(function):
        CASES.append((function.__name__, function, places or ("process", "child")))
        return function

    return register


def load_agent(folder, name="flame_agent_test"):
    package = types.ModuleType(name)
    package.__path__ = [folder]
    package.__package__ = name
    sys.modules[name] = package
    for part, place in (
        ("streams", "output.streams"),
        ("sys_hooks", "output.sys_hooks"),
        ("ishell", "shell.ipython"),
        ("places", "session.places"),
    ):
        setattr(package, part, importlib.import_module(name + "." + place))
    return package


class Host:
    """A session core with nothing behind it: events in a list, lines of input from a list."""

    def __init__(self, agent, place, session_id="s1"):
        self.agent, self.session_id = agent, session_id
        self.place = agent.places.PLACES[place](session_id)
        self.pid, self.closed, self.redirects, self.shell = os.getpid(), False, {}, None
        self.events, self.lines, self.prompts = [], [], []
        self.debug = types.SimpleNamespace(begin=lambda: None)  # is told when a thread of a cell begins
        self.latest = None  # no cell: work that is handed over stays its own
        self._count = 0
        self.namespace = types.ModuleType(self.place.namespace_name)
        sys.modules[self.namespace.__name__] = self.namespace
        agent.sys_hooks.install()
        self.loop = asyncio.new_event_loop()
        if place == "process":
            self._thread = threading.Thread(target=self._serve, daemon=True)
            self._thread.start()
        else:
            asyncio.set_event_loop(self.loop)
        self.call(self._open)

    def _serve(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, function, *args):
        """Call on the session's thread."""

        async def run():
            self.agent.streams.set_current(self.agent.streams.Cell(None, self))
            result = function(*args)
            return (await result) if asyncio.iscoroutine(result) else result

        if self.place.name == "process":
            return asyncio.run_coroutine_threadsafe(run(), self.loop).result(60)
        return self.loop.run_until_complete(run())

    def _open(self):
        self.shell = self.agent.ishell.IPythonShell(self)
        self.shell.shows_text_only(False)

    def publish(self, msg_type, content, metadata=None, buffers=None, clean=None):
        cell = self.agent.streams.current()
        content = content if clean is None else clean(content)
        json.dumps(content, allow_nan=False)
        self.events.append((cell.request_id if cell else None, msg_type, content))

    def write(self, cell, name, text):
        self.events.append((cell.request_id, "stream", {"name": name, "text": text}))

    def flush(self):
        """What is written is there."""

    def input(self, prompt="", password=False):
        self.prompts.append(prompt)
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    def submit(self, code, silent=False, store_history=True, cell_id=None):
        """Begin a cell; a function that waits for its Answer."""
        self._count += 1
        request_id = "%s-%d" % (self.session_id, self._count)

        async def run():
            self.agent.streams.set_current(self.agent.streams.Cell(request_id, self, True, silent))
            return await self.shell.run_cell(code, silent=silent, store_history=store_history, cell_id=cell_id)

        if self.place.name == "process":
            future = asyncio.run_coroutine_threadsafe(run(), self.loop)
            return lambda: Answer(future.result(60), [e for e in self.events if e[0] == request_id])
        return lambda: Answer(self.loop.run_until_complete(run()), [e for e in self.events if e[0] == request_id])

    def run(self, code, **kwargs):
        return self.submit(code, **kwargs)()

    def ok(self, code, **kwargs):
        answer = self.run(code, **kwargs)
        assert answer.reply["status"] == "ok", answer
        return answer

    def close(self):
        self.closed = True
        self.shell.close()
        if self.place.name == "process":
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(10)
            sys.modules.pop(self.namespace.__name__, None)
        self.loop.close()
        self.agent.sys_hooks.uninstall()


class Answer:
    """The reply to a cell, and the events that came with it."""

    def __init__(self, reply, events):
        self.reply, self.events = reply, [e[1:] for e in events]
        json.dumps(reply, allow_nan=False)

    def __repr__(self):
        return "%r\n%r" % (self.reply, self.events)

    def of(self, kind):
        return [content for k, content in self.events if k == kind]

    def text(self, name="stdout"):
        return "".join(c["text"] for c in self.of("stream") if c["name"] == name)

    @property
    def result(self):
        (content,) = self.of("execute_result")
        return content["data"]["text/plain"]


def plain(lines):
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))


# -- cells -----------------------------------------------------------------------------------------------------------


@case()
def values_and_counts(s):
    a = s.ok("1+1")
    assert a.result == "2" and a.of("execute_result")[0]["execution_count"] == 1 == a.reply["execution_count"]
    assert a.reply["payload"] == [] and a.reply["user_expressions"] == {}
    assert s.ok("x = 3; x").result == "3" and s.ok("_ + Out[1] + _1").result == "7"
    assert not s.ok("5;").of("execute_result") and not s.ok("None").of("execute_result")
    before = s.shell.execution_count
    hidden = s.ok("x", store_history=False)
    assert hidden.result == "3" and hidden.reply["execution_count"] == before - 1
    assert not s.ok("x", silent=True).of("execute_result") and s.shell.execution_count == before
    assert s.ok("").reply["execution_count"] == before - 1
    assert s.ok("In[1], _i1, _ih[2]").result == "('1+1', '1+1', 'x = 3; x')"
    assert s.ok("for i in range(2):\n    i\nprint(i)").text() == "1\n"


@case()
def errors(s):
    a = s.run("def f():\n    return 1/0\nf()")
    (e,) = a.of("error")
    assert e["ename"] == a.reply["ename"] == "ZeroDivisionError" and e["evalue"] == a.reply["evalue"]
    assert e["traceback"] == a.reply["traceback"] and a.reply["status"] == "error" and a.reply["execution_count"] == 1
    shown = plain(e["traceback"])
    assert "return 1/0" in shown and "f()" in shown and "run_code" not in shown and "ishell" not in shown, shown
    a = s.run("1 +")
    assert a.reply["ename"] == "SyntaxError" and a.of("error") and "1 +" in plain(a.reply["traceback"])
    a = s.run("  x = 1\n y = 2")
    assert a.reply["ename"] == "IndentationError"
    a = s.run("raise SystemExit(3)")
    assert a.reply["ename"] == "SystemExit"
    a = s.run("%nosuchmagic")
    assert a.reply["ename"] == "UsageError" and "UsageError" in a.text("stderr") and not a.of("error")
    a = s.run("class B(Exception):\n    def __str__(self): raise ValueError\nraise B()")
    assert a.reply["ename"] == "B" and "failed" in a.reply["evalue"] and a.of("error")
    a = s.run("return 1")
    assert a.reply["ename"] == "SyntaxError" and len(a.of("error")) == 1
    a = s.run("1/0", silent=True)
    assert a.reply["status"] == "error" and a.of("error")
    assert "ZeroDivisionError" in plain(s.run("%tb").of("error")[0]["traceback"])


@case()
def file_names(s):
    s.ok("import inspect\ndef f():\n    return 41 + 1")
    assert "41 + 1" in s.ok("print(inspect.getsource(f))").text()
    name = eval(s.ok("f.__code__.co_filename").result)
    shown = plain(s.run("1/0").reply["traceback"])
    if sys.modules["IPython"].version_info[0] >= 8:
        assert "Cell In[" in shown or "Input In [" in shown, shown
    if importlib.util.find_spec("ipykernel"):
        from ipykernel.compiler import get_file_name

        for text in ("a", "ab", "abc", "abcd", "x = '\u00fc'\n" * 3):
            assert get_file_name(text) == sys.modules["flame_agent_test.shell.ipython_parts"].cell_file(text)
        assert name.endswith(".py") and "ipykernel_%d" % os.getpid() in name
    else:
        assert name.startswith("<ipython-input-")


@case()
def strange_source(s):
    for text in ("x = 1\r\ny = 2\r\n", "\tx = 1", "# -*- coding: utf-7 -*-\nx = 1", "\n\n", "  ", "#"):
        assert s.run(text).reply["status"] == "ok", text
    for text in ("x = 1\0", "x = '\ud800'", "(" * 10000 + ")" * 10000, "'\\N{nothing}'", "x = ["):
        answer = s.run(text)
        assert answer.reply["status"] == "error" and answer.reply["ename"], text[:20]
    assert s.ok("\n".join("x = %d" % i for i in range(20000)) + "\nx").result == "19999"


@case()
def awaiting(s):
    assert s.ok("import asyncio\nawait asyncio.sleep(0.01)\n42").result == "42"
    s.ok("async def tick():\n    await asyncio.sleep(0.02)\n    print('tick')\nt = asyncio.ensure_future(tick())")
    assert s.ok("await t; 'done'").result == "'done'"
    assert s.ok("loop = asyncio.get_running_loop()").reply["status"] == "ok"
    assert s.run("await asyncio.sleep(0); 1/0").reply["ename"] == "ZeroDivisionError"
    assert "asyncio" in s.ok("%autoawait").text()
    s.ok("%autoawait off")
    assert s.run("await asyncio.sleep(0)").reply["ename"] == "SyntaxError"
    s.ok("%autoawait on")
    assert s.ok("await asyncio.sleep(0, 'on')").result == "'on'"


@case()
def cancelled_while_awaiting(s):
    import concurrent.futures

    if s.place.name == "child":
        return
    before = len(s.events)
    wait = s.submit("import asyncio\nprint('awaiting')\nawait asyncio.sleep(30)")
    deadline = time.monotonic() + 10
    while not any(e[1] == "stream" for e in s.events[before:]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for task in asyncio.all_tasks(s.loop):
        s.loop.call_soon_threadsafe(task.cancel)
    try:
        assert wait().reply["ename"] == "CancelledError"
    except concurrent.futures.CancelledError:
        raise AssertionError("the cancellation came through") from None


@case()
def expressions(s):
    s.ok("x = 3\nclass P:\n    def _repr_png_(self): return b'\\x89PNG'")
    found = s.call(s.shell.user_expressions, {"a": "x + 1", "b": "1/0", "c": "P()"})
    assert found["a"]["status"] == "ok" and found["a"]["data"] == {"text/plain": "4"}
    assert found["b"]["status"] == "error" and found["b"]["ename"] == "ZeroDivisionError"
    assert found["c"]["data"]["image/png"] == "iVBORw=="


@case()
def displays(s):
    s.ok("class P:\n    def __repr__(self): return 'P'\n    def _repr_html_(self): return '<b>P</b>'\n"
         "    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x1a\\n'")  # fmt: skip
    a = s.ok("P()").of("execute_result")[0]
    assert a["data"] == {"text/plain": "P", "text/html": "<b>P</b>", "image/png": "iVBORw0KGgo="}
    a = s.ok("h = display(P(), display_id='i', metadata={'k': 1}); h.update(2)")
    a.events += s.ok("from IPython.display import clear_output\nclear_output(wait=True)").events
    (shown,), (changed,), (cleared,) = a.of("display_data"), a.of("update_display_data"), a.of("clear_output")
    assert shown["transient"] == {"display_id": "i"} == changed["transient"] and cleared == {"wait": True}
    assert changed["data"] == {"text/plain": "2"}
    a = s.ok("import threading, IPython.display as d\n"
             "t = threading.Thread(target=lambda: d.display('in a thread')); t.start(); t.join()")  # fmt: skip
    assert a.of("display_data")[0]["data"]["text/plain"] == "'in a thread'"
    a = s.ok("%%capture c\nprint('p'); display(7)\n8")
    assert not a.events
    assert s.ok("c.stdout, len(c.outputs)").result == "('p\\n', 2)"
    a = s.ok("import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as f: print(1)\nf.getvalue()")
    assert a.result == "'1\\n'" and not a.text()
    a = s.run("class R:\n    def __repr__(self): 1/0\nR()")
    assert a.reply["status"] == "error" and a.reply["ename"] == "ZeroDivisionError" and a.of("error")
    a = s.ok("display({'text/plain': 'x', 'application/json': {'n': float('nan'), 1: (2, {3})}}, raw=True)")
    assert a.of("display_data")[0]["data"]["application/json"] == {"n": "nan", "1": [2, [3]]}
    a = s.ok("from IPython.display import HTML, JSON, Image\nHTML('<i>')")
    assert a.of("execute_result")[0]["data"]["text/html"] == "<i>"


@case()
def message_hooks(s):
    hook = "def hook(m):\n    seen.append((m['msg_type'], m['parent_header']['msg_id']))\n"
    a = s.ok("seen = []\npub = get_ipython().display_pub\n" + hook + "pub.register_hook(hook)\ndisplay(1)\n"
             "pub.unregister_hook(hook)\ndisplay(2)")  # fmt: skip
    assert [d["data"]["text/plain"] for d in a.of("display_data")] == ["2"]
    assert eval(s.ok("seen").result) == [("display_data", "%s-1" % s.session_id)]
    assert (
        s.ok("ip = get_ipython()\nip.kernel.get_parent()['header']['msg_id'] == ip.get_parent()['msg_id']").result
        == "True"
    )


# -- magics ----------------------------------------------------------------------------------------------------------


@case()
def commands_of_the_system(s):
    a = s.ok("!echo one; echo two >&2; exit 3")
    assert a.text() == "one\ntwo\n" and s.ok("_exit_code").result == "3"
    s.ok("who = 'world'")
    assert s.ok("!echo hello $who {1+1}").text() == "hello world 2\n"
    assert s.ok("lines = !printf 'a\\nb\\n'\nlines").result == "['a', 'b']"
    assert s.run("!sleep 1 &").reply["ename"] == "OSError"
    assert s.ok("!kill -9 $$\n_exit_code").result == "-9"
    a = s.ok("%%bash\necho $((6*7))\necho err >&2")
    assert a.text() == "42\n" and a.text("stderr") == "err\n"
    assert s.ok("%%bash --out o\necho kept").text() == "" and s.ok("o").result == "'kept\\n'"
    failed = s.run("%%bash\nexit 4").reply
    assert failed["ename"] == "CalledProcessError" and "ishell_parts" not in plain(failed["traceback"]), failed
    assert s.ok("%%bash --no-raise-error\nexit 4").events == []
    assert "Couldn't find program" in s.ok("%%script no-such-program-here\nx").text()
    assert s.ok("%%script --bg bash\nexec sleep 20").reply["status"] == "ok"
    assert "killed" in s.ok("%killbgscripts").text()
    big = s.ok("%%script cat\n" + "x" * 300000).text()
    assert len(big) == 300001
    assert s.ok("%%capture c\n!echo inside").events == [] and s.ok("c.stdout").result == "'inside\\n'"


@case()
def commands_stream_and_stop(s):
    started = time.monotonic()
    wait = s.submit("!echo first; sleep 20; echo last")

    def when_it_has_begun(stop):
        while not any(e[:2] == ("s1-1", "stream") for e in s.events) and time.monotonic() - started < 15:
            time.sleep(0.01)
        stop()

    if s.place.name == "process":
        when_it_has_begun(lambda: interrupt_thread(s._thread.ident))
    else:
        # As the server interrupts a child: all of its process group, to which the command belongs.
        assert os.getpgrp() == os.getpid(), "to be started in a session of its own"
        group = os.getpgrp()
        threading.Thread(target=when_it_has_begun, args=(lambda: os.killpg(group, signal.SIGINT),)).start()
    a = wait()
    assert a.reply["status"] == "ok" and a.text() == "first\n^C\n", a
    assert s.ok("_exit_code").result == "-2" and time.monotonic() - started < 19  # the sleep is of 20 s
    # a background process of the command that keeps the pipe open does not keep the cell
    started = time.monotonic()
    assert s.ok("!(sleep 4 >&1 &) ; echo over").text() == "over\n"
    assert time.monotonic() - started < 3


def interrupt_thread(ident):
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt))


@case("process")
def interrupt_of_a_loop(s):
    wait = s.submit("print('begun')\nwhile True: pass")
    until = time.monotonic() + 15
    while not any(e[1] == "stream" for e in s.events) and time.monotonic() < until:
        time.sleep(0.01)
    interrupt_thread(s._thread.ident)
    a = wait()
    assert a.reply["ename"] == "KeyboardInterrupt" and a.of("error")
    assert s.ok("1").result == "1"


@case()
def payloads(s):
    (page,) = s.ok("len?").reply["payload"]
    assert page["source"] == "page" and "Return the number" in page["data"]["text/plain"] and page["start"] == 0
    assert s.ok("len??").reply["payload"] and s.ok("1").reply["payload"] == []
    with open("to_load.py", "w") as f:
        f.write("y = 1\n")
    (load,) = s.ok("%load to_load.py").reply["payload"]
    assert load["source"] == "set_next_input" and load["replace"] is True and "y = 1" in load["text"]
    s.ok("12345")
    (recall,) = s.ok("%recall").reply["payload"]
    assert recall["source"] == "set_next_input" and "12345" in recall["text"], recall
    for text in ("exit", "quit", "exit()"):
        (end,) = s.ok(text).reply["payload"]
        assert end == {"source": "ask_exit", "keepkernel": False}, end
    assert s.ok("exit(True)").reply["payload"][0]["keepkernel"] is True
    assert s.ok("%less to_load.py").reply["payload"][0]["source"] == "page"


@case()
def history(s):
    s.ok("first = 1")
    s.ok("second = 2")
    text = s.ok("%history").text()
    assert text.startswith("first = 1\nsecond = 2\n"), text
    assert "second = 2" in s.ok("%history -n -g second*").text()
    assert s.ok("%rerun 1").reply["status"] == "ok"
    assert s.ok("%macro m 1-2\nm").reply["status"] == "ok"


@case()
def many_magics(s):
    assert "per loop" in s.ok("%timeit -n 2 -r 1 sum(range(10))").text()
    assert "Wall time" in s.ok("%%time\nx = 1").text()
    assert s.ok("%prun -q sum(range(10))").reply["status"] == "ok"
    with open("script.py", "w") as f:
        f.write("import sys\nclass C: pass\nvalue = (__name__, sys.argv[1:])\nprint('ran', __name__)\n")
    main = sys.modules["__main__"]
    assert s.ok("%run script.py a b").text() == "ran __main__\n"
    assert s.ok("value").result == "('__main__', ['a', 'b'])" and sys.modules["__main__"] is main
    assert s.ok("%run -i script.py").text() == "ran __main__\n" and sys.modules["__main__"] is main
    assert s.ok("__name__").result == repr(s.namespace.__name__)
    with open("mod_to_run.py", "w") as f:
        f.write("print('module', __name__)\n")
    assert s.ok("import sys; sys.path.insert(0, '')\n%run -m mod_to_run").text() == "module __main__\n"
    assert sys.modules["__main__"] is main
    with open("mod_to_load.py", "w") as f:
        f.write("n = 1\n")
    s.ok("%load_ext autoreload\n%autoreload 2\nimport mod_to_load")
    time.sleep(1.1 if sys.version_info < (3, 8) else 0.05)
    with open("mod_to_load.py", "w") as f:
        f.write("n = 22\n")
    assert s.ok("mod_to_load.n").result == "22"
    assert (
        "Writing" in s.ok("%%writefile out.txt\nhello").text() and s.ok("open('out.txt').read()").result == "'hello\\n'"
    )
    assert s.ok("%env FLAME_TEST=1").reply["status"] == "ok"
    assert "x" in s.ok("%who").text() and "display" not in s.ok("%who").text()
    assert s.ok("%cd /tmp").text() and s.ok("%cd -").reply["status"] == "ok"
    assert s.ok("%lsmagic").of("execute_result")
    assert s.ok("%alias hi echo hi %s\n%hi there").text().endswith("hi there\n")
    assert s.ok("%xmode Plain").reply["status"] == "ok" and s.ok("%precision 2\n1/3").result == "0.33"
    assert "no windows" in s.run("%gui qt").text("stderr")
    assert s.ok("%gui").reply["status"] == "ok" and s.ok("%gui asyncio").reply["status"] == "ok"
    assert s.run("%edit").reply["ename"] == "UsageError"
    assert s.ok("%%html\n<b>x</b>").of("display_data")[0]["data"]["text/html"] == "<b>x</b>\n"
    assert s.ok("%pip --version").text().startswith("pip ")
    s.ok("%bookmark here")
    assert "here" in s.ok("%bookmark -l").text()
    s.ok("%load_ext storemagic\nkept = 5\n%store kept")
    s.ok("del kept")
    assert s.ok("%store -r kept\nkept").result == "5"
    assert s.ok("%reset -f").reply["status"] == "ok"
    gone = s.run("kept")
    assert gone.reply["ename"] == "NameError", gone
    assert s.ok("get_ipython() is not None").result == "True"
    assert s.ok("display(1)").of("display_data")


@case()
def debuggers(s):
    s.run("def f(v):\n    return 1 / v\nf(0)")
    s.lines[:] = ["p v + 10", "q"]
    a = s.ok("%debug")
    assert "10" in a.text() and any("pdb" in p for p in s.prompts), (a, s.prompts)
    s.lines[:] = ["p q * 2", "c"]
    a = s.ok("q = 21\nbreakpoint()\nprint('after')")
    assert "42" in a.text() and "after" in a.text()
    s.lines[:] = ["!q", "c"]
    a = s.ok("import pdb\npdb.set_trace()\nprint('end')")
    assert "21" in a.text() and "end" in a.text()
    s.lines[:] = ["typed"]
    assert s.ok("input('name: ')").result == "'typed'" and s.prompts[-1] == "name: "
    assert s.ok("1").result == "1"


# -- asking ----------------------------------------------------------------------------------------------------------


@case()
def completion(s):
    s.ok("value_of_mine = 1\nimport os")
    c = s.shell.complete("value_of", 8)
    assert c["status"] == "ok" and "value_of_mine" in c["matches"] and (c["cursor_start"], c["cursor_end"]) == (0, 8)
    types_of = c["metadata"]["_jupyter_types_experimental"]
    assert [t["text"] for t in types_of] == c["matches"] and set(types_of[0]) == {
        "start",
        "end",
        "text",
        "type",
        "signature",
    }
    c = s.shell.complete("a = '\U0001f600'; os.pat", 15)
    assert any(m.endswith("path") for m in c["matches"]) and c["cursor_end"] == 15, c
    c = s.shell.complete("x = 1\nvalue_of", None)
    assert "value_of_mine" in c["matches"] and c["cursor_start"] == 6
    assert "%timeit" in s.shell.complete("%timei", 6)["matches"]
    assert s.shell.complete("import colle", 12)["matches"]
    c = s.shell.complete("zzzzzz", 6)
    assert c["matches"] == [] and c["cursor_start"] == c["cursor_end"] == 6


@case()
def inspection(s):
    s.ok("def documented(a, b=1):\n    'What it is.'")
    found = s.shell.inspect("documented(1", 11)
    assert found["found"] and "What it is." in found["data"]["text/plain"] and "text/html" not in found["data"]
    assert s.shell.inspect("documented", 5, 1)["found"]
    assert s.shell.inspect("not_there", 5) == {"status": "ok", "found": False, "data": {}, "metadata": {}}
    if sys.modules["IPython"].version_info[0] >= 8:
        less = s.shell.inspect("documented", 3, 0, ("signature", "definition", "docstring"))["data"]["text/plain"]
        assert "What it is." not in less


@case()
def while_a_cell_runs(s):
    if s.place.name == "child":
        return
    wait = s.submit("import time\nabc_d = 1\ntime.sleep(1)")
    time.sleep(0.3)
    started = time.monotonic()
    assert "abc_d" in s.shell.complete("abc_", 4)["matches"] and s.shell.inspect("abc_d", 2)["found"]
    assert time.monotonic() - started < 5 and wait().reply["status"] == "ok"


@case()
def outside_of_a_cell(s):
    def fail():
        raise ValueError("in a callback")

    try:
        fail()
    except ValueError:
        shown = s.shell.format_exception(sys.exc_info())
    assert shown["ename"] == "ValueError" and shown["evalue"] == "in a callback"
    assert "in a callback" in plain(shown["traceback"])


@case()
def for_libraries(s):
    assert s.ok("get_ipython().__class__.__name__").result == "'ZMQInteractiveShell'"
    assert s.ok("'IPKernelApp' in get_ipython().config").result == "True"
    assert (
        s.ok("import IPython, builtins\nIPython.get_ipython() is get_ipython() is builtins.get_ipython()").result
        == "True"
    )
    assert s.ok("from IPython.core.interactiveshell import InteractiveShell as I\n"
                "I.initialized(), I.instance() is get_ipython()").result == "(True, True)"  # fmt: skip
    assert s.ok("bool(__IPYTHON__)").result == "True"
    if s.place.name == "child":
        assert s.ok("from ipykernel import zmqshell" if has("ipykernel") else "zmqshell = I")
        found = sys.modules["ipykernel.zmqshell"].ZMQInteractiveShell
        assert isinstance(s.shell.ip, found)
    assert s.ok("import pickle\nclass K: pass\ntype(pickle.loads(pickle.dumps(K()))) is K").result == "True"
    assert s.ok("from dataclasses import dataclass\n@dataclass\nclass D:\n    a: int\nD(1)").result == "D(a=1)"


# -- figures ---------------------------------------------------------------------------------------------------------


def has(module):
    return importlib.util.find_spec(module) is not None


@case()
def figures(s):
    if not has("matplotlib"):
        return
    if s.place.name == "process":
        assert s.ok("%matplotlib inline").events == []
    a = s.ok("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    (shown,) = a.of("display_data")
    assert shown["data"]["image/png"].startswith("iVBORw0KGgo") and "Figure" in shown["data"]["text/plain"]
    assert not s.ok("1").of("display_data") and s.ok("plt.get_fignums()").result == "[]"
    a = s.ok("plt.plot([1, 2]); plt.show()\nprint('after')")
    assert [k for k, _ in a.events][:2] == ["display_data", "stream"] and len(a.of("display_data")) == 1
    a = s.ok("fig, ax = plt.subplots(1, 2)\nfig")
    assert "image/png" in a.of("execute_result")[0]["data"] and len(a.of("display_data")) == 1
    a = s.ok("plt.ioff()\nplt.plot([3]);")
    assert not a.of("display_data")
    assert len(s.ok("plt.show()").of("display_data")) == 1
    s.ok("plt.ion()")
    assert s.run("%matplotlib qt").reply["ename"] == "UsageError"
    assert s.run("plt.plot([1], [1, 2])").reply["ename"] == "ValueError"
    if not has("matplotlib_inline"):
        return
    s.ok("%config InlineBackend.figure_format = 'svg'")
    assert "image/svg+xml" in s.ok("plt.plot([1]);").of("display_data")[0]["data"]
    s.ok("%config InlineBackend.figure_format = 'png'\n%config InlineBackend.close_figures = False")
    assert len(s.ok("f = plt.figure()").of("display_data")) == 1 and s.ok("len(plt.get_fignums())").result == "1"
    s.ok("plt.close('all')\n%config InlineBackend.close_figures = True")


@case("process")
def figures_apart(s):
    if not has("matplotlib"):
        return
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib._pylab_helpers import Gcf

    host_table, host_backend = Gcf.__dict__["figs"], plt._get_backend_mod()
    mine = plt.figure()
    other = Host(s.agent, s.place.name, "s2")
    try:
        for session in (s, other):
            session.ok("%matplotlib inline\nimport matplotlib.pyplot as plt")
        waits = [
            session.submit("import time\nplt.figure(); time.sleep(0.3); n = plt.get_fignums()")
            for session in (s, other)
        ]
        for wait in waits:
            assert len(wait().of("display_data")) == 1
        assert s.ok("n").result == "[1]" == other.ok("n").result
        assert plt.get_fignums() == [mine.number] and plt._get_backend_mod() is host_backend
        other.ok("f = plt.figure(); plt.ioff()")
        other.ok("plt.ion()")
    finally:
        other.close()
    s.ok("plt.figure();")
    s.shell.figures.close()
    assert Gcf.__dict__["figs"] is host_table and plt._get_backend_mod() is host_backend
    plt.close("all")


@case("process")
def figures_without_ipython(s):
    if not has("matplotlib"):
        return
    figures_module = importlib.import_module(s.agent.__name__ + ".output.figures")
    ours = s.shell.figures
    s.call(ours.enable)
    a = s.ok("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert not a.of("display_data")
    s.events.clear()
    s.call(ours.flush)
    (event,) = [e for e in s.events if e[1] == "display_data"]
    assert event[2]["data"]["image/png"].startswith("iVBORw0KGgo")
    import matplotlib.figure

    assert figures_module.png(matplotlib.figure.Figure()).startswith("iVBORw0KGgo")


# -- the process -----------------------------------------------------------------------------------------------------


AT_EXIT = []  # what is registered; atexit itself only counts, and counts what was taken back


def watch_atexit():
    register, unregister = atexit.register, atexit.unregister

    def registering(function, *args, **kwargs):
        AT_EXIT.append(function)
        return register(function, *args, **kwargs)

    def unregistering(function):
        AT_EXIT[:] = [f for f in AT_EXIT if f != function]
        return unregister(function)

    atexit.register, atexit.unregister = registering, unregistering


def state():
    import builtins
    import linecache
    import warnings

    from IPython.core.interactiveshell import InteractiveShell

    return {
        "main": sys.modules.get("__main__"),
        "hooks": (sys.displayhook, sys.excepthook, sys.stdout, sys.stderr, sys.stdin, type(sys)),
        "builtins": {k: v for k, v in vars(builtins).items() if k != "_"},
        "shell": (InteractiveShell._instance, {k for k in vars(InteractiveShell) if k in ("instance", "initialized")}),
        "warnings": list(warnings.filters),
        "checkcache": linecache.checkcache,
        "cells": {k for k in linecache.cache if "ipython-input" in k or "ipykernel_" in k},
        "atexit": list(AT_EXIT),
        "threads": {t.name for t in threading.enumerate() if "Thread-" not in t.name},
        "signals": signal.getsignal(signal.SIGINT),
        "path": list(sys.path),
        "ps1": getattr(sys, "ps1", None),
        "home": sorted(os.listdir(os.environ["HOME"])),
        "environ": dict(os.environ),
    }


@case("process")
def nothing_left(s):
    """With another session: s is open all the time, so its layers are no news."""
    warm = Host(s.agent, "process", "warm")
    warm.ok("!true\nx = !true"), warm.run("1/0"), warm.ok("import os"), warm.shell.complete("os.pa", 5)
    warm.close()
    s.close()
    before = state()
    for n in range(3):
        one, two = Host(s.agent, "process", "a%d" % n), Host(s.agent, "process", "b%d" % n)
        inside = state()
        for key in ("main", "warnings", "signals", "path", "ps1", "environ", "checkcache"):
            assert inside[key] == before[key], key
        one.ok("1+1\nimport os"), two.run("1/0")
        one.ok("!true\nx = !true"), one.ok("%%bash\ntrue")
        one.shell.complete("os.pa", 5)
        assert one.ok("get_ipython()").result != two.ok("get_ipython()").result
        (one if n % 2 else two).close()
        (two if n % 2 else one).close()
        after = state()
        for key in before:
            assert after[key] == before[key], (key, before[key], after[key])
    import gc
    import weakref

    one = Host(s.agent, "process", "last")
    one.ok("class Big: pass\nb = Big()\nb")
    one.run("1/0")
    ref, ip = weakref.ref(one.namespace.b), weakref.ref(one.shell.ip)
    one.close()
    one.namespace.__dict__.clear()
    del one
    gc.collect()
    assert ref() is None and ip() is None, (gc.get_referrers(ip()), ip())
    s.__init__(s.agent, "process", "s1")


@case("process")
def beside_another_ipython(s):
    from IPython.core.interactiveshell import InteractiveShell

    def ask():
        return InteractiveShell.initialized(), IPython.get_ipython()

    import IPython

    assert ask() == (False, None)
    try:
        get_ipython()
    except NameError:
        pass
    else:
        raise AssertionError
    app = InteractiveShell.instance()
    try:
        assert ask() == (True, app) and s.ok("get_ipython() is not None").result == "True"
        assert s.call(lambda: InteractiveShell.instance()) is s.shell.ip
        app.run_cell("in_the_app = 1")
        assert app.user_ns["in_the_app"] == 1 and s.run("in_the_app").reply["ename"] == "NameError"
        newer = load_agent(s.agent.__path__[0], "flame_agent_newer")
        two = Host(newer, "process", "n1")
        assert two.ok("get_ipython().kernel.get_parent()['msg_id']").result == "'n1-1'"
        assert s.ok("1+1").result == "2" and ask() == (True, app)
        assert two.ok("display(1)").of("display_data") and s.ok("display(1)").of("display_data")
        s.close()  # the older one goes first
        assert two.ok("get_ipython() is not None").result == "True" and ask() == (True, app)
        two.close()
        assert ask() == (True, app) and "instance" not in vars(InteractiveShell)
    finally:
        app.atexit_operations()
        atexit.unregister(app.atexit_operations)
        InteractiveShell.clear_instance()
        shutil.rmtree(os.path.join(os.environ["HOME"], ".ipython"), ignore_errors=True)
        sys.modules["__main__"] = MAIN
    s.__init__(s.agent, "process", "s1")


@case("process")
def two_at_once(s):
    two = Host(s.agent, "process", "s2")
    code = (
        "import threading, IPython, asyncio\n"
        "def work(n):\n    for i in range(100):\n        print('%s')\n        display('%s')\n"
        "        assert IPython.get_ipython() is me\n"
        "me = get_ipython()\nts = [threading.Thread(target=work, args=(n,)) for n in range(3)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\n%sawait asyncio.sleep(0.05)\n'%s'"
    )
    waits = [h.submit(code % (n, n, "" if n == "A" else "#", n)) for h, n in ((s, "A"), (two, "B"))]
    for wait, n in zip(waits, "AB"):
        a = wait()
        assert set(a.text()) == {n, "\n"} and a.text().count(n) == 300, a.reply
        assert {d["data"]["text/plain"] for d in a.of("display_data")} == {"'%s'" % n} and a.result == "'%s'" % n
    s.run("from_s = 1; from_s / 0")
    two.lines[:] = ["p 1", "q"]
    assert "from_s" not in plain([two.run("%debug").text()])
    two.close()
    assert s.ok("1").result == "1"


MAIN = sys.modules["__main__"]


def main(folder, place, names):
    work = tempfile.mkdtemp()
    os.environ["HOME"] = os.path.join(work, "home")
    os.mkdir(os.environ["HOME"])
    os.environ.pop("IPYTHONDIR", None)
    os.environ["MPLCONFIGDIR"] = os.path.join(work, "matplotlib")
    os.chdir(work)
    watch_atexit()
    agent = load_agent(folder)
    reason = agent.ishell.available()
    assert reason is None, reason
    out = os.fdopen(os.dup(1), "w")
    for name, function, places in CASES:
        if place not in places or (names and name not in names):
            continue
        started = time.monotonic()
        try:
            session = Host(agent, place)
            try:
                function(session)
            finally:
                if not session.closed:
                    session.close()
            left = os.listdir(os.environ["HOME"])
            assert not left, left
            failure = None
        except BaseException:
            failure = traceback.format_exc()
        os.chdir(work)
        line = {"case": name, "seconds": round(time.monotonic() - started, 2), "failure": failure}
        print(json.dumps(line), file=out, flush=True)
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
