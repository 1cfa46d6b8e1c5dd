"""Files on their way from the far side, a batch at a time.  What it says of names and kinds is checked, then written.

Nothing it says makes us write outside of the folder that was chosen: names are single components, folders on the way
are real ones and no links, and a link never takes the place of anything but a link.
"""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..agent.wire import frames, trees
from ..errors import TransferError, UnsafeAnswer
from .far_files import BURST, FarFiles, Handler, Message, error_in
from .progress import Tally
from .uploads import SMALL, far_sums

_KINDS = ("file", "folder", "end", "link", "odd")


@dataclass
class Arrival:
    """One entry: from ``far`` to ``local``; ``names`` is where it is below the top, () for the top itself."""

    far: str
    local: bytes
    names: tuple[bytes, ...]
    what: dict[str, Any]
    top: bytes
    done: bool = False
    forward: int = 0
    offset: int = 0
    incoming: trees.Incoming | None = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        return str(self.what["kind"])

    @property
    def size(self) -> int:
        return int(self.what["size"])

    @property
    def name(self) -> bytes:
        return b"/".join(self.names) or os.path.basename(self.local)


def find(far: FarFiles, sources: list[str], cwd: str | None) -> list[tuple[str, str, Message]]:
    """What the far side has for ``sources``: ``(path there, name here, description)``; TransferError for none.

    The name is "" where only the content of a folder is meant.  Names come from what was asked for: a server that is
    asked for ``*.csv`` does not get a ``.bashrc`` written.
    """
    found = []
    for source in sources:
        answer = far.request(op="find", sources=[source], cwd=cwd)
        entries = answer.get("found")
        if not isinstance(entries, list):
            raise UnsafeAnswer(far.location, "files that are not listed")
        magic = any(c in source for c in "*?[")
        own = plain_name(source)
        named = [one for one in entries if isinstance(one, dict) and one.get("kind") in ("file", "folder", "other")]
        if not named:
            raise TransferError(f"'{trees.shown(source)}' not found on {far.location}; check the path")
        for one in named:
            what = description(one, far.location)
            path, name = one.get("path"), one.get("name")
            if not isinstance(path, str) or not isinstance(name, str):
                raise UnsafeAnswer(far.location, "a file without a name")
            if what["kind"] == "other":
                raise TransferError(f"{trees.shown(path)} at {far.location} is neither a file nor a folder")
            # A pattern that is the name of a file, brackets and all, names just that.
            if magic and len(named) == 1 and own == name:
                magic = False
            if magic:
                pattern = source.rstrip("/").rpartition("/")[2]
                hidden = name.startswith(".") and not pattern.startswith(".")
                if hidden or ("**" not in pattern and not fnmatch.fnmatchcase(name, pattern)):
                    raise UnsafeAnswer(far.location, f"a file {trees.shown(name)} that was not asked for")
            found.append((path, name if magic else own, what))
            if not magic and len(named) > 1:
                raise UnsafeAnswer(far.location, "more files than were asked for")
    return found


def plain_name(path: str) -> str:
    """The last component of a path; "" where it has no name of its own: ``/``, ``.``, ``..``, ``~``."""
    head, _, name = path.rstrip("/").rpartition("/")
    is_home = not head and name.startswith("~")
    return "" if is_home or name in (".", "..") else name


def _one_call(files: list[Arrival]) -> int:
    """How many of the files one call may bring."""
    size = 0
    for count, one in enumerate(files):
        size += min(one.size - one.offset, BURST)
        if count and size > 2 * BURST:
            return count
    return len(files)


def description(raw: Any, location: str) -> dict[str, Any]:
    """A description of the far side's, of the right shape; UnsafeAnswer otherwise."""
    what = {name: raw.get(name) for name in ("kind", "size", "mode", "mtime") if name in raw}
    what = {"size": 0, "mode": 0o600, "mtime": 0, **what}
    if (
        what["kind"] not in (*_KINDS, "other")
        or any(type(what[name]) is not int for name in ("size", "mode", "mtime"))
        or not 0 <= what["size"] < 1 << 62
        or not abs(what["mtime"]) < 1 << 62
    ):
        raise UnsafeAnswer(location, "a file that is described in a way no file is")
    what["mode"] &= 0o777
    for name in ("target", "reason"):
        if name in raw:
            what[name] = str(raw[name])[:4096]
    return what


class Downloads:
    """Receives batches, counts in ``tally``."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._made: set[bytes] = set()
        self._real: tuple[bytes, tuple[bytes, ...]] | None = None  # the last folder that was seen to be none but ours

    def __repr__(self) -> str:
        return f"<Downloads {self._tally!r}>"

    def entries(
        self, far: FarFiles, path: str, local: bytes, after: Arrival | None, limit: int
    ) -> tuple[list[Arrival], bool]:
        """The next entries of the folder ``path`` there behind ``after``, which will be below ``local``, and whether
        they are the last."""
        names = [trees.to_wire(name) for name in after.names] if after else []
        answer = far.request(
            op="list", path=path, after=names, end=after is not None and after.kind == "end", limit=limit
        )
        raw = answer.get("entries")
        if not isinstance(raw, list) or (not raw and not answer.get("last")):
            raise UnsafeAnswer(far.location, "a folder that is not listed")
        found = []
        for one in raw:
            parts = one.get("path") if isinstance(one, dict) else None
            if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
                raise UnsafeAnswer(far.location, "a file without a name")
            what = description(one, far.location)
            below = tuple(trees.from_wire(part) for part in parts)
            if what["kind"] != "odd" and (
                not below or any(name in (b"", b".", b"..") or b"/" in name or b"\0" in name for name in below)
            ):
                raise UnsafeAnswer(
                    far.location, f"a file name that leads elsewhere: {trees.shown('/'.join(parts)[:200])}"
                )
            far_path = path.rstrip("/") + "/" + "/".join(parts)
            found.append(Arrival(far_path, os.path.join(local, *below), below, what, local))
        return found, bool(answer.get("last"))

    # -- one batch

    def receive(self, far: FarFiles, batch: list[Arrival]) -> None:
        """Fetch what of the batch is not here yet. After a ConnectionLost, again with a new ``far``."""
        try:
            for one in batch:
                if not one.done:
                    self._prepare(one)
            wanted = [one for one in batch if not one.done and one.kind == "file"]
            for one in wanted:
                if one.size >= SMALL:
                    self._look(far, one)
            wanted = [one for one in wanted if not one.done]
            while wanted:
                count = _one_call(wanted) if far.calls else len(wanted)
                far.ask_all([self._question(far, one) for one in wanted[:count]])
                del wanted[:count]
        finally:
            for one in batch:
                if one.incoming is not None:  # cut, or interrupted: what is here is kept for another time
                    one.incoming.stop(keep=True)
                    one.incoming = None
        for one in batch:
            if one.kind == "end" and one.local in self._made:
                self._made.discard(one.local)
                trees.set_attributes(one.local, one.what["mode"], one.what["mtime"])

    def _prepare(self, one: Arrival) -> None:
        """What needs no question: folders, links, what is left out; and files whose place is wrong."""
        if one.kind == "odd":
            self._tally.note(one.name, f"left out: {one.what.get('reason', 'it cannot be copied')}")
            one.done = True
            return
        if one.kind == "end":
            return
        try:
            self._check_place(one)
            if one.kind == "folder":
                if trees.make_folder(one.local):
                    self._made.add(one.local)
                one.done = True
            elif one.kind == "link":
                target = trees.from_wire(one.what.get("target"))
                trees.check_link(one.names[:-1], target)
                if trees.make_link(one.local, target):
                    self._tally.files += 1
                else:
                    self._tally.skipped += 1
                one.done = True
        except (OSError, trees.Refused) as e:
            self._fail(one, e)

    def _check_place(self, one: Arrival) -> None:
        """Refused unless the entry's name can be one here, and all folders above it are real ones."""
        if not one.names:
            return  # the user named it
        trees.check_name(one.names[-1])
        above = one.names[:-1]
        if self._real == (one.top, above):
            return
        for depth in range(1, len(above) + 1):
            if trees.describe(os.path.join(one.top, *above[:depth]), follow=False)["kind"] != "folder":
                raise trees.Refused("its folder is not there, or a link is in its place")
        self._real = (one.top, above)

    def _look(self, far: FarFiles, one: Arrival) -> None:
        """What of it is here already: done if all, and where to go on."""
        room = far.frames.room
        try:
            here = trees.describe(one.local, follow=False)
            if here["kind"] == "file" and here["size"] == one.size:
                with trees.Source(one.local) as source:
                    same = far_sums(far, one.far, one.size, lambda: list(trees.sums(source, 0, one.size, room)))
                if same == one.size:
                    if (here["mode"], here["mtime"]) != (one.what["mode"], one.what["mtime"]):
                        trees.set_attributes(one.local, one.what["mode"], one.what["mtime"])
                    self._tally.skipped += 1
                    self._finished(one, one.size)
                    return
            part = trees.part_size(one.local, one.size, one.what["mtime"])
            if part:
                with trees.Source(trees.part_path(one.local, one.size, one.what["mtime"])) as source:
                    one.offset = far_sums(far, one.far, part, lambda: list(trees.sums(source, 0, part, room)))
        except (OSError, trees.Refused) as e:
            self._fail(one, e)

    # -- one file

    def _question(self, far: FarFiles, one: Arrival) -> tuple[Message, Handler]:
        request = {"op": "read", "path": one.far, "offset": one.offset, "limit": BURST if far.calls else None}
        return request, partial(self._take, far, one)

    def _take(self, far: FarFiles, one: Arrival, kind: int, payload: Any) -> None:
        """A frame of the file's answer; what comes after it failed is passed over."""
        if one.done:
            return
        try:
            if kind != frames.CONTROL:
                self._write(far, one, kind, payload)
            elif "error" in payload:
                raise trees.Refused(*error_in(payload))
            elif payload.get("more"):
                self._begin(far, one, payload)
            elif one.incoming is None:
                raise UnsafeAnswer(far.location, "a file that ends before it began")
            elif payload.get("last") is False:
                one.incoming.pause()
                one.offset, one.incoming = one.incoming.at, None
                far.ask(*self._question(far, one))
            else:
                self._put_in_place(far, one, bool(payload.get("changed")))
        except (OSError, trees.Refused) as e:
            self._fail(one, e)

    def _begin(self, far: FarFiles, one: Arrival, payload: Any) -> None:
        if one.incoming is not None:
            raise UnsafeAnswer(far.location, "a file that begins twice")
        what = description(dict(payload, kind="file"), far.location)
        if one.offset and (what["size"], what["mtime"]) != (one.size, one.what["mtime"]):
            raise trees.Refused("it changed while it was copied; copy it again")
        one.what.update(what)
        one.incoming = trees.Incoming(one.local, one.size, what["mtime"], one.offset)
        self._count(one, one.offset)

    def _write(self, far: FarFiles, one: Arrival, kind: int, payload: Any) -> None:
        if one.incoming is None:
            raise UnsafeAnswer(far.location, "content of no file")
        before = one.incoming.at
        if kind == frames.DATA:
            one.incoming.write(payload)
        else:
            one.incoming.skip(payload)
        self._tally.bytes += one.incoming.at - before
        self._count(one, one.incoming.at)

    def _put_in_place(self, far: FarFiles, one: Arrival, changed: bool) -> None:
        incoming = one.incoming
        assert incoming is not None
        if changed:
            self._tally.note(one.name, "it was written to while it was copied")
        if one.size < SMALL and incoming.same_as_there(far.frames.room):
            one.incoming = None
            incoming.stop(keep=False)
            trees.set_attributes(one.local, one.what["mode"], one.what["mtime"])
            self._tally.skipped += 1
        else:
            incoming.finish(one.what["mode"])
            one.incoming = None
            self._tally.files += 1
        self._finished(one, one.size)

    def _finished(self, one: Arrival, at: int) -> None:
        one.done = True
        self._count(one, at)

    def _count(self, one: Arrival, at: int) -> None:
        self._tally.forward(at - one.forward)
        one.forward = at

    def _fail(self, one: Arrival, error: OSError | trees.Refused) -> None:
        """This one cannot be had; TransferError where none can, for want of room."""
        one.done = True
        if one.incoming is not None:
            one.incoming.stop(keep=False)
            one.incoming = None
        reason = trees.why(error) if isinstance(error, OSError) else error
        self._tally.fail(one.name, str(reason), reason.code, "here")
