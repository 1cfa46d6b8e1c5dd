"""Attacks on the link and on what lies about: fuzzing, flipped bits, replays, secrets, a second user.

``FLAME_FUZZ=full`` makes as many mutants as the catalogue of attacks wants (300,000 and twice 100,000); a usual run
makes two fifths of them, from the same seeds.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import importlib
import json
import os
import pickle
import queue
import socket
import stat
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import evil
import psutil
import pytest
from farside import FlameServer, random_key, wait_until
from kernels import remote_flame
from recorder import Recorder, send_again
from shown import Shown

from flame_kernel.agent.wire import message as wire
from flame_kernel.agent.wire import values
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.keys import Secret
from flame_kernel.connect.location import Location
from flame_kernel.connect.target import Target, Timeouts
from flame_kernel.errors import CannotConnect, ConnectionLost, RemoteError, UnsafeAnswer
from flame_kernel.security.reader import read_exception, read_value
from flame_kernel.session.session import Session

Start = Callable[..., FlameServer]

SHARE = 1.0 if os.environ.get("FLAME_FUZZ") == "full" else 0.4


# --- mutants


class Audit:
    """What of the interpreter's audit events matters, while it is on: nothing of it may come from reading an answer."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event.startswith(evil._WATCHED):
            self.seen.append(f"{event} {arguments!r}"[:200])

    @contextlib.contextmanager
    def nothing(self) -> Iterator[None]:
        """Around code in which nothing may be imported, opened, executed or connected to."""
        self.seen.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False
        assert self.seen == []


@pytest.fixture(scope="module")
def audit() -> Audit:
    return Audit()


def _pickles() -> list[bytes]:
    error: Any = ValueError("x")
    error._pyroTraceback = ["Traceback\n", "ValueError: x\n"]
    plain = [
        None,
        True,
        -1,
        2**70,
        1.5,
        1j,
        "ä",
        b"\xff",
        bytearray(b"ab"),
        [1, [2]],
        (1, 2),
        {"a": {1: None}},
        {1, "a"},
    ]
    objects = [error, datetime.date(2020, 1, 2), collections.OrderedDict(a=1), decimal.Decimal(1), evil.Shell("true")]
    return [pickle.dumps(value, protocol) for value in (*plain, plain, *objects) for protocol in (2, 3, 4, 5)]


@pytest.mark.timeout(240)
def test_mutated_pickles(audit: Audit) -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    mutants = evil.mutants(_pickles(), int(300_000 * SHARE), seed=1)
    with audit.nothing():
        for number, data in enumerate(mutants):
            try:
                value = read_value(data) if number % 4 else read_exception(data)
                repr(value)
                outcomes["read"] += 1
            except UnsafeAnswer:
                outcomes["refused"] += 1
    assert outcomes["read"] > 5_000
    assert outcomes["refused"] > 5_000


def _events() -> list[dict[str, Any]]:
    return [
        {"type": "stream", "request": "r", "content": {"name": "stdout", "text": "x" * 3000}, "number": 1},
        {"type": "stream", "request": "r", "content": {"name": "stderr", "text": "\x1b[31mx\x1b[0m"}, "number": 2},
        {"type": "display_data", "request": "r", "content": {"data": {"text/plain": "1", "image/png": "aGk="}}},
        {"type": "comm_open", "request": None, "content": {"comm_id": "c", "data": {}}, "buffers": [b"abc", b""]},
        {"type": "error", "request": "r", "content": {"ename": "E", "evalue": "v", "traceback": ["a"]}},
        {"type": "execute_reply", "request": "r", "content": {"status": "ok", "payload": [{"source": "page"}]}},
        {"type": "execute_result", "request": "r", "content": {"data": {}, "execution_count": 1}, "metadata": {}},
        {"type": "update_display_data", "request": "r", "content": {"transient": {"display_id": "d"}}},
        {"type": "input_request", "request": "r", "content": {"input_id": 1, "prompt": "? "}},
        {"type": "comm_msg", "request": "r", "content": {}, "json": b'{"comm_id": "c", "data": [1, {"a": []}]}'},
    ]


def test_mutated_wire_messages(audit: Audit) -> None:
    plain, buffers = wire.encode_events(_events())
    seeds = [
        wire.encode({"n": "1", "result": {"events": plain}}, buffers),
        wire.encode({"n": "2", "error": {"code": "x"}}),
    ]
    seeds += [wire.encode({"n": "3", "result": [1.5, None, True, "ä\ud800", {"deep": [[[[]]]]}]}, [b"x" * 10])]
    outcomes: collections.Counter[str] = collections.Counter()
    with audit.nothing():
        for data in evil.mutants(seeds, int(100_000 * SHARE), seed=2):
            try:
                message, parts = wire.decode(data)
                wire.decode_events(message.get("result", {}).get("events", []), parts)
                outcomes["read"] += 1
            except wire.WireError:
                outcomes["refused"] += 1
            except AttributeError:  # an answer without a result: the session checks for that
                outcomes["odd"] += 1
    assert outcomes["refused"] > 500
    assert outcomes["read"] > 500


def test_mutated_events_are_shown_or_refused(audit: Audit) -> None:
    """The text of the JSON is what is damaged here, so that the damage reaches what shows them."""
    plain, buffers = wire.encode_events(_events())
    seeds = [json.dumps([one]).encode() for one in plain] + [json.dumps(plain).encode()]
    shown = Shown()
    outcomes: collections.Counter[str] = collections.Counter()
    with audit.nothing():
        for data in evil.mutants(seeds, int(100_000 * SHARE), seed=3):
            shown.now += 1.0
            try:
                message, parts = wire.decode(wire.encode({"raw": 0}, buffers).replace(b'{"raw":0}', b'{"raw":0}'))
                events = json.loads(data)
                decoded = wire.decode_events(events if isinstance(events, list) else [events], parts)
            except (ValueError, RecursionError):
                outcomes["refused"] += 1
                continue
            assert message == {"raw": 0}
            for event in decoded:
                content = event["content"]
                if event["type"] == "stream":
                    shown.rendering.text(event.get("request"), "stdout", str(content.get("text")))
                elif event["type"].endswith("_reply"):
                    shown.rendering.reply(event.get("request"), content)
                else:
                    shown.rendering.event(event)
                outcomes["shown"] += 1
    assert outcomes["shown"] > 1_000
    assert outcomes["refused"] > 1_000


def test_mutated_values(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of objects, by their codec: plain data or an error, and nothing is looked up.

    Arrays and tables have libraries of their own, which a tag can have imported, by names that stand in the codec; and
    time zones have this system's files, of which the list is read once.
    """
    with contextlib.suppress(values.BadValue):
        values.decode([b'{"z":"Nowhere/Never"}'])
    for library in (
        "flame_kernel.agent.wire.tables.arrays",
        "flame_kernel.agent.wire.frames",
        "numpy",
        "pandas",
        "pyarrow",
    ):
        importlib.import_module(library)
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))  # is not installed here
    examples = [
        [1, 2.5, None, "x" * 2000],
        {"a": (1, {2}), 3: b"y" * 2000},
        2**80,
        datetime.date(2020, 1, 2),
        list(range(99)),
    ]
    seeds = [values.encode(value) for value in examples]
    texts = [bytes(parts[0]) for parts in seeds]
    for parts in seeds:  # what the codec itself is made of, is made now
        values.decode(parts)
    outcomes: collections.Counter[str] = collections.Counter()
    with audit.nothing():
        for number, data in enumerate(evil.mutants(texts, int(100_000 * SHARE), seed=4)):
            try:
                values.decode([data, *seeds[number % len(seeds)][1:]])
                outcomes["read"] += 1
            except values.BadValue:
                outcomes["refused"] += 1
    assert outcomes["read"] > 500
    assert outcomes["refused"] > 1_000


# --- bits


class Flipper(evil.Server):
    """Passes on to ``location``; of connection number n it flips a bit of byte ``n // 2`` on the way up or down."""

    def __init__(self, location: str) -> None:
        host, _, port = location.rpartition(":")
        self._address = (host, int(port))
        self.plans: queue.SimpleQueue[tuple[bool, int]] = queue.SimpleQueue()
        self.flipped: set[tuple[bool, int]] = set()
        self.sizes = {True: 0, False: 0}
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        plan = (True, -1) if self.plans.empty() else self.plans.get()
        with socket.create_connection(self._address, 10) as far:
            up = threading.Thread(target=self._pass, args=(connection, far, True, plan))
            up.start()
            self._pass(far, connection, False, plan)
            up.join()

    def _pass(self, source: socket.socket, sink: socket.socket, upwards: bool, plan: tuple[bool, int]) -> None:
        position = 0
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(65536)):
                here = plan[1] - position
                if plan[0] == upwards and 0 <= here < len(data):
                    data[here] ^= 1 << (plan[1] % 8)
                    self.flipped.add(plan)
                position += len(data)
                sink.sendall(data)
        self.sizes[upwards] = max(self.sizes[upwards], position)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.timeout(180)
def test_no_bit_can_be_flipped_in_what_is_signed(flame_server: Start) -> None:
    """Every byte of a conversation under a key, in both directions: the data is right or refused, and no wait is long.

    The header, which Pyro's HMAC does not cover, can be changed; that has to end in an error, too.
    """
    key = random_key()
    server = flame_server(key=key)
    expected = list(range(100))
    outcomes: collections.Counter[str] = collections.Counter()
    with contextlib.closing(Flipper(server.location)) as flipper:
        target = Target(
            Location.parse(flipper.location), Secret(key.encode()), timeouts=Timeouts(connect=1.0, call=1.0)
        )

        def once() -> None:
            began = time.monotonic()
            try:
                with contextlib.closing(Connection(target)) as connection:
                    found = connection.call("evaluate", "list(range(100))")
                outcome = "right" if found == expected else f"WRONG {found!r}"
            except (ConnectionLost, CannotConnect, RemoteError) as error:
                outcome = type(error).__name__
            assert time.monotonic() - began < 5
            outcomes[outcome] += 1

        once()
        assert outcomes["right"] == 1
        wait_until(lambda: min(flipper.sizes.values()) > 100, "the end of the first conversation")
        plans = [(upwards, at) for upwards in (True, False) for at in range(flipper.sizes[upwards])]
        for plan in plans:
            flipper.plans.put(plan)
        with ThreadPoolExecutor(16) as pool:
            for done in [pool.submit(once) for _ in plans]:
                done.result()
        assert flipper.flipped == set(plans)
    assert set(outcomes) <= {"right", "ConnectionLost", "CannotConnect", "CallTimeout", "UnsafeAnswer", "RemoteError"}
    # What the signature does not cover: the header's serializer, flags and the like, that a server may not look at.
    assert outcomes["right"] - 1 < 60, outcomes
    # The server has read nothing that it should not have: it still answers.
    with contextlib.closing(Connection(Target(Location.parse(server.location), Secret(key.encode())))) as connection:
        assert connection.call("evaluate", "6 * 7") == 42


# --- replays


def test_a_captured_session_runs_nothing_again(flame_server: Start) -> None:
    """All that a session's two connections sent, twice more on new connections: its cells have run once."""
    key = random_key()
    server = flame_server(key=key)
    secret = Secret(key.encode())
    with contextlib.closing(Recorder(server.location)) as recorder:
        target = Target(Location.parse(recorder.location), secret, place="process", session="mine")
        direct = Target(Location.parse(server.location), secret, place="process")
        with contextlib.closing(Session(target, lambda events: None)) as session:
            run = session.execute("one", "import builtins; builtins.ran = getattr(builtins, 'ran', 0) + 1").result(20)
            assert run["status"] == "ok"
            captured = [bytes(sent) for sent in recorder.sent]
            for _ in range(2):
                for sent in captured:
                    send_again(server.location, sent)
            # The session is still this client's, and nobody else's Stop, answer or cell reached it.
            values = session.execute("two", "", user_expressions={"ran": "ran"}).result(20)["user_expressions"]
            assert values["ran"]["data"]["text/plain"] == "1"
            captured = [bytes(sent) for sent in recorder.sent]
        # … and when it is closed, its cells do not run in a session that a replayed opening makes.
        for sent in captured:
            send_again(server.location, sent)
        with contextlib.closing(Connection(direct)) as connection:
            assert connection.call("evaluate", "ran") == 1


# --- where a key could be seen


def test_the_key_is_nowhere_to_be_seen(flame_server: Start, tmp_path: Path) -> None:
    """After a full session with debug logs on: arguments, environments, logs, messages, files, history, tracebacks."""
    key = random_key() + random_key()
    home = tmp_path / "home"
    for folder in ("config", "ipython", "runtime"):
        (home / folder).mkdir(parents=True, mode=0o700)
    secret = tmp_path / "kept apart"
    secret.mkdir(mode=0o700)
    (secret / "key").touch(mode=0o600)
    (secret / "key").write_text(key + "\n")
    server = flame_server(key=key, env={"HOME": str(home)})
    environ: dict[str, str | None] = {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "PYRO_LOGLEVEL": "DEBUG",
        "PYRO_LOGFILE": str(home / "pyro.log"),
        "PYTHONFAULTHANDLER": "1",
    }
    target = home / "config" / "targets.toml"
    target.touch(mode=0o600)
    target.write_text(
        f'default = "lab"\n[targets.lab]\nlocation = "{server.location}"\nkey_file = "{secret / "key"}"\n'
    )
    seen: list[str] = []
    profile = home / "ipython" / "profile_default"
    profile.mkdir()
    (profile / "flame_kernel_config.py").write_text("c.Application.log_level = 'DEBUG'\n")
    with remote_flame(env=environ, cwd=home) as k:
        for code in (
            "print('hello'); 6 * 7",
            "1 / 0",
            "import os, sys; print(dict(os.environ), sys.argv)",
            "%flame status",
            "%flame connect 127.0.0.1:1",
            "%flame connect lab",
            "%%local\nimport os, sys; print(dict(os.environ), sys.argv)",
            "import time; time.sleep(0)",
        ):
            run = k.execute(code)
            seen.append(str(run))
        seen.append(str(k.kernel_info()) + str(k.complete("pri")) + str(k.inspect("print")) + str(k.history()))
        tree = [psutil.Process(k.pid), *psutil.Process(k.pid).children(recursive=True)]
        # The server itself was given the key by its environment, which is what stock Pyro has; its cells are not.
        tree += psutil.Process(server.pid).children(recursive=True)
        for process in tree:
            seen.append(" ".join(process.cmdline()))
            seen.append(Path(f"/proc/{process.pid}/environ").read_text("utf-8", "replace"))
        seen.append(k.log_text())
        connection_file = Path(k.manager.connection_file)
        assert connection_file.stat().st_mode & 0o077 == 0
        seen.append(connection_file.read_text())
        seen.append(repr(Secret(key.encode())) + repr(vars(k)))
    text = "\n".join(seen)
    assert "hello" in text
    assert "shell ROUTER Channel on port" in text  # debug logs are on
    assert "ZeroDivisionError" in text
    assert key not in text
    assert key[: len(key) // 2] not in text
    for folder in (home, Path(os.environ["TMPDIR"])):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_socket():
                assert key.encode() not in path.read_bytes(), path


# --- another user of this machine


@pytest.mark.parametrize("place", ["child", "process"])
def test_nothing_is_left_open_to_other_users(place: str, flame_server: Start, tmp_path: Path) -> None:
    """Files and sockets that a session makes, here and there: private, and no door beside the server's own."""
    key = random_key()
    server = flame_server(key=key)
    with remote_flame(env={**server.environ(), "FLAME_PLACE": place}) as k:
        os.umask(os.umask(0))  # the tests' own is usual: 022
        k.execute("print('x' * 20_000_000)\nimport threading")  # more than is kept in memory
        processes = [psutil.Process(k.pid), psutil.Process(server.pid)]
        processes += [child for one in list(processes) for child in one.children(recursive=True)]
        doors = [
            (process, connection.laddr)
            for process in processes
            for connection in process.net_connections("all")
            if connection.status == psutil.CONN_LISTEN
        ]
        for _, address in doors:
            assert address.ip in ("127.0.0.1", "::1")
        own = Location.parse(server.location).port
        assert [address.port for process, address in doors if process.pid != k.pid] == [own]
        files = {
            Path(file.path) for process in processes for file in process.open_files() if "/tmp" in file.path
        } | set(Path(os.environ["TMPDIR"]).rglob("*"))
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                private = [*path.parents, path]
                assert stat.S_ISLNK(status.st_mode) or any(
                    one.stat().st_mode & 0o077 == 0 and one.stat().st_uid == os.getuid() for one in private
                ), f"{path} is open to others"
