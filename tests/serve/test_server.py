"""The embedded server: stock Flame, private, and gone when we are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from farside import wait_until

from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Target
from flame_kernel.errors import CannotConnect, FlameError
from flame_kernel.serve import embedded as server_module
from flame_kernel.serve.embedded import EmbeddedServer
from flame_kernel.session.bootstrap import agent_text

ROOT = Path(__file__).parents[2]

AGENT = agent_text()


def ended(process: psutil.Process) -> bool:
    """True once it does nothing any more; how soon an orphan is waited for is up to the system's first process."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def embedded() -> Iterator[EmbeddedServer]:
    with contextlib.closing(EmbeddedServer(AGENT)) as server:
        yield server


@pytest.fixture
def connection(embedded: EmbeddedServer) -> Iterator[Connection]:
    with contextlib.closing(Connection(embedded.target())) as connection:
        yield connection


def test_it_is_stock_flame_on_loopback(embedded: EmbeddedServer, connection: Connection) -> None:
    assert embedded.location.host == "127.0.0.1"
    assert embedded.location.is_loopback
    assert connection.call("evaluate", "__name__") == "Pyro4.utils.flame"
    assert connection.call("evaluate", "__import__('sys').argv") == ["-c"]
    assert connection.call("evaluate", "__import__('os').getpid()") == embedded.pid
    assert embedded.target(Target(place="process", linger=5.0)).linger == 5.0
    assert repr(embedded) == f"<EmbeddedServer {embedded.location} pid {embedded.pid} running>"
    loaded = connection.call("evaluate", "[name for name in __import__('sys').modules if 'flame_kernel' in name]")
    assert loaded == []


def test_the_key_is_needed_and_nowhere_to_be_seen(embedded: EmbeddedServer, connection: Connection) -> None:
    target = embedded.target()
    assert target.key is not None
    key = target.key.reveal()
    assert len(key) == 64
    for file in ("cmdline", "environ"):
        assert key not in Path(f"/proc/{embedded.pid}/{file}").read_bytes()
    assert key.decode() not in repr(embedded) + repr(target)
    assert connection.call("evaluate", "__import__('sys').stdin.read()") == ""
    with pytest.raises(CannotConnect) as caught:
        Connection(type(target)(target.location))
    assert caught.value.cause == "key_missing_here"


def test_its_environment_is_ours_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_KEY_FILE", "/secret/place")
    monkeypatch.setenv("FLAME_KEY", "secret")
    monkeypatch.setenv("PYRO_HMAC_KEY", "secret")
    monkeypatch.setenv("PYRO_SERVERTYPE", "multiplex")  # for the user's own servers, not for this one
    monkeypatch.setenv("PYRO_COMMTIMEOUT", "0.1")
    monkeypatch.setenv("MY_OWN", "value")
    with (
        contextlib.closing(EmbeddedServer(AGENT)) as server,
        contextlib.closing(Connection(server.target())) as connection,
    ):
        environ = connection.call("evaluate", "dict(__import__('os').environ)")
        assert environ["MY_OWN"] == "value"
        assert not [name for name in environ if "KEY" in name and name.startswith(("FLAME", "PYRO"))]
        assert connection.call("evaluate", "core.config.SERVERTYPE, core.config.COMMTIMEOUT") == ("thread", 0.0)


def test_no_descriptor_of_ours_is_inherited() -> None:
    ours = os.open("/dev/zero", os.O_RDONLY)
    os.set_inheritable(ours, True)
    try:
        with contextlib.closing(EmbeddedServer(AGENT)) as server:
            folder = Path(f"/proc/{server.pid}/fd")
            targets = {int(link.name): os.readlink(link) for link in folder.iterdir()}
            with contextlib.closing(Connection(server.target())) as connection:
                child = "__import__('subprocess').check_output(['ls', '-l', '/proc/self/fd']).decode()"
                inherited = connection.call("evaluate", child)
    finally:
        os.close(ours)
    assert "/dev/zero" not in targets.values()
    assert targets[0] == "/dev/null"
    assert sum("pipe:" in target for number, target in targets.items() if number > 2) == 1  # the watch on us
    # A cell's child has its own stdout pipe and our stderr, but not the pipe by which the server sees us end.
    assert "/dev/null" in inherited
    assert len([line for line in inherited.splitlines() if "->" in line]) == 4  # 0, 1, 2 and the folder it lists


def test_what_is_printed_there_goes_to_our_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        contextlib.closing(EmbeddedServer(AGENT)) as server,
        contextlib.closing(Connection(server.target())) as connection,
    ):
        # More than a pipe holds: with nobody reading it, the server would stop here.
        connection.call("execute", "import os; os.write(1, b'o' * 200_000); os.write(2, b'e' * 200_000)")
        printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == "o" * 200_000 + "e" * 200_000


def test_close_runs_exit_handlers_and_leaves_nothing(tmp_path: Path) -> None:
    done = tmp_path / "done"
    server = EmbeddedServer(AGENT)
    with contextlib.closing(Connection(server.target())) as connection:
        connection.call("execute", f"import atexit; atexit.register(lambda: open({str(done)!r}, 'w').close())")
        connection.call("execute", "import subprocess; globals()['child'] = subprocess.Popen(['sleep', '1000'])")
        child = psutil.Process(connection.call("evaluate", "child.pid"))
    server.close()
    server.close()
    assert not server.is_running
    assert done.exists()
    wait_until(lambda: ended(child), "the cell's child has ended")
    with pytest.raises(CannotConnect) as caught:
        Connection(server.target())
    assert caught.value.cause == "refused"


def test_close_ends_a_server_that_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_GRACE_SECONDS", 0.2)
    server = EmbeddedServer(AGENT)
    os.kill(server.pid, signal.SIGSTOP)
    server.close()
    assert not psutil.pid_exists(server.pid)


def test_close_does_not_wait_for_a_cell(embedded: EmbeddedServer, connection: Connection) -> None:
    called = threading.Event()

    def call() -> None:
        with contextlib.suppress(FlameError):
            called.set()
            connection.call("execute", "import time; time.sleep(100)")

    thread = threading.Thread(target=call)
    thread.start()
    called.wait()
    embedded.close()
    thread.join(10)
    assert not thread.is_alive()


_PARENT = """
import sys
from flame_kernel.serve.embedded import EmbeddedServer
from flame_kernel.session.bootstrap import agent_text
server = EmbeddedServer(agent_text())
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None], ids=["kill", "term", "exit"])
def test_it_ends_with_us(number: int | None) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        server = psutil.Process(int(parent.stdout.readline()))
        assert server.is_running()
        if number is None:
            parent.stdin.close()
        else:
            parent.send_signal(number)
        parent.wait(10)
        wait_until(lambda: ended(server), "the server has ended")


def test_a_crash_is_seen(embedded: EmbeddedServer) -> None:
    os.kill(embedded.pid, signal.SIGKILL)
    wait_until(lambda: not embedded.is_running, "the crash is seen")
    assert "ended" in repr(embedded)


def test_a_start_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    for script, says in (
        ("echo broken library >&2; exit 3", "ended while it started.*broken library"),
        ("exit 3", "it printed nothing"),
        ("echo waiting; exec sleep 100", "did not start within 0.3 s.*waiting"),
    ):
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o700)
        monkeypatch.setattr(server_module, "_START_SECONDS", 0.3 if "sleep" in script else 20)
        monkeypatch.setattr(server_module, "_GRACE_SECONDS", 0.1)
        with pytest.raises(FlameError, match=says):
            EmbeddedServer(AGENT)
    python.unlink()
    with pytest.raises(FlameError, match="No such file"):
        EmbeddedServer(AGENT)


def test_the_current_folder_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("Pyro4", "random", "signal", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()\n")
    with (
        contextlib.closing(EmbeddedServer(AGENT)) as server,
        contextlib.closing(Connection(server.target())) as connection,
    ):
        assert connection.call("evaluate", "__import__('os').getcwd()") == str(tmp_path)
        assert connection.call("evaluate", "'' in __import__('sys').path") is False
    assert not (tmp_path / "owned").exists()
