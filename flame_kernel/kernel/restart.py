"""Restart: the last ``%flame connect`` of a kernel outlives its process, so that the next one goes back there.

A front end restarts a kernel, also one that has died, with the same connection file and key. So a kernel recognizes
that it replaces another process.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir

from ..commands.options import CONNECTION
from ..commands.parsing import Line
from ..security import private_files

# Most bytes of such a file.
MOST = 1 << 16
# In Jupyter's runtime folder, apart from the connection files, which front ends look for by parts of their names.
FOLDER = "remote-flame"

_DAMAGED = (OSError, ValueError, TypeError, KeyError, RecursionError)


@dataclass(frozen=True)
class Connection:
    """A connection as the user asked for it; without anything found out later, so without a key.

    where    the WHERE that was typed, or None
    values   the given options, by name
    place    the location, in words
    """

    where: str | None
    values: Mapping[str, Any]
    place: str

    @classmethod
    def of_line(cls, line: Line, place: str) -> Connection:
        """The connection of a ``connect`` line that has led to ``place``."""
        names = [option.name for option in CONNECTION]
        return cls(line["where"], {name: line[name] for name in names if line[name]}, place)

    def __str__(self) -> str:
        """The line that connects again."""
        words = ["%flame connect", self.where or ""]
        for option in CONNECTION:
            value = self.values.get(option.name)
            if value:
                words += [option.flags[-1], _quoted(value) if option.metavar else ""]
        return " ".join(word for word in words if word)


class Memory:
    """What is remembered for one kernel, in a file of mode 0600, sealed with the kernel's own key.

    file   the kernel's connection file; "" for a kernel without one, for which nothing is remembered
    """

    def __init__(self, file: str, key: bytes) -> None:
        self._file = str(Path(file).absolute()) if file else ""
        self._key = key
        self._folder = Path(jupyter_runtime_dir()) / FOLDER
        self._path = self._folder / f"{hashlib.sha256(self._file.encode()).hexdigest()[:32]}.json"

    def __repr__(self) -> str:
        return f"<Memory {self._path}>"

    def read(self) -> Connection | None:
        """The connection of the process before this one; None where there was none, or another kernel wrote it."""
        self._sweep()
        try:
            with self._path.open("rb") as file:
                written = json.loads(file.read(MOST))
            seal, text = written["seal"], written["connection"]
            if not self._file or not hmac.compare_digest(str(seal), self._seal(text)):
                return None
            return Connection(**json.loads(text))
        except _DAMAGED:
            return None

    def write(self, connection: Connection) -> None:
        """Save it; raises OSError."""
        if self._file:
            text = json.dumps({"where": connection.where, "values": dict(connection.values), "place": connection.place})
            written = {"kernel": self._file, "seal": self._seal(text), "connection": text}
            private_files.replace(self._path, json.dumps(written).encode())

    def forget(self) -> None:
        """Forget it: the next process of this kernel starts as the first one did."""
        with contextlib.suppress(OSError):
            self._path.unlink()
            self._folder.rmdir()  # the last one

    def _seal(self, text: str) -> str:
        return hmac.new(self._key, f"{self._file}\n{text}".encode(), "sha256").hexdigest()

    def _sweep(self) -> None:
        """Remove the files of kernels that were killed for good: their connection files are gone."""
        with contextlib.suppress(OSError):
            for path in list(self._folder.glob("*.json")):
                try:
                    left = not Path(json.loads(path.read_bytes()[:MOST])["kernel"]).exists()
                except _DAMAGED:
                    left = True
                if left:
                    path.unlink()
            self._folder.rmdir()  # where nothing is in it any more


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f'"{text}"' if any(sign.isspace() for sign in text) else text
