"""Sends files to the far side, a batch at a time; what was acknowledged is not sent again after a cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..agent.wire import frames
from ..agent.wire.files import file_names, receiving, trees
from .destination import ChosenFolder, Names
from .far_files import BURST, FarFiles, Message, error_in
from .progress import Entry, Tally

# Bytes: a smaller file is sent without asking first whether it is there.
SMALL = 128 << 10


@dataclass
class Departure(Entry):
    """One entry: from ``place`` in a folder that the user named, or without a folder from the file of that path, to
    ``far``. ``what`` describes it as `trees.walk` does; ``name`` is for people."""

    folder: ChosenFolder | None
    place: Names
    far: bytes
    what: dict[str, Any]
    name: bytes
    done: bool = False
    forward: int = 0
    failed: bool = False
    answer: Message | None = None

    @property
    def path(self) -> str:
        return str(file_names.to_wire(self.far))

    def source(self) -> trees.Source:
        """The file to read. It was chosen before any request, so no answer can select another one."""
        if self.folder is None:
            return trees.Source(self.place[0], follow=True)
        return self.folder.source(self.place)


class Uploads:
    """Sends batches, and counts in ``tally``; ``where`` names the far side in sentences."""

    def __init__(self, tally: Tally, where: str) -> None:
        self._tally = tally
        self._where = where
        self._reading: ChosenFolder | None = None  # the folder of the file that was read last
        self._made: set[bytes] = set()  # folders made by us that are still being filled
        self._ends: list[Departure] = []  # those that are complete: they get their mode and time

    def __repr__(self) -> str:
        return f"<Uploads to {self._where}, {self._tally!r}>"

    def send(self, far: FarFiles, batch: list[Departure]) -> None:
        """Send the part of the batch that is not there yet. After a ConnectionLost call it again with a new ``far``."""
        for end in self._ends:
            request = {"op": "attributes", "path": end.path, "mode": end.what["mode"], "mtime": end.what["mtime"]}
            far.ask(request, lambda kind, answer: None)
        offsets = self._look(far, [one for one in batch if one.kind == "file" and not one.done])
        for one in batch:
            if one.done:
                continue
            if one.kind == "file":
                self._send_file(far, one, offsets.get(one.far, 0))
            elif one.kind == "folder":
                far.ask({"op": "folder", "path": one.path}, self._answer_to(one))
            elif one.kind == "link":
                far.ask({"op": "link", "path": one.path, "target": one.what["target"]}, self._answer_to(one))
            elif one.kind == "odd":
                self._tally.note(one.name, f"left out: {one.what['reason']}")
                one.done = True
        far.wait()
        self._ends = [one for one in batch if one.kind == "end" and one.far in self._made]
        self._made.difference_update(one.far for one in self._ends)

    def close(self) -> None:
        """Close the files that are open for reading."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def finish(self, far: FarFiles) -> None:
        """Set the mode and time of the last folders."""
        self.send(far, [])

    # -- what is there already

    def _look(self, far: FarFiles, files: list[Departure]) -> dict[bytes, int]:
        """Find out where to continue each larger file; those that are there already are done."""
        large = [one for one in files if one.size >= SMALL]
        looks: dict[bytes, Message] = {}
        if large:
            far.ask_all([(self._question(one), partial(_keep, looks, one.far)) for one in large])
        offsets = {}
        for one in large:
            look = looks[one.far]
            as_long = look.get("kind") == "file" and look.get("size") == one.size
            if as_long and self._same(far, one, one.path, one.size) == one.size:
                self._already_there(far, one, look)
                continue
            part = look.get("part")
            if type(part) is int and 0 < part <= one.size:
                path = file_names.to_wire(receiving.part_path(one.far, one.size, one.what["mtime"]))
                offsets[one.far] = self._same(far, one, path, part)
        return offsets

    def _question(self, one: Departure) -> Message:
        return {"op": "look", "path": one.path, "size": one.size, "mtime": one.what["mtime"]}

    def _already_there(self, far: FarFiles, one: Departure, look: Message) -> None:
        if (look.get("mode"), look.get("mtime")) != (one.what["mode"], one.what["mtime"]):
            request = {"op": "attributes", "path": one.path, "mode": one.what["mode"], "mtime": one.what["mtime"]}
            far.ask(request, lambda kind, answer: None)
        one.done = True
        self._tally.skipped += 1
        self._tally.reach(one, one.size)

    def _same(self, far: FarFiles, one: Departure, path: str, limit: int) -> int:
        """How many of the first ``limit`` bytes are the same in our file and in theirs at ``path``."""
        try:
            with self._source(one) as source:
                theirs = far_sums(
                    far, path, limit, lambda: list(trees.sums(source, 0, limit, far.frames.room, far.frames.hash))
                )
        except (OSError, file_names.Refused):
            return 0  # it cannot be read: reported when it should be sent
        return theirs

    def _source(self, one: Departure) -> trees.Source:
        """The file to read; only one source folder is open at a time."""
        if self._reading is not one.folder and self._reading is not None:
            self._reading.close()
        self._reading = one.folder
        return one.source()

    # -- sending

    def _send_file(self, far: FarFiles, one: Departure, offset: int) -> None:
        """Send one file from ``offset`` on; the answer tells whether it succeeded."""
        tally = self._tally
        try:
            with self._source(one) as source:
                if (source.size, source.mtime) != (one.size, one.what["mtime"]):
                    offset = 0  # it has changed: what is there is part of the old content
                write = {"op": "write", "path": one.path, "size": source.size, "mtime": source.mtime}
                far.ask(dict(write, offset=offset), self._answer_to(one))
                end = {"op": "done", "mode": source.mode, "mtime": source.mtime, "compare": source.size < SMALL}
                try:
                    at = burst = offset
                    self._tally.reach(one, at)
                    while at < source.size and not one.failed:
                        size = source.hole_at(at, source.size)
                        if size:
                            far.frames.send_hole(size)
                        else:
                            size = source.read_into(far.frames.room[: min(frames.CHUNK, source.size - at)], at)
                            if not size:
                                raise file_names.Refused("it became shorter while it was read")
                            far.frames.send_room(size)
                        at += size
                        tally.bytes += size
                        self._tally.reach(one, at)
                        far.look()
                        if far.calls and at - burst >= BURST and at < source.size:
                            far.tell({"op": "pause"})
                            far.wait()
                            burst = at
                            if not one.done:
                                far.ask(dict(write, offset=at), self._answer_to(one))
                    if one.done:
                        return
                    if source.changed:
                        tally.note(one.name, "it was written to while it was copied")
                except (OSError, file_names.Refused) as e:
                    self._fail(one, e)
                far.tell({"op": "drop"} if one.failed else end)
        except (OSError, file_names.Refused) as e:
            self._fail(one, e)

    def _fail(self, one: Departure, error: OSError | file_names.Refused) -> None:
        reason = file_names.why(error) if isinstance(error, OSError) else error
        one.failed = one.done = True
        self._tally.fail(one.name, str(reason), "", "here")

    def _answer_to(self, one: Departure) -> Any:
        def handle(kind: int, answer: Any) -> None:
            if kind != frames.CONTROL or one.done:
                return
            if "error" in answer:
                one.failed = True
                if answer.get("code") == "full" or not answer.get("more"):
                    one.done = True
                    self._tally.fail(one.name, *error_in(answer), self._where)
            elif one.kind == "folder":
                one.done = True
                if answer.get("made"):
                    self._made.add(one.far)
            elif one.kind == "link" or "same" in answer:
                one.done = True
                if answer.get("same") or answer.get("made") is False:
                    self._tally.skipped += 1
                else:
                    self._tally.files += 1

        return handle


def _keep(answers: dict[bytes, Message], name: bytes, kind: int, answer: Any) -> None:
    answers[name] = answer


def far_sums(far: FarFiles, path: str, limit: int, ours: Any) -> int:
    """How many of the first ``limit`` bytes are equal in the far side's ``path`` and in our file. ``ours()`` returns
    our checksums, and runs while the far side computes its own."""
    theirs: list[Any] = []

    def take(kind: int, answer: Any) -> None:
        if kind == frames.CONTROL and isinstance(answer.get("sums"), list):
            theirs.extend(answer["sums"][: limit // trees.PIECE + 1 - len(theirs)])

    if far.calls:  # none of which may take long
        for start in range(0, limit, trees.PIECE):
            end = min(start + trees.PIECE, limit)
            far.ask({"op": "sums", "path": path, "start": start, "limit": end}, take)
            far.wait()
    else:
        far.ask({"op": "sums", "path": path, "start": 0, "limit": limit}, take)
    mine = ours()
    far.wait()
    return int(trees.matching(mine, theirs, limit))
