"""Locations, keys, and the order in which a target is looked for; every bad input is one sentence."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from flame_kernel.connect.target import Location, Secret, Target, Timeouts, load_target, read_key
from flame_kernel.errors import TargetError

KEY = "0123456789abcdef"


def refused(*arguments: Any, **options: Any) -> str:
    """The sentence of a TargetError, which has to be one."""
    with pytest.raises(TargetError) as caught:
        load_target(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert KEY not in text
    return text


@pytest.mark.parametrize(
    ("text", "location", "shown", "loopback"),
    [
        ("host:9999", Location("host", 9999), "host:9999", False),
        (" localhost:1 ", Location("localhost", 1), "localhost:1", True),
        ("127.0.0.9:65535", Location("127.0.0.9", 65535), "127.0.0.9:65535", True),
        ("[::1]:9999", Location("::1", 9999), "[::1]:9999", True),
        ("[fe80::1]:9999", Location("fe80::1", 9999), "[fe80::1]:9999", False),
        ("localhost.evil.example:1", Location("localhost.evil.example", 1), "localhost.evil.example:1", False),
        ("./u:/run/a b.sock", Location(path="/run/a b.sock"), "./u:/run/a b.sock", True),
        ("./u:relative", Location(path="relative"), "./u:relative", True),
        ("PYRO:Pyro.Flame@host:9999", Location("host", 9999), "host:9999", False),
        ("pyro:Pyro.Flame@./u:s", Location(path="s"), "./u:s", True),
    ],
)
def test_locations(text: str, location: Location, shown: str, loopback: bool) -> None:
    assert Location.parse(text) == location
    assert str(location) == shown
    assert Location.parse(shown) == location
    assert location.is_loopback is loopback


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("host", "has no port"),
        ("", "has no port"),
        ("host:", "no usable port"),
        ("host:0", "no usable port"),
        ("host:65536", "no usable port"),
        ("host:-1", "no usable port"),
        ("host:99999999999", "no usable port"),
        ("host:٣", "no usable port"),
        (":9999", "no usable host"),
        ("a b:9999", "no usable host"),
        ("user@host:9999", "no usable host"),
        ("host\0:9999", "no usable host"),
        ("::1:9999", "in brackets"),
        ("[::1]", "IPv6 address with a port"),
        ("[host]:9999", "IPv6 address with a port"),
        ("http://host:9999", "not the address"),
        ("PYROMETA:flame", "not the address"),
        ("PYRO:Other@host:9999", "not the URI of a Flame server"),
        ("PYRO:host:9999", "not the URI of a Flame server"),
        ("./u:", "names no socket"),
        ("./u:/run/a\nb", "names no socket"),
        ("./u:" + "x" * 108, "at most 107 bytes"),
    ],
)
def test_bad_locations(text: str, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        Location.parse(text)


def test_a_secret_does_not_show() -> None:
    secret = Secret(KEY.encode())
    target = Target(Location("h", 1), secret)
    for shown in (repr(secret), str(secret), f"{secret}", repr(target), str(target), repr(vars(target))):
        assert KEY not in shown
    assert secret.reveal() == KEY.encode()
    assert secret == Secret(KEY.encode())
    assert secret != Secret(b"x")
    assert hash(secret) == hash(Secret(b"x"))
    for protocol in range(6):
        with pytest.raises(TypeError):
            pickle.dumps(target, protocol)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "key"

    def write(content: bytes, mode: int = 0o600) -> Path:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    for content, key in (
        (b"0123456789abcdef\n", b"0123456789abcdef"),
        (b"0123456789abcdef\r\n", b"0123456789abcdef"),
        (b" 0123456789abcdef\n\n", b" 0123456789abcdef\n"),
        ("ä\0".encode() * 10, "ä\0".encode() * 10),
    ):
        secret, warnings = read_key(write(content))
        assert (secret.reveal(), warnings) == (key, ())
    secret, (warning,) = read_key(write(b"short\n"))
    assert secret.reveal() == b"short"
    assert "only 5 bytes" in warning
    for mode in (0o640, 0o604, 0o610, 0o602, 0o777):
        with pytest.raises(TargetError, match=f"mode {mode:04o}.*chmod 600"):
            read_key(write(b"0123456789abcdef", mode))
    for content, says in ((b"", "is empty"), (b"\n", "is empty"), (b"x" * 10**6, "longer than")):
        with pytest.raises(TargetError, match=says):
            read_key(write(content))
    with pytest.raises(TargetError, match="No such file"):
        read_key(tmp_path / "none")
    with pytest.raises(TargetError, match="not a regular file"):
        read_key(tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(TargetError, match="not a regular file"):
        read_key(tmp_path / "fifo")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration folder with two targets and the keys of both."""
    for name in ("gpu.key", "env.key"):
        (tmp_path / name).write_text(f"{name}-{KEY}\n")
        (tmp_path / name).chmod(0o600)
    write(
        tmp_path,
        'default = "gpu"\n'
        '[targets.gpu]\nlocation = "gpu1:9999"\nkey_file = "gpu.key"\nplace = "child"\nsession = "s1"\n'
        '[targets.lab]\nlocation = "./u:/run/lab"\nshell = "mini"\n',
    )
    return tmp_path


def write(folder: Path, text: str, mode: int = 0o600) -> None:
    path = folder / "targets.toml"
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_nothing_named_is_a_server_of_its_own(tmp_path: Path) -> None:
    target = load_target(environ={}, config_dir=tmp_path)
    assert target == Target()
    assert (target.location, target.key, target.timeouts) == (None, None, Timeouts(10, 30, 25, 35))
    target = load_target(environ={"FLAME_KEY_FILE": "/none", "FLAME_PLACE": "process"}, config_dir=tmp_path)
    assert (target.location, target.key, target.place) == (None, None, "process")


def test_the_order(folder: Path) -> None:
    environ = {"FLAME_TARGET": "env:1", "FLAME_KEY_FILE": str(folder / "env.key"), "FLAME_PLACE": "process"}
    kernelspec = {**environ, "FLAME_KERNELSPEC": "flame-x"}

    def load(name: str | None, environ: dict[str, str], **options: Any) -> tuple[str, str, str]:
        target = load_target(name, environ=environ, config_dir=folder, **options)
        key = target.key.reveal().decode().partition("-")[0] if target.key else ""
        return str(target.location), key, target.place

    # The key in the environment belongs to the server of FLAME_TARGET, and is lent to no other.
    assert load("arg:1", environ) == ("arg:1", "", "process")
    assert load("arg:1", kernelspec) == ("arg:1", "", "process")
    assert load("env:1", environ) == load("env:1", kernelspec) == ("env:1", "env.key", "process")
    assert load("gpu", kernelspec) == ("gpu1:9999", "gpu.key", "child")
    # The key in the environment is not lent to a target that is written down without one.
    assert load("lab", environ) == ("./u:/run/lab", "", "process")
    assert load(None, kernelspec) == ("env:1", "env.key", "process")
    assert load(None, {**kernelspec, "FLAME_TARGET": "gpu"}) == ("gpu1:9999", "env.key", "process")
    assert load(None, environ) == ("gpu1:9999", "gpu.key", "child")
    write(folder, "")
    assert load(None, environ) == ("env:1", "env.key", "process")
    overrides = {"place": "main", "key_file": folder / "gpu.key"}
    assert load(None, environ, overrides=overrides) == ("env:1", "gpu.key", "main")


def test_a_named_target(folder: Path) -> None:
    timeouts = Timeouts(connect=1)
    target = load_target("gpu", environ={}, config_dir=folder, overrides={"timeouts": timeouts})
    assert (target.name, target.session, target.shell, target.timeouts) == ("gpu", "s1", "auto", timeouts)
    assert str(target) == "gpu (gpu1:9999)"
    assert load_target("lab", environ={}, config_dir=folder).shell == "mini"


def test_where_the_file_is(folder: Path, tmp_path: Path) -> None:
    for environ in ({"FLAME_CONFIG": str(folder / "targets.toml")}, {"JUPYTER_CONFIG_DIR": str(folder)}):
        assert load_target(environ=environ).name == "gpu"
    assert load_target(environ={"JUPYTER_CONFIG_DIR": str(folder / "none")}) == Target()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = [", "not valid TOML"),
        ("other = 1", "unknown entry 'other'"),
        ('default = "none"', "not one of its targets"),
        ("default = []", "not one of its targets"),
        ("targets = 1", "not a table"),
        ("[targets]\na = 1", "is not a target"),
        ('[targets."a:b"]\nlocation = "h:1"', "is not a target"),
        ("[targets.a]", "has no location"),
        ('[targets.a]\nlocation = "h:1"\nport = 1', "unknown setting 'port'"),
        ('[targets.a]\nlocation = "h:1"\nplace = 1', "must be text"),
        (f'[targets.a]\nlocation = "h:1"\nkey = "{KEY}"', "must say where the key is"),
        ('default = "a"\n[targets.a]\nlocation = "h:1"\nplace = "x"', "place 'x' is unknown"),
        ('default = "a"\n[targets.a]\nlocation = "h:1"\nshell = "x"', "shell 'x' is unknown"),
        ('default = "a"\n[targets.a]\nlocation = "h:1"\nsession = "a/b"', "not a usable name"),
        ('default = "a"\n[targets.a]\nlocation = "h"', "has no port"),
    ],
)
def test_bad_files(text: str, says: str, tmp_path: Path) -> None:
    write(tmp_path, text)
    assert says in refused(environ={}, config_dir=tmp_path)


def test_the_modes_of_the_file(folder: Path) -> None:
    text = (folder / "targets.toml").read_text()
    write(folder, text, 0o644)
    assert "chmod 600" in refused(environ={}, config_dir=folder)
    write(folder, '[targets.a]\nlocation = "h:1"\n', 0o644)  # names no key
    assert load_target("a", environ={}, config_dir=folder).location == Location("h", 1)


def test_unknown_names_and_settings(folder: Path) -> None:
    assert "it has gpu, lab" in refused("gpux", environ={}, config_dir=folder)
    assert "it has none" in refused("gpu", environ={}, config_dir=folder / "none")
    assert "not a setting" in refused("lab", environ={}, config_dir=folder, overrides={"port": 1})
    assert "must be a Timeouts" in refused("lab", environ={}, config_dir=folder, overrides={"timeouts": 3})
    (folder / "gpu.key").chmod(0o644)
    assert "chmod 600" in refused("gpu", environ={}, config_dir=folder)
