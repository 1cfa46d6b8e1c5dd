"""Commands of the magics for sessions that outlive a notebook: attach, watch, detach, hand over, replay."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable
from typing import Any

from ..commands import sessions
from ..commands.kept_cells import choose, header, label, not_kept
from ..commands.parsing import Line
from ..connect.keys import Ask
from ..errors import AgentError, FlameError
from ..remote.remote import Remote
from ..session.agent_client import AgentClient
from ..session.handshake import client_name
from ..session.session import Session
from ..session.user import ask_line
from ..terminal import plain_text
from .cells import Cells
from .connections import Connections, in_thread

# Seconds between two checks whether the other client has agreed; seconds to wait for an answer; bytes of one answer.
ASK_EVERY, PATIENCE, BATCH = 0.5, 30.0, 1 << 18


class Attaching:
    """Carries out those commands for one IPython shell; each command is the method of its name."""

    def __init__(self, shell: Any, connections: Connections, cells: Cells) -> None:
        self._shell = shell
        self._connections = connections
        self._cells = cells

    def attach(self, line: Line) -> None:
        base, remote = self._connections.pick(line["target"])
        name = line["name"]
        if name == remote.session.session_id:
            raise FlameError(f"{name} is the session of this connection already")
        if line["watch"]:
            self._look_on(remote, name)
            return
        client_id = uuid.uuid4().hex
        if line["ask"]:
            self._ask_for(remote, name, client_id)
        target = dataclasses.replace(remote.target, session=name)
        how = "force" if line["force"] else "must"

        def begin(ask: Ask) -> Remote:
            return Remote(target, how, client_id)

        try:
            taken = in_thread(begin, ask_line, undo=lambda late: late.detach())
        except AgentError as e:
            if e.code == "in_use":
                raise sessions.in_use(e, name) from None
            if e.code == "no_session":
                raise sessions.no_session(name) from None
            raise
        self._connections.take_up(name, base, taken)
        self._cells.adopt(taken)
        print(plain_text(f"{name}: the session at {taken.location} is attached, and is the current connection"))
        self._cells.take_up(taken)

    def _ask_for(self, remote: Remote, name: str, client_id: str) -> None:
        me = {"client": client_name(), "client_id": client_id}
        with contextlib.closing(AgentClient(remote.target)) as client:
            asked = client.ask("ask", session=name, **me)["asked"]
            whose = f"the client of {plain_text(name)}"
            print(sessions.is_asked(whose), flush=True)
            while (state := client.ask("asked", session=name, id=asked)["state"]) != "granted":
                if state == "refused":
                    raise sessions.is_kept("its client", name)
                time.sleep(ASK_EVERY)

    def _look_on(self, remote: Remote, name: str) -> None:
        show = self._cells.viewer(remote)
        print(sessions.is_watched(plain_text(name)), flush=True)
        with contextlib.closing(AgentClient(remote.target)) as client:
            try:
                for events in client.watch(name):
                    for event in events:
                        show(event)
            except KeyboardInterrupt:
                print(f"no longer watching {plain_text(name)}")

    def detach(self, line: Line) -> None:
        name, remote = self._connections.pick(line["name"])
        if remote.target.own:
            raise FlameError("this connection's own server ends with it, so its session cannot be detached")
        session = remote.session
        self._connections.disconnect(name, keep=True)
        print(plain_text(sessions.is_left(session.session_id, session.location)))

    def allow(self, line: Line) -> None:
        self._answer(True)

    def refuse(self, line: Line) -> None:
        self._answer(False)

    def _answer(self, allow: bool) -> None:
        """Answer all clients that ask for a session of this notebook."""
        asking = [(session, waiting) for session, waiting in self._cells.takeovers.items() if waiting]
        if not asking:
            raise FlameError("nobody is asking for a session of this notebook")
        for session, waiting in asking:
            for ask_id, who in list(waiting.items()):
                done = session.ask("consent", id=ask_id, allow=allow).result(PATIENCE)
                waiting.pop(ask_id, None)
                print(sessions.is_answered(who, allow, done))

    def replay(self, line: Line) -> None:
        remote = self._connections.pick(line["target"])[1]
        session, show = remote.session, self._cells.viewer(remote)
        cells = session.ask("cells").result(PATIENCE)
        known = [one for one in cells if isinstance(one, dict)] if isinstance(cells, list) else []
        chosen = choose(known, line["count"], "all" if line["all"] else None, ())
        for one in chosen:
            if len(chosen) > 1 or not one.get("complete", True):
                print(plain_text(header(one)))
            _show_again(session, one, show)
            if "ended" in one and one["ended"] is None:
                print(plain_text(f"--- {label(one)} still runs"))


def _show_again(session: Session, cell: dict[str, Any], show: Callable[[dict[str, Any]], None]) -> None:
    """Show what is kept of a cell's output; if the cell still runs, its output so far."""
    after = 0
    while True:
        try:
            batch = session.ask("replay", request=cell["request"], after=after, limit=BATCH).result(PATIENCE)
            events, done = batch["events"], bool(batch["done"])
            after = events[-1]["number"] if events else after
        except AgentError as e:
            raise not_kept(cell, e) from None
        except (KeyError, TypeError, IndexError):
            raise FlameError(f"{session.location} sent something that is not a cell's output") from None
        for event in events:
            show(event)
        if done or not events:
            return
