"""``jupyter flame serve`` in a process of its own, and clients that say nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flame_kernel.connect.keys import read_key
from flame_kernel.connect.location import Location
from flame_kernel.connect.target import Target

ROOT = Path(__file__).parents[2]


class Served:
    """A ``jupyter flame serve`` that runs, and what it said."""

    def __init__(self, *arguments: str | Path, cwd: Path, env: dict[str, str] | None = None) -> None:
        # As the console script does: by a file, whose folder is on the path in place of the current one.
        script = cwd / "elsewhere" / "jupyter-flame"
        script.parent.mkdir(exist_ok=True)
        script.write_text("from flame_kernel.cli.__main__ import main\nmain()\n")
        self.process = subprocess.Popen(
            [sys.executable, str(script), "serve", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYRO_HMAC_KEY": "not this one", **(env or {})},
            text=True,
        )
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if line.startswith("Ctrl-C"):
                break

    def close(self) -> None:
        """End it if it runs; again is no error."""
        if self.process.poll() is None:
            self.end()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it by a signal; its exit code."""
        assert self.process.stdout is not None
        self.process.send_signal(number)
        code = self.process.wait(10)
        self.process.stdout.close()
        return code

    def refused(self) -> str:
        """It did not start; what it said."""
        assert self.process.stdout is not None
        assert self.process.wait(10) == 1, self.said
        self.process.stdout.close()
        assert "Traceback" not in self.said
        return self.said

    @property
    def words(self) -> list[str]:
        """The line to paste, in words."""
        (line,) = [line for line in self.said.splitlines() if line.startswith("    %flame connect")]
        return line.split()

    @property
    def key_file(self) -> Path:
        return Path(self.words[self.words.index("--key-file") + 1])

    def target(self, **settings: Any) -> Target:
        return Target(Location.parse(self.words[2]), read_key(self.key_file)[0], **settings)


@contextlib.contextmanager
def silent(place: Location, count: int, begin: bytes = b"") -> Iterator[list[socket.socket]]:
    """Clients that say nothing, or ``begin`` and no more."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            if place.path:
                client = socket.socket(socket.AF_UNIX)
                client.connect(place.path)
            else:
                client = socket.create_connection((place.host, place.port), 10)
            found.append(stack.enter_context(client))
            client.sendall(begin)
        yield found


def ended(client: socket.socket) -> bool:
    """True if the server has closed this connection."""
    client.settimeout(0.01)
    try:
        return client.recv(1000) == b"" or ended(client)
    except TimeoutError:
        return False
    except OSError:
        return True
