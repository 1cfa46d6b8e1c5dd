"""Runs programs on the far side like local ones: with stdin, stdout, stderr as exact bytes, and an exit status."""

from __future__ import annotations

import collections
import os
import queue
import re
import sys
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from ..errors import FlameError
from ..session.inbox import Event
from ..session.requests import Reply
from ..session.session import Session
from ..terminal import plain_text
from .foreground import Far, Foreground, Left, is_typed, one_output, write_bytes

# Exit statuses, as shells use them.
DONE, FAILED, INTERRUPTED = 0, 1, 130

# For stdin: bytes per request (about), requests sent at once, pieces read ahead.
PIECE, WINDOW, AHEAD = 1 << 20, 3, 16

# Bytes that are not valid text: events have them as lone surrogates.
_NO_TEXT = re.compile("[\udc80-\udcff]")
_NO_BYTES = (
    "output other than text is off: this server has no key. Connect by ssh:// or with --key-file, or add --trust"
)


class Program(Foreground):
    """Runs scripts, expressions and cells; ``ends``: nothing that they started is needed after their end."""

    def __init__(self, far: Far, *, ends: bool) -> None:
        super().__init__(far, leaves=True)
        self._ends = ends
        self._statuses: list[int] = []  # the arguments of sys.exit
        self._withheld = False
        self._feeder: Feeder | None = None

    def execute(self, code: str, mode: str = "cell", name: str = "", arguments: Sequence[str] = ()) -> int:
        """Run ``code`` and return its exit status for the shell."""
        self._statuses.clear()
        self._withheld = False
        typed = is_typed()
        about = {"mode": mode, "name": name, "arguments": list(arguments), "ends": self._ends, "stdin": not typed}
        about["one_output"] = one_output()
        request_id = uuid.uuid4().hex
        self._feeder = None if typed else Feeder(self._far.session, request_id)
        try:
            reply = self.run(code, store_history=False, request_id=request_id, program=about)
        except Left as e:
            print(f"[{e}]", file=sys.stderr)
            return INTERRUPTED
        finally:
            if self._feeder is not None:
                self._feeder.stop()
        return self._status(reply) or (FAILED if self._withheld else DONE)

    def begun(self, request_id: str) -> None:
        if self._feeder is not None:
            self._feeder.start()

    def _status(self, reply: Reply) -> int:
        status = reply.get("exit_status")
        if type(status) is int:
            return status
        if self._statuses:
            return self._statuses[-1]
        if reply.get("status") == "ok":
            return DONE
        return INTERRUPTED if self.presses or reply.get("ename") == "KeyboardInterrupt" else FAILED

    def show(self, event: Event) -> None:
        """Show one event; from a server that is not authenticated only text, no other bytes."""
        if event["type"] == "stream" and not self._rendering.full:
            content = event["content"]
            text, count = _NO_TEXT.subn("\ufffd", str(content.get("text", "")))
            if count:
                event = {**event, "content": {**content, "text": text}}
                if not self._withheld:
                    self._withheld = True
                    print(f"[{_NO_BYTES}]", file=sys.stderr)
        super().show(event)

    def stream(self, name: str, text: str) -> None:
        try:
            data = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # other lone surrogates in the output of a cell
            data = text.encode("utf-8", "replace")
        write_bytes(name, data)

    def error(self, content: dict[str, Any]) -> None:
        if content.get("ename") != "SystemExit":
            super().error(content)
            return
        value = str(content.get("evalue") or "0")
        try:
            self._statuses.append(int(value) & 255 if value != "None" else 0)
        except ValueError:
            self._statuses.append(FAILED)
            print(plain_text(value), file=sys.stderr)


class Feeder:
    """Sends our stdin to a program as it comes, until the program no longer reads it."""

    def __init__(self, session: Session, request_id: str) -> None:
        self._session = session
        self._request_id = request_id
        self._pieces: queue.Queue[bytes] = queue.Queue(AHEAD)
        self._over = threading.Event()

    def __repr__(self) -> str:
        return f"<Feeder of {self._request_id}{' over' if self._over.is_set() else ''}>"

    def start(self) -> None:
        """Call this when the program has been sent."""
        for name, work in (("flame-stdin", self._read), ("flame-feed", self._send)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def stop(self) -> None:
        """Call this when the program has ended. Input that we have read and it has not is lost, as with ssh."""
        self._over.set()

    def _read(self) -> None:
        piece = b"?"
        while piece and not self._over.is_set():
            try:
                piece = os.read(sys.stdin.fileno(), PIECE) if sys.stdin is not None else b""
            except (OSError, ValueError):  # stdin is closed
                piece = b""
            self._pieces.put(piece)

    def _send(self) -> None:
        under_way: collections.deque[Future[Reply]] = collections.deque()
        try:
            while not self._over.is_set():
                data, at_end = self._gathered()
                if data:
                    under_way.append(self._ask([data]))
                if at_end:
                    under_way.append(self._ask([], end=True))
                    return
                while len(under_way) > WINDOW:
                    if under_way.popleft().result().get("status") != "ok":
                        return
        except FlameError:
            pass  # the session has ended; the program's end reports that
        finally:
            self._over.set()
            while not self._pieces.empty():  # wake a reader that waits to put a piece
                self._pieces.get()

    def _gathered(self) -> tuple[bytes, bool]:
        """The bytes that have come, and whether that is the end."""
        found = [self._pieces.get()]
        while found[-1] and sum(map(len, found)) < PIECE and not self._pieces.empty():
            found.append(self._pieces.get())
        return b"".join(found), not found[-1]

    def _ask(self, buffers: list[bytes], **fields: Any) -> Future[Reply]:
        return self._session.request("stdin", buffers=buffers, of=self._request_id, **fields)
