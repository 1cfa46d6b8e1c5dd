"""Where to connect, and how: frozen dataclasses from arguments, a kernelspec's environment, a file, the environment.

``load_target`` reads, in this order, and takes the first that names a server:

1. its argument: ``host:port``, ``./u:path``, ``PYRO:Pyro.Flame@…``, or the name of a target in the file;
2. ``FLAME_TARGET``, when ``FLAME_KERNELSPEC`` marks the environment as that of an installed kernelspec;
3. the ``default`` of ``targets.toml``;
4. ``FLAME_TARGET`` in any other environment.

Where none names one, the location is None: the kernel starts a server of its own (``server.py``).
The file is ``$FLAME_CONFIG``, or ``targets.toml`` in Jupyter's configuration folder::

    default = "gpu"

    [targets.gpu]
    location = "gpu1.example:9999"
    key_file = "gpu1.key"            # relative to this file; mode 0600
    place = "auto"                   # auto | process | child | main
    session = "ab12"
    shell = "auto"                   # auto | ipython | mini

The environment has the same settings: FLAME_KEY_FILE, FLAME_PLACE, FLAME_SESSION, FLAME_SHELL.  Bad input is always a
TargetError, one sentence with the next step.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from .errors import TargetError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

PLACES = ("auto", "process", "child", "main")
SHELLS = ("auto", "ipython", "mini")

_FLAME_NAME = "Pyro.Flame"
_MAX_SOCKET_PATH = 107  # bytes that fit into sockaddr_un, with the NUL after them
_MAX_KEY_FILE = 4096  # bytes; a file longer than that is no key but a mistake
_MAX_CONFIG = 1 << 20  # bytes
_SHORT_KEY = 16  # bytes: 128 bits
_SESSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HOST_NAME = re.compile(r"[^\s/@:\[\]\x00-\x1f]{1,253}")


@dataclass(frozen=True)
class Location:
    """Where a server listens: ``host`` and ``port``, or the ``path`` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Location:
        """The location in ``text``: ``host:9999``, ``[::1]:9999``, ``./u:path``, or a ``PYRO:Pyro.Flame@…`` URI."""
        place = text.strip()
        scheme, colon, rest = place.partition(":")
        if colon and scheme.upper() == "PYRO":
            name, at, place = rest.partition("@")
            if not at or name != _FLAME_NAME:
                _refuse(f"{text!r} is not the URI of a Flame server; it looks like PYRO:{_FLAME_NAME}@host:port")
        elif colon and (scheme.upper() in ("PYRONAME", "PYROMETA", "PYROLOC") or rest.startswith("//")):
            _refuse(f"{text!r} is not the address of a Flame server; give host:port, such as localhost:9999")
        if place.startswith("./u:"):
            return cls(path=_socket_path(place[4:]))
        if place.startswith("["):
            host, bracket, port = place[1:].partition("]:")
            if not bracket or not _is_ipv6(host):
                _refuse(f"{text!r} is not an IPv6 address with a port; it looks like [::1]:9999")
            return cls(host=host, port=_port(port, text))
        host, colon, port = place.rpartition(":")
        if not colon:
            _refuse(f"{text!r} has no port; give host:port, such as {place or 'localhost'}:9999")
        if ":" in host:
            _refuse(f"{text!r} has several colons; write an IPv6 address in brackets, such as [::1]:9999")
        if not _HOST_NAME.fullmatch(host):
            _refuse(f"{text!r} has no usable host name; give host:port, such as localhost:9999")
        return cls(host=host, port=_port(port, text))

    def __str__(self) -> str:
        if self.path:
            return f"./u:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can answer there. A name other than ``localhost`` may be anybody's."""
        if self.path or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _refuse(sentence: str) -> NoReturn:
    raise TargetError(sentence)


def _port(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        _refuse(f"{whole!r} has no usable port; give a number from 1 to 65535, such as localhost:9999")
    return int(text)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _socket_path(path: str) -> str:
    size = len(os.fsencode(path))
    if not path or "\0" in path:
        _refuse("./u: names no socket file; give its path, such as ./u:/run/flame.sock")
    if size > _MAX_SOCKET_PATH:
        _refuse(f"a unix socket's path has at most {_MAX_SOCKET_PATH} bytes and this one {size}; move it up: {path}")
    return path


class Secret:
    """A key that does not show: not in repr, not in str or a format, and never in a pickle or a copy of one."""

    __slots__ = ("__value",)

    def __init__(self, value: bytes) -> None:
        self.__value = bytes(value)

    def reveal(self) -> bytes:
        """The key itself."""
        return self.__value

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.__value == other.__value

    def __hash__(self) -> int:
        return hash(Secret)  # the same for all: a hash of the value would tell something about it

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret is not pickled or copied")


@dataclass(frozen=True)
class Timeouts:
    """Seconds, each for the whole of what it names."""

    connect: float = 10.0  # from looking up the name to the end of the handshake
    call: float = 30.0
    poll: float = 20.0  # how long the server may hold a poll that has no news
    poll_deadline: float = 35.0  # when its answer must have come


@dataclass(frozen=True)
class Target:
    """One server and how to use it. ``location`` None stands for a server that the kernel starts itself."""

    location: Location | None = None
    key: Secret | None = None
    place: str = "auto"
    session: str | None = None
    timeouts: Timeouts = Timeouts()
    name: str | None = None
    shell: str = "auto"
    trust: bool = False  # the user's word that this server may send objects that run code here (pickles)
    warnings: tuple[str, ...] = field(default=(), compare=False)  # sentences for the user

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            _refuse(f"place {self.place!r} is unknown; choose one of {', '.join(PLACES)}")
        if self.shell not in SHELLS:
            _refuse(f"shell {self.shell!r} is unknown; choose one of {', '.join(SHELLS)}")
        if self.session is not None and not _SESSION_NAME.fullmatch(self.session):
            _refuse(f"session {self.session!r} is no usable name; use up to 64 letters, digits and _ . -")

    def __str__(self) -> str:
        where = str(self.location) if self.location else "a server of its own"
        return f"{self.name} ({where})" if self.name else where


# What a target can be told, but for its location and its timeouts: the keys of a table, FLAME_<KEY> in the environment.
_SETTINGS = ("key_file", "place", "session", "shell")


def load_target(
    name_or_location: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config_dir: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Target:
    """The target to use, by the order above; raises TargetError.

    ``config_dir`` is Jupyter's configuration folder.  ``overrides`` are settings that win over all: ``key_file``,
    ``place``, ``session``, ``shell``, and ``timeouts`` (a Timeouts).
    """
    environ = os.environ if environ is None else environ
    path = _config_path(environ, config_dir)
    default, tables = _read_file(path)
    from_environ = {key: value for key in _SETTINGS if (value := environ.get(f"FLAME_{key.upper()}"))}
    if "key_file" in from_environ:
        from_environ["key_file"] = os.path.expanduser(from_environ["key_file"])
    named = environ.get("FLAME_TARGET") or None
    is_kernelspec = bool(environ.get("FLAME_KERNELSPEC"))

    chosen = name_or_location or (named if is_kernelspec else None) or default or named
    settings: dict[str, Any] = dict(from_environ)
    location: Location | None = None
    name: str | None = None
    if chosen is not None and chosen in tables and ":" not in chosen:
        name = chosen
        table = tables[chosen]
        location = Location.parse(table["location"])
        if is_kernelspec and not name_or_location:
            settings = table | from_environ
        else:
            # A key belongs to the server that it was written down for, so the environment's is not lent to this one.
            settings = {key: value for key, value in from_environ.items() if key != "key_file"} | table
    elif chosen is not None:
        if ":" not in chosen:
            known = f"it has {', '.join(sorted(tables))}" if tables else "it has none"
            _refuse(f"there is no target {chosen!r} in {path} ({known}); name one of those or give host:port")
        location = Location.parse(chosen)
    else:
        settings.pop("key_file", None)  # the kernel's own server gets a key of its own

    timeouts = Timeouts()
    for key, value in (overrides or {}).items():
        if key == "timeouts" and isinstance(value, Timeouts):
            timeouts = value
        elif key in _SETTINGS:
            settings[key] = value
        else:
            _refuse(f"{key!r} is no setting of a target; there are {', '.join(_SETTINGS)} and timeouts")

    target = Target(location, None, name=name, timeouts=timeouts, session=settings.get("session") or None)
    target = replace(target, place=settings.get("place") or "auto", shell=settings.get("shell") or "auto")
    if location is not None and settings.get("key_file"):
        secret, warnings = read_key(Path(os.path.expanduser(settings["key_file"])))
        target = replace(target, key=secret, warnings=warnings)
    return target


def read_key(path: Path) -> tuple[Secret, tuple[str, ...]]:
    """The key in the file at ``path`` without its trailing newline, and warnings for the user; raises TargetError.

    The file must be its owner's alone, as ssh demands of a private key.
    """
    raw, mode = _read(path, "the key file", _MAX_KEY_FILE)
    _check_private(path, "the key file", mode)
    key = raw[:-2] if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")
    if not key:
        _refuse(f"the key file {path} is empty; put the server's PYRO_HMAC_KEY into it")
    warnings: tuple[str, ...] = ()
    if len(key) < _SHORT_KEY:
        warnings = (
            f"the key in {path} has only {len(key)} bytes and can be guessed; "
            f"use {_SHORT_KEY} or more, such as those of: python -c 'import secrets; print(secrets.token_hex(32))'",
        )
    return Secret(key), warnings


def _read(path: Path, what: str, limit: int) -> tuple[bytes, int]:
    """The bytes of a small file, and the mode of just that file, whatever becomes of its name meanwhile."""
    try:
        # NONBLOCK: opening a FIFO that somebody put there must not hang; for plain files it means nothing.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TargetError(f"cannot read {what} {path}: {reason}; check its name and its owner") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            _refuse(f"{what} {path} is no regular file; name one that is")
        if status.st_size > limit:
            _refuse(f"{what} {path} is longer than {limit} bytes; is it the right file?")
        data = b""
        while len(data) <= limit and (piece := os.read(descriptor, limit)):
            data += piece
    finally:
        os.close(descriptor)
    return data, stat.S_IMODE(status.st_mode)


def _check_private(path: Path, what: str, mode: int) -> None:
    if mode & 0o077:
        _refuse(f"{what} {path} is open to others (mode {mode:04o}); run: chmod 600 {path}")


def _config_path(environ: Mapping[str, str], config_dir: Path | None) -> Path:
    if environ.get("FLAME_CONFIG"):
        return Path(os.path.expanduser(environ["FLAME_CONFIG"]))
    if config_dir is None:
        config_dir = Path(environ.get("JUPYTER_CONFIG_DIR") or os.path.expanduser("~/.jupyter"))
    return config_dir / "targets.toml"


def _read_file(path: Path) -> tuple[str | None, dict[str, dict[str, str]]]:
    """``default`` and the tables of the file, each checked; nothing where there is no file."""
    if not path.exists():
        return None, {}
    what = "the configuration file"
    raw, mode = _read(path, what, _MAX_CONFIG)
    try:
        content = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{what} {path} is not valid TOML: {error}; correct that line") from error
    for entry in content:
        if entry not in ("default", "targets"):
            _refuse(f"{what} {path} has an unknown entry {entry!r}; there are default and [targets.NAME]")
    targets = content.get("targets", {})
    if not isinstance(targets, dict):
        _refuse(f"targets in {path} is no table; write [targets.NAME]")
    tables = {name: _check_table(path, name, table) for name, table in targets.items()}
    if any("key_file" in table for table in tables.values()):
        _check_private(path, what, mode)
    default = content.get("default")
    if default is not None and not (isinstance(default, str) and default in tables):
        _refuse(f"the default {default!r} in {path} is none of its targets; add [targets.{default}] or change it")
    return default, tables


def _check_table(path: Path, name: str, table: Any) -> dict[str, str]:
    if not isinstance(table, dict) or ":" in name:
        _refuse(f"{name!r} in {path} is no target; write [targets.NAME] with a name without colons")
    for key, value in table.items():
        if key == "key":
            _refuse(
                f"target {name} in {path} holds a key itself; put it in a file of mode 0600 and name it as key_file"
            )
        if key not in (*_SETTINGS, "location"):
            known = ", ".join(("location", *_SETTINGS))
            _refuse(f"target {name} in {path} has an unknown setting {key!r}; there are {known}")
        if not isinstance(value, str):
            _refuse(f"{key} of target {name} in {path} is no text; put it in quotes")
    if "location" not in table:
        _refuse(f'target {name} in {path} has no location; add location = "host:port"')
    checked: dict[str, str] = dict(table)
    if "key_file" in checked:
        checked["key_file"] = str(path.parent / os.path.expanduser(checked["key_file"]))
    return checked
