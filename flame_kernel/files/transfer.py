"""Copies files and folders both ways: any size in constant memory, resumed after a cut, put in place whole.

``put`` and ``get`` copy like ``cp -r``: the time is kept, and the mode as far as the umask here allows; files that
are the same already are skipped. Both use a connection of their own (`far_files.py`), made again when it breaks; a
file then resumes after the part that has arrived with the right checksum.

``sendfile`` and ``getfile``, named as methods of Flame's own, copy one file from and to bytes.
"""

from __future__ import annotations

import contextlib
import glob
import os
import random
import socket
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..agent.wire import frames
from ..agent.wire.files import file_names, trees
from ..connect.units import size_in_words, time_in_words
from ..errors import CannotConnect, ConnectionLost, TransferError, UnsafeAnswer
from ..session.session import Session
from .content import Content
from .destination import ChosenFolder, Names, plain_name
from .downloads import Arrival, Downloads, description, find
from .far_files import BURST, FarFiles, Message, SlowFiles, error_in, far_files, is_little
from .progress import Tally
from .uploads import Departure, Uploads

# Seconds between attempts to reconnect, from the first to the last; and seconds without progress until we give up.
RETRY_FIRST, RETRY_LAST, PATIENCE = 0.05, 2.0, 60.0
# How many entries of a folder are handled at a time; each batch takes a round trip or two.
BATCH = 1024
# Seconds to wait until the session tells its cells' working folder.
_CWD_PATIENCE = 10.0

_T = TypeVar("_T")
_P = ParamSpec("_P")
_S = TypeVar("_S", bound="Transfer")
Name = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclass(frozen=True)
class Transferred:
    """What a transfer did.

    files    how many were copied, also links;  bytes  content that crossed the link;  skipped  how many existed already
    notes    what was left out and why, and other facts about single files
    """

    files: int
    bytes: int
    seconds: float
    skipped: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        size, took = size_in_words(self.bytes), time_in_words(self.seconds)
        text = f"{self.files} file{'' if self.files == 1 else 's'}, {size} in {took}"
        if self.skipped:
            text += f"; {self.skipped} there already"
        return "\n".join((text, *self.notes))


def sources_and_destination(paths: tuple[Name, ...], dst: Name | None) -> tuple[tuple[Name, ...], Name]:
    """The sources and the destination in the arguments of a copy: without ``dst``, the last path is the destination."""
    if dst is None and len(paths) > 1:
        paths, dst = paths[:-1], paths[-1]
    if dst is None or not paths:
        raise TransferError("name what to copy and where to: put('data.csv', 'folder/')")
    return paths, dst


def put(session: Session, sources: Sequence[Name], dst: Name, *, progress: bool | None = None) -> Transferred:
    """Copy local files and folders to ``dst`` on the far side, as ``cp -r SOURCES DST`` would.

    Sources may have ``~``, ``*``, ``?``, ``[…]`` and ``**``; a relative ``dst`` starts in the cells' folder, and ``~``
    is the home there.  Links inside a folder that lead to something inside it are copied as links, other links and what
    is no file are left out and noted; a source that is a link is followed.  Raises TransferError, in one sentence;
    ConnectionLost if the link does not come back.
    """
    with Transfer(session, "put", progress) as transfer:
        return transfer.put([os.fsdecode(source) for source in sources], os.fsdecode(dst))


def get(session: Session, sources: Sequence[Name], dst: Name, *, progress: bool | None = None) -> Transferred:
    """Copy files and folders of the far side to ``dst`` here, by the same rules in the other direction.

    Files get the permissions that ``cp`` would give them: those there, as far as the umask here allows.  Nothing that
    the far side sends leads out of ``dst``; `destination.py` tells how odd names are treated.
    """
    with Transfer(session, "get", progress) as transfer:
        return transfer.get([os.fsdecode(source) for source in sources], os.fsdecode(dst))


def sendfile(session: Session, filename: Name, data: bytes | bytearray | memoryview) -> None:
    """Write ``data`` to a file there, put in place whole; only the owner can read a new file, as with Flame's own
    function."""
    with Transfer(session, "sendfile", False) as transfer:
        transfer.sendfile(os.fsdecode(filename), memoryview(data).cast("B"))


def getfile(session: Session, filename: Name) -> bytes:
    """The content of a file there, 2 GiB at most. Raises TransferError, ConnectionLost."""
    with Transfer(session, "getfile", False) as transfer:
        return transfer.getfile(os.fsdecode(filename))


class Transfer:
    """One transfer: its connection, which is made again if it breaks, and its counts."""

    def __init__(self, session: Session, what: str, progress: bool | None) -> None:
        self._session = session
        self._calls = self._is_multiplex = session.server.get("servertype") == "multiplex"
        self._small = False  # it goes by the session's own connection
        self._host = str(session.server.get("host"))
        self._tally = Tally(what, progress)
        self._far: FarFiles | None = None
        self._cwd: Future[Any] | None = None
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Transfer {self._tally!r}>"

    def __enter__(self: _S) -> _S:  # noqa: PYI019, typing.Self came with Python 3.11
        return self

    def __exit__(self, *exc: object) -> None:
        self._tally.close()
        if self._far is not None:
            self._far.close()

    def stop(self) -> None:
        """Stop, from any thread: nothing more is copied, and the transfer raises TransferError."""
        self._stopped = True
        far = self._far
        if far is not None:
            far.close()

    # -- the four

    def put(self, patterns: list[str], dst: str) -> Transferred:
        sources = _local_sources(patterns)
        self._expect([(kind, _size_of(path) if kind == "file" else 0) for path, _, kind in sources])
        cwd = self._far_cwd([dst])
        where = self._insist(lambda far: far.request(op="where", path=wire_path(dst), cwd=cwd()))
        places = _places(
            dst,
            checked_where(where, self._location),
            [(name, kind) for _, name, kind in sources],
            f"on {self._location}",
        )
        if self._host == socket.gethostname():
            for (path, _, kind), place in zip(sources, places, strict=True):
                if kind == "folder":
                    shown = os.fsdecode(path)
                    _check_not_within(shown, os.path.realpath(shown), os.path.realpath(place))
        if self._tally.shows:
            self._tally.open(sum(_size_of(path) for path, _, _ in sources))
        entries = _departures([(path, kind) for path, _, kind in sources], places)
        uploads = Uploads(self._tally, f"at {self._location}")
        with contextlib.closing(entries), contextlib.closing(uploads):
            while batch := list(islice(entries, BATCH)):
                self._insist(uploads.send, batch)
            self._insist(uploads.finish)
        return self._result()

    def get(self, patterns: list[str], dst: str) -> Transferred:
        cwd, self._small = self._far_cwd(patterns), not any(map(glob.has_magic, patterns))  # these may take long
        sources = self._insist(lambda far: find(far, [wire_path(pattern) for pattern in patterns], cwd()))
        self._expect([(what["kind"], what["size"]) for _, _, what in sources])
        folder, places = _chosen(dst, [(name, what["kind"]) for _, name, what in sources])
        with contextlib.closing(folder):
            if self._host == socket.gethostname():
                for (path, _, what), place in zip(sources, places, strict=True):
                    if what["kind"] == "folder":
                        _check_not_within(path, what["real"], os.path.join(folder.path, *place))
            downloads = Downloads(self._tally, folder)
            if self._tally.shows:
                self._tally.open(self._far_size(sources))
            for (path, _, what), place in zip(sources, places, strict=True):
                what["mode"] = folder.permissions(what["mode"])
                top = Arrival(path, place, (), what)
                self._insist(downloads.receive, [top])
                if top.kind == "folder":
                    self._get_folder(downloads, path, place)
                    self._insist(downloads.receive, [Arrival(path, place, (), dict(what, kind="end"))])
        return self._result()

    def _get_folder(self, downloads: Downloads, path: str, place: Names) -> None:
        after: Arrival | None = None
        last = False
        while not last:
            batch, last = self._insist(downloads.entries, path, place, after, BATCH)
            self._insist(downloads.receive, batch)
            if batch:
                after = batch[-1]

    def sendfile(self, filename: str, data: memoryview) -> None:
        self._expect([("file", len(data))])
        cwd = self._far_cwd([filename])

        def send(far: FarFiles) -> None:
            where = checked_where(far.request(op="where", path=wire_path(filename), cwd=cwd()), far.location)
            answers: list[Message] = []

            def keep(kind: int, answer: Any) -> None:
                answers.append(answer)

            write = {"op": "write", "path": where["path"], "size": len(data), "mtime": None, "offset": 0}
            far.ask(write, keep)
            for at in range(0, len(data), frames.CHUNK):
                piece = data[at : at + frames.CHUNK]
                far.frames.room[: len(piece)] = piece
                far.frames.send_room(len(piece))
                far.look()
                if far.calls and (at + len(piece)) % BURST == 0 and at + len(piece) < len(data):
                    far.tell({"op": "pause"})
                    far.wait()
                    far.ask(dict(write, offset=at + len(piece)), keep)
                if any("error" in answer for answer in answers):
                    break
            far.tell({"op": "done", "mode": None, "compare": False})
            far.wait()
            for answer in answers:
                if "error" in answer:
                    text, code = error_in(answer)
                    words = f"cannot write {file_names.shown(filename)} at {far.location}: {text}"
                    raise TransferError(words, code, far.location)

        self._insist(send)

    def getfile(self, filename: str) -> bytes:
        cwd, self._small = self._far_cwd([filename]), True

        def find(far: FarFiles) -> Message:
            return checked_where(far.request(op="where", path=wire_path(filename), cwd=cwd()), far.location)

        where = self._insist(find)
        self._expect([("file", description(dict(where, kind="file"), self._location)["size"])])

        def receive(far: FarFiles) -> bytes:
            content = Content(file_names.shown(filename), far.location)
            read = {"op": "read", "path": where["path"], "limit": BURST if far.calls else None}
            while content.more:
                far.ask(dict(read, offset=len(content.bytes)), content.take)
                far.wait()
            return bytes(content.bytes)

        return self._insist(receive)

    # -- the connection

    @property
    def _location(self) -> str:
        return self._session.location

    def _insist(self, step: Callable[Concatenate[FarFiles, _P], _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call ``step(far, …)``; after a cut repeat it on a new connection, as long as there is progress."""
        delay = RETRY_FIRST
        self._tally.latest = time.monotonic()
        while not self._stopped:
            try:
                if self._far is None:
                    self._far = far_files(self._session, small=self._small)
                    self._calls = self._far.calls
                return step(self._far, *args, **kwargs)
            except (ConnectionLost, CannotConnect) as e:
                if self._far is not None:
                    self._far.close()
                    self._far = None
                self._small = self._small and not isinstance(e, SlowFiles)
                lasting = isinstance(e, UnsafeAnswer) or (isinstance(e, CannotConnect) and not e.passing)
                if lasting or time.monotonic() - self._tally.latest > PATIENCE:
                    raise
                if time.monotonic() - self._tally.latest < delay:
                    delay = RETRY_FIRST
                time.sleep(delay * random.uniform(0.8, 1.2))
                delay = min(delay * 2, RETRY_LAST)
        raise TransferError("stopped; files that were copied completely stay")

    def _expect(self, sources: list[tuple[str, int]]) -> None:
        """The kinds and sizes of what is to be copied: a few small files need no connection of their own."""
        before, self._small = self._small, is_little(sources)
        if before and not self._small and self._far is not None:
            self._far.close()
            self._far, self._calls = None, self._is_multiplex

    def _far_cwd(self, paths: list[str]) -> Callable[[], str | None]:
        """Ask for the working folder of the session's cells, if a path needs it; return a function that waits."""
        if all(path.startswith(("/", "~")) for path in paths):
            return lambda: None
        asked = self._session.request("cwd")

        def answer() -> str:
            reply = asked.result(_CWD_PATIENCE)
            if reply.get("status") != "ok" or not isinstance(reply.get("cwd"), str):
                raise TransferError("the working folder of the cells no longer exists there; give a path from / or ~")
            return str(reply["cwd"])

        return answer

    def _far_size(self, sources: list[tuple[str, str, Message]]) -> int | None:
        """The bytes of all sources; None if requests are sent in calls, which must be short."""
        if self._calls:
            return None
        total = 0
        for path, _, what in sources:
            if what["kind"] == "folder":
                size = self._insist(FarFiles.request, op="total", path=path).get("bytes")
                total += size if type(size) is int and 0 <= size < 1 << 62 else 0
            else:
                total += what["size"]
        return total

    def _result(self) -> Transferred:
        tally = self._tally
        tally.raise_failures()
        return Transferred(
            tally.files, tally.bytes, time.monotonic() - tally.started, tally.skipped, tuple(tally.notes)
        )


def wire_path(path: str) -> str:
    """A path of the far side, as the user writes it, for the wire."""
    if not path or "\0" in path:
        raise TransferError(f"{path!r} is not the name of a file; name a file or a folder")
    return str(file_names.to_wire(os.fsencode(path)))


def checked_where(where: Message, location: str) -> Message:
    if not isinstance(where.get("path"), str) or not isinstance(where.get("kind"), str):
        raise UnsafeAnswer(location, "a destination that is not described")
    try:
        file_names.from_wire(where["path"])
    except file_names.Refused as e:
        raise UnsafeAnswer(location, str(e)) from None
    return where


def _local_sources(patterns: list[str]) -> list[tuple[bytes, str, str]]:
    """``(path, name, kind)`` of what the patterns name here; the name is "" if only a folder's content is meant."""
    found = []
    for pattern in patterns:
        if not pattern or "\0" in pattern:
            raise TransferError(f"{pattern!r} is not the name of a file; name a file or a folder")
        path = os.path.expanduser(pattern)
        plain = os.path.lexists(path) or not glob.has_magic(path)
        matches = [path] if plain else sorted(glob.glob(path, recursive=True))
        for match in matches:
            raw = os.fsencode(match)
            try:
                kind = trees.describe(raw)["kind"]
            except OSError as e:
                raise TransferError(f"cannot read {file_names.shown(match)}: {file_names.why(e)}") from None
            if kind == "missing":
                matches = []
                break
            if kind == "other":
                raise TransferError(f"{file_names.shown(match)} is neither a file nor a folder")
            found.append((raw, plain_name(pattern if plain else match), kind))
        if not matches:
            raise TransferError(f"'{file_names.shown(pattern)}' not found here; check the path")
    return found


def no_parent(path: str, kind: Any, side: str) -> str:
    """The error that the folder of ``path`` is missing or of another ``kind``; ``side``: "here", or "on" a location."""
    folder = file_names.shown(os.path.dirname(path.rstrip("/")) or path)
    if kind in ("file", "other"):
        return f"{folder} is not a folder {side}; name another destination"
    return f"{folder} does not exist {side}; create it first"


def _places(dst: str, there: Message, sources: list[tuple[str, str]], side: str) -> list[bytes]:
    """The path for each source, by its name and kind, as ``cp`` chooses it. ``there`` describes what ``dst`` is now, on
    ``side``: "here", or "on" a location."""
    shown, kind, path = file_names.shown(dst), there["kind"], file_names.from_wire(there["path"])
    if kind == "folder":
        return _places_in(path, sources)
    if kind == "other":
        raise TransferError(f"{shown} is neither a file nor a folder; name another destination")
    if len(sources) > 1 or (kind == "file" and (sources[0][1] == "folder" or dst.endswith("/"))):
        raise TransferError(f"'{shown}' is not a folder {side}; create it, or copy one file to that name")
    if kind == "missing" and there.get("parent") != "folder":
        raise TransferError(no_parent(dst, there.get("parent"), side))
    if kind == "missing" and dst.endswith("/") and sources[0][1] == "file":
        raise TransferError(f"folder '{shown}' does not exist {side}; create it first, or leave out the / at its end")
    return [path.rstrip(b"/") or b"/"]


def _places_in(folder: bytes, sources: list[tuple[str, str]]) -> list[bytes]:
    """The same, if ``dst`` is an existing folder."""
    places = [file_names.join(folder, file_names.from_wire(name)) if name else folder for name, _ in sources]
    seen: set[bytes] = set()
    for place, (_, what) in zip(places, sources, strict=True):
        if place in seen:
            raise TransferError(f"two of the sources would both become {file_names.shown(place)}; copy them one by one")
        if place != folder or what == "file":
            seen.add(place)
    return places


def _chosen(dst: str, sources: list[tuple[str, str]]) -> tuple[ChosenFolder, list[Names]]:
    """The folder here that ``dst`` names, or in which it would be made, and where in it each source goes."""
    if "\0" in dst or not dst:
        raise TransferError("the destination has no usable name; name a file or a folder")
    try:
        target = os.fsencode(os.path.realpath(os.path.expanduser(dst)))  # named by the user, so links are followed
        kind = trees.describe(target)["kind"]
        above = target if kind == "folder" else os.path.dirname(target)
        parent = kind if kind == "folder" else trees.describe(above)["kind"]
        if kind == "folder":
            for name, _ in sources:
                file_names.check_name(file_names.from_wire(name) or b"here")
        places = _places(dst, {"kind": kind, "path": file_names.to_wire(target), "parent": parent}, sources, "here")
        for place in places:
            if place != above:
                file_names.check_name(os.path.basename(place))
        return ChosenFolder(above), [() if place == above else (os.path.basename(place),) for place in places]
    except OSError as e:
        raise TransferError(f"cannot copy to {file_names.shown(dst)}: {file_names.why(e)}") from None
    except file_names.Refused as e:
        raise TransferError(f"cannot copy to {file_names.shown(dst)}: {e}") from None


def _check_not_within(source: str, real: str, place: bytes | str) -> None:
    """On one machine: refuse to copy a folder into itself, which would not end. ``real`` is the source without links;
    it may come from the far side, so it is only compared."""
    inside = os.path.join(os.fsdecode(place), "")
    if any(inside.startswith(os.path.join(os.path.normpath(one), "")) for one in (source, real)):
        raise TransferError(f"cannot copy the folder {file_names.shown(source)} into itself; name another destination")


def _departures(sources: list[tuple[bytes, str]], places: list[bytes]) -> Generator[Departure, None, None]:
    for (path, kind), place in zip(sources, places, strict=True):
        name = os.path.basename(path) or path
        if kind != "folder":
            yield Departure(None, (path,), place, trees.describe(path), name)
            continue
        try:
            folder = ChosenFolder(path)
        except OSError as e:
            raise TransferError(f"cannot read {file_names.shown(path)}: {file_names.why(e)}") from None
        with contextlib.closing(folder):  # whoever reads it later opens it again, if it is still the same one
            what = folder.describe(())
            yield Departure(folder, (), place, what, name)
            for names, entry in folder.walk():
                below = b"/".join(names)
                yield Departure(folder, names, file_names.join(place, below), entry, below or name)
            yield Departure(folder, (), place, dict(what, kind="end"), name)


def _size_of(path: bytes) -> int:
    what = trees.describe(path)
    if what["kind"] != "folder":
        return int(what["size"])
    return sum(entry["size"] for _, entry in trees.walk(path) if entry["kind"] == "file")
