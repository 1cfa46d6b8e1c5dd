"""What may stand in a location: whatever ssh is given of it is no option, and nothing that a shell would run."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import pytest
from farside import FlameServer, pythons, stopped
from hypothesis import example, given
from hypothesis import strategies as st
from kernels import remote_flame
from sshd import Sshd

from flame_kernel.connect import target as config
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.location import SshHost, name_server
from flame_kernel.connect.ssh import Tunnel
from flame_kernel.connect.target import Location, Secret, Target
from flame_kernel.errors import TargetError

BAD = [
    "%$(id)",
    "`id`",
    "a;b",
    "a b",
    "a\nb",
    "a|b",
    "a&b",
    "a'b",
    'a"b',
    "a\\b",
    "-oProxyCommand=id",
    "-",
    "a>b",
    "a\x1bb",
]
SHELL = set("$`;|&<>()'\"\\*?[]{}!#%\n\r\t\x00\x1b")


def arguments(location: Location) -> list[str]:
    tunnel = Tunnel(location)
    tunnel._folder = Path("/tmp/way")
    return tunnel._arguments()


def check(location: Location) -> None:
    """No word that ssh is given is an option but those of ours, or has a character that a shell takes for its own."""
    words = arguments(location)
    assert words[0] == "-L"
    values = [words[1].removeprefix("/tmp/way/s:"), *words[2:]]
    for word in values:
        if word in ("-l", "-p"):
            continue
        assert not word.startswith("-"), words
        bare = re.sub(r"^\[[0-9a-fA-F:.]+(%[A-Za-z0-9._-]+)?\]|^[0-9a-fA-F:.]+%[A-Za-z0-9._-]+$", "", word)
        bare = bare.replace("\\:", ":")  # ours, for ssh
        assert not SHELL & set(bare), words


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "place",
    [
        "ssh://{}/9999",
        "ssh://{}@far/9999",
        "ssh://far:{}/9999",
        "ssh://far/{}",
        "ssh://far/{}:9999",
        "ssh://[fe80::1%{}]/9999",
        "ssh://[{}]/9999",
        "ssh://far/[fe80::1%{}]:9999",
        "ssh://far/./u:/run/{}/s",
        "ssh://far/ns:name@{}:9090",
        "ssh://far/PYRO:Pyro.Flame@{}:1",
    ],
)
def test_no_part_of_a_location_reaches_a_shell(place: str, bad: str) -> None:
    """Where it is taken, as a blank is in the path of a socket, it means nothing there."""
    said = ""
    try:
        check(Location.parse(place.format(bad)))
    except TargetError as refusal:
        said = str(refusal)
    assert said == "" or said.isprintable()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("part", ["host", "user", "scope", "inner", "path", "ssh", "ns"])
def test_no_constructor_takes_what_the_grammar_does_not(part: str, bad: str) -> None:
    """A program may build one without any text; a name server's answer, targets.toml and --ssh lead here, too."""
    makers: dict[str, Any] = {
        "host": lambda: Location("localhost", 1, ssh=SshHost(bad)),
        "user": lambda: Location("localhost", 1, ssh=SshHost("far", bad)),
        "scope": lambda: Location("localhost", 1, ssh=SshHost(f"fe80::1%{bad}")),
        "inner": lambda: Location(bad, 1, ssh=SshHost("far")),
        "path": lambda: Location(path=f"/run/{bad}", ssh=SshHost("far")),
        "ssh": lambda: config.located("localhost:1", bad),
        "ns": lambda: name_server(bad).behind(SshHost("far")),
    }
    if part == "path" and bad in ("a b", "-", "-oProxyCommand=id"):
        check(makers[part]())
    else:
        with pytest.raises(TargetError):
            makers[part]()


@pytest.mark.parametrize("port", [-1, 65536, 10**30])
def test_no_constructor_takes_a_port_that_is_none(port: int) -> None:
    with pytest.raises(TargetError):
        SshHost("far", port=port)
    with pytest.raises(TargetError):
        Location("far", port)


PIECES = st.sampled_from(
    [
        *BAD,
        "far",
        "me",
        "::1",
        "fe80::1",
        "%eth0",
        "%",
        "[",
        "]",
        "@",
        ":",
        "/",
        "./u:",
        "ns:",
        "ssh://",
        "9999",
        "$",
        "-l",
    ]
)


@given(st.lists(PIECES | st.text(max_size=4), max_size=9).map("".join))
@example("[fe80::1%eth0]/9999")
@example("me@far:22/./u:/run/a b")
@example("far///")
def test_whatever_is_taken_as_a_location_is_harmless(text: str) -> None:
    """… and reads the same when it is written and read again, so nothing is told about another place than is used."""
    for whole in (text, "ssh://" + text):
        try:
            location = Location.parse(whole)
        except TargetError:
            continue
        assert str(location).isprintable()
        assert Location.parse(str(location)) == location
        if location.ssh is not None:
            check(location)


@given(st.text(max_size=20), st.text(max_size=20), st.integers(), st.text(max_size=20))
def test_whatever_a_program_builds_is_harmless(host: str, user: str, port: int, inner: str) -> None:
    with contextlib.suppress(TargetError):
        check(Location(inner, 1, ssh=SshHost(host, user, port)))


def test_ssh_runs_nothing_that_stands_in_a_location(tmp_path: Path) -> None:
    """The same with a real ssh whose configuration has a shell run the host and the user."""
    ran = tmp_path / "ran"
    server = Sshd(tmp_path / "sshd")
    with stopped(server):
        server.configure("Match all", "ProxyCommand echo %h %r >/dev/null; false")
        for text in (f"ssh://[::1%$(touch {ran})]/9999", f"ssh://$(touch${{IFS}}{ran})@far/1", f"ssh://;touch {ran}/1"):
            with pytest.raises(TargetError):
                Connection(Target(Location.parse(text)))
    assert not ran.exists()


# --- who answers behind ssh


HTML = "from IPython.display import display, HTML\ndisplay(HTML('<script>1</script>'))"


def test_a_port_behind_ssh_is_anybodys(sshd: Sshd) -> None:
    """A user of that machine may have bound it first: what he shows is text, and the user is told so once."""
    with stopped(FlameServer(pythons()[-1])) as server:
        port = server.location.rpartition(":")[2]
        with remote_flame(env={"FLAME_TARGET": f"ssh://far/{port}"}) as kernel:
            run = kernel.execute(HTML)
            assert "any of its users may answer there" in " ".join(run.stderr.split())
            assert [set(shown) for shown in run.displays] == [{"text/plain"}]
            assert "any of its users" not in kernel.execute("1").stderr


@pytest.mark.parametrize(
    ("mode", "owner", "ours"),
    [(0o700, None, True), (0o755, None, False), (0o770, None, False), (0o1777, None, False), (0o700, 65534, False)],
)
def test_a_socket_behind_ssh_is_known_by_its_folder(sshd: Sshd, mode: int, owner: int | None, ours: bool) -> None:
    if owner is not None and os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    with stopped(FlameServer(pythons()[-1], unix=True)) as server:
        folder = Path(str(server.socket_folder))
        folder.chmod(mode)
        if owner is not None:
            os.chown(folder, owner, owner)
        target = Target(Location.parse(f"ssh://far/{server.location}"))
        with contextlib.closing(Connection(target)) as connection:
            assert connection.call("evaluate", "6 * 7") == 42
            assert target.rendering_level == ("full" if ours else "safe")
            assert bool(target.cautions()) is not ours
        if owner is not None:
            os.chown(folder, os.getuid(), os.getgid())


def test_a_folder_that_cannot_be_asked_for_is_nobodys(sshd: Sshd) -> None:
    """An account that may forward and run nothing."""
    with stopped(FlameServer(pythons()[-1], unix=True)) as server:
        authorized = sshd.folder / "authorized"
        authorized.write_text('command="echo drwx------ 2 0 0; echo 1" ' + authorized.read_text())
        target = Target(Location.parse(f"ssh://far/{server.location}"))
        with contextlib.closing(Connection(target)):
            assert target.rendering_level == "safe"


def test_a_key_makes_a_port_behind_ssh_the_right_one() -> None:
    place = Location.parse("ssh://far/9999")
    assert Target(place).rendering_level == "safe"
    assert Target(place, Secret(b"k" * 32)).rendering_level == "full"
    assert Target(place, trust=True).rendering_level == "full"
