"""The sessions of an agent: one for each server that it may reach, opened when a tool first needs it."""

from __future__ import annotations

import fnmatch
import itertools
import sys
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from ..commands import rails
from ..commands.looking import trial
from ..connect.rails_table import Rails
from ..connect.target import Target
from ..errors import FlameError
from ..remote.foreground import write
from ..remote.remote import Remote
from ..terminal import plain_text
from .cells import Cell

# How many cells are remembered (the latest).
REMEMBERED = 200


class Server:
    """One server, the agent's session there, and its cells. The methods wait for the server."""

    def __init__(self, name: str, load: Callable[[], Target], read_only: bool) -> None:
        self.name = name
        self._load = load
        self._read_only = read_only
        self._lock = threading.Lock()
        self._remote: Remote | None = None
        self._lost = ""
        self._numbers = itertools.count(1)
        self.cells: dict[str, Cell] = {}

    def __repr__(self) -> str:
        return f"<Server {self.name}>"

    @property
    def is_open(self) -> bool:
        return self._remote is not None and self._remote.session.gone is None

    @property
    def remote(self) -> Remote:
        """The session, opened if there is none. Raises FlameError."""
        with self._lock:
            if self._remote is not None and self._remote.session.gone is not None:
                self._lost = f"the session before is gone with its names: {plain_text(str(self._remote.session.gone))}"
                self._leave()
            if self._remote is None:
                self._remote = Remote(self._load())
                # stdout belongs to the protocol.
                self._remote.write = lambda name, text: write("stderr", text)
                self._remote.on_link = lambda words: print(
                    plain_text(f"[{words or 'the link is back'}]"), file=sys.stderr
                )
                self._take_up(self._remote)
            return self._remote

    def open(self) -> Remote:
        """As ``remote``."""
        return self.remote

    def lost(self) -> str:
        """What is to be told once: that the session was lost and is another one now."""
        words, self._lost = self._lost, ""
        return words

    def _take_up(self, remote: Remote) -> None:
        """Cells that were running already, of a session with a name."""
        for one, _ in remote.taken_up:
            cell = self._cell(remote, str(one["request"]))
            cell.begun(remote.follow(cell.request_id, cell.take))

    def _cell(self, remote: Remote, request_id: str) -> Cell:
        rendering = remote.target.rendering(lambda request, words: print(plain_text(words), file=sys.stderr))
        cell = Cell(f"c{next(self._numbers)}", request_id, rendering)
        self.cells[cell.name] = cell
        for name in [name for name, one in self.cells.items() if one.state != "running"][:-REMEMBERED]:
            del self.cells[name]
        return cell

    def execute(self, code: str, dry_run: bool) -> Cell:
        """Run a cell, or try it in a copy of the process; it is not waited for. Raises FlameError."""
        remote = self.remote
        self._hold(remote, code, dry_run)
        cell = self._cell(remote, uuid.uuid4().hex)
        how: dict[str, Any] = {"trial": trial(None)} if dry_run else {}
        cell.begun(remote.cell(code, cell.take, request_id=cell.request_id, allow_stdin=False, held=True, **how))
        return cell

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of our tools; no rails, as it is not the agent's code."""
        return self.remote.perform(["eval", expression], ())

    def _hold(self, remote: Remote, code: str, dry_run: bool) -> None:
        """Raise FlameError if the target's rails, or ``--read-only``, refuse a cell."""
        if self._read_only:
            rails.refuse(Rails(read_only=True), self.name, code, tried=dry_run, how="it was started with --read-only")
        rails.hold(remote.session, code, tried=dry_run)

    def check_writes(self, what: str) -> None:
        """Raise FlameError if a tool that writes may not be used here."""
        held = self.remote.target.rails
        if self._read_only or (held is not None and held.read_only):
            raise FlameError(f"{what} is refused: {self.name} is read_only here")

    def find(self, name: str) -> Cell:
        """The cell of that name. Raises FlameError."""
        if name not in self.cells:
            known = ", ".join(list(self.cells)[-10:]) or "none yet"
            raise FlameError(f"there is no cell {name!r} on {self.name}; the latest are: {known}")
        return self.cells[name]

    def close(self) -> None:
        """Leave the session; it ends, unless it has a name."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        remote, self._remote = self._remote, None
        if remote is None:
            return
        if remote.target.session is not None and remote.target.location is not None:
            remote.detach()
        else:
            remote.close()


class Servers:
    """The servers that an agent may reach: the one that its user named, and saved targets whose names match.

    load     ``load(name)``: the Target of that name, None for the first one; raises FlameError
    names    the names of all saved targets
    allowed  patterns such as ``web*``
    """

    def __init__(
        self,
        load: Callable[[str | None], Target],
        names: Callable[[], Iterable[str]],
        allowed: Iterable[str],
        read_only: bool,
        first: str = "",
    ) -> None:
        self._load = load
        self._names = names
        self._allowed = tuple(allowed)
        self._read_only = read_only
        self.first = first
        self._lock = threading.Lock()
        self._known: dict[str, Server] = {}

    def names(self) -> list[str]:
        """The names of all servers that the agent may reach, the default one first."""
        found = [name for name in self._names() if any(fnmatch.fnmatchcase(name, one) for one in self._allowed)]
        return [self.first, *(name for name in sorted(found) if name != self.first)]

    def get(self, name: str = "") -> Server:
        """The server of that name; for an empty one, the default server. Raises FlameError."""
        name = name or self.first
        if name != self.first and name not in self.names():
            raise FlameError(f"{name!r} is not allowed here; allowed are: {', '.join(self.names())}")
        with self._lock:
            if name not in self._known:
                chosen = None if name == self.first else name
                self._known[name] = Server(name, lambda: self._load(chosen), self._read_only)
            return self._known[name]

    def is_open(self, name: str) -> bool:
        return name in self._known and self._known[name].is_open

    def close(self) -> None:
        for one in list(self._known.values()):
            one.close()
