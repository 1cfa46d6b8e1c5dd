"""The way through ssh where Python has no unix sockets: a real sshd, and a port of this machine in a socket's place."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from farside import FlameServer, random_key
from sshd import Sshd, answer, refused, ssh_processes, through, ways

from flame_kernel.connect.connection import Connection
from flame_kernel.connect.ssh_port import PortTunnel
from flame_kernel.connect.target import Location, Secret, Target
from flame_kernel.errors import ConnectionLost, TargetError
from flame_kernel.session.session import Session

Start = Callable[..., FlameServer]


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Target]:
    """The target of a server as the host ``far`` sees it, made where there are no unix sockets."""

    def target(where: FlameServer | str, key: str | None = None) -> Target:
        with monkeypatch.context() as without:
            without.delattr(socket, "AF_UNIX")
            place = where if isinstance(where, str) else through(where)
            return Target(Location.parse(place), Secret(key.encode()) if key else None)

    return target


def listening(process: psutil.Process) -> list[Any]:
    return [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]


@pytest.mark.parametrize("kind", ["port", "socket", "key"])
def test_a_server_behind_ssh(kind: str, sshd: Sshd, flame_server: Start, behind: Callable[..., Target]) -> None:
    server = flame_server(unix=kind == "socket", key=random_key() if kind == "key" else None)
    target = behind(server, server.key)
    with contextlib.closing(Connection(target)) as first, contextlib.closing(Connection(target)) as second:
        assert (first.call("evaluate", "6 * 7"), second.call("evaluate", "1")) == (42, 1)
        (ssh,) = ssh_processes()
        (here,) = listening(ssh)
        assert here.ip == "127.0.0.1"
        assert target.is_authenticated is (kind == "key")
        said = " ".join(target.cautions())
        assert ("every user of this machine can connect" in said) is (kind != "key")
        assert "mode 0700" not in said
        first.close()
        assert second.call("evaluate", "2") == 2
    assert not ssh_processes()
    assert not ways()
    assert sshd.logins() == 1
    assert answer(target) == 42  # and again, anew
    assert sshd.logins() == 2


def test_a_port_that_another_program_takes(
    sshd: Sshd, flame_server: Start, behind: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent to whoever has the port: ssh says that it cannot listen, and another one is tried."""
    taken: list[socket.socket] = []
    start = PortTunnel._start

    def late(self: PortTunnel, *arguments: Any, **more: Any) -> None:
        if not taken:
            taken.append(socket.create_server(("127.0.0.1", self._port)))
            taken[0].setblocking(False)
        start(self, *arguments, **more)

    monkeypatch.setattr(PortTunnel, "_start", late)
    assert answer(behind(flame_server())) == 42
    with taken[0], pytest.raises(BlockingIOError):
        taken[0].accept()
    assert sshd.logins() == 2
    assert not ways()


def test_why_ssh_does_not_get_there(sshd: Sshd, flame_server: Start, behind: Callable[..., Target]) -> None:
    server = flame_server()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(sshd.folder / "other")], check=True)
    sshd.configure(identity="other")
    text = refused(behind(server), "ssh_denied")
    assert "Permission denied (publickey)" in text
    assert "let ssh-agent hold your key" in text
    sshd.configure(known="nobody")
    assert "Host key verification failed" in refused(behind(server), "ssh_denied")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        sshd.configure(f"LocalForward 127.0.0.1:{taken.getsockname()[1]} localhost:1")
        assert "Address already in use" in refused(behind(server), "ssh_denied")
    sshd.configure()
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    assert "Connection refused" in refused(behind(f"ssh://far/{nobody}"), "refused")
    assert "Connection refused" in refused(behind(f"ssh://127.0.0.1:{nobody}/9999"), "ssh")


def test_a_ssh_in_the_current_folder_is_not_started(
    tmp_path: Path, behind: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\ntouch started\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".{os.pathsep}{os.pathsep}")
    with pytest.raises(TargetError, match="install OpenSSH"):
        Connection(behind("ssh://far/9999"))
    assert not (tmp_path / "started").exists()


def test_an_ssh_that_dies(sshd: Sshd, flame_server: Start, behind: Callable[..., Target]) -> None:
    """A call fails at once; a session begins it again, on another port, and goes on."""
    server = flame_server(key=random_key())
    with contextlib.closing(Connection(behind(server, server.key))) as connection:
        timer = threading.Timer(0.2, lambda: [process.kill() for process in ssh_processes()])
        timer.start()
        with pytest.raises(ConnectionLost):
            connection.call("evaluate", "__import__('time').sleep(9)")
        timer.join()
    with contextlib.closing(Session(behind(server, server.key), lambda events: None)) as session:
        for process in ssh_processes():
            process.kill()
        assert session.execute("a", "6 * 7").result(30)["status"] == "ok"
    assert not ways()


def test_nothing_is_left_when_we_are_killed(sshd: Sshd, flame_server: Start, tmp_path: Path) -> None:
    script = (
        "import socket, sys\ndel socket.AF_UNIX\nfrom flame_kernel.connect.target import Location, Target\n"
        "from flame_kernel.connect.connection import Connection\n"
        f"held = Connection(Target(Location.parse({through(flame_server())!r})))\nprint('up', flush=True)\n"
        "sys.stdin.read()\n"
    )
    scratch = tmp_path / "t"
    scratch.mkdir()
    environ = {**os.environ, "TMPDIR": str(scratch)}
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        below = psutil.Process(client.pid).children(recursive=True)
        assert any(process.name() == "ssh" for process in below)
        assert list(scratch.iterdir())
        client.kill()
        psutil.wait_procs(below, 10)
        assert not [process for process in below if process.is_running()]
        assert not list(scratch.iterdir())
