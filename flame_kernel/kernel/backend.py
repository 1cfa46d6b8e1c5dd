"""FarSide: where the kernel's cells run. One session at a time, made when needed, changed by ``%flame connect``."""

from __future__ import annotations

import platform
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from ..commands.status import status
from ..connect.target import Target
from ..errors import FlameError
from ..forward.forwards import Forwards
from ..group.group import Group
from ..hot import serving
from ..remote.calls import Calls
from ..remote.proxy import reference, stand_in
from ..remote.remote import Remote
from ..serve import early
from ..serve.embedded import OwnServer
from ..session.bootstrap import agent_text
from ..session.inbox import Event
from ..session.session import Session, held_back


class FarSide:
    """A target, and the session there.

    target      ``location`` None means a server of our own, started with the first session and ended with the last
    on_events   called with ``(session, events)`` on the session's events thread
    on_link     called with a sentence when the link breaks, None when it is back
    trouble     the error that says why there is no usable target; every cell gets it, until ``connect``
    group       the hosts on which cells run, instead of one; an editor's questions go to the first that answers

    ``count`` is the number of the notebook's next cell, wherever it runs; ``client_id`` names us to the agents.
    """

    def __init__(
        self,
        target: Target,
        on_events: Callable[[Session, list[Event]], None],
        on_link: Callable[[str | None], None],
        has_room: Callable[[Session], bool],
        trouble: FlameError | None = None,
    ) -> None:
        self.target = target
        self.trouble = trouble
        self.count = 1
        self.client_id = uuid.uuid4().hex
        self.group: Group | None = None
        self._on_events = on_events
        self._on_link = on_link
        self._has_room = has_room
        self._lock = threading.Lock()
        self._opening: Future[Session] | None = None
        self._own_server = OwnServer(agent_text, early.take)
        self._beside: Beside | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<FarSide {self.words()}>"

    @property
    def current(self) -> Session | None:
        """The session, or None if there is none that can be used."""
        if self.group is not None:
            return next(self._living(self.group), None)
        opening = self._opening
        if opening is None or not opening.done() or opening.exception() is not None:
            return None
        session = opening.result()
        return session if session.gone is None else None

    @property
    def own(self) -> Session | None:
        """The current session if cells run on one host; None on a group."""
        return self.current if self.group is None else None

    def session(self, for_cell: bool = False) -> Future[Session]:
        """The session, opened in the background if there is none. The future may fail with any FlameError; the next
        call then tries again.

        If a session is gone and the user does not know, one cell reports it and does not run, because its variables are
        missing.
        """
        future: Future[Session] = Future()
        group = self.group
        if group is not None:
            return self._first_of(group)
        with self._lock:
            if self.trouble is not None:
                future.set_exception(self.trouble)
                return future
            opening = self._opening
            if opening is not None and (not opening.done() or self.current is not None):
                return opening
            old = opening.result() if opening is not None and opening.exception() is None else None
            if old is not None and old.gone is not None and not old.told_gone:
                old.told_gone = for_cell
                future.set_exception(old.gone)
                return future
            self._opening = future
        threading.Thread(target=self._open, args=(future, old), name="flame-connect", daemon=True).start()
        return future

    def connect(self, target: Target, attach: str | None = None) -> Future[Session]:
        """Open a session at ``target``, and only then leave the present one for it; ``attach`` as in Session.

        If that fails (with any FlameError), or the future is cancelled before, nothing changes.
        """
        future: Future[Session] = Future()
        threading.Thread(target=self._change, args=(target, attach, future), name="flame-connect", daemon=True).start()
        return future

    def turn_to(self, target: Target, trouble: FlameError | None = None, group: Group | None = None) -> None:
        """From now on cells run at ``target``, or on a group, or get ``trouble``. Call it only if there is no session
        to leave."""
        with self._lock:
            self._opening = None
            self.target, self.trouble, self.group = target, trouble, group

    def join(self, group: Group, words: str) -> None:
        """From now on cells run on all hosts of a group; the present session is left, as by ``connect``."""
        with self._lock:
            before, self._opening = self._opening, None
            self.target, self.trouble, self.group = Target(name=words), None, group
        if before is not None:
            before.add_done_callback(_leave)
        self._own_server.close()

    @staticmethod
    def _living(group: Group) -> Iterator[Session]:
        """The sessions of the group whose links are up."""
        for member in group.members:
            remote = member.known
            if remote is not None and remote.session.gone is None and remote.session.trouble is None:
                yield remote.session

    def _first_of(self, group: Group) -> Future[Session]:
        """The first usable session of a group; if there is none yet, all hosts are connected."""
        future: Future[Session] = Future()
        living = next(self._living(group), None)
        if living is not None:
            future.set_result(living)
            return future

        def look(done: Any) -> None:
            living = next(self._living(group), None)
            if living is not None:
                future.set_result(living)
            else:
                error = next(iter(done.results.errors.values()), None)
                future.set_exception(error or FlameError("no host of the group answers"))

        group.noblock.connect().add_done_callback(look)
        return future

    def _change(self, target: Target, attach: str | None, future: Future[Session]) -> None:
        made: Future[Session] = Future()
        self._open(made, None, target, attach)
        if not future.set_running_or_notify_cancel():
            session = _session_of(made)
            if session is not None:
                if session.server["fresh"]:
                    session.close()
                else:
                    session.detach()
            return
        error = made.exception()
        if error is not None:
            future.set_exception(error)
            return
        session = made.result()
        with self._lock:
            before, self._opening = self._opening, made
            self.target, self.trouble, self.group = target, None, None
        if before is not None:  # perhaps it is still being opened
            before.add_done_callback(lambda left: _leave(left, keep=session))
        if target.location is not None:
            self._own_server.close()
        future.set_result(session)

    def _open(
        self, future: Future[Session], old: Session | None, target: Target | None = None, attach: str | None = None
    ) -> None:
        if old is not None:
            old.close()
        try:
            session = self._make(target or self.target, attach)
        except FlameError as e:
            future.set_exception(e)
        except Exception as e:  # a bug of ours must not leave a cell waiting for ever
            future.set_exception(FlameError(f"cannot open a session: {type(e).__name__}: {e}"))
        else:
            future.set_result(session)
            if self._closed:
                session.close()
                self._own_server.close()

    def _make(self, target: Target, attach: str | None) -> Session:
        target, alive = self._own_server.reach(target)
        with held_back(lambda events: self._take(session, events)) as on_events:
            session = Session(
                target, on_events, on_link=self._on_link, alive=alive, attach=attach, client_id=self.client_id
            )
        session.take_at_once(lambda: self._has_room(session))
        try:
            serving.by_target(session)
        except FlameError:
            session.close() if session.server["fresh"] else session.detach()
            raise
        return session

    def _take(self, session: Session, events: list[Event]) -> None:
        beside = self._beside
        if beside is not None and beside.session is session:
            events = beside.take(events)
        self._on_events(session, events)

    def beside(self, session: Session) -> Remote:
        """A `Remote` on the session of the cells, for a group that has this host among others."""
        if self._beside is None or self._beside.session is not session:
            self._beside = Beside(session)
        return self._beside

    def words(self) -> str:
        """Where cells run, in words."""
        if self.trouble is not None:
            return str(self.trouble)
        if self.group is not None:
            return f"cells run on {len(self.group)} hosts of {self.target.name}: {self.group.states}"
        session = self.current
        if session is None:
            opening = self._opening
            where = str(self.target.location) if self.target.location else "its own local server"
            if opening is not None and not opening.done():
                return f"connecting to {where}"
            left = _session_of(opening)
            error = left.gone if left is not None else opening.exception() if opening is not None else None
            return f"not connected to {where}" + (f": {error}" if error else "")
        return status(session, own="the kernel's own server")

    @property
    def language_info(self) -> dict[str, object]:
        """The field of a kernel_info_reply: the far side's Python once it is known, until then the kernel's own.

        https://jupyter-client.readthedocs.io/en/stable/messaging.html#kernel-info
        """
        session = self.current
        version = platform.python_version()
        if session is not None:
            version = ".".join(map(str, session.server["python"]))
        return {
            "name": "python",
            "version": version,
            "mimetype": "text/x-python",
            "codemirror_mode": {"name": "ipython", "version": 3},
            "pygments_lexer": "ipython3",
            "nbconvert_exporter": "python",
            "file_extension": ".py",
        }

    @property
    def is_kept(self) -> bool:
        """Whether the session goes on without this kernel: it does if the user has named it."""
        return self.target.session is not None and self.target.location is not None

    def detach(self) -> None:
        """Leave the session; it keeps running there."""
        session = self._taken_away()
        if session is not None:
            session.detach()

    def end(self) -> None:
        """End the session and all that it runs; the next cell opens a new one."""
        session = self._taken_away()
        if session is not None:
            session.close()

    def _taken_away(self) -> Session | None:
        with self._lock:
            opening, self._opening = self._opening, None
        return _session_of(opening)

    def close(self, keep: bool = False) -> None:
        """End the session, or leave it if ``keep``; end a server of our own."""
        with self._lock:
            self._closed = True
            opening, self._opening = self._opening, None
        session = _session_of(opening)
        if session is not None:
            if keep:
                session.detach()
            else:
                session.close()
        self._own_server.close()


def _session_of(opening: Future[Session] | None) -> Session | None:
    if opening is None or not opening.done() or opening.exception() is not None:
        return None
    return opening.result()


def _leave(opening: Future[Session], keep: Session | None = None) -> None:
    """Leave the session of ``opening``, if it has one, for ``keep``: it ends unless the user has named it."""
    session = _session_of(opening)
    if session is None:
        return
    if session.target.session is not None or (keep is not None and session.session_id == keep.session_id):
        session.detach()
    else:
        session.close()


class Beside(Remote):
    """A `Remote` on a session that somebody else opens and ends. The owner passes the session's events to ``take``, and
    shows those that it returns."""

    def __init__(self, session: Session) -> None:  # not the parent's, which opens a session
        self._own_server = OwnServer(agent_text)
        self._closed = False
        self.on_link = lambda sentence: None
        self.session = session
        self._calls = Calls(session, stand_in, reference)
        self.forwards = Forwards(session)
        self.taken_up = []

    def take(self, events: Sequence[Event]) -> list[Event]:
        """Handle the events of this `Remote`'s calls, and return the others. Called on the events thread."""
        return self._calls.take(events)
