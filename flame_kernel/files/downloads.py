"""Receives files from the far side, a batch at a time.  The names and kinds that it sends are checked before writing.

Nothing that it sends makes us write outside of the chosen folder: everything is opened relative to that folder
(`destination.py`), and a link replaces nothing but a link.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..agent.wire import frames
from ..agent.wire.files import file_names, receiving, trees
from ..errors import TransferError, UnsafeAnswer
from ..security import answers
from .destination import ChosenFolder, Names, component, plain_name
from .far_files import BURST, FarFiles, Handler, Message, error_in
from .progress import Entry, Tally
from .uploads import SMALL, far_sums

# Most characters of the far side's reason for leaving a file out.
MAX_REASON = 500
# Most characters of a link's target: no system accepts longer ones.
MAX_TARGET = 4096
_KINDS = ("file", "folder", "end", "link", "odd")


@dataclass
class Arrival(Entry):
    """One entry: from ``far`` to ``place`` in the chosen folder; ``names`` is its path below the top, () for the top
    itself."""

    far: str
    place: Names
    names: Names
    what: dict[str, Any]
    done: bool = False
    forward: int = 0
    offset: int = 0
    incoming: receiving.Incoming | None = field(default=None, repr=False)

    @property
    def name(self) -> bytes:
        return b"/".join(self.names) or self.place[-1:][0] if self.place else b"the folder itself"

    @property
    def position(self) -> tuple[tuple[int, bytes], ...]:
        """Its position in the list of a folder: a folder comes before its content, and the folder's end after it."""
        end = ((1, b""),) if self.kind == "end" else ()
        return (*((0, name) for name in self.names), *end)


def find(far: FarFiles, sources: list[str], cwd: str | None) -> list[tuple[str, str, Message]]:
    """What the far side has for ``sources``: ``(path there, name here, description)``; TransferError if nothing.

    The name is "" if only the content of a folder is meant.  Names must match what was asked for: a server that is
    asked for ``*.csv`` cannot make us write a ``.bashrc``.
    """
    found = []
    for source in sources:
        answer = far.request(op="find", sources=[source], cwd=cwd)
        entries = answer.get("found")
        if not isinstance(entries, list):
            raise UnsafeAnswer(far.location, "files that are not listed")
        own = plain_name(source)
        named = [one for one in entries if isinstance(one, dict) and one.get("kind") in ("file", "folder", "other")]
        if not named:
            words = f"'{file_names.shown(source)}' not found on {far.location}; check the path"
            raise TransferError(words, location=far.location)
        # If a pattern is itself the name of a file, with its brackets, it means that file.
        is_pattern = any(c in source for c in "*?[") and [one.get("name") for one in named] != [own]
        if len(named) > 1 and not is_pattern:
            raise UnsafeAnswer(far.location, "more files than were asked for")
        for one in named:
            path, name, what = _found(one, far.location)
            if is_pattern:
                _check_asked_for(name, source.rstrip("/").rpartition("/")[2], far.location)
            found.append((path, name if is_pattern else own, what))
    return found


def _found(raw: dict[str, Any], location: str) -> tuple[str, str, Message]:
    """The path, the name and the description of one thing that the far side has found."""
    what = description(raw, location)
    path, name = raw.get("path"), raw.get("name")
    if not isinstance(path, str) or not isinstance(name, str):
        raise UnsafeAnswer(location, "a file without a name")
    what["real"] = str(raw.get("real", path))
    if what["kind"] == "other":
        words = f"{file_names.shown(path[:500])} at {location} is neither a file nor a folder"
        raise TransferError(words, location=location)
    return path, name, what


def _check_asked_for(name: str, pattern: str, location: str) -> None:
    """Raise UnsafeAnswer if the pattern does not match this name from the far side, by the rules of a shell."""
    hidden = name.startswith(".") and not pattern.startswith(".")
    if hidden or (pattern != "**" and not fnmatch.fnmatchcase(name, pattern)):
        raise UnsafeAnswer(location, f"a file {file_names.shown(name[:200])} that was not asked for")
    _checked(name, location)


def _checked(text: Any, location: str) -> bytes:
    """A file name that the far side has sent, as bytes; UnsafeAnswer if it is no valid name."""
    try:
        return component(text)
    except file_names.Refused as e:
        raise UnsafeAnswer(location, str(e)) from None


def _one_call(files: list[Arrival]) -> int:
    """How many of the files to request in one call."""
    size = 0
    for count, one in enumerate(files):
        size += min(one.size - one.offset, BURST)
        if count and size > 2 * BURST:
            return count
    return len(files)


def description(raw: Any, location: str) -> dict[str, Any]:
    """Check a description from the far side; UnsafeAnswer if it has the wrong shape."""
    what = {name: raw.get(name) for name in ("kind", "size", "mode", "mtime") if name in raw}
    what = {"kind": "", "size": 0, "mode": 0o600, "mtime": 0, **what}
    if (
        what["kind"] not in (*_KINDS, "other")
        or any(type(what[name]) is not int for name in ("size", "mode", "mtime"))
        or not 0 <= what["size"] < 1 << 62
        or not abs(what["mtime"]) < answers.MAX_TIME
    ):
        raise UnsafeAnswer(location, "a file that is described in a way no file is")
    what["mode"] &= 0o777
    if "target" in raw:
        if not isinstance(raw["target"], str):
            raise UnsafeAnswer(location, "a link that leads to no path")
        what["target"] = raw["target"][:MAX_TARGET]
    if "reason" in raw:
        what["reason"] = file_names.shown(str(raw["reason"])[:MAX_REASON])
    return what


class Downloads:
    """Receives batches into ``folder``, and counts in ``tally``; without a folder it only lists."""

    def __init__(self, tally: Tally, folder: ChosenFolder | None = None) -> None:
        self._tally = tally
        self._chosen = folder
        self._made: set[Names] = set()

    def __repr__(self) -> str:
        return f"<Downloads {self._tally!r}>"

    @property
    def _folder(self) -> ChosenFolder:
        assert self._chosen is not None
        return self._chosen

    def entries(
        self, far: FarFiles, path: str, place: Names, after: Arrival | None, limit: int
    ) -> tuple[list[Arrival], bool]:
        """The next entries of the folder ``path`` there, after ``after``; they go below ``place``. Also whether they
        are the last ones."""
        names = [file_names.to_wire(name) for name in after.names] if after else []
        answer = far.request(
            op="list", path=path, after=names, end=after is not None and after.kind == "end", limit=limit
        )
        raw = answer.get("entries")
        if not isinstance(raw, list) or (not raw and not answer.get("last")):
            raise UnsafeAnswer(far.location, "a folder that is not listed")
        found: list[Arrival] = []
        for one in raw:
            entry = self._entry(one, path, place, far.location)
            if after is not None and entry.position <= after.position:
                shown = file_names.shown(b"/".join(entry.names)[:200])
                raise UnsafeAnswer(far.location, f"a folder that lists {shown} twice, or out of order")
            found.append(entry)
            after = entry
        return found, bool(answer.get("last"))

    def _entry(self, raw: Any, path: str, place: Names, location: str) -> Arrival:
        parts = raw.get("path") if isinstance(raw, dict) else None
        if not isinstance(parts, list) or not parts:
            raise UnsafeAnswer(location, "a file without a name")
        what = description(raw, location)
        if what["kind"] == "other":
            raise UnsafeAnswer(location, "a file that is described in a way no file is")
        unread = what["kind"] == "odd" and parts[-1] == ""  # represents the content of a folder that cannot be read
        below = tuple(_checked(part, location) for part in (parts[:-1] if unread else parts))
        if unread:
            below = (*below, b"")
        if self._chosen is not None:
            what["mode"] = self._chosen.permissions(what["mode"])
        far_path = path.rstrip("/") + "/" + "/".join(parts)
        return Arrival(far_path, (*place, *below), below, what)

    # -- one batch

    def receive(self, far: FarFiles, batch: list[Arrival]) -> None:
        """Fetch the part of the batch that is not here yet. After a ConnectionLost call it again with a new ``far``."""
        for one in batch:
            if not one.done:
                self._prepare(one)
        try:
            self._fetch(far, [one for one in batch if not one.done and one.kind == "file"])
        finally:
            for one in batch:
                if one.incoming is not None:  # cut, or interrupted: the part is kept for another attempt
                    one.incoming.stop(keep=True)
                    one.incoming = None
        for one in batch:
            if one.kind == "end" and one.place in self._made:
                self._finish_folder(one)

    def _fetch(self, far: FarFiles, files: list[Arrival]) -> None:
        for one in files:
            if one.size >= SMALL:
                self._look(far, one)
        wanted = [one for one in files if not one.done]
        while wanted:
            count = _one_call(wanted) if far.calls else len(wanted)
            far.ask_all([self._question(far, one) for one in wanted[:count]])
            del wanted[:count]

    def _finish_folder(self, one: Arrival) -> None:
        """Set the mode and time of a folder that is complete."""
        self._made.discard(one.place)
        try:
            self._folder.set_attributes(one.place, one.what["mode"], one.what["mtime"])
        except (OSError, file_names.Refused) as e:
            self._fail(one, e)

    def _prepare(self, one: Arrival) -> None:
        """Handle entries that need no request: folders, links, entries left out, and files whose path is wrong."""
        if one.kind == "odd":
            self._tally.note(one.name, f"left out: {one.what.get('reason', 'it cannot be copied')}")
            one.done = True
            return
        if one.kind == "end":
            return
        try:
            if one.kind == "folder":
                if self._folder.make_folder(one.place):
                    self._made.add(one.place)
                one.done = True
            elif one.kind == "link":
                target = file_names.from_wire(one.what.get("target"))
                file_names.check_link(one.names[:-1], target)
                if self._folder.make_link(one.place, target):
                    self._tally.files += 1
                else:
                    self._tally.skipped += 1
                one.done = True
        except (OSError, file_names.Refused) as e:
            self._fail(one, e)

    def _look(self, far: FarFiles, one: Arrival) -> None:
        """Find out how much of the file is here already: either it is done, or its offset is set."""
        room = far.frames.room
        folder, size = self._folder, one.size
        try:
            here = folder.describe(one.place)
            if here["kind"] == "file" and here["size"] == size:
                with folder.source(one.place) as source:
                    same = far_sums(
                        far, one.far, size, lambda: list(trees.sums(source, 0, size, room, far.frames.hash))
                    )
                if same == size:
                    if (here["mode"], here["mtime"]) != (one.what["mode"], one.what["mtime"]):
                        folder.set_attributes(one.place, one.what["mode"], one.what["mtime"])
                    self._tally.skipped += 1
                    self._finished(one, size)
                    return
            part = folder.part_size(one.place, size, one.what["mtime"])
            if part:
                with folder.part(one.place, size, one.what["mtime"]) as source:
                    one.offset = far_sums(
                        far, one.far, part, lambda: list(trees.sums(source, 0, part, room, far.frames.hash))
                    )
        except (OSError, file_names.Refused) as e:
            self._fail(one, e)

    # -- one file

    def _question(self, far: FarFiles, one: Arrival) -> tuple[Message, Handler]:
        request = {"op": "read", "path": one.far, "offset": one.offset, "limit": BURST if far.calls else None}
        return request, partial(self._take, far, one)

    def _take(self, far: FarFiles, one: Arrival, kind: int, payload: Any) -> None:
        """A frame of the file's answer; frames after a failure are ignored."""
        if one.done:
            return
        try:
            if kind != frames.CONTROL:
                self._write(far, one, kind, payload)
            elif "error" in payload:
                raise file_names.Refused(*error_in(payload))
            elif payload.get("more"):
                self._begin(far, one, payload)
            elif one.incoming is None:
                raise UnsafeAnswer(far.location, "a file that ends before it began")
            elif payload.get("last") is False:
                if one.incoming.at == one.offset:
                    raise UnsafeAnswer(far.location, "a file of which nothing more comes")
                one.incoming.pause()
                one.offset, one.incoming = one.incoming.at, None
                far.ask(*self._question(far, one))
            else:
                self._put_in_place(far, one, bool(payload.get("changed")))
        except (OSError, file_names.Refused) as e:
            self._fail(one, e)

    def _begin(self, far: FarFiles, one: Arrival, payload: Any) -> None:
        if one.incoming is not None:
            raise UnsafeAnswer(far.location, "a file that begins twice")
        what = description(dict(payload, kind="file"), far.location)
        if one.offset and (what["size"], what["mtime"]) != (one.size, one.what["mtime"]):
            raise file_names.Refused("it changed while it was copied; copy it again")
        what["mode"] = self._folder.permissions(what["mode"])
        one.what.update(what)
        one.incoming = self._folder.incoming(one.place, one.size, what["mtime"], one.offset)
        self._tally.reach(one, one.offset)

    def _write(self, far: FarFiles, one: Arrival, kind: int, payload: Any) -> None:
        if one.incoming is None:
            raise UnsafeAnswer(far.location, "content of no file")
        before = one.incoming.at
        if kind == frames.DATA:
            one.incoming.write(payload)
        else:
            one.incoming.skip(payload)
        self._tally.bytes += one.incoming.at - before
        self._tally.reach(one, one.incoming.at)

    def _put_in_place(self, far: FarFiles, one: Arrival, changed: bool) -> None:
        incoming = one.incoming
        assert incoming is not None
        if changed:
            self._tally.note(one.name, "it was written to while it was copied")
        if one.size < SMALL and incoming.same_as_there(far.frames.room):
            one.incoming = None
            incoming.stop(keep=False)
            self._folder.set_attributes(one.place, one.what["mode"], one.what["mtime"])
            self._tally.skipped += 1
        else:
            incoming.finish(one.what["mode"])
            one.incoming = None
            self._tally.files += 1
        self._finished(one, one.size)

    def _finished(self, one: Arrival, at: int) -> None:
        one.done = True
        self._tally.reach(one, at)

    def _fail(self, one: Arrival, error: OSError | file_names.Refused) -> None:
        """This file failed; raises TransferError if all files would fail, because the disk is full."""
        one.done = True
        if one.incoming is not None:
            one.incoming.stop(keep=False)
            one.incoming = None
        reason = file_names.why(error) if isinstance(error, OSError) else error
        self._tally.fail(one.name, str(reason), reason.code, "here")
