"""Serving safely: ``jupyter flame serve``, ``flame.serve``, and daemons that silent clients cannot stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import farside
import psutil
import pytest
from farside import wait_until
from Pyro4 import core
from Pyro4.configuration import config
from served import ROOT, Served, ended, silent

from flame_kernel.connect.connection import Connection
from flame_kernel.connect.keys import Secret, read_key
from flame_kernel.connect.location import Location
from flame_kernel.connect.target import Target, Timeouts
from flame_kernel.connect.tls import Tls
from flame_kernel.errors import CannotConnect, TargetError
from flame_kernel.serve import plan
from flame_kernel.serve.certs import Authority
from flame_kernel.serve.in_app import Serving, serve
from flame_kernel.session.session import Session

# Pyro's own, in a daemon of this process.
pytestmark = pytest.mark.filterwarnings("ignore:isSet:DeprecationWarning")


def evaluate(target: Target, expression: str) -> Any:
    with contextlib.closing(Connection(target)) as connection:
        return connection.call("evaluate", expression)


def cause(target: Target) -> str:
    with pytest.raises(CannotConnect) as caught:
        Connection(target)
    return caught.value.cause


def test_a_server_as_it_comes(tmp_path: Path) -> None:
    for name in ("Pyro4", "random", "json", "signal", "socket", "sitecustomize", "flame_kernel"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()\n")
    with contextlib.closing(Served(cwd=tmp_path)) as served:
        target = served.target(place="auto")
        assert target.location is not None
        assert target.location.host == "127.0.0.1"
        assert target.key is not None
        key = target.key.reveal()
        assert len(key) == 64
        assert served.key_file.stat().st_mode & 0o777 == 0o600
        assert served.key_file.parent.stat().st_mode & 0o777 == 0o700
        assert "ssh://" in served.said
        assert key.decode() not in served.said

        settings = "core.config.THREADPOOL_SIZE, core.config.MAX_MESSAGE_SIZE, core.config.SERVERTYPE"
        assert evaluate(target, settings) == (200, 256 * 2**20, "thread")
        assert evaluate(target, "[name for name in __import__('sys').modules if name.startswith('flame')]") == []
        assert evaluate(target, "__import__('os').getpid()") == served.process.pid
        assert cause(Target(target.location)) == "key_missing_here"
        assert cause(Target(target.location, Secret(b"x" * 32))) == "key_wrong"

        with contextlib.closing(Session(target, lambda events: None)) as session:
            assert session.server["place"] == "child"  # as with pyro4-flameserver itself
            wanted = {"all": "dict(__import__('os').environ), __import__('sys').argv"}
            reply = session.execute("cell", "", user_expressions=wanted).result(20)
            seen = reply["user_expressions"]["all"]["data"]["text/plain"]
            assert "PATH" in seen
            assert key.decode() not in seen
            assert "PYRO_" not in seen
            for process in (psutil.Process(served.process.pid), *psutil.Process(served.process.pid).children()):
                for file in ("cmdline", "environ"):
                    assert key not in Path(f"/proc/{process.pid}/{file}").read_bytes()
        assert served.end() == 0
        assert not served.key_file.exists()
    assert not (tmp_path / "owned").exists()


def test_what_pyro_s_own_variables_say(tmp_path: Path) -> None:
    """How much it bears is theirs; who gets in is not."""
    environ = {"PYRO_THREADPOOL_SIZE": "50", "PYRO_COMMTIMEOUT": "0", "PYRO_SSL": "true", "PYRO_SERIALIZER": "pickle"}
    with contextlib.closing(Served(cwd=tmp_path, env=environ)) as served:
        settings = "core.config.THREADPOOL_SIZE, core.config.SSL"
        assert evaluate(served.target(), settings) == (50, False)
        ignored = [line.split()[1] for line in served.said.splitlines() if line.startswith("Warning: ")]
        assert ignored == ["PYRO_HMAC_KEY", "PYRO_SERIALIZER", "PYRO_SSL"]
    with contextlib.closing(Served(cwd=tmp_path, env={"PYRO_SERVERTYPE": "loop"})) as served:
        assert "PYRO_SERVERTYPE='loop' is not a value that Pyro accepts" in served.refused()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_it_ends_cleanly(number: int, tmp_path: Path) -> None:
    with contextlib.closing(Served("--unix", tmp_path / "u" / "s", cwd=tmp_path)) as served:
        assert served.end(number) == 0
        assert not served.key_file.exists()
        assert not (tmp_path / "u" / "s").exists()


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "u" / "s"
    with contextlib.closing(Served("--unix", path, "--key-file", tmp_path / "key", cwd=tmp_path)) as served:
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o077 == 0
        assert evaluate(served.target(), "6 * 7") == 42
        assert "a server listens" in Served("--unix", path, cwd=tmp_path).refused()
        served.end(signal.SIGKILL)
    assert path.exists()  # stale: Pyro itself does not start there any more
    with contextlib.closing(Served("--unix", path, "--key-file", tmp_path / "key", cwd=tmp_path)) as served:
        assert evaluate(served.target(), "6 * 7") == 42
        assert served.end() == 0
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_where_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = pytest.raises(TargetError, match=r"others can reach .* TLS is needed there")
    for host in ("0.0.0.0", "::", "", "192.0.2.1", "lab.example", "localhost.evil.example"):
        with refuse:
            plan.Plan(host=host)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert plan.Plan(host=host).harden  # every user of this machine can connect there
    assert "others can reach 0.0.0.0" in Served("--host", "0.0.0.0", cwd=tmp_path).refused()

    here = tmp_path / "file"
    here.write_text("mine")
    here.parent.chmod(0o700)
    with pytest.raises(TargetError, match="not a socket"):
        plan.clear_socket(here)
    assert here.read_text() == "mine"
    here.parent.chmod(0o755)
    with pytest.raises(TargetError, match=r"is open to others .* chmod 700"):
        plan.Plan(unix=tmp_path / "s")
    with pytest.raises(TargetError, match="at most 107 bytes"):
        plan.Plan(unix=tmp_path / ("x" * 200))
    with pytest.raises(TargetError, match=r"there is no server\.pem"):
        plan.Plan(tls=tmp_path)
    with pytest.raises(TargetError, match="not a port"):
        plan.Plan(port=70000)

    key = tmp_path / "key"
    key.write_text("k" * 64)
    key.chmod(0o644)
    with pytest.raises(TargetError, match="chmod 600"):
        plan.KeyFile.get(key)
    key.chmod(0o600)
    assert plan.KeyFile.get(key).key == Secret(b"k" * 64)
    key.write_text("short")
    with pytest.raises(TargetError, match="can be guessed"):
        plan.KeyFile.get(key)
    with pytest.raises(TargetError, match="cannot write the key file"):
        plan.KeyFile.get(tmp_path / "none" / "key")
    with pytest.raises(TargetError, match="cannot write the key file"):
        plan.KeyFile.get(here / "key")  # "here" is a file
    made = plan.KeyFile.get(None)
    assert made.key.reveal().decode() not in repr(made)
    made.remove()
    assert not made.path.exists()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs") / "ca"
    authority = Authority(folder)
    authority.server(["127.0.0.1"])
    authority.client("me")
    return folder


def test_mutual_tls(certificates: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    with contextlib.closing(
        Served("--host", "0.0.0.0", "--tls", certificates, "--key-file", key, cwd=tmp_path)
    ) as served:
        assert "clients without it are disconnected" in served.said
        assert served.words[-4:] == ["--tls-ca", "ca.pem", "--tls-cert", "YOU.pem"]
        place = Location("127.0.0.1", Location.parse(served.words[2]).port)
        target = Target(place, read_key(key)[0], timeouts=Timeouts(connect=5))
        me = Tls(ca=str(certificates / "ca.pem"), certificate=str(certificates / "me.pem"))
        stranger = Tls(ca=str(certificates / "ca.pem"))
        assert evaluate(Target(place, target.key, tls=me), "6 * 7") == 42
        assert cause(Target(place, target.key, tls=stranger)) != "key_wrong"
        assert cause(target) in ("tls", "closed")
        # The clients that stop a stock server with TLS for all others: one that is silent, one that begins and stops.
        with silent(place, 3), silent(place, 3, b"\x16\x03\x01"):
            assert timed(Target(place, target.key, tls=me)) < 5


def timed(target: Target) -> float:
    """Seconds until a call is answered; connecting is tried again, as a session does."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(CannotConnect):
            assert evaluate(target, "6 * 7") == 42
            return time.monotonic() - began
        assert time.monotonic() - began < 10
        time.sleep(0.1)


@pytest.fixture
def opened() -> Iterator[tuple[Serving, Target]]:
    """This process, opened and hardened, for the tests of silence."""
    before = {name: getattr(config, name) for name in config.__slots__}
    with contextlib.closing(serve(harden=True, quiet=True)) as made:
        key = read_key(Path(str(made).split("--key-file ")[1]))[0]
        yield made, Target(Location.parse(made.location), key, timeouts=Timeouts(connect=8.0))
    for name, value in before.items():
        setattr(config, name, value)


def test_an_app_is_opened_in_one_line(opened: tuple[Serving, Target]) -> None:
    made, target = opened
    assert evaluate(target, "__import__('os').getpid()") == os.getpid()
    assert cause(Target(target.location)) == "key_missing_here"
    # What Flame asks of the process's configuration is over; its other daemons take what they took before.
    assert (config.FLAME_ENABLED, "pickle" in config.SERIALIZERS_ACCEPTED, config.SSL) == (False, False, False)
    with contextlib.closing(Session(target, lambda events: None)) as session:
        assert session.server["place"] == "process"
    key_file = Path(str(made).split("--key-file ")[1])
    made.close()
    made.close()
    assert not key_file.exists()
    assert "ended" in repr(made)
    assert cause(target) in ("refused", "closed")


def test_silence_stops_nobody(opened: tuple[Serving, Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """More silent clients than threads, some that say half a word, some that drip: service within 5 s."""
    _, target = opened
    assert target.location is not None
    monkeypatch.setattr(config, "THREADPOOL_SIZE", 40)
    with silent(target.location, 65), silent(target.location, 65, b"PYRO"):
        assert timed(target) < 5  # measured 0.1 to 3.1: as many as there are threads have to be cut first
        with silent(target.location, 45) as drips:
            over = threading.Event()

            def drip() -> None:
                while not over.wait(0.2):
                    for client in drips:
                        with contextlib.suppress(OSError):
                            client.sendall(b"P")

            thread = threading.Thread(target=drip)
            thread.start()
            try:
                assert timed(target) < 5
                # Each of them is cut in the end, however it talks.
                wait_until(lambda: all(ended(client) for client in drips), "the dripping clients are cut", 10)
            finally:
                over.set()
                thread.join()


def test_a_full_pool_is_said_at_once(opened: tuple[Serving, Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """A hardened server that is full: a clear error within 2 s, and service again when one has left."""
    _, target = opened
    monkeypatch.setattr(config, "THREADPOOL_SIZE", 4)
    with contextlib.ExitStack() as clients:
        connections = [clients.enter_context(contextlib.closing(Connection(target))) for _ in range(4)]
        began = time.monotonic()
        assert cause(target) == "pool_full"
        assert time.monotonic() - began < 20
        connections[0].close()
        assert timed(target) < 3
        assert connections[1].call("evaluate", "6 * 7") == 42


def test_a_daemon_of_the_apps_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    before = {name: getattr(config, name) for name in config.__slots__}
    try:
        with contextlib.closing(core.Daemon(port=0)) as daemon, pytest.raises(TargetError, match="accept pickle"):
            serve(daemon)
        config.SERIALIZERS_ACCEPTED = {"pickle"}
        with contextlib.closing(core.Daemon(host="0.0.0.0")) as daemon:
            with pytest.raises(TargetError, match="others can reach this daemon"):
                serve(daemon)
            assert daemon._pyroHmacKey is None
            assert "Pyro.Flame" not in daemon.objectsById
        with pytest.raises(TargetError, match="cannot be set for an existing daemon"):
            serve(object(), port=1)
        with pytest.raises(TargetError, match="not a listening Pyro4 daemon"):
            serve(object())

        key_file = tmp_path / "key"
        with contextlib.closing(core.Daemon()) as daemon:
            thread = threading.Thread(target=daemon.requestLoop)
            thread.start()
            made = serve(daemon, key_file=key_file, harden=True)
            printed = capsys.readouterr().out
            assert f"%flame connect {made.location} --key-file {key_file}" in printed
            target = Target(Location.parse(made.location), read_key(key_file)[0])
            assert evaluate(target, "__import__('os').getpid()") == os.getpid()
            made.close()
            assert cause_of_call(target) == "not_flame"
            # Opened again, by its own key, and without the hardening: the daemon is as it was.
            again = serve(daemon, quiet=True, harden=False)
            assert "events" not in vars(daemon.transportServer)
            assert evaluate(target, "6 * 7") == 42
            with pytest.raises(TargetError, match="has a key already"):
                serve(daemon, key_file=tmp_path / "other")
            again.close()
            daemon.shutdown()
            thread.join()
        assert key_file.exists()  # it is the user's
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def cause_of_call(target: Target) -> str:
    with contextlib.closing(Connection(target)) as connection, pytest.raises(CannotConnect) as caught:
        connection.call("evaluate", "1")
    return caught.value.cause


def test_the_far_sides_python(oldest_python: farside.Python, tmp_path: Path) -> None:
    """Any interpreter that has Pyro4 can be the server's; the hardening runs there too."""
    environ = {"PYTHONPATH": f"{farside.bare_pyro()}:{ROOT}"}
    with contextlib.closing(Served("--python", oldest_python.path, "--harden", cwd=tmp_path, env=environ)) as served:
        version = tuple(oldest_python.version[:2])
        assert evaluate(served.target(), "tuple(__import__('sys').version_info[:2])") == version
        location = served.target().location
        assert location is not None
        with silent(location, 30), silent(location, 30, b"PYRO"):
            assert timed(served.target()) < 5
    without = Served("--python", oldest_python.path, cwd=tmp_path)
    assert "the server did not start: ModuleNotFoundError: No module named 'Pyro4'" in without.refused()
    assert "no interpreter" in Served("--python", "/no/such/python", cwd=tmp_path).refused()
