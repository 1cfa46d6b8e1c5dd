"""The session itself, against stock servers: sessions and versions of the agent beside each other, and what is left."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from farside import FlameServer, LiveApp, wait_until

from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Location, Target
from flame_kernel.errors import AgentError, SessionGone
from flame_kernel.session import bootstrap
from flame_kernel.session.inbox import Event
from flame_kernel.session.link import Line
from flame_kernel.session.session import Session

# What a session changes in a process while it lives, as text that tells a change.
STATE = (
    "(lambda sys, b, g, t, os, l: [type(sys).__name__ + str(type(sys).__mro__), repr(sys.stdout), repr(sys.stderr),"
    "repr(sys.stdin), repr(sys.displayhook), repr(sys.excepthook), repr(sys.__dict__['stdout']), repr(b.input), "
    "repr(g.getpass), repr(t.Thread.start), repr(os.fork), sorted(x.name for x in t.enumerate() if 'flame' in x.name), "
    "sorted(n for n in sys.modules if n.startswith('flame_session')), sorted(set(vars(b)) & "
    "{'get_ipython', 'display', '__IPYTHON__'}), "
    "sorted(n for n in l.cache if 'ipython-input' in n or 'flame_s' in n or "
    "'ipykernel_' in n), len(os.listdir('/proc/self/fd'))])"
    "(*map(__import__, ('sys', 'builtins', 'getpass', 'threading', 'os', 'linecache')))"
)


THREADS = 11  # their place in it; the descriptors are the last


class Client:
    """A session and all its events."""

    def __init__(self, location: str, place: str = "process", attach: str | None = None, **settings: Any) -> None:
        self.events: list[Event] = []
        target = Target(Location.parse(location), place=place, **settings)
        self.session = Session(target, self.events.extend, attach=attach)
        self.session.ready.result(30)
        self._polls_again()
        self.ids: list[str] = []

    def start(self, code: str, **options: Any) -> Any:
        self.ids.append(uuid.uuid4().hex)
        return self.session.execute(self.ids[-1], code, **options)

    def run(self, code: str) -> str:
        """What a cell prints, and its value."""
        reply = self.start(code).result(30)
        assert reply["status"] == "ok", reply
        self._polls_again()
        return self.output()

    def _polls_again(self) -> None:
        """The next poll goes to the version of the agent that counts now."""
        wait_until(lambda: self.session._polling._is_parked, "the next poll")

    def output(self) -> str:
        """Of the last cell."""
        mine = [e["content"] for e in self.events if e.get("request") == self.ids[-1]]
        text = "".join(c["text"] for c in mine if "text" in c)
        return text + "".join(c["data"]["text/plain"] for c in mine if "data" in c)


@contextmanager
def client(location: str, place: str = "process", **settings: Any) -> Iterator[Client]:
    one = Client(location, place, **settings)
    try:
        yield one
    finally:
        one.session.close()


@contextmanager
def other_version(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within: the agent that is pushed is another version, alike but for its name."""
    name, loader, bundle = bootstrap._read()
    content = json.loads(bundle)
    content["name"] = name + "_next"
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "_read", lambda: (content["name"], loader, json.dumps(content)))
        yield


def evaluate(location: str, expression: str) -> Any:
    link = Connection(Target(Location.parse(location)))
    try:
        return link.call("evaluate", expression)
    finally:
        link.close()


def is_as_before(location: str, before: list[Any]) -> None:
    """Wait until the process is as it was: its threads and connections end a moment after a session has.

    Those of the sessions before may still have been ending when ``before`` was seen: there may be fewer now.
    """
    now: list[Any] = []

    def differs() -> list[tuple[Any, Any]]:
        now[:] = evaluate(location, STATE)
        pairs = list(zip(before, now, strict=True))
        threads, descriptors = pairs.pop(THREADS), pairs.pop()
        fewer = set(threads[1]) <= set(threads[0]) and descriptors[1] <= descriptors[0]
        return [pair for pair in pairs if pair[0] != pair[1]] + ([] if fewer else [threads, descriptors])

    last: list[tuple[Any, Any]] = []  # not asked once more: the connection of the question before may still be there

    def is_alike() -> bool:
        last[:] = differs()
        return not last

    with contextlib.suppress(AssertionError):
        eventually(is_alike, "")
    assert last == []


def eventually(true: Callable[[], bool], what: str) -> None:
    """Ask again until it is so; AssertionError after five seconds."""
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.mark.parametrize("shell", ["ipython", "mini"])
def test_the_process_is_left_as_it_was_found(live_app: Callable[..., LiveApp], shell: str) -> None:
    app = live_app()
    with client(app.location, shell=shell) as warm:  # imports IPython, which is not undone
        warm.run("import sys, threading, subprocess; 1")
    before = evaluate(app.location, STATE)
    with client(app.location, shell=shell) as one:
        one.run("import subprocess; subprocess.run(['true'], stdout=sys.stdout) if 'sys' in globals() else None")
        one.run("import sys, os; print(sys.stdout.fileno() > 2); x = 1; x")
        assert evaluate(app.location, STATE) != before
    is_as_before(app.location, before)


@pytest.mark.parametrize("first_to_go", ["older", "newer"])
def test_two_versions_of_the_agent_live_beside_each_other(
    live_app: Callable[..., LiveApp], monkeypatch: pytest.MonkeyPatch, first_to_go: str
) -> None:
    """Hooks of two versions stack, in whatever order they come and go; each session has its own output."""
    app = live_app()
    with client(app.location) as warm:
        warm.run("1")
    with other_version(monkeypatch), client(app.location) as warm:
        warm.run("1")
    before = evaluate(app.location, STATE)
    older = Client(app.location)
    with other_version(monkeypatch):
        newer = Client(app.location)
        assert newer.run("print('newer'); get_ipython() is not None") == "newer\nTrue"
    assert older.run("print('older'); x = 'of older'; x") == "older\n'of older'"
    with other_version(monkeypatch):
        assert newer.run("import sys; print('again', file=sys.stderr); 'x' in globals()") == "again\nFalse"
    pair = [older, newer] if first_to_go == "older" else [newer, older]
    for leaving, staying in (pair, pair[::-1]):
        with other_version(monkeypatch) if leaving is newer else monkeypatch.context():
            leaving.session.close()
        if staying is pair[1]:
            with other_version(monkeypatch) if staying is newer else monkeypatch.context():
                assert staying.run("print('still here'); 6 * 7") == "still here\n42"
    is_as_before(app.location, before)


def test_sessions_of_one_process_do_not_mix(live_app: Callable[..., LiveApp]) -> None:
    app = live_app()
    with client(app.location) as one, client(app.location) as two:
        code = (
            "import threading, sys\n"
            "def work(n):\n"
            "    for i in range(200): sys.stdout.write('%s %s %s\\n' % (NAME, n, i))\n"
            "ts = [threading.Thread(target=work, args=(n,)) for n in range(4)]\n"
            "for t in ts: t.start()\n"
            "for t in ts: t.join()"
        )
        futures = [one.start(f"NAME = 'one'\n{code}"), two.start(f"NAME = 'two'\n{code}")]
        for future in futures:
            assert future.result(30)["status"] == "ok"
        for who, name in ((one, "one"), (two, "two")):
            lines = who.output().splitlines()
            assert sorted(lines) == sorted(f"{name} {n} {i}" for n in range(4) for i in range(200))
        assert one.run("NAME") == "'one'"


def test_a_stock_console_takes_nobodys_output(live_app: Callable[..., LiveApp]) -> None:
    """Stock Flame's console swaps sys.stdout at every line; a session that prints meanwhile loses nothing."""
    app = live_app()
    with client(app.location) as one:
        printing = one.start("for i in range(20000): print(i)")
        for _ in range(30):
            swap = "(lambda s, io: (setattr(s, 'stdout', io.StringIO()), setattr(s, 'stdout', s.__stdout__)))"
            evaluate(app.location, f"{swap}(*map(__import__, ('sys', 'io'))) and None")
        assert printing.result(30)["status"] == "ok"
        assert one.output() == "".join(f"{i}\n" for i in range(20000))


def test_eight_clients_push_at_once(flame_server: Callable[..., FlameServer]) -> None:
    """The agent is loaded once, and every session lives."""
    import threading

    location = flame_server().location
    clients: list[Client] = []
    threads = [threading.Thread(target=lambda: clients.append(Client(location))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    try:
        assert sorted(one.run(f"{n} * 2") for n, one in enumerate(clients)) == sorted(str(n * 2) for n in range(8))
        names = "[n for n in __import__('sys').modules if n.startswith('flame_agent') and '.' not in n]"
        assert evaluate(location, names) == [bootstrap.agent_name()]
    finally:
        for one in clients:
            one.session.close()


def test_a_named_session_is_taken_up_with_its_names(flame_server: Callable[..., FlameServer]) -> None:
    location = flame_server().location
    first = Client(location, "child", session="bench")
    first.run("x = 'kept'")
    first.session.detach()
    with client(location, session="bench") as second:
        assert second.run("x") == "'kept'"
        assert second.session.ready.result(0)["place"] == "child"


def test_a_session_that_is_taken_over_says_so(flame_server: Callable[..., FlameServer]) -> None:
    location = flame_server().location
    first = Client(location, session="bench")
    with pytest.raises(AgentError, match="session bench is in use by"):
        Session(first.session.target, lambda events: None)
    with client(location, session="bench", attach="force") as second:
        assert second.run("1 + 1") == "2"
        eventually(lambda: first.session.gone is not None, "the first client does not notice")
        with pytest.raises(SessionGone, match="another client has taken up"):
            first.start("1").result(5)
    first.session.close()


def test_a_request_that_is_known_does_not_run_again(flame_server: Callable[..., FlameServer]) -> None:
    with client(flame_server().location) as one:
        one.run("n = 0")
        request = {"kind": "execute", "id": "the same", "code": "n += 1"}
        answers = [one.session._call({"op": "submit", "request": request}).result(5)["new"] for _ in range(3)]
        assert answers == [True, False, False]
        assert one.run("n") == "1"


def test_a_child_that_dies_says_how_and_the_next_cell_has_a_fresh_one(flame_server: Callable[..., FlameServer]) -> None:
    with client(flame_server().location, "child") as one:
        one.run("x = 1")
        for code, words in (
            ("import os; print('last words', flush=True); os._exit(3)", "exit status 3"),
            ("import ctypes; ctypes.string_at(0)", "signal SIGSEGV"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal SIGKILL (somebody or"),
            (
                "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
                "signal SIGKILL (it used up its limit of 1 s of CPU time, ",
            ),
        ):
            reply = one.start(code).result(30)
            assert (reply["status"], reply["ename"]) == ("error", "SessionDied")
            assert words in reply["evalue"]
            assert one.run("'x' in globals()") == "False"


def test_what_is_pushed_is_made_once() -> None:
    """A server that soon drops idle connections may have dropped this one meanwhile; the next try is quicker."""
    bootstrap.push_source()
    before = bootstrap._packed.cache_info().hits
    bootstrap.push_source()
    assert bootstrap._packed.cache_info().hits == before + 1


def test_sessions_that_connect_at_once_make_it_once() -> None:
    for made in (bootstrap._made, bootstrap._packed):
        made.cache_clear()
    together = threading.Barrier(8)

    def push() -> str:
        together.wait(10)
        return bootstrap.push_source()

    with ThreadPoolExecutor(8) as pool:
        assert len({one.result(30) for one in [pool.submit(push) for _ in range(8)]}) == 1
    assert bootstrap._made.cache_info().misses == bootstrap._packed.cache_info().misses == 1


def test_what_the_agent_refuses_has_a_code(flame_server: Callable[..., FlameServer]) -> None:
    with client(flame_server().location) as one:
        with pytest.raises(AgentError) as caught:
            one.session._call({"op": "dance"}).result(5)
        assert caught.value.code == "unknown_op"
        link = Connection(one.session.target)
        try:
            line = Line("another", link)
            ticket = one.session._link.exchange(line, {"op": "hello"})[0]["ticket"]
            with pytest.raises(AgentError, match="place is one of auto, process, child"):
                one.session._link.exchange(line, {"op": "open", "place": "moon", "session": "y", "ticket": ticket})
        finally:
            link.close()


def test_a_child_that_is_killed_leaves_no_folder_behind(
    flame_server: Callable[..., FlameServer], tmp_path: Path
) -> None:
    """jedi writes into one of ours, and a process that is killed runs no exit handlers."""
    temporary = Path(tempfile.gettempdir())
    before = set(temporary.glob("**/flame_child_*"))
    server = flame_server(env={"XDG_CACHE_HOME": str(tmp_path)})  # jedi has no folder yet
    with client(server.location, "child") as one:
        one.session.complete("c1", "import os\nos.path.jo", 20).result(60)
        found = set(temporary.glob("**/flame_child_*")) - before
        assert [folder for folder in found if list(folder.glob("flame_jedi_*"))]
        one.start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").result(30)
        eventually(lambda: not any(folder.exists() for folder in found), "the folder stays")
