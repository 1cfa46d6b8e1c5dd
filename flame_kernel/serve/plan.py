"""The safe configuration of a Flame server: where it listens, its key, TLS, and Pyro's settings.

The server listens on loopback, or on a unix socket in a private folder.  It has a key, in a file of mode 0600.  If
other machines can reach it, it uses TLS and requires client certificates, or does not start.  A client of Flame can do
everything that the process can do, so each protection is removed only by an explicit option.

``Plan`` says what to serve and how.  ``standalone.py`` starts such a server, ``in_app.py`` serves inside an app.
"""

from __future__ import annotations

import getpass
import ipaddress
import os
import secrets
import shlex
import socket
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir

from ..connect.keys import Secret, read_key
from ..connect.location import Location
from ..errors import TargetError
from ..security import private_files
from .certs import names

# Threads of the pool; each session takes two.
THREADS = 200
# Most bytes of one message to the server. The protocol itself would allow anyone 2 GiB.
MAX_MESSAGE = 256 * 1024 * 1024

_CA, _CERTIFICATE = "ca.pem", "server.pem"  # as `jupyter flame certs` names them


# Pyro's environment variables that our servers accept: about load and addresses, not about access.
_PYRO: dict[str, Callable[[str], Any]] = {
    "THREADPOOL_SIZE": int,
    "MAX_MESSAGE_SIZE": int,
    "COMMTIMEOUT": float,
    "SERVERTYPE": {"thread": "thread", "multiplex": "multiplex"}.__getitem__,
    "NATHOST": str,
    "NATPORT": int,
}


def from_environ(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The accepted settings from Pyro's variables (``PYRO_THREADPOOL_SIZE`` …), and the names of ignored ones."""
    found: dict[str, Any] = {}
    ignored = []
    for name, text in environ.items():
        setting = name.removeprefix("PYRO_")
        if setting == name or setting in ("FLAME_ENABLED", "NS_HOST", "NS_PORT"):
            continue
        if setting not in _PYRO:
            ignored.append(name)
            continue
        try:
            found[setting] = _PYRO[setting](text)
        except (ValueError, KeyError):
            raise TargetError(f"{name}={text!r} is not a value that Pyro accepts; correct it, or unset it") from None
    return found, sorted(ignored)


@dataclass(frozen=True)
class Plan:
    """Where to serve and with what protection; raises TargetError if others could use the server.

    host       an address of this machine; must be loopback unless there is TLS
    port       0: any free port
    unix       path of a unix socket to listen on instead, in a folder of mode 0700 (made if missing)
    tls        folder with ``server.pem`` and ``ca.pem``, as ``jupyter flame certs`` makes them
    anyone     with TLS: clients need no certificate of that CA, the key alone is enough
    harden     protect the server from clients without the key, see ``hardening``
    more       Pyro settings that win over ours, see ``from_environ``
    """

    host: str = "127.0.0.1"
    port: int = 0
    unix: Path | None = None
    tls: Path | None = None
    anyone: bool = False
    harden: bool = True
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise TargetError(f"{self.port} is not a port; give a number from 1 to 65535, or 0 for one that is free")
        if self.unix is not None:
            if self.tls is not None:
                raise TargetError("TLS and a unix socket do not go together in Pyro; leave one of them out")
            _check_socket(self.unix)
        elif self.tls is not None:
            for name in (_CERTIFICATE, _CA):
                if not (self.tls / name).is_file():
                    raise TargetError(
                        f"there is no {name} in {self.tls}; make it: jupyter flame certs {self.tls} --host HOST"
                    )
        elif not is_loopback(self.host):
            raise TargetError(
                f"others can reach {self.host}, so TLS is needed there: jupyter flame certs FOLDER --host HOST, then "
                "serve with --tls FOLDER; or stay on loopback and let clients come by ssh://user@this-host/PORT"
            )

    @property
    def arguments(self) -> list[str]:
        """The arguments of ``pyro4-flameserver``; the key is not among them."""
        where = ["-u", str(self.unix)] if self.unix else ["-H", self.host, "-p", str(self.port)]
        return ["-q", *where]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings for ``Pyro4.config``."""
        found: dict[str, Any] = {
            "FLAME_ENABLED": True,
            "THREADPOOL_SIZE": THREADS,
            "MAX_MESSAGE_SIZE": MAX_MESSAGE,
            **self.more,
        }
        if self.tls is not None:
            found |= {"SSL": True, "SSL_SERVERCERT": str(self.tls / _CERTIFICATE), "SSL_CACERTS": str(self.tls / _CA)}
            found["SSL_REQUIRECLIENTCERT"] = not self.anyone
        if ":" in self.host:
            found["PREFER_IP_VERSION"] = 6
        return found

    def location(self, port: int | str) -> str:
        """The location for clients on this machine, given the server's port."""
        if self.unix is not None:
            return f"./u:{self.unix}"
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    def advice(self, port: int | str, key_file: Path) -> list[str]:
        """Lines that tell the user how to connect to the server; the first one is to paste into a notebook."""
        host = socket.gethostname()
        if self.tls is not None:
            place = f"{host}:{port}" if self.host in ("0.0.0.0", "::") else self.location(port)
            known = names(self.tls / _CERTIFICATE)  # clients check that the host they connect to is one of these
            if known and place.rpartition(":")[0].strip("[]") not in known:
                place = f"[{known[0]}]:{port}" if ":" in known[0] else f"{known[0]}:{port}"
            client = "" if self.anyone else " --tls-cert YOU.pem"
            made = (
                "" if self.anyone else f", and a certificate of your own: jupyter flame certs {self.tls} --client YOU"
            )
            return [
                f"%flame connect {place} --key-file {shlex.quote(key_file.name)} --tls-ca {_CA}{client}",
                f"    with copies of {key_file} and {self.tls / _CA}{made}",
            ]
        path = shlex.quote(str(key_file))
        lines = [f"%flame connect {shlex.quote(self.location(port))} --key-file {path}"]
        if self.unix is None:
            lines.append(
                f"    from elsewhere, by ssh: %flame connect ssh://{getpass.getuser()}@{host}/{port} --key-file A-COPY"
            )
        return lines


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# -- sockets and keys --------------------------------------------------------------------------------------------------


def _check_socket(path: Path) -> None:
    Location.parse(f"./u:{path}")  # raises an error if the path is too long
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise TargetError(f"cannot use the folder {folder}: {error.strerror}; choose another place") from error
    if hasattr(os, "getuid") and (status.st_mode & 0o077 or status.st_uid != os.getuid()):
        raise TargetError(
            f"the folder {folder} is open to others (mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 700 {folder}"
        )


def clear_socket(path: Path) -> None:
    """Remove the socket that a dead server left at ``path``; TargetError if a server listens or it is no socket."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise TargetError(f"{path} exists already and is not a socket; choose another path")
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(2.0)
        try:
            knock.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise TargetError(f"{path} is there already: {error.strerror or error}; choose another path") from error
    raise TargetError(f"a server listens at {path} already; connect to it, or choose another path")


@dataclass(frozen=True)
class KeyFile:
    """A key and the file that holds it; if ``made``, the file is temporary and is removed with the server."""

    path: Path
    key: Secret = field(repr=False)
    made: bool = False

    @classmethod
    def get(cls, path: Path | None) -> KeyFile:
        """The key in ``path``, made with 256 bits if there is no file; without a path, a key in a temporary file."""
        if path is not None:
            if path.exists():
                secret, warnings = read_key(path)
                if warnings:
                    raise TargetError(warnings[0])
                return cls(path, secret)
            if not path.parent.is_dir():  # do not create folders: the path may be mistyped
                raise TargetError(
                    f"cannot write the key file {path}: there is no folder {path.parent}; make it, or name another"
                )
            return cls(path, _write_key(path))
        folder = Path(jupyter_runtime_dir())
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise TargetError(f"cannot make {folder}: {error.strerror}; name a key_file elsewhere") from error
        path = folder / f"flame-{os.getpid()}-{secrets.token_hex(4)}.key"
        return cls(path, _write_key(path), made=True)

    def remove(self) -> None:
        """Remove the file if it is temporary."""
        if self.made:
            self.path.unlink(missing_ok=True)


def _write_key(path: Path) -> Secret:
    key = secrets.token_hex(32).encode()
    try:
        private_files.create(path, key + b"\n")
    except OSError as error:
        raise TargetError(f"cannot write the key file {path}: {error.strerror}; name one elsewhere") from error
    return Secret(key)
