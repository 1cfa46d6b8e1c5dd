"""Servers by name: ``ns:NAME`` and ``jupyter flame discover``, against Pyro's own name server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import evil
import farside
import Pyro4
import pytest
from farside import FarProcess, FlameServer, NameServer, random_key, stopped
from kernels import remote_flame
from netns import net
from other_servers import one_line_server, web_server
from shell import run
from sshd import Sshd

import flame
from flame_kernel.connect import name_server
from flame_kernel.connect.target import Location, Target, Timeouts, load_target
from flame_kernel.errors import CannotConnect, FlameError, TargetError

pytestmark = pytest.mark.usefixtures("warm_commands")

Start = Callable[..., FlameServer]

# An app as the documentation has it.
APP = """
import sys, Pyro4, Pyro4.utils.flame
Pyro4.config.SERIALIZERS_ACCEPTED = {"pickle"}
Pyro4.config.FLAME_ENABLED = True
daemon = Pyro4.Daemon()
uri = Pyro4.utils.flame.start(daemon)
Pyro4.locateNS(sys.argv[1], int(sys.argv[2])).register(sys.argv[3], uri)
print("app uri:", uri, flush=True)
daemon.requestLoop()
"""


@pytest.fixture(scope="module")
def names() -> Iterator[NameServer]:
    """A name server that knows a good server, one that is gone, and something else."""
    with stopped(NameServer()) as ns, stopped(FlameServer(farside.pythons()[-1])) as server:
        ns.register(
            good=f"PYRO:Pyro.Flame@{server.location}",
            gone="PYRO:Pyro.Flame@127.0.0.1:1",
            far="PYRO:Pyro.Flame@192.0.2.1:9999",
            thing="PYRO:obj_0815@localhost:4711",
        )
        yield ns


def test_a_list_for_people_and_one_for_programs(names: NameServer) -> None:
    code, out, err = run("discover", "--ns", names.location)
    assert (code, err) == (0, "")
    lines = [line.split(maxsplit=2) for line in out.splitlines()[1:]]
    assert [line[0] for line in lines] == [f"ns:{name}@{names.location}" for name in ("far", "gone", "good")]
    assert [line[2] for line in lines] == ["no answer", "no answer", "answers"]
    code, out, _ = run("discover", "--all", "--json", env={"FLAME_NS": names.location})
    found = {one["name"]: one for one in json.loads(out)}
    assert set(found) == {"Pyro.NameServer", "far", "gone", "good", "thing"}
    assert (found["good"]["location"], found["good"]["answers"]) == ("ns:good", True)
    assert (found["thing"]["flame"], found["thing"]["location"]) == (False, None)
    host, _, port = names.location.partition(":")
    code, out, _ = run("discover", env={"PYRO_NS_HOST": host, "PYRO_NS_PORT": port})
    assert "ns:good  " in out
    assert "thing" not in out


def test_a_name_server_with_a_key(flame_server: Start, key_file: Callable[[str], Path]) -> None:
    server = flame_server(key=random_key())
    with stopped(NameServer(key=random_key())) as ns:
        ns.register(mine=f"PYRO:Pyro.Flame@{server.location}")
        right = str(key_file(ns.key))
        code, out, _ = run("discover", "--ns", ns.location, "--ns-key-file", right)
        assert (code, "answers" in out) == (0, True)
        code, out, err = run("discover", "--ns", ns.location)
        assert (code, out) == (1, "")
        assert "this server needs a key" in err
        named = f"ns:mine@{ns.location}"
        with flame.connect(named, key=server.key, ns_key_file=right) as far:
            assert far.evaluate("6 * 7") == 42
            assert str(far.location) == server.location
        with pytest.raises(CannotConnect, match="its name server has another key") as raised:
            flame.connect(named, key=server.key)
        assert raised.value.location == named
        code, _, err = run("discover", "--ns", ns.location, env={"FLAME_NS_KEY_FILE": str(key_file("another"))})
        assert (code, "wrong key for this server" in err) == (1, True)
        assert ns.key not in err


@pytest.mark.parametrize("what", ["nobody", "flame", "web"])
def test_no_name_server_there(what: str, names: NameServer) -> None:
    there = next(
        entry.place
        for entry in name_server.registered(Location.parse(names.location), Target())
        if entry.name == "good"
    )
    with web_server() as web:
        place = {"nobody": "127.0.0.1:1", "flame": str(there), "web": web}[what]
        code, out, err = run("discover", "--ns", place)
        assert (code, out) == (1, "")
        seen = {"nobody": "connection refused", "flame": "is not a name server", "web": "an HTTP server"}[what]
        assert f"cannot ask the name server at {place}: " in err
        assert seen in err
        assert err.endswith("is pyro4-ns running there?\n")
        with pytest.raises(CannotConnect) as raised:
            flame.connect(f"ns:good@{place}")
        assert raised.value.cause == "name_server"
        assert seen in str(raised.value)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("nobody", CannotConnect, r"its name server knows no such name; jupyter flame discover"),
        ("thing", CannotConnect, r"something that is not a Flame server \(PYRO:obj_0815@localhost:4711\)"),
        ("gone", CannotConnect, r"127\.0\.0\.1:1: connection refused"),
        ("far", TargetError, r"192\.0\.2\.1:9999 is another machine, and the connection would have neither"),
    ],
)
def test_a_name_is_only_a_hint(name: str, kind: type[FlameError], says: str, names: NameServer) -> None:
    """The rules for what it stands for are those for what a user types."""
    with pytest.raises(kind, match=says):
        flame.connect(f"ns:{name}@{names.location}")
    if name == "far":
        with pytest.raises(TargetError, match="others could read and replay it"):
            flame.connect(f"ns:{name}@{names.location}", key="sesame")


@pytest.mark.parametrize("text", ["ns:", "ns:x@", "ns:@host:1", "ns:x@host:port", "ns:a\x1bb", f"ns:{'x' * 300}"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(TargetError):
        load_target(text, environ={})


def test_ways_to_write_a_name(tmp_path: Path) -> None:
    def parsed(text: str, **environ: str) -> str:
        return str(load_target(text, environ=environ, config_dir=tmp_path).location)

    assert parsed("ns:lab.oven@h") == "ns:lab.oven@h:9090"
    assert parsed("ns:a@b@[::1]:9") == "ns:a@b@[::1]:9"
    assert parsed("PYRONAME:oven@h:1") == "ns:oven@h:1"
    assert parsed("ns:oven@./u:/run/ns") == "ns:oven@./u:/run/ns"
    assert parsed("ssh://me@lab/ns:oven") == "ssh://me@lab/ns:oven"
    assert parsed("ns:oven", FLAME_NS="h:7") == "ns:oven@h:7"
    assert parsed("ns:oven", PYRO_NS_HOST="::1") == "ns:oven@[::1]:9090"
    assert parsed("ns:oven") == "ns:oven@localhost:9090"
    for text in ("ns:lab.oven@h:1", "ns:a@b@[::1]:9", "ns:oven@./u:/run/ns", "ssh://me@lab/ns:oven@h:1"):
        assert Location.parse(str(Location.parse(text))) == Location.parse(text)


def test_a_kernel_on_a_name_finds_an_app_again_that_was_restarted(names: NameServer, tmp_path: Path) -> None:
    """Its port is another one then; the next session asks anew."""
    (tmp_path / "app.py").write_text(APP)
    host, _, port = names.location.partition(":")
    (tmp_path / "targets.toml").write_text(
        f'default = "oven"\n[targets.oven]\nlocation = "ns:lab.oven@{names.location}"\n'
    )

    def app() -> FarProcess:
        started = FarProcess(
            [str(tmp_path / "app.py"), host, port, "lab.oven"], farside.pythons()[-1], {}, subprocess.DEVNULL
        )
        started.location = started._wait_for_line("app uri: ").partition("@")[2]
        return started

    with remote_flame(env={"FLAME_CONFIG": str(tmp_path / "targets.toml")}) as k:
        with stopped(app()) as first:
            run = k.execute("import os\nos.getpid()")
            assert run.result == str(first.pid)
            status = k.execute("%flame status").stdout
            assert f"{first.location} (no key), inside the server's own process" in status
        with stopped(app()) as second:
            assert second.location != first.location

            def pid() -> bool:
                found = k.execute("import os\nos.getpid()")
                return found.result == str(second.pid)

            farside.wait_until(pid, "a cell in the new one")


def test_a_name_server_that_goes_does_not_matter_to_who_is_connected(flame_server: Start) -> None:
    server = flame_server()
    with stopped(NameServer()) as ns:
        ns.register(oven=f"PYRO:Pyro.Flame@{server.location}")
        target = name_server.found(Target(Location.parse(f"ns:oven@{ns.location}")))
        assert (str(target.location), target.protection) == (server.location, "no key")
    assert name_server.found(target) == target
    with pytest.raises(CannotConnect, match="cannot be asked"):
        name_server.found(Target(Location.parse(f"ns:oven@{ns.location}")))


def test_a_name_server_beyond_ssh(
    names: NameServer, flame_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it knows is seen from there, loopback too."""
    sshd = Sshd(tmp_path / "ssh")
    try:
        monkeypatch.setenv("PATH", f"{sshd.ssh}:{os.environ['PATH']}")
        with flame.connect(f"ssh://far/ns:good@{names.location}") as far:
            assert far.evaluate("6 * 7") == 42
            assert str(far.location).startswith("ssh://far/")
        code, out, _ = run("discover", "--ns", names.location, "--ssh", "far")
        assert (code, f"ssh://far/ns:good@{names.location}" in out) == (0, True)
    finally:
        sshd.stop()


def test_a_name_server_on_another_machine() -> None:
    """A loopback address that it knows is that machine's own; and a broadcast finds it, where one is asked for."""
    with net() as far, stopped(NameServer(host=far.address, within=far.within, PYRO_NS_BCPORT="19091")) as ns:
        assert ns.location.startswith(far.address)
        with contextlib.suppress(Pyro4.errors.CommunicationError):
            ns.register(
                own="PYRO:Pyro.Flame@localhost:9999",
                any="PYRO:Pyro.Flame@0.0.0.0:9999",
                socket="PYRO:Pyro.Flame@./u:/run/flame.sock",
                open=f"PYRO:Pyro.Flame@{far.address}:9999",
            )
        for name in ("own", "any", "socket"):
            with pytest.raises(CannotConnect) as raised:
                flame.connect(f"ns:{name}@{ns.location}", insecure=True)
            assert raised.value.cause == "name_elsewhere"
        with pytest.raises(TargetError, match="is another machine"):
            flame.connect(f"ns:open@{ns.location}")
        _, out, _ = run("discover", "--ns", ns.location)
        assert out.count("an address of that machine only") == 3
        assert name_server.heard(20.0, 19091, far.address, most=1) == [Location.parse(ns.location)]


class Answering(evil.Server):
    """A name server that answers ``list`` with ``value``: as JSON, or bytes as they stand."""

    def __init__(self, value: Any, serializer: int = evil.JSON, flags: int = 0) -> None:
        self.data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.serializer, self.flags = serializer, flags
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        seq, _ = evil.read_message(connection)
        connection.sendall(evil.message(evil.CONNECTOK, b'"hello"', seq, serializer=evil.JSON))
        seq, _ = evil.read_message(connection)
        connection.sendall(evil.message(evil.RESULT, self.data, seq, serializer=self.serializer, flags=self.flags))


def answering(value: Any, **how: int) -> contextlib.closing[Answering]:
    return contextlib.closing(Answering(value, **how))


def test_name_servers_that_mean_harm(tmp_path: Path) -> None:
    """Nothing that they send is unpickled, or made an object of."""
    canary = tmp_path / "canary"
    harm = evil.payloads(f"touch {canary}")
    for serializer, data in harm.values():
        with answering(data, serializer=serializer) as server, pytest.raises(CannotConnect):
            flame.connect(f"ns:x@{server.location}", timeout=5)
    odd = {"x": {"__class__": "Pyro4.core.URI", "state": ["PYRO", "Pyro.Flame", None, "h", 1]}, "y": 3}
    for value in ([], None, 3, odd, {"x": ["PYRO:Pyro.Flame@h:1"]}, {"x": "PYRO:Pyro.Flame@h:port"}):
        with answering(value) as server, pytest.raises(CannotConnect):
            flame.connect(f"ns:x@{server.location}", timeout=5)
    for data in (b"[" * 100_000, b"1" * 100_000, b'"' + b"x" * (9 << 20) + b'"', b"\xff", b""):
        with answering(data) as server, pytest.raises(CannotConnect):
            flame.connect(f"ns:x@{server.location}", timeout=5)
    raised = {"__class__": "os.system", "__exception__": True, "args": [f"touch {canary}", 3], "attributes": {}}
    with answering(raised, flags=evil.EXCEPTION) as server, pytest.raises(CannotConnect, match="system: touch"):
        flame.connect(f"ns:x@{server.location}", timeout=5)
    with answering({"a\x1b]0;owned\x07b": "PYRO:Pyro.Flame@127.0.0.1:1", "c": "PYRO:x@\x9b2J"}) as server:
        code, out, err = run("discover", "--ns", server.location, "--all")
        assert code == 0
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out + err)
    assert not canary.exists()


def test_a_name_server_that_says_nothing() -> None:
    with one_line_server(b"") as mute, pytest.raises(FlameError, match="it takes connections but does not answer"):
        name_server.registered(Location.parse(mute), Target(timeouts=Timeouts(connect=0.5)))
