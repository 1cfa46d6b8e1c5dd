"""An ssh tunnel where Python has no unix sockets (Windows): ssh listens on a port of this machine's loopback.

We choose the port; if another program takes it first, ssh ends, and the next one is tried.  That it is our ssh which
listens there we read in what ssh says, so nothing is sent to whoever has the port otherwise.  But every user of this
machine can connect to it: a server that does not check its clients (no key, no certificates) is open to all of them
while the tunnel is, and we say so.

ssh cannot ask anything here: the user logs in once by hand, and his agent or a key file without a passphrase does the
rest.  A Python process in the shell's place watches a pipe of ours, and ends ssh when we are gone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

from ..errors import CannotConnect
from .keys import Ask
from .location import Location
from .ssh import FOLDER, Tunnel

_LOOPBACK = "127.0.0.1"
_TRIES = 4  # ports

# Starts ssh. When our pipe ends, by `close` or because our process died, ssh is ended, too, and our folder removed.
_KEEPER = """
import os, shutil, subprocess, sys, threading
ssh = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
gone = threading.Event()
def watch():
    os.read(0, 1)
    gone.set()
    ssh.terminate()
threading.Thread(target=watch, daemon=True).start()
code = ssh.wait()
if gone.is_set():
    os.close(2)  # the log, which lies there
    shutil.rmtree(sys.argv[1], ignore_errors=True)
os._exit(1 if code else 0)
"""


def tunnel_to(location: Location, look: bool = False) -> Tunnel:
    """A tunnel to ``location``, of the kind that this system can have."""
    return Tunnel(location, look) if hasattr(socket, "AF_UNIX") else PortTunnel(location)


class PortTunnel(Tunnel):
    """As ``Tunnel``, but our end is a port of loopback."""

    # On Windows without a console, in which Ctrl-C would reach ssh; elsewhere in a session of its own.
    _apart: ClassVar[dict[str, Any]] = {
        "start_new_session": True,
        "creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0),
    }

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self._port = 0

    def cautions(self, authenticated: bool, checked: bool) -> list[str]:
        open_to_all = (
            f"every user of this machine can connect to {self.location} while you are connected, as this system's "
            "Python has no unix sockets; give the server a key"
        )
        return ([] if authenticated else [self._unproved()]) + ([] if checked else [open_to_all])

    def _log_in(self, seconds: float, login: float, alive: float, ask: Ask | None) -> None:
        for left in reversed(range(_TRIES)):
            with socket.create_server((_LOOPBACK, 0)) as free:
                self._port = free.getsockname()[1]
            self._start(seconds, alive, may_ask=False)
            try:
                self._wait(time.monotonic() + login, None)
                return
            except CannotConnect as error:
                if not left or f"cannot listen to port: {self._port}" not in self._said():
                    raise self._explained(error) from error
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.close()  # it has ended

    def _explained(self, error: CannotConnect) -> CannotConnect:
        if "permission denied" not in self._said().lower():
            return error
        cannot_ask = "it cannot ask you here: let ssh-agent hold your key, or use one without a passphrase"
        return CannotConnect(str(self.location), error.cause, f"{error.detail}; {cannot_ask}")

    # --- our end of it

    def _program(self) -> str | None:
        """The path of ssh. Windows would look in the current folder first, where anybody's ssh.exe may lie."""
        name = "ssh.exe" if os.name == "nt" else "ssh"
        folders = os.environ.get("PATH", "").split(os.pathsep)
        found = (os.path.join(folder, name) for folder in folders if os.path.isabs(folder))
        return next((path for path in found if os.path.isfile(path) and os.access(path, os.X_OK)), None)

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix=FOLDER))

    def _here(self) -> tuple[int, Any]:
        return socket.AF_INET, (_LOOPBACK, self._port)

    def _listening(self) -> str:
        return f"{_LOOPBACK}:{self._port}"

    def _is_there(self) -> bool:
        return f"Local forwarding listening on {_LOOPBACK} port {self._port}." in self._said()

    def _options(self, seconds: float, alive: float, may_ask: bool) -> dict[str, str]:
        # No shared connection: what another ssh listens to is not in our log.
        more = {"ControlPath": "none", "LogLevel": "DEBUG1"}
        return super()._options(seconds, alive, may_ask) | more

    def _command(self, words: list[str]) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", _KEEPER, str(self._folder), self._program() or "ssh", *words]

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
