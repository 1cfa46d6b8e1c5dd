"""``jupyter flame doctor`` against each fault that it claims to name, as a process of its own; ``%flame doctor``."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import evil
import farside
import pexpect
import pytest
from farside import FarProcess, FlameServer, NameServer, random_key, stopped, wait_until
from flakylink import FlakyLink
from kernels import remote_flame
from needs import missing
from other_servers import nobody, one_line_server, web_server
from shell import run, typed
from sshd import Sshd

from flame_kernel.agent.session.checkup import PACKAGES
from flame_kernel.commands.doctor import examine
from flame_kernel.connect.target import Location, Target, Timeouts
from flame_kernel.serve.certs import Authority
from flame_kernel.session.agent_client import AgentClient
from flame_kernel.session.session import Session

pytestmark = pytest.mark.usefixtures("warm_commands")

Start = Callable[..., FlameServer]


ALL = (
    *("name", "protection", "port", "answer", "TLS", "key", "Flame", "server type", "threads", "versions", "agent"),
    *("round trip", "throughput", *PACKAGES, "clock", "disk"),
    *("JupyterLab", "Lab widgets", "Lab proxy"),
)

# Servers of other kinds: a Pyro4 daemon as it is by default, one that takes pickles, and Pyro5.
DAEMON = """
import sys, Pyro4
if sys.argv[1:]:
    Pyro4.config.SERIALIZERS_ACCEPTED = {sys.argv[1]}
@Pyro4.expose
class Thing: pass
daemon = Pyro4.Daemon()
daemon.register(Thing, "example.thing")
print("uri: PYRO:x@" + daemon.locationStr, flush=True)
daemon.requestLoop()
"""
PYRO5 = """
import Pyro5.api
daemon = Pyro5.api.Daemon()
print("uri: PYRO:x@" + daemon.locationStr, flush=True)
daemon.requestLoop()
"""


def diagnosed(where: str | None, *options: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """The exit code, and the checks by name, which must be all there, each with a verdict."""
    code, out, err = run("doctor", *([where] if where else []), *options, "--json", env=env)
    assert err == ""
    said = json.loads(out)
    checks = {check["name"]: check for check in said["checks"]}
    assert len(checks) == len(said["checks"])
    assert {check["verdict"] for check in checks.values()} <= {"ok", "note", "failed", "skipped"}
    assert said["ok"] == (code == 0) == all(check["verdict"] != "failed" for check in checks.values())
    return code, checks


def fails(check: str, says: str, cure: str, where: str, *options: str, env: dict[str, str] | None = None) -> None:
    """``where`` has this fault and no other; all after it is skipped, all before it is well."""
    code, checks = diagnosed(where, *options, env=env)
    assert code == 1
    assert [name for name, one in checks.items() if one["verdict"] == "failed"] == [check], checks
    assert says in checks[check]["words"]
    assert cure in checks[check]["cure"]
    names = list(checks)
    after = names[names.index(check) + 1 :]
    after = [name for name in after if "Lab" not in name]  # which needs no server
    assert {checks[name]["verdict"] for name in after} <= {"skipped"}
    assert all(f"needs {check}" == checks[name]["words"] for name in after)
    assert {checks[name]["verdict"] for name in names[: names.index(check)]} <= {"ok", "note"}


@contextlib.contextmanager
def program(folder: Path, text: str, *arguments: str) -> Iterator[str]:
    """The location that a program prints."""
    path = folder / "program.py"
    path.write_text(text)
    environ = {"PYRO_FLAME_ENABLED": None}
    with stopped(FarProcess([str(path), *arguments], farside.pythons()[-1], environ, subprocess.DEVNULL)) as process:
        yield process._wait_for_line("uri: ").partition("@")[2]


# -- what answers there ------------------------------------------------------------------------------------------------


def test_nobody_there() -> None:
    with nobody() as where:
        fails("port", "connection refused", "is pyro4-flameserver running there?", where)
    fails("name", "no-such-host.invalid: the host name is unknown", "check its spelling", "no-such-host.invalid:9999")
    fails("port", "there is no such socket file", "is pyro4-flameserver running", "./u:/no/such/socket")


def test_servers_of_other_kinds() -> None:
    with web_server() as where:
        fails("answer", "an HTTP server", "start pyro4-flameserver there, or give its port", where)
        fails("answer", "an HTTP server", "start pyro4-flameserver there", where, "--tls-no-verify")
    with one_line_server(b"220 mail ready\r\n") as where:
        fails("answer", "a mail or FTP server", "give its port", where)
    with one_line_server(b"") as where:
        fails("answer", "takes connections but does not answer", "is the host up", where, env={"FLAME_FAST": "1"})


def test_an_ssh_server(tmp_path: Path) -> None:
    with stopped(Sshd(tmp_path / "sshd")) as sshd:
        fails("answer", "an SSH server: 'SSH-2.0", "ssh://127.0.0.1/PORT", f"127.0.0.1:{sshd.port}")


def test_jupyter(tmp_path: Path) -> None:
    """Its server; and its kernels' sockets."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter_server", f"--port={port}", "--port-retries=0", "--no-browser"]
    command += ["--allow-root", "--ip=127.0.0.1", f"--ServerApp.root_dir={tmp_path}"]
    with open(tmp_path / "log", "wb") as log:
        # No extensions: they take their time.
        environ = {
            **os.environ,
            "JUPYTER_NO_CONFIG": "1",
            "TMPDIR": str(tmp_path),
            "JUPYTER_RUNTIME_DIR": str(tmp_path),
        }
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, cwd=tmp_path)
    try:
        wait_until(lambda: _listens(port), "Jupyter's server", 40)
        fails("answer", "a Jupyter server, version ", "that is the address of Jupyter itself", f"127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(20)
    with remote_flame(transport="tcp") as k:
        fails("answer", "a ZeroMQ socket, as Jupyter kernels have", "", f"127.0.0.1:{k.client.shell_port}")


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


@pytest.mark.parametrize("serializers", [(), ("pickle",)], ids=["default", "pickle"])
def test_a_pyro_daemon_without_flame(serializers: tuple[str, ...], tmp_path: Path) -> None:
    with program(tmp_path, DAEMON, *serializers) as where:
        fails("Flame", "not enabled: it is a Pyro4 daemon with example.thing", "PYRO_FLAME_ENABLED=true", where)


def test_flame_that_is_disabled(tmp_path: Path) -> None:
    """The stock server ends at once then."""
    with stopped(
        FarProcess(
            ["-m", "Pyro4.utils.flameserver", "-u", str(tmp_path / "s")],
            farside.pythons()[-1],
            {"PYRO_FLAME_ENABLED": "false"},
            subprocess.DEVNULL,
        )
    ) as server:
        wait_until(lambda: not server.alive, "its end")
        fails("port", "connection refused", "is pyro4-flameserver running there?", f"./u:{tmp_path}/s")


def test_pyro5(tmp_path: Path) -> None:
    with program(tmp_path, PYRO5) as where:
        fails("answer", "Pyro5, wire protocol 502", "Flame is a part of Pyro4", where)


def test_a_name_server_and_a_name(flame_server: Start) -> None:
    with stopped(NameServer()) as names:
        fails("answer", "a Pyro name server", f"ns:NAME@{names.location}", names.location)
        fails("name server", "knows no such name", "jupyter flame discover", f"ns:oven@{names.location}")
        server = flame_server(key=random_key())
        names.register(oven=f"PYRO:Pyro.Flame@{server.location}")
        code, checks = diagnosed(f"ns:oven@{names.location}", "--key-file", server.environ()["FLAME_KEY_FILE"])
        assert code == 0
        assert checks["name server"]["words"] == f"oven is at {server.location}"
    fails("name server", "cannot be asked", "is pyro4-ns running there?", f"ns:oven@{names.location}")


# -- what protects it --------------------------------------------------------------------------------------------------


def test_what_would_be_in_the_open(key_file: Callable[[str], Path]) -> None:
    """It is not even tried."""
    fails("protection", "neither encryption nor a key", "reach it by ssh://", "192.0.2.1:9999")
    fails("protection", "others could read and replay it", "by TLS", "192.0.2.1:9999", "--key-file", str(key_file("x")))


def test_keys(flame_server: Start, key_file: Callable[[str], Path]) -> None:
    keyed, free = flame_server(key=random_key()), flame_server()
    wrong = str(key_file(random_key()))
    fails("key", "this server needs a key", "chmod 600", keyed.location)
    fails("key", "wrong key for this server", "--key-file", keyed.location, "--key-file", wrong)
    fails("key", "a key is set here but the server has none", "PYRO_HMAC_KEY", free.location, "--key-file", wrong)
    fails("target", "is open to others", "chmod 600", free.location, "--key-file", _opened(wrong))
    _, checks = diagnosed(free.location)
    assert checks["key"]["verdict"] == "note"
    assert "whoever reaches that port" in checks["key"]["words"]


def _opened(path: str) -> str:
    os.chmod(path, 0o644)
    return path


def test_tls(flame_server: Start, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Authority(tmp_path / name).server(["localhost", "127.0.0.1"], days=30)
    there = {"PYRO_SSL": "true", "PYRO_SSL_SERVERCERT": str(tmp_path / "a" / "server.pem")}
    safe, plain = flame_server(env=there), flame_server()
    ca, other = (str(tmp_path / name / "ca.pem") for name in ("a", "b"))
    fails("TLS", "the server needs TLS", "--tls-ca", safe.location)
    fails("TLS", "the server does not speak it", "PYRO_SSL=true", plain.location, "--tls-ca", ca)
    fails("TLS", "not signed by the CA", "tls.ca", safe.location, "--tls-ca", other)
    _, checks = diagnosed(plain.location, "--tls-ca", ca)
    assert checks["answer"]["words"] == "a Pyro4 daemon without TLS"
    code, checks = diagnosed(safe.location, "--tls-ca", ca)
    assert (code, checks["TLS"]["words"]) == (0, "certificate verified")
    code, checks = diagnosed(safe.location, "--tls-no-verify")
    assert (code, checks["TLS"]["verdict"], checks["protection"]["verdict"]) == (0, "note", "note")


def test_ssh(flame_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = flame_server()
    port = server.location.rpartition(":")[2]
    with stopped(Sshd(tmp_path / "sshd")) as sshd:
        monkeypatch.setenv("PATH", f"{sshd.ssh}:{os.environ['PATH']}")
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        code, checks = diagnosed(f"ssh://far/{port}")
        assert code == 0
        assert list(checks)[:4] == ["protection", "ssh", "port", "answer"]
        assert checks["ssh"]["words"] == "logged in"
        assert "ssh proves the machine" in checks["protection"]["words"]  # and the server has no key
        with nobody() as where:
            fails("port", "ssh is there, and says: ", "running there?", f"ssh://far/{where[10:]}")
        sshd.configure(identity="none")
        fails("ssh", "Permission denied", "log in once by hand", f"ssh://far/{port}")


# -- the server --------------------------------------------------------------------------------------------------------


def test_a_server_that_is_well(flame_server: Start) -> None:
    server = flame_server(key=random_key())
    environ = server.environ()
    code, checks = diagnosed(None, env=environ)
    assert code == 0
    assert tuple(checks) == ALL
    assert all(check["verdict"] in ("ok", "note") for check in checks.values())
    assert checks["threads"]["words"] == "40 of 40 connections are free"
    assert checks["key"]["words"] == "the same on both sides"
    assert checks["versions"]["words"].startswith("Pyro 4.82, Python 3.")
    assert checks["IPython"]["verdict"] == "ok"
    code, out, err = run("doctor", env=environ)
    assert (code, err) == (0, "")
    assert [line[0] for line in out.splitlines() if "Lab proxy" not in line] == ["✓"] * (len(ALL) - 1)
    assert server.key is not None
    assert server.key not in out
    # Nothing is left there, and nothing was made.
    wait_until(lambda: not server.children(), "no child")
    assert server.stderr_text() == ""


def test_a_server_of_our_own() -> None:
    code, checks = diagnosed(None)
    assert (code, tuple(checks)) == (0, ("server", *ALL))


def test_a_full_pool(flame_server: Start) -> None:
    server = flame_server(env={"PYRO_THREADPOOL_SIZE": "2", "PYRO_THREADPOOL_SIZE_MIN": "1"})
    with contextlib.closing(Session(Target(Location.parse(server.location)), lambda events: None)) as taken:
        taken.ready.result(20)
        code, checks = diagnosed(server.location)
        assert code == 1
        assert [name for name, check in checks.items() if check["verdict"] == "failed"] == ["threads"]
        assert checks["threads"]["words"] == "the server has no free connection"
        assert "PYRO_THREADPOOL_SIZE" in checks["threads"]["cure"]
        assert (checks["TLS"]["verdict"], checks["key"]["verdict"]) == ("ok", "skipped")
    tight = flame_server(env={"PYRO_THREADPOOL_SIZE": "1", "PYRO_THREADPOOL_SIZE_MIN": "1"})
    code, checks = diagnosed(tight.location)
    assert (code, checks["threads"]["words"]) == (1, "1 of 1 connections are free, and a session takes 2")
    assert checks["disk"]["verdict"] == "ok"


def test_a_multiplex_server(flame_server: Start) -> None:
    code, checks = diagnosed(flame_server(servertype="multiplex").location)
    assert (code, checks["server type"]["verdict"]) == (0, "note")
    assert "PYRO_SERVERTYPE=thread" in checks["server type"]["cure"]
    assert checks["threads"]["words"] == "none are needed: one thread serves all"


def test_an_old_and_bare_python(oldest_python: farside.Python, flame_server: Start) -> None:
    code, checks = diagnosed(flame_server(oldest_python).location)
    assert code == 0
    assert checks["versions"]["verdict"] == ("note" if oldest_python.version < (3, 7) else "ok")
    for name in PACKAGES:
        assert checks[name]["verdict"] == "note"
        wanted = '"dask[distributed]"' if name == "dask" else name.lower()
        cure = f"pip install {wanted} there; without internet there: %flame pip install {wanted}"
        assert checks[name]["cure"] == cure


def test_a_python_that_is_too_old(flame_server: Start) -> None:
    found = sorted(Path.home().glob(".pyenv/versions/2.7*/bin/python"))
    if not found:
        missing("Python 2.7 (pyenv)")
    python = farside.Python(str(found[0]), (2, 7), False, False, False, False)
    code, checks = diagnosed(flame_server(python).location)
    assert (code, checks["versions"]["verdict"], checks["agent"]["verdict"]) == (1, "failed", "skipped")
    assert checks["versions"]["words"].startswith("Python 2.7")
    assert checks["versions"]["cure"] == "run the server on Python 3.6 or newer"


def test_far_away_with_a_clock_of_its_own_and_little_room(flame_server: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time\nreal = time.time\ntime.time = lambda: real() - 100.0\n")
    server = flame_server(env={"PYTHONPATH": str(tmp_path)})
    with FlakyLink(server.location, delay=0.15, rate=2_000_000) as link:
        code, checks = diagnosed(link.location, env={"FLAME_JOURNAL": "900000 GB"})
    assert code == 0
    assert checks["clock"]["verdict"] == checks["disk"]["verdict"] == "note"
    assert checks["clock"]["words"] == "100 s behind ours"
    assert "GiB of it are kept" in checks["disk"]["words"]
    assert checks["round trip"]["verdict"] == "note"
    assert checks["throughput"]["verdict"] == "note"


@pytest.mark.parametrize("size", [300, 2_000, 150_000])
def test_a_link_that_breaks_again_and_again(size: int, flame_server: Start) -> None:
    """Whatever it is that was looked at just then, it has failed, and what needs it is skipped."""
    with FlakyLink(flame_server().location) as link:
        link.cut_every(size)
        code, checks = diagnosed(link.location)
        (failed,) = (check for check in checks.values() if check["verdict"] == "failed")
        assert code == 1
        assert failed["cure"]
        names = list(checks)
        later = [name for name in names[names.index(failed["name"]) + 1 :] if "Lab" not in name]
        assert {checks[name]["verdict"] for name in later} <= {"skipped"}


def test_targets_and_words_that_mean_nothing(tmp_path: Path) -> None:
    fails("target", "there is no target 'furnace'", "name one of those", "furnace")
    fails("target", "has no usable port", "a number from 1 to 65535", "host:port")
    code, out, err = run("doctor", "a:1", "b:2")
    assert (code, out) == (2, "")
    assert "one word too many: 'b:2'" in err
    code, out, _ = run("doctor", "host:port")
    assert (code, out.startswith("✗ target")) == (1, True)


@pytest.mark.parametrize("plain", ["", "1"])
def test_marks_have_colours_in_a_terminal(plain: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody_there:
        where = f"127.0.0.1:{nobody_there.getsockname()[1]}"
    with typed("doctor", where, NO_COLOR=plain) as child:
        for mark, colour in (("✓", "32"), ("✗", "31;1")):
            child.expect_exact(mark if plain else f"\x1b[{colour}m{mark}\x1b[0m")
            assert plain == "" or "\x1b[3" not in child.before
        child.expect(pexpect.EOF)


def test_servers_that_mean_harm(tmp_path: Path) -> None:
    """Each ends in a check that has failed, and nothing that is sent is more than looked at."""
    canary = tmp_path / "canary"
    quick = Timeouts(connect=0.4, call=0.4)
    for name, answer in list(evil.modes(f"touch {canary}").items())[::3]:
        with contextlib.closing(evil.EvilServer(answer, at_handshake=name.startswith("handshake"))) as server:
            checks = list(examine(Target(Location.parse(server.location), timeouts=quick)))
            assert [check.verdict for check in checks].count("failed") == 1, name
            assert not any("\x1b" in str(check) for check in checks)
    assert not canary.exists()


def test_agents_that_say_anything(flame_server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(Location.parse(flame_server().location))
    said: list[Any] = []
    for odd in (10**400, -1, "x" * 10_000 + "\x1b]0;x\x07", [None]):
        said.append(dict.fromkeys(("pyro", "workers", "packages", "folder", "free", "journal"), odd))
        said.append({"packages": {"IPython": odd}, "workers": [odd, odd], "folder": "/", "free": 1, "journal": odd})
    for facts in (*said, {"packages": {"IPython": "²"}}, "text", None):
        monkeypatch.setattr(AgentClient, "ask", lambda self, op, facts=facts, **fields: facts)
        checks = list(examine(target))
        assert {"failed", "skipped"}.isdisjoint(check.verdict for check in checks)
        assert all(len(str(check)) < 2000 and "\x1b" not in str(check) for check in checks)


# -- in a notebook -----------------------------------------------------------------------------------------------------


def test_in_the_kernel_and_by_the_magics(flame_server: Start) -> None:
    """A table, of the server that is there, or of one that is not."""
    server = flame_server(key=random_key())
    with nobody() as nowhere, remote_flame(env=server.environ()) as k, remote_flame(name="python3") as other:
        key = server.environ()["FLAME_KEY_FILE"]
        other.execute(f"%load_ext flame\n%flame connect {server.location} --key-file {key} --as pi")
        for kernel in (k, other):
            (shown,) = _tables(kernel.execute("%flame doctor"))
            lines = [line for line in shown["text/plain"].splitlines() if "Lab proxy" not in line]
            assert [line[0] for line in lines] == ["✓"] * (len(ALL) - 1)
            assert shown["text/html"].startswith("<table><tr><td")
            (shown,) = _tables(kernel.execute(f"%flame doctor {nowhere}"))
            assert "✗ port         connection refused; is pyro4-flameserver running there?" in shown["text/plain"]
            assert "<em>is pyro4-flameserver running there?</em>" in shown["text/html"]
            (shown,) = _tables(kernel.execute("%flame doctor <b>:port"))
            assert "<b>" not in shown["text/html"]
        assert k.execute("%flame doctor a b").error is not None


def _tables(run: Any) -> list[dict[str, str]]:
    assert run.error is None, run.error
    return [message.content["data"] for message in run.of_type("display_data")]
