"""Member: one session of a group. It connects when it is first used, and does one job after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from ..connect.selection import Chosen
from ..connect.target import Target, load_target
from ..errors import CannotConnect, FlameError, NotSent
from ..remote.remote import Remote
from ..security.rendering import Rendering

# Seconds after a failed connection until the next attempt; before that the same error is raised at once.
AGAIN = 15.0
# Default timeout in seconds for connecting.
CONNECT = 5.0

Work = Callable[[Remote], Any]
# Seconds between two attempts to stop what was just about to begin.
_SOON = 0.02
# Seconds for which the thread of a member waits for another job before it ends.
_LINGER = 0.2

Load = Callable[[str, Mapping[str, Any]], Target]
Done = Callable[[Any, Exception | None], None]


def load_settings(where: str, settings: Mapping[str, Any]) -> Target:
    """The target at ``where``; these settings win over all others. Raises TargetError."""
    return load_target(where, overrides=settings)


def _stops(remote: Remote) -> bool:
    """Interrupt what runs there. False if the far side says that nothing runs; True also if it cannot be asked."""
    try:
        done = remote.interrupt()
        return not (done.done() and done.result() == {"done": "idle"})
    except FlameError:  # the job's own end shows it
        return True


class Begun(NamedTuple):
    """Work that is under way there, for which no thread has to wait: when ``future`` is done, ``value()`` returns its
    value or raises its error."""

    future: Future[Any]
    value: Callable[[], Any]


class Job:
    """Something for a member to do: ``work`` with its `Remote`; ``done`` gets the value or the error.

    ``work`` may return a `Begun`; the value is then that of ``Begun.value()``.
    """

    __slots__ = ("done", "has_begun", "is_stopped", "work")

    def __init__(self, work: Work, done: Done) -> None:
        self.work = work
        self.done = done
        self.is_stopped = False
        self.has_begun = False


class Member:
    """One session of a group.

    label     its name for people
    where     its target's name, or its location
    settings  as for `load_target`'s ``overrides``
    gate      a semaphore that limits how many members connect at once
    patience  timeout in seconds for connecting
    load      makes the target from the name and the settings
    on_back   called with the label when the member has connected again after it was unreachable or lost its session
    """

    def __init__(
        self,
        chosen: Chosen,
        settings: Mapping[str, Any],
        gate: threading.Semaphore,
        on_back: Callable[[str], None],
        remote: Remote | None = None,
        load: Load = load_settings,
        patience: float = CONNECT,
    ) -> None:
        self.label = chosen.label
        self.where = chosen.where
        self._settings = dict(settings)
        self._gate = gate
        self._on_back = on_back
        self._load = load
        self._patience = patience
        self._remote = remote
        self._is_ours = remote is None
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._present: Job | None = None
        self._is_connecting = False
        self._failure: tuple[float, FlameError] | None = None
        self._was_there = False
        self._closed = False
        self._write_here: Callable[[str, str], None] | None = None
        self._told: Callable[[str], None] = lambda words: None
        self._rendering: tuple[Remote, Rendering] | None = None
        self.is_handed_out = False  # somebody has the `Remote`, who may go on with it without the group
        self._pid = os.getpid()
        self.unreached: Exception | None = None  # the error that kept the last job from starting, if any
        self.text: Callable[[str, str], None] | None = None  # gets the text that calls print, while a job runs

    def __repr__(self) -> str:
        return f"<Member {self.label} {self.state}>"

    @property
    def state(self) -> str:
        """The state: connecting, busy, idle, silent, lost, or "not connected"."""
        remote = self._remote
        if self._is_connecting:
            return "connecting"
        if remote is None:
            return "not connected"
        if remote.session.gone is not None:
            return "lost"
        if remote.session.trouble is not None:
            return "silent"
        return "idle" if self._present is None else "busy"

    def rendering(self, remote: Remote, say: Callable[[str], None], notebook: bool) -> Rendering:
        """The filter for what its session shows; ``say`` is told from now on what is withheld.

        ``notebook`` is as for ``Target.rendering``: a session's first cell decides.
        """
        self._told = say
        if self._rendering is None or self._rendering[0] is not remote:
            made = remote.session.target.rendering(lambda request, words: self._told(words), notebook=notebook)
            self._rendering = remote, made
        return self._rendering[1]

    @property
    def is_closed(self) -> bool:
        """Whether the member is closed and takes no more jobs."""
        return self._closed

    @property
    def is_silent(self) -> bool:
        """Whether its connection is lost, or its server does not answer."""
        return self.state == "silent"

    @property
    def location(self) -> str:
        remote = self._remote
        return self.where if remote is None else remote.location

    @property
    def lent(self) -> Remote | None:
        """The `Remote` if somebody else has made it and will end it; else None."""
        return None if self._is_ours else self._remote

    @property
    def known(self) -> Remote | None:
        """The `Remote`; None if it is not connected yet."""
        return self._remote

    def submit(self, work: Work, done: Done, quick: bool = False) -> Job:
        """Add a job behind all earlier ones. ``done`` is called on the member's thread.

        ``quick``: the work waits for nothing and returns a `Begun`. If the member is connected and idle, it is then
        done on this thread, and ``done`` is called on the thread that brings the answer.
        """
        job = Job(work, done)
        with self._lock:
            is_open = not self._closed and os.getpid() == self._pid
            remote = self._idle_remote() if quick and is_open else None
            if remote is not None:
                self._present = job
            elif is_open:
                self._jobs.put(job)
                self._start()
        if remote is not None:
            self._begin_here(job, remote)
        elif not is_open:
            words = "is closed" if self._closed else f"belongs to process {self._pid}"
            self.unreached = FlameError(f"the group of {self.label} {words}; make another one")
            job.done(None, self.unreached)
        return job

    def _start(self) -> None:
        """Start the thread, unless there is one or a job goes on without it; called with the lock."""
        if self._thread is None and self._present is None:
            self._thread = threading.Thread(target=self._run, name=f"flame-member-{self.label}", daemon=True)
            self._thread.start()

    def _idle_remote(self) -> Remote | None:
        """The `Remote`, if it is connected and nothing else is to do there; called with the lock."""
        remote = self._remote
        if remote is None or self._thread is not None or self._present is not None or not self._jobs.empty():
            return None
        session = remote.session
        is_well = session.gone is None and session.trouble is None and session.ready.done()
        return remote if is_well else None

    def _begin_here(self, job: Job, remote: Remote) -> None:
        self.unreached = None
        job.has_begun = True
        try:
            begun = job.work(remote)
        except Exception as error:  # goes to the caller who waits
            self._over(job, None, error)
        except BaseException as error:  # Ctrl-C here, just now
            self._over(job, None, FlameError(f"{type(error).__name__} before {self.label} was asked"))
            raise
        else:
            begun.future.add_done_callback(lambda done: self._over(job, *self._outcome(begun.value)))

    def _over(self, job: Job, value: Any, error: Exception | None) -> None:
        """A job that had no thread is over."""
        with self._lock:
            self._present = None
            if not self._jobs.empty():
                self._start()
        job.done(value, error)

    def stop(self, job: Job) -> bool:
        """Stop a job: a waiting one is not started, a running one is interrupted. Returns whether it had started."""
        job.is_stopped = True
        remote = self._remote
        if not job.has_begun or remote is None:
            return False
        if self._present is job and not _stops(remote):  # it runs nothing there yet, but is about to
            threading.Thread(target=self._stop_soon, args=(job, remote), name="flame-stop", daemon=True).start()
        return True

    def _stop_soon(self, job: Job, remote: Remote) -> None:
        while self._present is job and not _stops(remote):
            time.sleep(_SOON)

    def connected(self) -> Remote:
        """The `Remote`, after connecting if necessary. Raises CannotConnect, TargetError and the like."""
        remote = self._remote
        if remote is not None and remote.session.gone is None:
            return remote
        if self._failure is not None and time.monotonic() - self._failure[0] < AGAIN:
            raise self._failure[1].with_traceback(None)
        if remote is not None and not self._is_ours:
            raise remote.session.gone or FlameError(f"{self.label} is gone")
        self._is_connecting = True
        try:
            with self._gate:
                target = self._load(self.where, self._settings)
                timeouts = dataclasses.replace(target.timeouts, connect=min(self._patience, target.timeouts.connect))
                made = Remote(dataclasses.replace(target, timeouts=timeouts))
        except FlameError as error:
            if isinstance(error, CannotConnect):
                self._failure = (time.monotonic(), error)
            raise
        finally:
            self._is_connecting = False
        if remote is not None:
            remote.close()
        self._write_here = made.write
        made.write = self._write
        self._remote = made
        if self._was_there or self._failure is not None:
            self._on_back(self.label)
        self._was_there, self._failure = True, None
        return made

    def close(self, leave: Callable[[Remote], None] = Remote.close) -> None:
        """End the session by ``leave``, which may also be `Remote.detach`. Idempotent."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)  # it ends now
        remote, self._remote = self._remote, None
        if remote is not None and self._is_ours:
            with contextlib.suppress(FlameError):
                leave(remote)
        if thread is not None and thread is not threading.current_thread() and not self._is_connecting:
            thread.join()

    def _check(self, job: Job) -> None:
        if job.is_stopped or self._closed:
            raise NotSent(self.location)

    def _reached(self) -> Remote:
        """The `Remote`; if connecting fails, the error is stored in ``unreached`` and raised."""
        self.unreached = None
        try:
            return self.connected()
        except Exception as error:  # whatever it is: the job was not started
            self.unreached = error
            raise

    def _write(self, name: str, text: str) -> None:
        write = self.text or self._write_here  # the latter if somebody uses the `Remote` without the group
        if write is not None:
            write(name, text)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            self._do(job)
            job = None  # the job may be the last to refer to its group
        if self._closed and self._remote is not None:  # it connected while the group was being closed
            with contextlib.suppress(FlameError):
                self._remote.close()

    def _next(self) -> Job | None:
        """The next job; None if there is none for a while, or no more: then this thread ends."""
        try:
            return self._jobs.get(timeout=_LINGER)
        except queue.Empty:
            with self._lock:
                if not self._jobs.empty():
                    return self._jobs.get()
                if not self._closed:
                    self._thread = None
            return None

    def _do(self, job: Job) -> None:
        self._present = job
        value, error = self._outcome(lambda: self._done_there(job))
        self._present = None
        job.done(value, error)

    def _done_there(self, job: Job) -> Any:
        self._check(job)
        remote = self._reached()
        job.has_begun = True
        self._check(job)
        value = job.work(remote)
        return value.value() if isinstance(value, Begun) else value

    def _outcome(self, work: Callable[[], Any]) -> tuple[Any, Exception | None]:
        """What ``work`` returns, or its error."""
        try:
            return work(), None
        except Exception as raised:  # goes to the caller who waits
            return None, raised
        except BaseException as raised:  # KeyboardInterrupt of the far side, SystemExit: they must not end this thread
            return None, FlameError(f"{type(raised).__name__} at {self.label}")
