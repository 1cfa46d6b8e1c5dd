"""The connections of a notebook, made by ``%flame connect``: each has a name, and one is the current one.

Keys are asked for without echo. A key in the command line works, and is removed from IPython's history.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from typing import Any, TypeVar

from ..commands.key_question import opened
from ..connect.keys import Ask, has_key, without_key
from ..connect.selection import unknown
from ..connect.target import Target, load_target
from ..connect.targets_file import TargetsFile, targets_path
from ..errors import FlameError, TargetError
from ..old_python.calls import OldPython
from ..remote.remote import Remote
from ..session.user import next_of

T = TypeVar("T")

# Seconds to wait until a session says where it is; after that we go on without.
READY_PATIENCE = 10.0

_KEY_WARNING = (
    "Warning: everyone who sees this notebook sees the key in this cell. It was taken out of "
    "IPython's history; take it out of the cell too. --key says where the key is: keyring, prompt or env:NAME; "
    "--key-file reads it from a file.\n"
)


class Connections:
    """Remotes by name. ``current`` is the name of the one that is used if a line names none.

    defaults  returns the default settings
    """

    def __init__(self, defaults: Callable[[], dict[str, Any]]) -> None:
        self._defaults = defaults
        self._remotes: dict[str, Remote] = {}
        self._asked: dict[str, tuple[str | None, dict[str, Any]]] = {}  # how each was connected
        self._old: dict[str, OldPython] = {}  # servers too old for a session
        self.current: str | None = None

    @property
    def defaults(self) -> dict[str, Any]:
        """The default settings."""
        return self._defaults()

    def __repr__(self) -> str:
        return f"<Connections {', '.join(self._remotes) or 'none'}; current {self.current}>"

    def items(self) -> list[tuple[str, Remote]]:
        """Names and remotes, the oldest first."""
        return list(self._remotes.items())

    def __contains__(self, name: str) -> bool:
        return name in self._remotes

    @property
    def names(self) -> list[str]:
        return [*self._remotes, *self._old]

    def is_connected(self, name: str) -> bool:
        """Whether ``name`` is that of a connection, or the location of one."""
        return name in self.names or any(str(remote.location) == name for remote in self._remotes.values())

    def knows(self, name: str) -> bool:
        """Whether ``name`` is that of a connection, or of a target of targets.toml. Raises TargetError."""
        return self.is_connected(name) or name in targets()

    def pick(self, name: str | None = None) -> tuple[str, Remote]:
        """The name and the remote that ``name`` means, a name or a location; the current one for None."""
        if name is None:
            name = self.current
            if name is None:
                raise FlameError(
                    "not connected. Try: %flame connect HOST:PORT (or just %flame connect for a local test server)"
                )
        elif name not in self._remotes and name not in self._old:
            at = [one for one, remote in self._remotes.items() if str(remote.location) == name]
            if len(at) != 1:
                raise self._unknown(name)
            name = at[0]
        if name in self._old:
            raise FlameError(
                f"the server of {name} is too old for this (Python {self._old[name].version}): there are plain %%flame "
                f"cells, and with %flame connect {name} --as NAME what NAME.module, builtin, evaluate, put and get do"
            )
        remote = self._remotes[name]
        gone = remote.session.gone
        if gone is not None:
            reason = getattr(gone, "reason", str(gone))
            raise FlameError(
                f"the session at {remote.location} is gone: {reason}; its names are lost, "
                f"%flame connect {name} begins a new one"
            )
        return name, remote

    def hosts(self, words: str | None) -> tuple[str | None, dict[str, Any]]:
        """How to reach the server of the connection ``words`` (None: the current one) again: its name or location, and
        its settings. Words that name no connection are those of targets: they are returned without settings."""
        name = self.current if words is None else words
        if name not in self._remotes:
            return words, {}
        where, options = self._asked[name]
        return where or str(self._remotes[name].location), options

    def use(self, name: str) -> str:
        """Make it the current one; returns its name."""
        self.current = name if name in self._old else self.pick(name)[0]
        return self.current

    def _unknown(self, name: str) -> FlameError:
        """The error for a name that is no connection: where it is no target either, as in the kernel."""
        file = TargetsFile(targets_path(os.environ))
        if name in file.tables or ":" in name:
            known = f"there are {', '.join(self.names)}" if self.names else "none is made yet"
            return FlameError(f"there is no connection {name!r}, {known}; make it: %flame connect {name}")
        words = unknown(name, file.with_targets({one: str(at.location) for one, at in self.items()}))
        return TargetError(words if self.names else f"{words}; nothing is connected yet: %flame connect")

    def connect(
        self, where: str | None, alias: str | None, options: dict[str, Any], ask: Ask
    ) -> tuple[str, Remote, bool]:
        """Connect, and make it the current one; returns its name, the remote, and whether it is new.

        An existing connection with the same name and location is used as it is. If connecting fails, nothing changes.
        ``ask(prompt, password)`` returns the line that the user types, or None.
        """
        if where in self._remotes and where in self._asked:
            # The name of a connection: with the settings that it had before.
            name = alias or str(where)
            where, before = self._asked[str(where)]
            options = {**before, **options}
        else:
            name = alias or where or "local"
        old = self._remotes.get(name)
        if old is not None and old.session.gone is None and self._asked[name] == (where, options):
            self.current = name
            return name, old, False
        remote = self._open(where, options, ask)
        self._remotes[name] = remote
        self._asked[name] = (where, options)
        self.current = name
        if old is not None:
            old.close()
        self._leave_old(name)
        return name, remote, True

    def connect_old(
        self, where: str | None, alias: str | None, options: dict[str, Any], ask: Ask
    ) -> tuple[str, OldPython]:
        """Connect to a server that is too old for a session, and make it the current one."""
        name, defaults = alias or where or "local", self._defaults()

        def open_(target: Target) -> OldPython:
            if target.rails is not None:
                raise FlameError(f"{name} has rails, and on a Python too old for a session nothing keeps them")
            return OldPython(target)

        def begin(ask: Ask) -> OldPython:
            return opened(
                lambda asking: load_target(where, overrides=options, ask=asking, defaults=defaults), open_, ask
            )

        old = in_thread(begin, ask, undo=lambda late: late.close())
        self._leave_old(name)
        self._old[name] = old
        self.current = name
        return name, old

    def old(self, name: str | None) -> OldPython | None:
        """The connection of this name, the current one for None, if its server is too old for a session."""
        return self._old.get(name or self.current or "")

    def olds(self) -> list[tuple[str, OldPython]]:
        """All of these, by name."""
        return list(self._old.items())

    def _leave_old(self, name: str) -> None:
        if name in self._old:
            self._old.pop(name).close()

    def _open(self, where: str | None, options: dict[str, Any], ask: Ask) -> Remote:
        defaults = self._defaults()

        def begin(ask: Ask) -> Remote:
            remote = opened(
                lambda asking: load_target(where, overrides=options, ask=asking, defaults=defaults), Remote, ask
            )
            with contextlib.suppress(FlameError, futures.TimeoutError):
                remote.session.ready.result(READY_PATIENCE)
            return remote

        return in_thread(begin, ask, undo=lambda remote: remote.close())

    def take_up(self, name: str, base: str, remote: Remote) -> None:
        """Add a remote that is attached to the session ``name`` on the server of ``base``, and make it the current
        one."""
        where, options = self._asked[base]
        old = self._remotes.pop(name, None)
        self._remotes[name] = remote
        self._asked[name] = (where, {**options, "session": name})
        self.current = name
        if old is not None:
            old.close()

    def disconnect(self, name: str | None, keep: bool = False) -> str:
        """Close it, and end its session unless ``keep``; returns its name. Works also if the server is gone."""
        if name is None:
            name = self.current
        if name in self._old:
            self._leave_old(name)
            if self.current == name:
                self.current = next(reversed(self.names), None)
            return name
        if name is None or name not in self._remotes:
            name, _ = self.pick(name)
        remote = self._remotes.pop(name)
        self._asked.pop(name, None)
        if self.current == name:
            self.current = next(reversed(self.names), None)
        if keep:
            remote.session.detach()
        remote.close()
        return name

    def close(self) -> None:
        """Close all of them."""
        for name in self.names:
            with contextlib.suppress(FlameError):
                self.disconnect(name)


def targets() -> list[str]:
    """The names in targets.toml. Raises TargetError."""
    return sorted(TargetsFile(targets_path(os.environ)).tables)


def in_thread(work: Callable[[Ask], T], ask: Ask, undo: Callable[[T], None]) -> T:
    """The result of ``work``, which runs on another thread, so that Ctrl-C ends the wait at once and leaves nothing
    half done: if nobody waits any more, the result goes to ``undo``. Questions that ``work`` asks by its argument are
    asked on this thread."""
    future: Future[T] = Future()
    told: queue.SimpleQueue[tuple[str, bool, Future[str | None]] | None] = queue.SimpleQueue()

    def ask_there(prompt: str, password: bool) -> str | None:
        answer: Future[str | None] = Future()
        told.put((prompt, password, answer))
        return answer.result()

    def run() -> None:
        try:
            result = work(ask_there)
        except BaseException as e:  # raised where the result is awaited
            future.set_exception(e)
        else:
            future.set_result(result)
        told.put(None)

    threading.Thread(target=run, name="flame-magic", daemon=True).start()
    try:
        while (question := next_of(told)) is not None:
            prompt, password, answer = question
            try:
                answer.set_result(ask(prompt, password))
            except BaseException:  # raised again, mostly an interrupt; whoever waits for the answer is released
                answer.set_result(None)
                raise
        return future.result()
    except KeyboardInterrupt:
        future.add_done_callback(lambda late: None if late.exception() is not None else undo(late.result()))
        raise


def within(seconds: float, work: Callable[[], T]) -> T | None:
    """The result of ``work`` if it comes in time, else None, also if it fails: for completions, which are optional."""
    made: list[T] = []

    def run() -> None:
        with contextlib.suppress(Exception):  # a completion that fails, for any reason, offers nothing
            made.append(work())

    thread = threading.Thread(target=run, name="flame-magic", daemon=True)
    thread.start()
    thread.join(seconds)
    return made[0] if made else None


def forget_key(shell: Any, line: str) -> bool:
    """Remove the key in ``line``, if there is one, from all that IPython remembers; returns whether there was one. The
    user is warned, because we cannot change the text of the cell."""
    if not has_key(line):
        return False
    manager = shell.history_manager
    for history in (manager.input_hist_parsed, manager.input_hist_raw):
        for number, text in enumerate(history):
            history[number] = without_key(text)
    for name in ("_i", "_ii", "_iii", "_i00"):
        setattr(manager, name, without_key(getattr(manager, name)))
    for name, value in list(shell.user_ns.items()):
        if re.fullmatch(r"_i+|_i\d+", name) and isinstance(value, str):
            shell.user_ns[name] = without_key(value)
    with manager.db_input_cache_lock:
        manager.db_input_cache[:] = [
            (number, without_key(a), without_key(b)) for number, a, b in manager.db_input_cache
        ]
    _forget_in_database(manager)
    prompt = getattr(shell, "pt_app", None)
    if prompt is not None:  # the lines that the up arrow shows again
        strings = prompt.history._loaded_strings
        strings[:] = [without_key(text) for text in strings]
    sys.stderr.write(_KEY_WARNING)
    return True


def _forget_in_database(manager: Any) -> None:
    """IPython's own thread may have written the line to the file already; the file's free pages must not keep it."""
    if not manager.enabled or getattr(manager, "db", None) is None:
        return
    with contextlib.suppress(Exception):  # the database is locked or gone; IPython works without it, too
        database = manager.db
        database.execute("PRAGMA secure_delete = ON")
        rows = database.execute(
            "SELECT line, source, source_raw FROM history WHERE session = ? AND source_raw LIKE '%--key%'",
            (manager.session_number,),
        ).fetchall()
        with database:
            for line, source, raw in rows:
                database.execute(
                    "UPDATE history SET source = ?, source_raw = ? WHERE session = ? AND line = ?",
                    (without_key(source), without_key(raw), manager.session_number, line),
                )
