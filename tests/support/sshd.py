"""A real sshd on loopback, for tests: its own host key, one user (ours), one key that is let in, and its log."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest
from farside import FlameServer, wait_until
from needs import missing

from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Target
from flame_kernel.errors import CannotConnect


def _program(name: str) -> str:
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        missing(f"{name} (apt-get install openssh-server openssh-client)")
    return path


class Sshd:
    """An ssh server at ``address``, and in ``folder`` what makes our ssh know it as the host ``far``.

    ``within`` is a command that starts it somewhere else (``netns.Net.within``).  ``ssh`` is the folder of a program of
    that name, to stand first in PATH: the system's ssh with that configuration.
    """

    def __init__(self, folder: Path, address: str = "127.0.0.1", within: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.address = address
        self._within = within
        folder.mkdir(mode=0o700, exist_ok=True)
        self._sshd, self._ssh = _program("sshd"), _program("ssh")
        for name in ("host", "id"):
            made = [_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / name)]
            subprocess.run(made, check=True)
        shutil.copy(folder / "id.pub", folder / "authorized")
        if os.getuid() == 0:  # sshd's own demand, of root
            with contextlib.suppress(OSError):
                os.makedirs("/run/sshd", 0o755, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress {address}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"StrictModes no\nAllowTcpForwarding yes\nAllowStreamLocalForwarding yes\nPermitRootLogin yes\n"
        )
        public = (folder / "host.pub").read_text()
        (folder / "known").write_text(f"[{address}]:{self.port} {public}")
        self.configure()
        self.ssh = folder / "bin"
        self.ssh.mkdir()
        (self.ssh / "ssh").write_text(f'#!/bin/sh\nexec {self._ssh} -F {folder}/config "$@"\n')
        (self.ssh / "ssh").chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def configure(self, *lines: str, identity: str = "id", known: str = "known") -> None:
        """Write our side's configuration, with ``lines`` besides."""
        text = [
            "Host far",
            f"HostName {self.address}",
            f"Port {self.port}",
            f"User {getpass.getuser()}",
            f"IdentityFile {self.folder}/{identity}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {self.folder}/{known}",
            "GlobalKnownHostsFile /dev/null",
            *lines,
        ]
        (self.folder / "config").write_text("\n".join(text) + "\n")
        (self.folder / "config").chmod(0o600)

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*self._within, self._sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        try:
            wait_until(self._answers, "sshd")
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            with socket.create_connection((self.address, self.port), 5) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def log(self) -> str:
        """What sshd has said."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def logins(self) -> int:
        """How often somebody was let in."""
        return self.log().count("Accepted publickey")

    def stop(self) -> None:
        """End it, and every connection through it; may be called twice."""
        process, self._process = self._process, None
        if process is not None:
            # Its connections are processes of their own, below it.
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.terminate()
            process.wait(10)
            psutil.wait_procs(family, 10)


# -- our ways through it


def through(server: FlameServer) -> str:
    """Where it is, behind the host ``far``."""
    place = server.location
    return f"ssh://far/{place if place.startswith('./u:') else place.rpartition(':')[2]}"


def answer(target: Target) -> Any:
    """42, from the server there."""
    with contextlib.closing(Connection(target)) as connection:
        return connection.call("evaluate", "6 * 7")


def ssh_processes() -> list[psutil.Process]:
    """The ssh processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "ssh":
                found.append(process)
    return found


def ways() -> list[Path]:
    """The folders of open tunnels."""
    return list(Path(tempfile.gettempdir()).glob("flame-ssh-*"))


def refused(target: Target, cause: str) -> str:
    """Why there is no connection, in the sentence for the user; nothing is left of it."""
    with pytest.raises(CannotConnect) as caught:
        Connection(target).close()
    assert caught.value.cause == cause, caught.value
    assert not ssh_processes()
    assert not ways()
    text = str(caught.value)
    assert "\n" not in text
    return text
