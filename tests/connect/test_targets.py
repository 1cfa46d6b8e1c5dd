"""targets.toml as users write and edit it, where keys come from, and what may not be left open."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keyring
import pytest
from farside import FlameServer
from kernels import remote_flame
from keyring.backend import KeyringBackend

from flame_kernel.commands.options import CONNECTION, protection
from flame_kernel.connect.keys import KEYRING_SERVICE, from_source, store_in_keyring
from flame_kernel.connect.target import Location, Secret, Target, Timeouts, load_target
from flame_kernel.connect.targets_file import TargetsFile
from flame_kernel.connect.tls import Tls
from flame_kernel.errors import TargetError

KEY = "0123456789abcdef0123456789abcdef"


def refused(call: Callable[[], Any]) -> str:
    """The sentence of a TargetError, which has to be one, and never shows a key."""
    with pytest.raises(TargetError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert KEY not in text
    return text


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def never(prompt: str, password: bool) -> str:
    raise AssertionError(prompt)


# --- ssh in locations


@pytest.mark.parametrize(
    ("text", "location", "ssh", "shown"),
    [
        ("ssh://far/9999", Location("localhost", 9999), ("far", "", 0), "ssh://far/9999"),
        ("SSH://me@far:2222/9999", Location("localhost", 9999), ("far", "me", 2222), "ssh://me@far:2222/9999"),
        ("ssh://me@[::1]:22/9999", Location("localhost", 9999), ("::1", "me", 22), "ssh://me@[::1]:22/9999"),
        ("ssh://me@corp@far/9999", Location("localhost", 9999), ("far", "me@corp", 0), "ssh://me@corp@far/9999"),
        ("ssh://far/db:9999", Location("db", 9999), ("far", "", 0), "ssh://far/db:9999"),
        ("ssh://far/[fe80::1]:9", Location("fe80::1", 9), ("far", "", 0), "ssh://far/[fe80::1]:9"),
        ("ssh://far/./u:/run/a b", Location(path="/run/a b"), ("far", "", 0), "ssh://far/./u:/run/a b"),
        ("ssh://far/PYRO:Pyro.Flame@localhost:9", Location("localhost", 9), ("far", "", 0), "ssh://far/9"),
    ],
)
def test_locations_behind_ssh(text: str, location: Location, ssh: tuple[str, str, int], shown: str) -> None:
    found = Location.parse(text)
    assert found.ssh is not None
    assert (found.ssh.host, found.ssh.user, found.ssh.port) == ssh
    assert (found.host, found.port, found.path) == (location.host, location.port, location.path)
    assert str(found) == shown
    assert Location.parse(shown) == found
    assert not found.is_loopback
    target = Target(found)
    assert target.is_private
    assert not target.is_authenticated  # the machine is, and not who listens there
    target.check_exposure()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ssh://far", "names no server there"),
        ("ssh://far/", "names no server there"),
        ("ssh:///9999", "not a usable host for ssh"),
        ("ssh://far/0", "no usable port"),
        ("ssh://far:x/9999", "no usable port"),
        ("ssh://-oProxyCommand=x/9999", "not a usable host for ssh"),
        ("ssh://-l@far/9999", "not a usable user name"),
        ("ssh://a;b@far/9999", "not a usable user name"),
        ("ssh://far$(x)/9999", "not a usable host for ssh"),
        ("ssh://me@[1]:2/9999", "not an IPv6 address for ssh"),
        ("ssh://me:hunter2@far/9999", "holds a password"),
        ("ssh://far/ssh://other/9999", "inside another one"),
        ("ssh://far/./u:s", "relative path on another machine"),
        ("ssh://far/./u:/run/%h", "has % or $"),
        ("ssh://far/host", "has no port"),
        ("http://me:hunter2@far:80", "not the address"),
    ],
)
def test_bad_locations_behind_ssh(text: str, says: str) -> None:
    shown = refused(lambda: Location.parse(text))
    assert says in shown
    assert "hunter2" not in shown


# --- keys


class Memory(KeyringBackend):
    """A keyring for one test."""

    priority = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise keyring.errors.KeyringLocked("the collection is locked")
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.locked:
            raise keyring.errors.PasswordSetError("locked")
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def memory() -> Iterator[Memory]:
    before = keyring.get_keyring()
    backend = Memory()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def test_where_a_key_comes_from(tmp_path: Path, memory: Memory) -> None:
    write(tmp_path / "key", KEY + "\n")
    store_in_keyring("furnace", Secret(b"f" * 32))
    store_in_keyring("other", Secret(b"o" * 32))
    assert memory.kept[KEYRING_SERVICE, "furnace"] == "f" * 32
    environ = {"MY_KEY": "e" * 32, "EMPTY": "", "SHORT": "abc"}
    asked: list[tuple[str, bool]] = []

    def typed(line: str | None) -> Callable[[str, bool], str | None]:
        def ask(prompt: str, password: bool) -> str | None:
            asked.append((prompt, password))
            return line

        return ask

    def key(source: str, ask: Any = never) -> bytes:
        secret, warnings = from_source(source, "furnace", environ=environ, ask=ask, folder=tmp_path)
        assert warnings == ()
        return secret.reveal()

    assert key("file:key") == key(f"file:{tmp_path}/key") == KEY.encode()
    assert key("keyring") == b"f" * 32
    assert key("keyring:other") == b"o" * 32
    assert key("env:MY_KEY") == b"e" * 32
    assert key("prompt", typed("ä" * 20)) == ("ä" * 20).encode()
    assert asked == [("Key of the flame server furnace: ", True)]

    for source, ask, says in (
        ("keyring:nobody", never, "keyring set remote-flame nobody"),
        ("env:NOT_SET", never, "is not set"),
        ("env:EMPTY", never, "is empty, which to Pyro means no key at all"),
        ("prompt", typed(""), "is empty"),
        ("prompt", typed(None), "nobody can be asked now"),
        ("prompt", None, "%flame connect furnace"),
        ("file:none", never, "No such file"),
        (KEY, never, "must say where the key is"),
        ("file:", never, "must say where the key is"),
        (f"env:{KEY} ", never, "must say where the key is"),
        ("", never, "must say where the key is"),
    ):
        assert says in refused(lambda source=source, ask=ask: key(source, ask))  # type: ignore[misc]
    (warning,) = from_source("env:SHORT", "x", environ=environ, ask=None)[1]
    assert "only 3 bytes" in warning
    assert "abc" not in warning
    memory.locked = True
    assert "unlock it" in refused(lambda: key("keyring"))
    assert "unlock it" in refused(lambda: store_in_keyring("furnace", Secret(KEY.encode())))
    assert "stores text" in refused(lambda: store_in_keyring("furnace", Secret(b"\xff" * 16)))


def test_without_the_keyring_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    says = refused(lambda: from_source("keyring", "x", environ={}, ask=None))
    assert "[keyring]'" in says


def test_a_key_belongs_to_its_server(tmp_path: Path, memory: Memory) -> None:
    store_in_keyring("ring", Secret(b"r" * 32))
    for name in ("mine", "env"):
        write(tmp_path / name, f"{name}-{KEY}")
    write(
        tmp_path / "targets.toml",
        '[targets.mine]\nlocation = "localhost:1"\nkey_file = "mine"\nplace = "child"\n'
        '[targets.also]\nlocation = "localhost:1"\nkey_file = "mine"\nplace = "process"\n'
        '[targets.ring]\nlocation = "localhost:2"\nkey = "keyring"\n'
        '[targets.one]\nlocation = "localhost:3"\nkey_file = "mine"\n'
        '[targets.two]\nlocation = "localhost:3"\n',
    )

    def key(name: str, **environ: str) -> str:
        target = load_target(name, environ=environ, config_dir=tmp_path)
        return target.key.reveal().decode().partition("-")[0] if target.key else ""

    env = {"FLAME_KEY_FILE": str(tmp_path / "env")}
    # What is written down for a location holds for it however it is given; how it is used does not.
    assert key("localhost:1") == key("mine") == "mine"
    assert load_target("localhost:1", environ={}, config_dir=tmp_path).place == "auto"
    assert key("localhost:2") == "r" * 32
    assert "whose keys or rails differ" in refused(lambda: key("localhost:3"))
    # The environment's key is for the environment's server.
    for named in ("localhost:9", "nonsense"):
        assert key("localhost:8", FLAME_TARGET=named, **env) == ""
    assert key("localhost:9", FLAME_TARGET="localhost:9", **env) == "env"
    assert key("two", FLAME_TARGET="two", **env) == "env"
    assert key("mine", FLAME_TARGET="mine", **env) == "mine"
    loose = load_target("localhost:8", environ=env, config_dir=tmp_path)
    assert (loose.key, loose.warnings) == (
        None,
        ("FLAME_KEY_FILE is not used: it is the key of the server in FLAME_TARGET, which is not set",),
    )
    for given in (Secret(b"s" * 32), b"s" * 32):
        found = load_target("mine", environ=env, config_dir=tmp_path, overrides={"key": given}).key
        assert found == Secret(b"s" * 32)
    assert "is empty" in refused(
        lambda: load_target("mine", environ={}, config_dir=tmp_path, overrides={"key": Secret(b"")})
    )
    assert "give one of them" in refused(
        lambda: load_target("mine", environ={}, config_dir=tmp_path, overrides={"key": 5})
    )


# --- what may not be left open


LINKS: list[tuple[str, dict[str, Any], str, str]] = [
    # location, target, what is refused, what is warned of
    ("localhost:1", {}, "", ""),
    ("./u:/run/s", {}, "", ""),
    ("ssh://far/9999", {}, "", "any of its users may answer there"),
    ("ssh://far/9999", {"key": Secret(b"k" * 32)}, "", ""),
    ("far:1", {}, "neither encryption nor a key", "not encrypted and has no key"),
    ("far:1", {"allow_plain": True}, "neither encryption nor a key", "not encrypted and has no key"),
    ("far:1", {"insecure": True}, "", "not encrypted and has no key"),
    ("far:1", {"key": Secret(b"k" * 32)}, "read and replay it", "not encrypted: anyone"),
    ("far:1", {"key": Secret(b"k" * 32), "allow_plain": True}, "", "not encrypted: anyone"),
    ("far:1", {"tls": Tls(ca="x")}, "", "asks for neither key nor certificate"),
    ("far:1", {"tls": Tls(ca="x"), "key": Secret(b"k" * 32)}, "", ""),
    ("far:1", {"tls": Tls(ca="x", certificate="y")}, "", ""),
    ("far:1", {"tls": Tls(verify=False)}, "neither encryption nor a key", "does not check the certificate"),
    ("far:1", {"tls": Tls(verify=False), "key": Secret(b"k" * 32)}, "", "does not check the certificate"),
    ("192.168.0.9:1", {}, "is another machine", "not encrypted and has no key"),
    ("localhost.evil.example:1", {}, "is another machine, and", "not encrypted and has no key"),
    ("localhots:1", {}, "is another machine (did you mean localhost?), and", "not encrypted and has no key"),
]


@pytest.mark.parametrize(("location", "settings", "stops", "warns"), LINKS)
def test_links_that_others_can_read(location: str, settings: dict[str, Any], stops: str, warns: str) -> None:
    target = Target(Location.parse(location), **settings)
    if stops:
        text = refused(target.check_exposure)
        assert stops in text
        assert "ssh://user@" in text
    else:
        target.check_exposure()
    said = " ".join(target.cautions())
    assert warns in said
    assert bool(said) == bool(warns)


@pytest.mark.parametrize(
    ("location", "settings", "words"),
    [
        ("localhost:1", {}, "no key"),
        ("localhost:1", {"key": Secret(b"k")}, "key"),
        ("far:1", {}, "plain, no key"),
        ("far:1", {"key": Secret(b"k")}, "plain, key"),
        ("far:1", {"tls": Tls(ca="x")}, "TLS"),
        ("far:1", {"tls": Tls(ca="x", certificate="y"), "key": Secret(b"k")}, "TLS, certificate, key"),
        ("far:1", {"tls": Tls(verify=False)}, "TLS without a certificate check"),
        ("ssh://far/1", {"key": Secret(b"k")}, "ssh, key"),
        ("ssh://far/1", {}, "ssh"),
    ],
)
def test_what_protects_a_link_in_words(location: str, settings: dict[str, Any], words: str) -> None:
    assert Target(Location.parse(location), **settings).protection == words


def test_the_warning_of_each_session(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    """127.1 is this machine, but not by a name that says so."""
    server = flame_server(key=KEY)
    elsewhere = f"127.1:{server.location.rpartition(':')[2]}"
    write(tmp_path / "key", KEY)
    text = f'default = "far"\n[targets.far]\nlocation = "{elsewhere}"\nkey_file = "key"\n'
    write(tmp_path / "targets.toml", text + "allow_plain = true\n")
    with remote_flame(env={"FLAME_CONFIG": str(tmp_path / "targets.toml")}) as k:
        run = k.execute("6 * 7")
        assert run.result == "42"
        said = (
            f"Warning: the link to {elsewhere} is not encrypted: anyone on the network can read it, and replay what was"
        )
        assert " ".join(run.stderr.split()) == f"{said} sent"
        assert max(map(len, run.stderr.splitlines())) <= 100
        assert k.execute("1").stderr == ""
        write(tmp_path / "targets.toml", text)
        refusal = k.execute("%flame connect far").error
        assert refusal is not None
        assert "--allow-plain" in refusal["evalue"]
        assert k.execute("2").result == "2"  # all stays as it was
        for _ in range(2):
            run = k.execute("%flame connect far --allow-plain\n3")
            assert run.result == "3"
            assert "is not encrypted: anyone" in run.stderr


def test_insecure_is_never_written_down(tmp_path: Path) -> None:
    write(tmp_path / "targets.toml", '[targets.a]\nlocation = "far:1"\ninsecure = true\n')
    assert "each time" in refused(lambda: load_target("a", environ={}, config_dir=tmp_path))
    write(tmp_path / "targets.toml", '[targets.a]\nlocation = "far:1"\nallow_plain = true\n')
    target = load_target("a", environ={}, config_dir=tmp_path)
    assert "no key" in refused(target.check_exposure).replace("nor a key", "no key")
    assert load_target("a", environ={}, config_dir=tmp_path, overrides={"insecure": True}).insecure


# --- the file


FILE = """\
# my machines
default = "gpu"   # the usual one

[targets.gpu]
location = "localhost:9999"   # by hand
place = "child"

# the one in the cellar
[targets.furnace]
location = "localhost:8888"
"""


def test_editing_keeps_what_its_owner_wrote(tmp_path: Path) -> None:
    path = write(tmp_path / "targets.toml", FILE, 0o644)
    file = TargetsFile(path)
    file.add("plant", {"location": "plant:1", "key": "keyring", "tls": {"ca": "ca.pem", "pin": None}, "session": None})
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert text.startswith(FILE)
    assert TargetsFile(path).tables["plant"] == {
        "location": "plant:1",
        "key": "keyring",
        "tls": {"ca": str(tmp_path / "ca.pem")},
    }
    file.edit("gpu", {"place": None, "shell": "mini", "location": "localhost:9998"})
    text = path.read_text()
    assert 'location = "localhost:9998"' in text
    assert "# by hand" in text
    assert "# the one in the cellar" in text
    assert TargetsFile(path).tables["gpu"] == {"location": "localhost:9998", "shell": "mini"}
    file.set_default("furnace")
    assert TargetsFile(path).default == file.default == "furnace"
    assert "# the usual one" in path.read_text()
    file.remove("furnace")
    assert TargetsFile(path).default is None
    assert set(TargetsFile(path).tables) == set(file.tables) == {"gpu", "plant"}
    file.set_default("gpu")
    file.set_default(None)
    file.remove("gpu")
    file.remove("plant")
    assert TargetsFile(path).tables == {}
    assert "# my machines" in path.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["targets.toml"]  # nothing half-made beside it


def test_what_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "targets.toml"
    file = TargetsFile(path)
    assert repr(file) == f"<TargetsFile {path}: empty>"
    file.add("gpu", {"location": "gpu:1"}, default=True)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    before = path.read_text()
    for call, says in (
        (lambda: file.add("gpu", {"location": "x:1"}), "there is a target gpu"),
        (lambda: file.add("a:b", {"location": "x:1"}), "without colons"),
        (lambda: file.add("x", {}), "has no location"),
        (lambda: file.add("x", {"location": "x:1", "key": KEY}), "must say where the key is"),
        (lambda: file.add("x", {"location": "x:1", "colour": "red"}), "unknown setting 'colour'"),
        (lambda: file.add("x", {"location": "x:1", "tls": {"cert": "x"}}), "unknown setting 'cert'"),
        (lambda: file.add("x", {"location": "x:1", "trust": "yes"}), "true or false"),
        (lambda: file.add("x", {"location": "x:1", "insecure": True}), "each time"),
        (lambda: file.add("x", {"location": "x:1", "key": "prompt", "key_file": "k"}), "keep one of them"),
        (lambda: file.edit("none", {"place": "child"}), "it has gpu"),
        (lambda: file.edit("gpu", {"location": None}), "has no location"),
        (lambda: file.edit("gpu", {"linger": "for ever"}), "linger 'for ever'"),
        (lambda: file.remove("none"), "it has gpu"),
        (lambda: file.set_default("none"), "it has gpu"),
    ):
        assert says in refused(call)
        assert path.read_text() == before
        assert set(file.tables) == {"gpu"}
    broken = write(tmp_path / "targets.toml", "x = [")
    assert "not valid TOML" in refused(lambda: TargetsFile(broken))
    if os.getuid() != 0:
        path.parent.chmod(0o500)
        assert "cannot write" in refused(lambda: file.add("x", {"location": "x:1"}))
        path.parent.chmod(0o700)


def test_a_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    """As those have it who keep their settings in a repository."""
    real = write(tmp_path / "real.toml", FILE)
    link = tmp_path / "targets.toml"
    link.symlink_to(real)
    TargetsFile(link).set_default("furnace")
    assert link.is_symlink()
    assert TargetsFile(real).default == "furnace"


def test_every_setting_arrives(tmp_path: Path) -> None:
    write(
        tmp_path / "targets.toml",
        '[targets.all]\nlocation = "localhost:1"\nssh = "me@far:2222"\nplace = "process"\nsession = "s"\n'
        'shell = "mini"\ntrust = true\nlinger = "2 h"\njournal = "1 MB"\nwhen_full = "block"\nfast = true\n'
        f'tls = {{ pin = "{"a" * 64}", server_name = "n", certificate = "~/c" }}\n'
        '[targets.asked]\nlocation = "localhost:1"\ntls = true\n'
        '[targets.plain]\nlocation = "localhost:1"\ntls = false\n',
    )
    target = load_target("all", environ={}, config_dir=tmp_path)
    assert str(target.location) == "ssh://me@far:2222/1"
    assert (target.place, target.session, target.shell, target.trust) == ("process", "s", "mini", True)
    assert target.keeping == {"linger": 7200.0, "journal": 1 << 20, "when_full": "block"}
    assert (target.fast, target.timeouts) == (True, Timeouts.fast())
    assert target.tls is not None
    assert (target.tls.pin, target.tls.server_name) == ("a" * 64, "n")
    assert target.tls.certificate == os.path.expanduser("~/c")
    asked = load_target("asked", environ={}, config_dir=tmp_path).tls
    assert asked is not None
    assert asked.remembers
    assert asked.known == tmp_path / "flame_known_servers"
    assert load_target("plain", environ={}, config_dir=tmp_path).tls is None
    more = load_target("asked", environ={}, config_dir=tmp_path, overrides={"tls": {"server_name": "x"}}).tls
    assert more is not None
    assert more.server_name == "x"
    # A target that says TLS is not reached without by saying less.
    assert load_target("asked", environ={}, config_dir=tmp_path, overrides={"tls": False, "allow_plain": True}).tls
    assert "inside another one" in refused(
        lambda: load_target("ssh://far/9", environ={}, config_dir=tmp_path, overrides={"ssh": "x"})
    )


def test_another_file(tmp_path: Path) -> None:
    """A project's own, when it is named."""
    write(tmp_path / "targets.toml", '[targets.gpu]\nlocation = "localhost:1"\n')
    path = write(tmp_path / "project.toml", '[targets.gpu]\nlocation = "localhost:2"\nkey_file = "k"\n')
    write(tmp_path / "k", KEY)

    def load(file: Path) -> Target:
        return load_target("gpu", environ={}, config_dir=tmp_path, overrides={"config": str(file)})

    assert str(load(path).location) == "localhost:2"
    assert "name one that is there" in refused(lambda: load(tmp_path / "none.toml"))
    path.chmod(0o644)
    assert "chmod 600" in refused(lambda: load(path))


def test_a_key_that_is_typed(flame_server: Callable[..., FlameServer], tmp_path: Path) -> None:
    """Not when the kernel starts, where nobody can be asked, but at the prompt of the cell that connects."""
    server = flame_server(key=KEY)
    write(
        tmp_path / "targets.toml",
        f'default = "gpu"\n[targets.gpu]\nlocation = "{server.location}"\nkey = "prompt"\n',
    )
    with remote_flame(env={"FLAME_CONFIG": str(tmp_path / "targets.toml")}) as k:
        first = k.execute("1")
        assert first.error is not None
        assert "%flame connect gpu" in first.error["evalue"]
        silent = k.execute("%flame connect gpu", allow_stdin=False)
        assert silent.error is not None
        assert "nobody can be asked now" in silent.error["evalue"]
        run = k.execute("%flame connect gpu\n6 * 7", answers=(KEY,))
        assert run.result == "42"
        assert run.prompts == [("Key of the flame server gpu: ", True)]
        # Stop at the prompt: all stays as it was.
        stopped = k.submit("%flame connect gpu")
        k.wait_for(lambda: stopped.prompts, "the prompt")
        k.interrupt()
        assert k.wait(stopped).error is not None
        assert k.execute("6 * 7").result == "42"
        assert KEY not in k.log_text() + "".join(map(str, k.runs.values()))


def test_options_of_a_command() -> None:
    assert protection({"place": "child", "tls": False, "ssh": None}) == {}
    assert protection({"tls": True}) == {"tls": {}}
    assert protection(
        {"tls_ca": "a", "tls_cert": "b", "tls_key": "c", "tls_name": "d", "tls_pin": "e", "tls_no_verify": True}
    ) == {
        "tls": {"ca": "a", "certificate": "b", "key_file": "c", "server_name": "d", "pin": "e", "verify": False},
    }
    assert protection({"ssh": "me@far", "allow_plain": True, "insecure": True}) == {
        "ssh": "me@far",
        "allow_plain": True,
        "insecure": True,
    }
    assert len({option.name for option in CONNECTION}) == len(CONNECTION)
