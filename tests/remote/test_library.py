"""The library against stock servers: connecting, code and names, output and input, stopping, errors, the end."""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from farside import FlameServer, LiveApp, Python, wait_until
from flakylink import FlakyLink

import flame
from flame_kernel.connect.target import Secret
from flame_kernel.errors import CallTimeout, CannotConnect, ObjectGone, RemoteError, SessionGone, TargetError
from flame_kernel.remote.exceptions import raised_there
from flame_kernel.remote.remote import Remote


@pytest.fixture(params=["child", "process"])
def pi(request: pytest.FixtureRequest, flame_server: Callable[..., FlameServer]) -> Iterator[Remote]:
    """A connection to a stock server, with cells in a child of it and in its own process."""
    with flame.connect(flame_server().location, place=request.param, shell="mini") as connected:
        yield connected


@pytest.fixture
def one(flame_server: Callable[..., FlameServer]) -> Iterator[Remote]:
    """A connection to a stock server, with cells in a child of it."""
    with flame.connect(flame_server().location, shell="mini") as connected:
        yield connected


# -- connecting ------------------------------------------------------------------------------------------------------


def test_a_key_in_every_form(
    flame_server: Callable[..., FlameServer], key_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "0123456789 0123456789"
    location = flame_server(key=key).location
    path = key_file(key)
    for option in ({"key": key}, {"key": key.encode()}, {"key": Secret(key.encode())}, {"key": path}):
        with flame.connect(location, shell="mini", **option) as remote:
            assert remote.evaluate("1 + 1") == 2
            assert key not in repr(remote) + repr(vars(remote)) + repr(remote.target)
    with flame.connect(location, key_file=str(path), shell="mini") as remote:
        assert remote.evaluate("1 + 1") == 2
    for wrong in ({}, {"key": "another one, as long"}):
        with pytest.raises(CannotConnect, match="key"):
            flame.connect(location, **wrong)


def test_a_target_by_its_name(
    flame_server: Callable[..., FlameServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "targets.toml"
    config.write_text(f'default = "bench"\n[targets.bench]\nlocation = "{flame_server().location}"\n')
    monkeypatch.setenv("FLAME_CONFIG", str(config))
    for where in ("bench", None):
        with flame.connect(where, shell="mini") as remote:
            assert remote.name == "bench"
            assert "bench" in repr(remote)
            assert remote.evaluate("6 * 7") == 42


def test_without_a_server_one_is_started_and_ended() -> None:
    with flame.connect() as remote:
        pid = remote.evaluate("__import__('os').getppid()")
        assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("where", "options", "kind", "words"),
    [
        ("nowhere", {}, TargetError, "no target 'nowhere'"),
        ("localhost", {"key": ""}, TargetError, "."),
        ("localhost:1", {"timeout": 0}, TargetError, "seconds above 0"),
        ("localhost:1", {"timeout": "soon"}, TargetError, "seconds above 0"),
        ("localhost:1", {"place": "moon"}, TargetError, "place 'moon' is unknown"),
        ("localhost:1", {"colour": "red"}, TargetError, "colour"),
        ("localhost:1", {"key": b""}, TargetError, "key is the server's key"),
        ("localhost:1", {"key_file": "/no/such/file"}, TargetError, "cannot read the key file"),
        ("localhost:1", {}, CannotConnect, "connection refused"),
    ],
)
def test_bad_input_to_connect_is_one_sentence(where: str, options: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        flame.connect(where, **options)
    assert "\n" not in str(caught.value)


def test_a_script_that_closes_nothing_ends_cleanly(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    server = flame_server()
    script = tmp_path / "script.py"
    script.write_text(
        f"import flame\npi = flame.connect({server.location!r})\nf = pi.builtins.open('/etc/passwd')\n"
        "print(pi.evaluate('21 * 2'))\nit = iter(pi.evaluate('(i for i in range(10))'))\nprint(next(it))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n0\n", "")
    with flame.connect(server.location, shell="mini") as remote:
        assert [session["session"] for session in remote.session.sessions().result(5)] == [remote.session.session_id]


def test_after_the_end_every_call_says_so(one: Remote) -> None:
    held = one.evaluate("object()")
    one.close()
    one.close()
    for call in (lambda: one.evaluate("1"), lambda: held.x, lambda: one["x"], lambda: one.modules.os.getpid()):
        with pytest.raises(SessionGone, match="closed here"):
            call()
    assert "gone" in repr(held)


def test_the_end_was_here_whoever_hears_of_it_first(one: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll may bring that the session is over before the answer to the call that ended it."""
    session = one.session
    call = session._call

    def slow_call(request: dict[str, object]) -> object:
        done = call(request)
        if request["op"] == "close":
            wait_until(lambda: session.gone, "the poll to hear of the end")
        return done

    monkeypatch.setattr(session, "_call", slow_call)
    one.close()
    with pytest.raises(SessionGone, match="closed here"):
        one.evaluate("1")


def test_a_fork_cannot_use_the_connection(one: Remote, capfd: pytest.CaptureFixture[str]) -> None:
    held = one.evaluate("object()")
    pid = os.fork()
    if not pid:
        try:
            one.evaluate("1")
        except BaseException as error:
            os.write(1, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert "belongs to process" in capfd.readouterr().out
    assert one.evaluate("2") == 2
    assert held == held.ref()


# -- code and names --------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_cells(pi: Remote) -> None:
    pi["x"] = {"a": [1, 2]}
    assert pi.cell("x['a'].append(3); y = len(x['a'])", lambda event: None).result(30)["status"] == "ok"
    assert pi["x"] == {"a": [1, 2, 3]}
    assert pi.evaluate("y") == 3
    pi.execute("def double(n):\n    return 2 * n\nz = double(y)")
    assert (pi["z"], pi["double"](21)) == (6, 42)
    assert {"x", "y", "z", "double"} <= set(pi)
    assert not {"In", "Out", "get_ipython", "exit"} & set(pi)
    pi["x"]["b"] = 1  # a chain acts there
    pi["x"]["a"].append(4)
    assert pi["x"] == {"a": [1, 2, 3, 4], "b": 1}
    copy = pi["x"]
    copy["c"] = 1  # on a value that has come here
    assert "c" not in pi["x"]
    there = pi["x"].ref()
    there["c"] = 1
    assert pi["x"]["c"] == 1
    del pi["x"]
    assert "x" not in pi
    with pytest.raises(KeyError) as missing:
        pi["x"]
    assert missing.value.args == ("x",)
    with pytest.raises(KeyError):
        del pi["x"]
    for bad in ("", "a b", "a.b", 3):
        with pytest.raises((TargetError, TypeError)):
            pi[bad] = 1
    with pytest.raises(NameError, match="nope"):
        pi.evaluate("nope")
    with pytest.raises(SyntaxError) as syntax:
        pi.evaluate("1 +")
    assert syntax.value.lineno == 1
    with pytest.raises(ModuleNotFoundError) as no_module:
        pi.module("no_such_module")
    assert no_module.value.name == "no_such_module"
    with pytest.raises(ModuleNotFoundError):
        pi.modules.no_such_module.x()
    with pytest.raises(AttributeError, match="no_such_function"):
        pi.builtin("no_such_function")()
    for bad in ("not a name", "os path", ""):
        with pytest.raises(TargetError):
            pi.module(bad)
        with pytest.raises(TargetError):
            pi.builtin(bad)


def test_modules_of_a_package_are_imported_as_they_are_named(pi: Remote) -> None:
    assert pi.modules.xml.etree.ElementTree.fromstring("<a b='1'/>").get("b") == "1"
    assert pi.modules["concurrent.futures"].__name__ == "concurrent.futures"
    assert "wave" in dir(pi.modules)


# -- output and input ------------------------------------------------------------------------------------------------


def test_output_appears_where_the_call_is(pi: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    pi.execute("import sys\nprint('out')\nprint('err', file=sys.stderr)")
    pi.builtins.print("called", end="!")
    pi.evaluate("print('evaluated')")
    with contextlib.redirect_stdout(open(os.devnull, "w")) as nowhere, nowhere:
        pi.execute("print('not to be seen')")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("out\ncalled!evaluated\n", "err\n")


def test_output_comes_while_the_call_runs(one: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    one.execute("import threading\ngo = threading.Event()")
    running = threading.Thread(target=lambda: one.execute("print('first', flush=True)\ngo.wait(20)\nprint('last')"))
    running.start()
    seen = ""

    def appears() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return seen == "first\n"

    wait_until(appears, "the first line")
    one["go"].set()
    running.join(20)
    assert capsys.readouterr().out == "last\n"


def test_calls_of_several_threads_keep_their_output(pi: Remote) -> None:
    """No call waits for another, nor for a cell, and each has its own output."""
    pi.execute("import threading\ngate = threading.Barrier(5)")
    told: dict[int, list[str]] = {}
    cell = pi.cell("gate.wait(20); print('cell')", lambda event: told.setdefault(-1, []).append(event))

    def work(number: int) -> None:
        pi.builtins.print(f"before {number}")
        pi["gate"].wait(20)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert cell.result(30)["status"] == "ok"
    assert [event["content"]["text"] for event in told[-1] if event["type"] == "stream"] == ["cell\n"]


def test_a_cell_tells_its_own_sink_and_nobody_else(one: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    mine: list[Any] = []
    code = "import threading, time\nprint('now')\nt = threading.Timer(0.3, print, ['late'])\nt.start()\n6 * 7"
    assert one.cell(code, mine.append).result(30)["status"] == "ok"
    wait_until(lambda: any(event["content"].get("text") == "late\n" for event in mine), "the thread's line")
    kinds = [event["type"] for event in mine]
    assert kinds == ["stream", "execute_result", "stream"]
    assert mine[1]["content"]["data"]["text/plain"] == "42"
    assert capsys.readouterr().out == ""


def test_input_is_asked_for_here(pi: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(prompt: str = "") -> str:
        asked.append(prompt)
        if "end" in prompt:
            raise EOFError
        return "a line"

    monkeypatch.setattr(builtins, "input", answer)
    pi.allow_stdin = False
    with pytest.raises(NotImplementedError, match="does not support input"):
        pi.builtins.input("nobody there? ")
    pi.allow_stdin = True
    assert pi.builtins.input("name? ") == "a line"
    assert asked == [f"[{pi.name}] name? "]  # it says who asks
    with pytest.raises(EOFError):
        pi.evaluate("input('end? ')")


# -- stopping --------------------------------------------------------------------------------------------------------


def stop_soon(remote: Remote) -> threading.Thread:
    """Ctrl-C as soon as the far side says that it is under way."""

    def wait() -> None:
        wait_until(lambda: bool(remote["begun"]), "the call to begin")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time\ntime.sleep(60)"], ids=["a loop", "a call that waits"]
)
def test_ctrl_c_stops_the_far_side(one: Remote, code: str) -> None:
    one["begun"] = False
    stopper = stop_soon(one)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        one.execute(f"begun = True\n{code}")
    stopper.join()
    assert time.monotonic() - started < 20
    assert one.evaluate("begun") is True
    assert one.cell("1", lambda event: None).result(20)["status"] == "ok"


def test_ctrl_c_stops_that_call_alone(pi: Remote) -> None:
    """A cell and the calls of other threads go on."""
    pi.execute("begun = False\nimport threading\nstop = threading.Event()")
    cell = pi.cell("n = 0\nwhile not stop.wait(0.01): n += 1", lambda event: None)
    other: list[Any] = []
    thread = threading.Thread(target=lambda: other.append(pi["stop"].wait(30)))
    thread.start()
    stopper = stop_soon(pi)
    with pytest.raises(KeyboardInterrupt):
        pi.execute("begun = True\nwhile True: pass")
    stopper.join()
    assert not cell.done()
    assert not other
    pi["stop"].set()
    assert cell.result(20)["status"] == "ok"
    thread.join(20)
    assert other == [True]


def test_a_call_that_takes_too_long(one: Remote) -> None:
    with pytest.raises(CallTimeout, match=r"0\.2 s"):
        one.execute("while True: pass", timeout=0.2)
    assert one.evaluate("1 + 1") == 2
    one.timeout = 0.2
    with pytest.raises(CallTimeout):
        one.modules.time.sleep(30)
    one.timeout = None
    assert one.modules.time.sleep(0.3) is None


# -- errors ----------------------------------------------------------------------------------------------------------


def test_errors_are_the_local_classes(pi: Remote) -> None:
    with pytest.raises(ZeroDivisionError) as division:
        pi.execute("def half(x):\n    return x // 0  # here\n\nhalf(1)")
    error = division.value
    assert isinstance(error, RemoteError)
    assert (error.ename, error.evalue) == ("ZeroDivisionError", "integer division or modulo by zero")
    assert error.args == ("integer division or modulo by zero",)
    assert "return x // 0  # here" in error.traceback
    assert "half(1)" in error.traceback
    assert str(error) == error.evalue
    assert any("return x // 0  # here" in note for note in error.__notes__)
    assert "\x1b" not in error.traceback
    assert any("\x1b[" in line for line in error._render_traceback_())
    with pytest.raises(FileNotFoundError) as missing:
        pi.builtins.open("/no/such/file")
    assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, "/no/such/file")
    assert missing.value.strerror
    with pytest.raises(KeyError) as key:
        pi.evaluate("{}[1, 'a']")
    assert key.value.args == ((1, "a"),)
    with pytest.raises(StopIteration) as stop:
        pi.builtins.next(pi.builtins.iter([]))
    assert stop.value.value is None
    with pytest.raises(UnicodeDecodeError) as decoding:
        pi.evaluate("b'a\\xff'.decode()")
    assert (decoding.value.start, decoding.value.object) == (1, b"a\xff")
    with pytest.raises(AttributeError):
        _ = pi.modules.os.no_such_thing
    assert not hasattr(pi.modules.os, "no_such_thing")
    assert getattr(pi.modules.os, "no_such_thing", "else") == "else"


def test_errors_of_other_classes(one: Remote) -> None:
    one.execute("class Mine(ValueError): pass\nclass Other(BaseException): pass")
    with pytest.raises(ValueError, match="of mine") as mine:
        one.execute("raise Mine('of mine')")
    assert (type(mine.value).__name__, mine.value.ename) == ("ValueError", "__main__.Mine")
    for code in ("raise Other('x')", "raise SystemExit(3)", "raise KeyboardInterrupt", "raise GeneratorExit"):
        with pytest.raises(RemoteError) as other:
            one.execute(code)
        assert isinstance(other.value, Exception)
        assert other.value.ename.rpartition(".")[2] in code


def test_no_class_is_looked_up_for_a_server() -> None:
    for bases in (
        ["SystemExit"],
        ["KeyboardInterrupt", "BaseException"],
        ["eval"],
        ["os.system"],
        [1],
        "ValueError",
        None,
    ):
        error = raised_there({"ename": "X", "evalue": "y", "bases": bases, "traceback": 3}, {"args": "no tuple"})
        assert not isinstance(error, (SystemExit, KeyboardInterrupt))
        assert str(error) == "y"
    error = raised_there(
        {
            "ename": "A\x1b]0;title\x07" * 1000,
            "evalue": "\x1b[2J" + "e" * 10**6,
            "bases": ["OSError"],
            "traceback": ["\x1b[1mx"],
        },
        {"args": (), "errno": [], "filename": {}, "__class__": "x"},
    )
    assert isinstance(error, OSError)
    assert not re.search(r"\x1b(?!\[1m)|\x07", str(error))
    assert len(str(error)) < 30_000
    raised_there({"bases": ["UnicodeDecodeError"]}, {"args": (1, 2, 3)})
    raised_there({"bases": ["SyntaxError"]}, {"args": ("a", ("b",)), "lineno": "x"})


def test_an_error_of_the_library_is_shown_as_its_remote_traceback(one: Remote) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.push({"pi": one})
    result = shell.run_cell("pi.execute('def f():\\n    raise ValueError(5)  # there\\nf()')")
    assert isinstance(result.error_in_exec, ValueError)
    shown = "\n".join(result.error_in_exec._render_traceback_())
    assert "raise" in shown
    assert "there" in shown
    shell.atexit_operations()


def test_a_child_that_dies(one: Remote) -> None:
    held = one.evaluate("object()")
    with pytest.raises(SessionGone, match="exit status 3"):
        one.execute("import os; os._exit(3)")
    with pytest.raises(ObjectGone, match=r"the object at .* is gone: its session ended"):
        held.x  # noqa: B018
    assert "does not answer" in repr(held)
    with pytest.raises(ReferenceError):
        one.builtins.print(held)
    assert one.evaluate("1 + 1") == 2


def test_a_server_that_is_killed(flame_server: Callable[..., FlameServer]) -> None:
    server = flame_server()
    with flame.connect(server.location, shell="mini") as remote:
        held = remote.evaluate("object()")
        server.kill()
        with pytest.raises((CallTimeout, SessionGone)):
            remote.evaluate("1", timeout=1)
        assert "object" in repr(held)


def test_a_link_that_is_cut_again_and_again(flame_server: Callable[..., FlameServer]) -> None:
    """Calls wait for the link, each is done once, and a large value arrives whole."""
    with FlakyLink(flame_server().location, seed=1) as link, flame.connect(link.location, shell="mini") as pi:
        pi.execute("n = 0\ndef more():\n    global n\n    n += 1\n    return n")
        link.cut_every(20_000)
        assert [pi.evaluate("more()") for _ in range(60)] == list(range(1, 61))
        assert link.cuts
        link.cut_every(15_000_000)
        before = link.cuts
        data = os.urandom(20_000_000)
        pi["data"] = data
        assert pi["data"].ref().fetch() == data
        assert link.cuts > before


# -- places and Pythons ----------------------------------------------------------------------------------------------


def test_the_live_objects_of_an_app(live_app: Callable[..., LiveApp]) -> None:
    with flame.connect(live_app().location) as pi:
        assert pi.modules.os.getpid() == pi.session.server["pid"]
        assert pi.modules.sys.modules["__main__"].__name__ == "__main__"


def test_every_python(each_python: Python, flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server(each_python).location, place="process") as pi:
        assert pi.modules.os.path.join("a", "b") == "a/b"
        assert [n * n for n in pi.evaluate("(i for i in range(5))")] == [0, 1, 4, 9, 16]
        assert pi.run(lambda n, k=2: [n] * k, "x") == ["x", "x"]
        with pytest.raises(ZeroDivisionError, match=r"1//0"):
            pi.execute("def f():\n    return 1//0\nf()")
        lock = pi.modules.threading.Lock()
        with lock:
            assert lock.locked()
        assert "f" in pi.names()
