"""Hot: serves the user's modules to imports on the far side of one session, in memory there.

Before each cell the folders are scanned: new files can then be imported, and edited modules are reloaded if the user
wants that. Requests for files are answered on a thread of their own, so a cell can import while it runs. The thread
exists only while there are requests.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FlameError, TargetError, TransferError
from ..session.inbox import Event
from ..session.session import Session
from ..terminal import one_line
from . import folders as listing
from . import prefetch
from .requests import ask, check_writable

# Bytes of the first piece of a file, and of the largest one; the seconds that sending a piece should take.
FIRST, LARGEST, PIECE_TIME = 32 << 10, 1 << 20, 0.5
# The most lines of a list that are shown.
SHOWN = 20

_handles: weakref.WeakKeyDictionary[Session, Hot] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Served:
    """One module that was imported there: its bytes, and how often it was loaded."""

    name: str
    bytes: int
    times: int


class Hot:
    """Serves ``folders`` to a session until ``close``. `serve` makes it; as a context manager it closes itself.

    ``reload``: edited modules are reloaded before the next cell.
    """

    def __init__(self, session: Session, folders: Sequence[Path], reload: bool) -> None:
        self.session = session
        self.folders = tuple(folders)
        self.reload = reload
        self._listed = listing.scan(folders)
        self._sent: dict[str, listing.Stamp] = {}  # module -> what it was when it was last sent
        self._told: dict[str, listing.Stamp] = {}  # module -> what it was when its edit was told
        self._asked: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._listed.modules)} modules"
        return f"<Hot {', '.join(map(str, self.folders))} at {self.session.location}, {state}>"

    def __enter__(self) -> Hot:  # noqa: PYI034
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- beginning and end -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send the list of modules. Raises FlameError."""
        if not self._listed.modules:
            raise TransferError(f"there is no module in {', '.join(map(str, self.folders))} that can be served")
        self.session.services["hot_request"] = self._take
        try:
            ask(self.session, "start", reload=self.reload, **_as_sent(self._listed))
        except BaseException:  # raised again, whatever it is; nothing is served
            self.session.services.pop("hot_request", None)
            raise
        self.session.before_cells.append(self._look)
        _handles[self.session] = self

    def close(self) -> int:
        """Stop serving, and forget all modules there. Returns how many that were; may be called again; never raises."""
        with self._lock:
            if self._closed:
                return 0
            self._closed = True
        with contextlib.suppress(ValueError):
            self.session.before_cells.remove(self._look)
        if _handles.get(self.session) is self:
            del _handles[self.session]
            self.session.services.pop("hot_request", None)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        count = 0
        with contextlib.suppress(FlameError):
            if self.session.gone is None:
                count = ask(self.session, "stop").get("forgotten", 0)
        return count

    def set_reload(self, reload: bool) -> None:
        """Switch the reloading of edited modules on or off. Raises FlameError."""
        self.reload = reload
        self._told.clear()  # modules that were edited meanwhile are reloaded too
        ask(self.session, "start", reload=reload, **_as_sent(self._listed))

    # -- what there is -----------------------------------------------------------------------------------------------

    @property
    def served(self) -> list[Served]:
        """The modules that were imported there, in the order of their import. Raises FlameError."""
        return [Served(*row) for row in ask(self.session, "list")["modules"]]

    @property
    def left_out(self) -> Mapping[str, str]:
        """What is in the folders but is not served, with the reason."""
        return dict(self._listed.left_out)

    def __str__(self) -> str:
        """What is served, for a user."""
        told = ask(self.session, "list")
        lines = [f"{self.words}; reload {'on' if self.reload else 'off'}"]
        for name, size, times in told["modules"][:1000]:
            again = f", loaded {times} times" if times > 1 else ""
            lines.append(f"  {one_line(name, 200)}  {size} bytes{again}{self._edited(name)}")
        if not told["modules"]:
            lines.append("  nothing was imported yet")
        for name in told["own"][:SHOWN]:
            lines.append(f"  {one_line(name, 200)}  is the far side's own, imported before; %flame hotfix changes it")
        for name, why in list(told["failed"].items())[:SHOWN]:
            lines.append(f"  {one_line(name, 200)}  is not reloaded: {one_line(str(why), 300)}")
        lines += [f"  {shown}  is left out: {why}" for shown, why in list(self._listed.left_out.items())[:SHOWN]]
        return "\n".join(lines)

    @property
    def words(self) -> str:
        """What is served, in one line."""
        count, data = len(self._listed.modules), len(self._listed.data)
        more = f" and {data} data file{'' if data == 1 else 's'}" if data else ""
        where = ", ".join(map(str, self.folders))
        return f"{count} module{'' if count == 1 else 's'}{more} of {where} can be imported there"

    def _edited(self, name: str) -> str:
        file, sent = self._listed.modules.get(name), self._sent.get(name)
        if file is None or sent is None:
            return ""
        try:
            status = os.stat(file.path)
        except OSError:
            return ", removed here since"
        is_same = (status.st_mtime_ns, status.st_size, status.st_ino) == sent
        return "" if is_same else ", edited here since"

    # -- before a cell -----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Before a cell: tell the far side what has changed in the folders. Does not wait for the reply."""
        try:
            now = listing.scan(self.folders)
        except FlameError:  # there are too many files now; the earlier list stays
            return
        before, self._listed = self._listed, now
        fields = _as_sent(now)
        if fields == _as_sent(before):
            fields = {}
        stale = [path for path, file in now.data.items() if path in before.data and before.data[path] != file]
        edited = [
            name
            for name, file in now.modules.items()
            if file.stamp not in (self._sent.get(name, file.stamp), self._told.get(name))
        ]
        self._told.update({name: now.modules[name].stamp for name in edited})
        if fields or stale or edited:
            self.session.request("hot", op="update", stale=stale, edited=edited, **fields)

    # -- answers -----------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        """The far side asks for a file. Called on the events thread."""
        with self._lock:
            if self._closed:
                return
            self._asked.put(event)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="flame-hot", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._closed or self._asked.empty():
                    self._thread = None
                    return
            content = self._asked.get()["content"]
            with contextlib.suppress(FlameError):  # the session has ended, and the import there fails with that reason
                self._answer(content["hot_id"], content["what"], content["name"])

    def _answer(self, known: int, what: str, name: str) -> None:
        try:
            parts = self._parts(what, name)
        except TransferError as e:
            self._send(known, problem=f"{one_line(name, 200)} cannot be served: {e}")
            return
        content = b"".join(data for _, data in parts)
        sizes = [(part, len(data)) for part, data in parts]
        at, piece = 0, FIRST
        while True:
            data, begun = content[at : at + piece], time.monotonic()
            wanted = self._send(known, [data], at=at, size=len(content), parts=sizes if at == 0 else [])
            at += len(data)
            if at >= len(content) or not wanted or self._closed:
                return
            taken = time.monotonic() - begun
            piece = min(LARGEST, max(FIRST, int(piece * PIECE_TIME / max(taken, PIECE_TIME / 4))))

    def _send(self, known: int, buffers: Sequence[bytes] = (), **fields: Any) -> bool:
        """Send a part of an answer, and wait until it has arrived. Returns whether more is wanted."""
        reply = self.session.request("hot", op="answer", hot_id=known, buffers=buffers, **fields).result()
        return bool(reply.get("wanted"))

    def _parts(self, what: str, name: str) -> list[tuple[str, bytes]]:
        """What is sent for a name of our list. Raises TransferError for other names: a server may ask for anything."""
        listed = self._listed
        if what == "data":
            file = listed.data.get(name)
            if file is None:
                raise TransferError("it is not among the data files of these folders")
            return [(name, listing.read(file))]
        source = listed.modules.get(name)
        if source is None:
            raise TransferError("it is not among the modules of these folders")
        self._sent[name] = source.stamp
        found = prefetch.gathered(
            name, listing.text_of(source), listed.modules, lambda one: listed.modules[one].package, self._unsent
        )
        return [(one, text.encode("utf-8", "surrogatepass")) for one, text in found.items()]

    def _unsent(self, name: str) -> str | None:
        """The text of a module; None if it was sent before, or cannot be read."""
        file = self._listed.modules[name]
        if name in self._sent and self._sent[name] == file.stamp:
            return None
        try:
            text = listing.text_of(file)
        except TransferError:
            return None
        self._sent[name] = file.stamp
        return text


def _as_sent(listed: listing.Listed) -> dict[str, Any]:
    return {
        "modules": [(name, file.package) for name, file in listed.modules.items()],
        "namespaces": sorted(listed.namespaces),
        "data": [(path, file.size) for path, file in listed.data.items()],
    }


def serve(session: Session, names: Sequence[str | os.PathLike[str]], reload: bool = False) -> Hot:
    """Serve these folders to imports there, in place of those served before. Raises FlameError."""
    check_writable(session, "hot code")
    folders, before = listing.checked(names), _handles.get(session)
    if before is not None and before.folders == tuple(folders):
        before.set_reload(reload)
        return before
    made = Hot(session, folders, reload)
    if before is not None:
        before.close()
    made.start()
    return made


def serving(session: Session) -> Hot | None:
    """The Hot of a session, or None if nothing is served to it."""
    return _handles.get(session)


def by_target(session: Session) -> None:
    """Serve the folders that the session's target names (``hot`` in targets.toml). Raises FlameError."""
    if session.target.hot and serving(session) is None:
        try:
            serve(session, session.target.hot, session.target.hot_reload)
        except TargetError as error:
            raise TargetError(f"hot of this target: {error}") from None
