"""The way through ssh: a real sshd on loopback, stock servers behind it, and what happens when ssh fails or dies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from farside import FlameServer, random_key, wait_until
from kernels import remote_flame
from netns import net
from sshd import Sshd, answer, refused, ssh_processes, through, ways

from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Location, Secret, Target, Timeouts
from flame_kernel.connect.tls import Tls
from flame_kernel.errors import ConnectionLost, TargetError
from flame_kernel.remote.connect import connect
from flame_kernel.session.session import Session

Start = Callable[..., FlameServer]


def behind(server: FlameServer, **more: Any) -> Target:
    """The target of ``server`` as the host ``far`` sees it."""
    key = Secret(server.key.encode()) if server.key else None
    return Target(Location.parse(through(server)), key, **more)


# --- a way


@pytest.mark.parametrize("kind", ["port", "socket", "key", "tls"])
def test_a_server_behind_ssh(kind: str, sshd: Sshd, flame_server: Start, tmp_path: Path) -> None:
    settings = None
    if kind == "tls":  # inside of ssh, for who trusts the far host's other users less
        from flame_kernel.serve.certs import Authority

        authority = Authority(tmp_path / "ca")
        certificate = authority.server(["localhost"])
        settings = Tls(ca=str(authority.certificate))
        server = flame_server(env={"PYRO_SSL": "true", "PYRO_SSL_SERVERCERT": str(certificate)})
    else:
        server = flame_server(unix=kind == "socket", key=random_key() if kind == "key" else None)
    target = behind(server, tls=settings)
    assert target.is_private
    assert target.is_authenticated is (kind in ("key", "tls"))
    with contextlib.closing(Connection(target)) as first, contextlib.closing(Connection(target)) as second:
        assert first.location == str(target.location) == through(server)
        assert target.is_authenticated is (kind != "port")  # of the socket's folder is known now whose it is
        assert bool(target.cautions()) is (kind == "port")
        assert (first.call("evaluate", "6 * 7"), second.call("evaluate", "1")) == (42, 1)
        assert len(ssh_processes()) == 1
        (folder,) = ways()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "s").stat().st_mode & 0o077 == 0
        shown = " ".join(" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True))
        assert server.key is None or server.key not in shown
        first.close()
        assert second.call("evaluate", "2") == 2
        assert ssh_processes()
    assert not ssh_processes()
    assert not ways()
    assert sshd.logins() == (2 if kind == "socket" else 1)  # one more to look at the folder
    assert answer(target) == 42  # and again, anew
    assert sshd.logins() == (4 if kind == "socket" else 2)


def test_a_script_through_ssh(sshd: Sshd, flame_server: Start) -> None:
    server = flame_server(unix=True, key=random_key())
    with connect(through(server), key=server.key) as remote:
        assert remote.modules.os.getppid() == server.pid
        assert len(ssh_processes()) == 1
    assert not ssh_processes()


def test_many_at_once_share_one_way(sshd: Sshd, flame_server: Start) -> None:
    target = behind(flame_server())
    found: list[Any] = []
    held: list[Connection] = []
    start = threading.Barrier(6)

    def one() -> None:
        start.wait()
        connection = Connection(target)
        held.append(connection)
        found.append(connection.call("evaluate", "6 * 7"))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [42] * 6
    assert sshd.logins() == 1
    for connection in held:
        connection.close()
        connection.close()  # again is no error, and gives nothing back twice
    assert not ssh_processes()


def test_a_session_outlives_its_ssh(sshd: Sshd, flame_server: Start, tmp_path: Path) -> None:
    """Killed under a running cell: nothing is lost, nothing runs twice, and nothing is left at the end."""
    server = flame_server(key=random_key())
    events: list[dict[str, Any]] = []
    session = Session(behind(server), events.extend)
    with contextlib.closing(session):
        session.ready.result(20)
        assert len(ssh_processes()) == 1
        enough = tmp_path / "enough"
        code = "import os, time\ni = 0\nwhile not os.path.exists({!r}):\n    print(i)\n    i += 1\n    time.sleep(0.05)"
        running = session.execute("a", code.format(str(enough)))
        wait_until(lambda: any(event["type"] == "stream" for event in events), "output")
        before = ssh_processes()
        for _ in range(2):
            for process in before:
                process.kill()
            before = wait_until(lambda old=before: set(ssh_processes()) - set(old), "another ssh")  # type: ignore[misc]
            seen = len(events)
            wait_until(lambda n=seen: len(events) > n, "output through it")  # type: ignore[misc]
        enough.touch()
        assert running.result(30)["status"] == "ok"
        wait_until(lambda: not session._link.is_broken, "both connections")
        text = "".join(event["content"]["text"] for event in events if event["type"] == "stream")
        assert text == "".join(f"{i}\n" for i in range(text.count("\n")))
        assert sshd.logins() == 3
    assert not ssh_processes()
    assert not ways()


def test_an_sshd_that_goes_and_comes_back(sshd: Sshd, flame_server: Start) -> None:
    server = flame_server()
    session = Session(behind(server), lambda events: None)
    with contextlib.closing(session):
        session.ready.result(20)
        sshd.stop()
        wait_until(lambda: session._link.is_broken, "the loss of the link")
        running = session.execute("a", "x = 1")
        sshd.start()
        assert running.result(20)["status"] == "ok"
        assert session.gone is None


@pytest.mark.slow
def test_a_network_that_goes_silent(flame_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through ssh: the dead way is given up in time though no end of it is told, and then all is made up for."""
    with net() as network, contextlib.ExitStack() as stack:
        sshd = Sshd(tmp_path / "sshd", network.address, network.within)
        stack.callback(sshd.stop)
        monkeypatch.setenv("PATH", f"{sshd.ssh}:{os.environ['PATH']}")
        server = flame_server(within=network.within)
        stack.callback(server.stop)
        stack.callback(network.back)
        events: list[dict[str, Any]] = []
        enough = tmp_path / "enough"
        code = "import os, time\ni = 0\nwhile not os.path.exists({!r}):\n    print(i)\n    i += 1\n    time.sleep(0.05)"
        with contextlib.closing(Session(behind(server, fast=True, timeouts=Timeouts.fast()), events.extend)) as session:
            running = session.execute("a", code.format(str(enough)))
            wait_until(lambda: any(event["type"] == "stream" for event in events), "output")
            (process,) = ssh_processes()
            network.silent()
            began = time.monotonic()
            wait_until(lambda: not process.is_running(), "the end of a way that is dead", 30)
            assert time.monotonic() - began < 20  # 15 by design
            network.back()
            wait_until(lambda: session.trouble is None and not session._link.is_broken, "a way that works")
            assert time.monotonic() - began < 30
            enough.touch()
            assert running.result(30)["status"] == "ok"
            text = "".join(event["content"]["text"] for event in events if event["type"] == "stream")
            assert text == "".join(f"{i}\n" for i in range(text.count("\n")))


def test_nothing_is_left_when_we_are_killed(sshd: Sshd, flame_server: Start, tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text(
        "import sys\nfrom flame_kernel.connect.target import Location, Target\n"
        "from flame_kernel.connect.connection import Connection\n"
        f"held = Connection(Target(Location.parse({through(flame_server())!r})))\nprint('up', flush=True)\n"
        "sys.stdin.read()\n"
    )
    scratch = tmp_path / "t"
    scratch.mkdir()
    environ = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        below = psutil.Process(client.pid).children(recursive=True)
        assert any(process.name() == "ssh" for process in below)
        assert list(scratch.iterdir())
        client.kill()
        psutil.wait_procs(below, 10)
        assert not [process for process in below if process.is_running()]
        assert not list(scratch.iterdir())


# --- no way


def test_why_ssh_does_not_get_there(sshd: Sshd, flame_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = flame_server()
    target = behind(server)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(sshd.folder / "other")], check=True)
    sshd.configure(identity="other")
    assert "Permission denied (publickey)" in refused(target, "ssh_denied")
    sshd.configure(known="nobody")
    assert "Host key verification failed" in refused(target, "ssh_denied")
    sshd.configure("NoSuchOption yes")
    assert "bad configuration option: nosuchoption" in refused(target, "ssh_denied").lower()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        sshd.configure(f"LocalForward 127.0.0.1:{taken.getsockname()[1]} localhost:1")
        assert "Address already in use" in refused(target, "ssh_denied")
    sshd.configure()
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = free.getsockname()[1]
    text = refused(Target(Location.parse(f"ssh://far/{nobody}")), "refused")
    assert "ssh is there, and says: " in text
    assert "Connection refused" in text
    assert "Connection refused" in refused(Target(Location.parse(f"ssh://127.0.0.1:{nobody}/9999")), "ssh")
    assert "no-such-host.invalid" in refused(Target(Location.parse("ssh://me@no-such-host.invalid/9999")), "ssh")
    sshd.configure("StreamLocalBindMask 0177", f"ProxyCommand {sys.executable} -c 'import time; time.sleep(30)'")
    began = time.monotonic()
    assert "in time" in refused(behind(server, timeouts=Timeouts(login=0.5)), "ssh")
    assert time.monotonic() - began < 5
    monkeypatch.setenv("PATH", str(sshd.folder))
    with pytest.raises(TargetError, match="install OpenSSH"):
        Connection(target)


def test_an_ssh_that_dies_in_a_call(sshd: Sshd, flame_server: Start) -> None:
    with contextlib.closing(Connection(behind(flame_server()))) as connection:
        timer = threading.Timer(0.2, lambda: [process.kill() for process in ssh_processes()])
        timer.start()
        began = time.monotonic()
        with pytest.raises(ConnectionLost):
            connection.call("evaluate", "__import__('time').sleep(9)")
        assert time.monotonic() - began < 5
        timer.join()
    assert not ways()


# --- as the user has set up his ssh


def test_a_shared_connection_is_used_and_left(sshd: Sshd, flame_server: Start) -> None:
    control = sshd.folder / "control"
    sshd.configure(f"ControlPath {control}")
    subprocess.run(["ssh", "-M", "-N", "-f", "far"], check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        target = behind(flame_server())
        with contextlib.closing(Connection(target)) as connection:
            assert connection.call("evaluate", "6 * 7") == 42
            assert sshd.logins() == 1
            # Its end is noticed, and the next connection logs in by itself.
            subprocess.run(["ssh", "-O", "exit", "far"], check=True, stderr=subprocess.DEVNULL)
            with pytest.raises(ConnectionLost):
                connection.call("evaluate", "1")
        assert answer(target) == 42
        assert sshd.logins() == 2
    finally:
        subprocess.run(["ssh", "-O", "exit", "far"], stderr=subprocess.DEVNULL)
    wait_until(lambda: not control.exists(), "the end of the shared connection")


def test_what_ssh_asks_goes_to_the_user(sshd: Sshd, flame_server: Start) -> None:
    """A new host's key and a passphrase; the answers stand nowhere, and later nobody is asked."""
    word = r"pass 'word' \n \\ $HOME "
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", word, "-f", str(sshd.folder / "id")]
    subprocess.run(change, check=True, stdout=subprocess.DEVNULL)
    server = flame_server()
    sshd.configure(known="fresh")
    asked: list[tuple[str, bool]] = []

    def ask(prompt: str, password: bool) -> str | None:
        asked.append((prompt, password))
        lines = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
        assert not any(word in line for line in lines)
        return "yes" if "(yes/no" in prompt else word

    target = behind(server, ask=ask)
    with contextlib.closing(Connection(target)) as connection:
        assert connection.call("evaluate", "6 * 7") == 42
        (first, echo), (second, hidden) = asked
        assert first.startswith("ssh to far: ")
        assert "fingerprint" in first
        assert not echo
        assert "passphrase" in second
        assert hidden
        (folder,) = ways()
        assert not any(word.encode() in path.read_bytes() for path in folder.iterdir() if path.is_file())
        connection.close()
    assert refused(target, "ssh_denied")  # it was open once: nobody sits there any more
    assert len(asked) == 2
    wrong = behind(server, ask=lambda prompt, password: "wrong")
    assert "Permission denied" in refused(wrong, "ssh_denied")
    assert "it asks: " in refused(behind(server, ask=lambda prompt, password: None), "ssh_denied")


def test_through_the_kernel(sshd: Sshd, flame_server: Start, key_file: Callable[[str], Path]) -> None:
    key = random_key()
    server = flame_server(key=key)
    env: dict[str, str | None] = {"FLAME_TARGET": through(server), "FLAME_KEY_FILE": str(key_file(key))}
    with remote_flame(env=env) as k:
        assert k.execute("import os; os.getppid()").result == str(server.pid)
        assert through(server) in k.execute("%flame status").stdout
        kernel = psutil.Process(k.pid)

        def ssh() -> list[psutil.Process]:
            return [process for process in kernel.children(recursive=True) if process.name() == "ssh"]

        (process,) = ssh()
        assert key not in " ".join(process.cmdline()) + str(process.environ())
        process.send_signal(signal.SIGKILL)
        assert k.execute("6 * 7").result == "42"
        assert len(ssh()) == 1
        assert k.execute(f"%flame connect {server.location} --key-file {key_file(key)}\n1").result == "1"
        wait_until(lambda: not ssh(), "the end of ssh with its session")
        port = server.location.rpartition(":")[2]
        assert k.execute(f"%flame connect localhost:{port} --ssh far --key-file {key_file(key)}\n2").result == "2"
        assert len(ssh()) == 1
