"""Sync: makes a folder equal to one on the other side; only changes are copied, as by ``rsync -a``.

Files of the same size and time count as equal, unless ``checksum``. Before a file is copied, it is compared piece by
piece; it is resumed after a cut, and put in place whole (``transfer.py``). With ``delete``, what is no longer in the
source is deleted at the end; what is excluded, or could not be read, stays.

The folder in the destination has the name that the user typed. On this machine nothing outside of it is written or
deleted, whatever the far side sends (``destination.py``).
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ..agent.wire.files import file_names, trees
from ..errors import TransferError
from ..session.session import Session
from .destination import ChosenFolder, Names, plain_name
from .downloads import Arrival, Downloads, description
from .far_files import FarFiles, error_in
from .transfer import BATCH, Transfer, Transferred, checked_where, no_parent, wire_path
from .uploads import Departure, Uploads

# Nanoseconds by which two times of one file may differ: some file systems store them less exactly.
SAME_TIME = 1_000_000

Entry = dict[str, Any]


@dataclass(frozen=True)
class SyncOptions:
    """How to sync.

    delete    delete from the destination what is not in the source
    dry_run   only say what would be done
    checksum  compare contents, not times
    exclude   patterns of names, or of paths below the folder if they have a /; what they match is left alone
    report    called with a line for each thing that is done, or would be
    """

    delete: bool = False
    dry_run: bool = False
    checksum: bool = False
    exclude: tuple[str, ...] = ()
    report: Callable[[str], None] = field(default=lambda line: None, repr=False)


@dataclass(frozen=True)
class Synced:
    """The result: what was ``transferred`` and ``deleted``, or would be."""

    transferred: Transferred
    deleted: int

    def __str__(self) -> str:
        first, *notes = str(self.transferred).splitlines()
        return "\n".join((first + (f"; {self.deleted} deleted" if self.deleted else ""), *notes))


def sync_up(
    session: Session, source: str, destination: str, options: SyncOptions, progress: bool | None = None
) -> Synced:
    """Make a folder of the far side equal to one here. A source without a / at its end becomes a folder in the
    destination. Raises TransferError, ConnectionLost."""
    with Sync(session, options, progress) as sync:
        return sync.up(source, destination)


def sync_down(
    session: Session, source: str, destination: str, options: SyncOptions, progress: bool | None = None
) -> Synced:
    """Make a folder here equal to one of the far side, by the same rules."""
    with Sync(session, options, progress) as sync:
        return sync.down(source, destination)


class Sync(Transfer):
    """One sync."""

    def __init__(self, session: Session, options: SyncOptions, progress: bool | None) -> None:
        super().__init__(session, "sync", progress)
        self._options = options
        self._changed = 0
        self._changed_bytes = 0
        self._undeleted: list[str] = []

    # -- both ways

    def up(self, source: str, destination: str) -> Synced:
        top = os.path.realpath(os.path.expanduser(source))
        if not os.path.isdir(top):
            raise TransferError(
                f"'{file_names.shown(source)}' is not a folder here; sync copies folders, put copies files"
            )
        place, there = self._far_place(_into(destination, source), self._made_there(source, destination))
        is_there = there["kind"] == "folder"
        target = file_names.from_wire(place)
        with contextlib.closing(self._open(source, os.fsencode(top))) as own:
            ours = self._kept(own.walk())
            theirs = self._kept((one.names, one.what) for one in self._arrivals(place, (), None)) if is_there else {}
            plan = self._plan(ours, theirs, [] if is_there else [((), own.describe(()))])
            self._remove_far(target, plan, plan.before)
            self._begin(plan)
            uploads = Uploads(self._tally, f"at {self._location}")
            moving = (
                Departure(own, names, file_names.join(target, *names), what, b"/".join(names) or target)
                for names, what in plan.copied
            )
            while not self._options.dry_run and (batch := list(islice(moving, BATCH))):
                self._insist(uploads.send, batch)
            if not self._options.dry_run:
                self._insist(uploads.finish)
            self._remove_far(target, plan, plan.after)
            return self._done(plan)

    def down(self, source: str, destination: str) -> Synced:
        place, there = self._far_place(source)
        if there["kind"] != "folder":
            raise TransferError(
                f"'{file_names.shown(source)}' is not a folder on {self._location}; "
                "sync copies folders, get copies files"
            )
        own, base = self._chosen(source, destination)
        with contextlib.closing(own):
            here = self._kind(own, base)
            self._check_destination(_into(destination, source), here, "folder", "here")
            arrivals = {one.names: one for one in self._arrivals(place, base, own) if one.kind != "end"}
            theirs = self._kept((names, one.what) for names, one in arrivals.items())
            ours = self._kept(own.walk(base)) if here == "folder" else {}
            there["mode"] = own.permissions(there["mode"])
            arrivals[()] = Arrival(place, base, (), there)
            plan = self._plan(theirs, ours, [] if here == "folder" else [((), there)])
            self._remove_here(own, base, plan, plan.before)
            self._begin(plan)
            downloads = Downloads(self._tally, own)
            moving = (Arrival(arrivals[names].far, arrivals[names].place, names, what) for names, what in plan.copied)
            while not self._options.dry_run and (batch := list(islice(moving, BATCH))):
                self._insist(downloads.receive, batch)
            self._keep_same_files(own, base, plan, theirs)
            self._remove_here(own, base, plan, plan.after)
            return self._done(plan)

    def _chosen(self, source: str, destination: str) -> tuple[ChosenFolder, Names]:
        """The folder here that the user typed, and what in it will equal the source: the folder itself, or one of its
        names."""
        into = _into(destination, source)
        if not into or "\0" in into:
            raise TransferError("the destination has no usable name; name a folder")
        target = os.fsencode(os.path.realpath(os.path.expanduser(destination)))
        base: Names = (os.fsencode(plain_name(source)),) if into != destination else ()
        missing = trees.describe(target)["kind"] == "missing"
        if missing and base and not self._options.dry_run:
            with contextlib.suppress(OSError):  # a missing folder is reported below
                os.mkdir(target)
                missing = False
        if missing:  # it will be made, or would be, if the folder above it is there
            above, name = os.path.split(target)
            if not base or trees.describe(above)["kind"] == "folder":
                target, base = above, (name, *base)
        if trees.describe(target)["kind"] != "folder":
            if not missing:
                self._check_destination(destination, "file", None, "here")
            self._check_destination(into, "missing", None, "here")
        return self._open(into, target), base

    def _kind(self, folder: ChosenFolder, place: Names) -> str:
        try:
            for depth in range(1, len(place)):  # in a dry run its parent folder may be missing
                if folder.describe(place[:depth])["kind"] == "missing":
                    return "missing"
            return str(folder.describe(place)["kind"])
        except (OSError, file_names.Refused) as e:
            raise TransferError(str(file_names.why(e) if isinstance(e, OSError) else e)) from None

    def _open(self, shown: str, path: bytes) -> ChosenFolder:
        try:
            return ChosenFolder(path)
        except OSError as e:
            raise TransferError(f"cannot read {file_names.shown(shown)}: {file_names.why(e)}") from None

    # -- what is there

    def _where(self, path: str) -> Entry:
        cwd = self._far_cwd([path])
        request = wire_path(path)
        where = self._insist(lambda far: far.request(op="where", path=request, cwd=cwd()))
        return dict(checked_where(where, self._location))

    def _made_there(self, source: str, destination: str) -> bool:
        """Make the destination there if the source becomes a folder in it, and it is missing but its parent is not.
        Return whether that is so; in a dry run nothing is made."""
        if _into(destination, source) == destination:
            return False
        where = self._where(destination)
        if where["kind"] != "missing" or where.get("parent") != "folder":
            return False
        if not self._options.dry_run:
            self._insist(lambda far: far.request(op="folder", path=str(where["path"]).rstrip("/")))
            self._insist(
                lambda far: far.request(op="attributes", path=str(where["path"]).rstrip("/"), mode=0o755, mtime=None)
            )
        return True

    def _far_place(self, path: str, made: bool = False) -> tuple[str, Entry]:
        """A folder of the far side: its full path for the wire, and what it is now; ``made``: the folder above it was
        made, or would be."""
        where = self._where(path)
        parent = "folder" if made else where.get("parent")
        self._check_destination(path, where["kind"], parent, f"on {self._location}")
        missing = where["kind"] == "missing"
        what = {"kind": "missing"} if missing else description(where, self._location)
        return str(where["path"]).rstrip("/") or "/", what

    def _check_destination(self, path: str, kind: str, parent: Any, side: str) -> None:
        if kind == "link":
            raise TransferError(
                f"'{file_names.shown(path)}' is a link {side}; name the folder that it leads to, with a / at its end"
            )
        if kind not in ("folder", "missing"):
            raise TransferError(f"'{file_names.shown(path)}' is not a folder {side}; name another one")
        if kind == "missing" and parent != "folder":
            raise TransferError(no_parent(path, parent, side))

    def _arrivals(self, path: str, place: Names, folder: ChosenFolder | None) -> Iterator[Arrival]:
        downloads = Downloads(self._tally, folder)
        after: Arrival | None = None
        last = False
        limit = BATCH * 4
        while not last:
            batch, last = self._insist(downloads.entries, path, place, after, limit)
            yield from batch
            after = batch[-1] if batch else after

    def _kept(self, entries: Iterable[tuple[Names, Entry]]) -> dict[Names, Entry]:
        """The entries that are not excluded, by name; a folder comes before its content."""
        return {
            names: what
            for names, what in entries
            if what["kind"] != "end" and not self._is_excluded(names, what["kind"] == "folder")
        }

    def _is_excluded(self, names: Names, folder: bool) -> bool:
        for depth in range(1, len(names) + 1):
            name = os.fsdecode(names[depth - 1])
            path = "/".join(os.fsdecode(one) for one in names[:depth])
            for pattern in self._options.exclude:
                if pattern.endswith("/") and depth == len(names) and not folder:
                    continue
                plain = pattern.rstrip("/")
                whole = "/" in plain
                if fnmatch.fnmatchcase(path if whole else name, plain.lstrip("/")):
                    return True
        return False

    # -- what is to be done

    def _plan(self, source: dict[Names, Entry], there: dict[Names, Entry], first: list[tuple[Names, Entry]]) -> _Plan:
        plan = _Plan(list(first), made={names for names, _ in first})
        there = {names: what for names, what in there.items() if names[-1:] != (b"",)}  # a folder that is not readable
        for names, what in source.items():
            if what["kind"] == "odd":
                plan.unread.add(names[:-1] if names[-1:] == (b"",) else names)
                self._tally.note(b"/".join(names), f"left out: {what.get('reason', 'it cannot be copied')}")
                continue
            old = there.get(names)
            if old is not None and self._is_in_the_way(old["kind"], what["kind"]):
                plan.before += [one for one in there if _is_in(one, names)]
                old = None
            self._plan_copy(plan, names, what, old)
        # The end of a folder that is made comes after its content.
        plan.copied = _with_ends(plan.copied, plan.made)
        if self._options.delete:
            plan.delete(there, source)
        plan.folders = {names for names, what in there.items() if what["kind"] == "folder"}
        return plan

    def _plan_copy(self, plan: _Plan, names: Names, what: Entry, old: Entry | None) -> None:
        """Copy an entry, unless the destination has the same already."""
        is_folder = what["kind"] == "folder"
        if old is None or not (is_folder or self._same(what, old)):
            plan.copied.append((names, what))
            if is_folder:
                plan.made.add(names)
        elif not is_folder:
            self._tally.skipped += 1

    def _is_in_the_way(self, old: str, new: str) -> bool:
        """Whether an entry of the kind ``old`` must be deleted before one of the kind ``new`` can take its place."""
        if old == "folder":
            return self._options.delete and new != "folder"
        return new == "folder" or (old, new) == ("file", "link")

    def _same(self, what: Entry, old: Entry) -> bool:
        if what["kind"] != old["kind"]:
            return False
        if what["kind"] == "link":
            return bool(what.get("target") == old.get("target"))
        same = (what["size"], what["mode"]) == (old["size"], old["mode"])
        return same and not self._options.checksum and abs(what["mtime"] - old["mtime"]) < SAME_TIME

    def _begin(self, plan: _Plan) -> None:
        """Report what is copied, and show the progress bar."""
        for names, what in plan.copied:
            if what["kind"] == "end" or (self._options.dry_run and not names):
                continue
            if names:
                self._options.report(f"{'make  ' if what['kind'] == 'folder' else 'copy  '} {_shown(names, what)}")
        if self._options.dry_run:
            files = [what for _, what in plan.copied if what["kind"] in ("file", "link")]
            self._changed, self._changed_bytes = len(files), sum(what["size"] for what in files)
        elif plan.copied:
            self._tally.open(sum(what["size"] for _, what in plan.copied if what["kind"] == "file"))

    def _done(self, plan: _Plan) -> Synced:
        self._tally.files += self._changed
        self._tally.bytes += self._changed_bytes
        result = self._result()
        if self._undeleted:
            first, more = self._undeleted[0], len(self._undeleted) - 1
            raise TransferError(f"{first}" + (f"; and {more} more" if more else ""))
        return Synced(result, len(plan.before) + len(plan.after))

    # -- deleting

    def _remove_far(self, top: bytes, plan: _Plan, gone: list[Names]) -> None:
        self._say_deleted(plan, gone)
        waiting = list(gone) if not self._options.dry_run else []
        while waiting:
            self._insist(self._remove_batch, top, plan, waiting[:BATCH])
            del waiting[:BATCH]

    def _remove_batch(self, far: FarFiles, top: bytes, plan: _Plan, gone: list[Names]) -> None:
        def note(names: Names) -> Callable[[int, Any], None]:
            def take(kind: int, answer: Any) -> None:
                if isinstance(answer, dict) and "error" in answer:
                    self._not_deleted(plan, names, error_in(answer)[0])

            return take

        requests = []
        for names in gone:
            path = file_names.to_wire(file_names.join(top, *names))
            requests.append(({"op": "remove", "path": path}, note(names)))
        far.ask_all(requests)

    def _remove_here(self, folder: ChosenFolder, base: Names, plan: _Plan, gone: list[Names]) -> None:
        self._say_deleted(plan, gone)
        for names in gone if not self._options.dry_run else ():
            try:
                folder.remove((*base, *names))
            except OSError as e:
                self._not_deleted(plan, names, str(file_names.why(e)))
            except file_names.Refused as e:
                self._not_deleted(plan, names, str(e))

    def _keep_same_files(self, folder: ChosenFolder, base: Names, plan: _Plan, source: dict[Names, Entry]) -> None:
        """Where a file system ignores case, do not delete an old name that is the same file as a new one."""
        if not plan.after:
            return
        spelt = {file_names.to_wire(b"/".join(names)).casefold(): names for names in source}
        for names in list(plan.after):
            twin = spelt.get(file_names.to_wire(b"/".join(names)).casefold())
            with contextlib.suppress(OSError, file_names.Refused):  # what cannot be opened cannot be deleted either
                if twin is not None and folder.is_same((*base, *names), (*base, *twin)):
                    plan.after.remove(names)

    def _not_deleted(self, plan: _Plan, names: Names, why: str) -> None:
        sentence = f"{file_names.shown(b'/'.join(names))}: cannot be deleted: {why}"
        if names in plan.folders:  # something in it was excluded, or is new
            self._tally.note(b"/".join(names), f"not deleted: {why}")
        else:
            self._undeleted.append(sentence)

    def _say_deleted(self, plan: _Plan, gone: list[Names]) -> None:
        for names in gone:
            self._options.report(f"delete {_shown(names, {'kind': 'folder' if names in plan.folders else ''})}")


@dataclass
class _Plan:
    """The plan: first delete what is in the way (``before``), then copy (``copied``), then delete the rest (``after``).

    made     folders that will be made;  unread  parts of the source that could not be read: nothing there is deleted
    folders  the folders of the destination
    """

    copied: list[tuple[Names, Entry]]
    before: list[Names] = field(default_factory=list)
    after: list[Names] = field(default_factory=list)
    made: set[Names] = field(default_factory=set)
    unread: set[Names] = field(default_factory=set)
    folders: set[Names] = field(default_factory=set)

    def delete(self, there: Iterable[Names], source: Iterable[Names]) -> None:
        """Plan to delete what is ``there`` and not in the source: the content of a folder before the folder."""
        kept = {*source, *self.before}
        self.after = [one for one in there if one not in kept and not any(_is_in(one, top) for top in self.unread)]
        for gone in (self.before, self.after):
            gone.sort(key=lambda names: (-len(names), names))


def _is_in(names: Names, top: Names) -> bool:
    """Whether it is ``top`` or below it."""
    return names[: len(top)] == top


def _with_ends(copied: list[tuple[Names, Entry]], made: set[Names]) -> list[tuple[Names, Entry]]:
    """The entries; after the content of each folder that is made comes its end, which sets its mode and time."""
    found: list[tuple[Names, Entry]] = []
    open_: list[tuple[Names, Entry]] = []
    for names, what in copied:
        while open_ and names[: len(open_[-1][0])] != open_[-1][0]:
            found.append(open_.pop())
        found.append((names, what))
        if names in made:
            open_.append((names, dict(what, kind="end")))
    return found + open_[::-1]


def _into(destination: str, source: str) -> str:
    """Where the content of ``source`` goes: without a / at its end it becomes a folder in the destination, with the
    name that it was typed by."""
    name = plain_name(source)
    return destination if source.endswith("/") or not name else os.path.join(destination, name)


def _shown(names: Names, what: Entry) -> str:
    return str(file_names.shown(b"/".join(names))) + ("/" if what.get("kind") == "folder" else "")
