"""A far side of files that answers what a test wants it to: transfers are tried on it without a server or a network."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flame_kernel.agent.remote import files
from flame_kernel.agent.wire import frames
from flame_kernel.agent.wire.files import file_names
from flame_kernel.files import transfer
from flame_kernel.files.far_files import FarFiles

Request = dict[str, Any]
# (request, link) -> the answer; frames that come before it go out by the link.
Answer = Callable[[Request, frames.Frames], Any]

_KEY = frames.connection_key(None, b"", b"")


class HostileFar(FarFiles):
    """The file functions of a far side: each request is answered by ``answer``, honestly where that gives None."""

    def __init__(self, answer: Answer) -> None:
        self.calls = True
        self.location = "evil.example:1"
        self.asked: list[Request] = []
        self.data: list[bytes] = []  # what came of files
        self._answer = answer
        self._pending = deque()
        self._out, self._in = frames.Box(), frames.Box()
        self.frames = frames.Frames(self._out.send, self._in.receive, _KEY, b"client")

    def close(self) -> None:
        self._pending.clear()

    def _call(self) -> None:
        box = frames.Box(bytes(self._out.sent))
        self._out.sent.clear()
        self.frames.restart(_KEY, _KEY)
        link = frames.Frames(box.send, box.receive, _KEY, b"server")
        honest = files.Worker(link, patient=False)
        while not box.empty:
            kind, payload = link.receive()
            if kind == frames.CONTROL:
                for request in payload["requests"] if payload.get("op") == "all" else [payload]:
                    self._one(request, link, honest)
            else:
                self.data.append(bytes(payload) if kind == frames.DATA else bytes(min(payload, 1 << 20)))
                honest.handle(kind, payload)
        honest.close()
        self._in.refill(bytes(box.sent))

    def _one(self, request: Request, link: frames.Frames, honest: files.Worker) -> None:
        self.asked.append(request)
        answer = self._answer(request, link)
        if answer is not None:
            link.send_control(answer)
        else:
            honest.handle(frames.CONTROL, request)


def hostile_session(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> Any:
    """A session whose files are those of a ``HostileFar``: for the functions of `transfer` and `sync`; its ``far`` is
    that."""
    far = HostileFar(answer)
    monkeypatch.setattr(transfer, "far_files", lambda session, small: far)
    talk: Future[Any] = Future()
    talk.set_result({"talk": "x"})
    return SimpleNamespace(
        server={"servertype": "multiplex", "host": "evil.example"},
        location=far.location,
        target=None,
        wire_message=None,
        ask=lambda op: talk,
        far=far,
    )


def content(link: frames.Frames, data: bytes = b"stolen", mode: int = 0o644, mtime: int = 1) -> Request:
    """Answer a ``read`` with this content."""
    link.send_control({"size": len(data), "mode": mode, "mtime": mtime, "more": True})
    link.room[: len(data)] = data
    link.send_room(len(data))
    return {"at": len(data), "last": True}


def entry(*path: Any, kind: str = "file", size: Any = 6, mode: int = 0o777, **more: Any) -> Request:
    """An entry of a ``list``, or with one name of a ``find``."""
    one = {"path": list(path), "kind": kind, "size": size, "mode": mode, "mtime": 1, **more}
    return one


def found(name: Any, kind: str = "file", **more: Any) -> Request:
    """An entry of a ``find``."""
    return {"source": "", "path": "/far", "name": name, "kind": kind, "size": 6, "mode": 0o644, "mtime": 1, **more}


def everything(top: Path) -> dict[str, tuple[Any, ...]]:
    """What is below ``top``, itself included: kind, mode, times and content, links not followed."""
    seen: dict[str, tuple[Any, ...]] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        content: Any = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        name = os.fsencode(path.relative_to(top)).decode("latin1")
        seen[name] = (oct(status.st_mode), status.st_nlink, status.st_mtime_ns, content)
    return seen


# -- what a transfer does to the file system, seen by audit events -----------------------------------------------------

_MODIFIES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.utime")
_MODIFIES += ("os.truncate", "os.chown", "os.mkfifo", "os.listdir", "os.scandir", "shutil.")
_watching: list[list[tuple[str, Any]]] = []
_installed: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or not (event == "open" or event.startswith(_MODIFIES)):
        return
    places = []
    for one in arguments[:1] if event == "open" else arguments:
        if isinstance(one, (str, bytes)):
            places.append(os.fsdecode(one))
        elif type(one) is int and event != "open" and one > 2:
            with contextlib.suppress(OSError):  # a mode, or a length
                places.append(os.readlink(f"/proc/self/fd/{one}"))
    _watching[-1].append((event, places))


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[str, list[str]]]]:
    """Every file that is opened, and what is made, changed or deleted meanwhile: ``(event, paths and names)``."""
    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)
    events: list[tuple[str, Any]] = []
    _watching.append(events)
    try:
        yield events
    finally:
        _watching.remove(events)


def outside(events: list[tuple[str, list[str]]], chosen: Path) -> list[str]:
    """The events that reach out of ``chosen``: by a path, or by a name that is more than one component."""
    known = {"/proc/self/status", str(chosen)}
    bad = []
    for event, places in events:
        if event == "os.symlink":  # its target is text
            places = places[1:]
        for place in places:
            if place.startswith("/"):
                inside = place in known or place.startswith(str(chosen) + "/")
            else:
                inside = place == "." or ("/" not in place and place not in ("", ".."))
            if not inside:
                bad.append(f"{event} {places}")
    return bad


def shown(name: Any) -> str:
    """A name for a message of a test."""
    return str(file_names.shown(name)) if isinstance(name, str) else repr(name)
