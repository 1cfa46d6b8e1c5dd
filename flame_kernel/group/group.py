"""Group: several sessions used as one; ``flame.group`` returns it.

    web = flame.group("web")
    web.execute("import platform"); web.evaluate("platform.node()")
    web.run(function, 3); web.map(function, range(1000)); web["x"] = 4; web.scatter("part", rows)
    web.noblock.execute("import numpy")     # a future

A call returns `Results`: a mapping from hosts to answers.  It raises GroupError if the code failed on a host.  A host
that cannot be reached gets an entry in ``results.errors``, and a line on stderr.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast, overload

from ..commands.library_rails import check_group
from ..errors import FlameError, GroupError, NotAnswered, NotSent, TargetError
from ..profile import asking
from ..profile.profile import Profile
from ..remote.remote import Remote
from ..session.user import catch_interrupts, without_our_frames
from ..terminal import plain_text
from . import folding
from .calls import Calls, NoBlock
from .executor import GroupExecutor
from .future import GroupFuture, Make
from .member import Job, Member
from .parts import joined
from .results import Results

# Seconds to wait for a host that gives no sign of life, after all others are done.
PATIENCE = 2.0
# Seconds between two checks for silent hosts.
_LOOK = 0.25
# Seconds after which Stop has reached every host that can be reached.
_STOP = 2.0


class Group(Calls, Sequence[Remote]):
    """Several sessions that are called together. Made by `opening.group`; as a context manager it closes itself.

    A sequence of `Remote`s: ``web[0]``, ``web["web1"]``.  ``web[1:3]`` is a group of some members with the same
    sessions.  ``web["x"]`` is the variable ``x`` on each host, unless a host is called ``x``.
    """

    def __init__(
        self,
        members: Sequence[Member],
        owner: Group | None = None,
        lasting: bool = False,
        confirmed: bool = False,
    ) -> None:
        """``lasting``: the sessions outlive this object. ``confirmed``: see `opening.group`."""
        self._members = list(members)
        self._owner = owner
        self._confirmed: bool = confirmed if owner is None else owner._confirmed
        self._cautions: list[str] = []
        self.patience: float = PATIENCE if owner is None else owner.patience
        self.is_lasting = lasting
        if owner is None:
            _open.add(self)
            self._end = weakref.finalize(self, _dropped, () if lasting else self._members)
            self._end.atexit = False  # `_close_all` does that

    def __repr__(self) -> str:
        return f"<Group of {len(self)}; {self.states}>"

    @property
    def _group(self) -> Group:
        return self

    @property
    def noblock(self) -> NoBlock:
        """The same calls, which return futures at once."""
        return NoBlock(self)  # not kept: a cycle would keep the sessions until the garbage collector runs

    @property
    def states(self) -> str:
        """The states of the members: ``idle: web[1-3]; connecting: db``."""
        found: dict[str, list[str]] = {}
        for member in self._members:
            found.setdefault(member.state, []).append(member.label)
        return "; ".join(f"{state}: {folding.names(hosts)}" for state, hosts in found.items())

    # -- a sequence ----------------------------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the members, in order."""
        return tuple(member.label for member in self._members)

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Remote]:
        return (self._remote(member) for member in self._members)

    def __contains__(self, one: object) -> bool:
        return one in self.labels or any(member.known is one for member in self._members)

    @overload
    def __getitem__(self, which: int) -> Remote: ...
    @overload
    def __getitem__(self, which: slice) -> Group: ...
    @overload
    def __getitem__(self, which: str) -> Any: ...
    def __getitem__(self, which: int | slice | str) -> Any:
        if isinstance(which, str):
            for member in self._members:
                if member.label == which:
                    return self._remote(member)
            return self.pull(which)
        if isinstance(which, slice):
            return self.some(self.labels[which])
        return self._remote(self._members[which])

    def __setitem__(self, name: str, value: Any) -> None:
        self.push({name: value})

    def some(self, labels: Iterable[str]) -> Group:
        """A group of some of the members, each once, with the same sessions; raises TargetError for unknown labels."""
        wanted = list(dict.fromkeys(labels))
        known = {member.label: member for member in self._members}
        for label in wanted:
            if label not in known:
                raise TargetError(f"{label} is not in this group; there are {folding.names(self.labels)}")
        if not wanted:
            raise TargetError(f"no host is chosen; the members are {folding.names(self.labels)}")
        return Group([known[label] for label in wanted], self._owner or self)

    def _remote(self, member: Member) -> Remote:
        """The member's `Remote`. The member connects on its own thread, after the jobs that it already has.

        Raises what kept it from that, such as CannotConnect.
        """
        future = Group([member], self._owner or self)._begin(lambda member, remote: remote)
        member.is_handed_out = True
        try:
            return cast(Remote, self.wait_for(future)[member.label])
        except GroupError as error:
            raise error.errors[member.label] from None

    # -- calls --------------------------------------------------------------------------------------------------------

    @property
    def modules(self) -> Chain:
        """``group.modules.os.getloadavg()`` calls a function of a module on each host."""
        return Chain(self, "module", ())

    @property
    def builtins(self) -> Chain:
        """``group.builtins.len("abc")`` calls a built-in function on each host."""
        return Chain(self, "builtins", ())

    def gather(self, name: str) -> Any:
        """Join the values of a name on all hosts in order: lists to a list, arrays to an array, frames to a frame.

        Raises GroupError if a host does not have the name, and FlameError if the kinds differ.
        """
        results = self.pull(name)
        results.answers()  # all of them, or an error
        return joined(results.ok)

    def executor(self, retries: int = 0) -> GroupExecutor:
        """A ``concurrent.futures.Executor`` that distributes calls among the members.

        ``retries`` is how often a call is repeated if its host was lost while it ran; 0: never, as it may have run.
        """
        return self._executor("", retries)

    def _executor(self, code: str | Callable[..., Any], retries: int = 0) -> GroupExecutor:
        self._hold(code)
        return GroupExecutor(self._members, retries, self._owner or self)

    def map(
        self, function: Callable[..., Any], /, *iterables: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Call the function for each item, distributed among the members; return the results in order.

        ``chunksize`` items are sent to a member at a time; None means a quarter of each member's share.
        """
        return list(self.imap(function, *iterables, chunksize=chunksize))

    def imap(
        self, function: Callable[..., Any], /, *iterables: Iterable[Any], chunksize: int | None = None
    ) -> Iterator[Any]:
        """As ``map``, but an iterator that yields the results in order, each as soon as possible."""
        rows = list(zip(*iterables, strict=False))
        size = max(1, len(rows) // (4 * len(self))) if chunksize is None else chunksize
        return self._executor(function).map(function, *zip(*rows, strict=True), chunksize=size) if rows else iter(())

    @contextlib.contextmanager
    def sync_imports(self) -> Iterator[None]:
        """``with group.sync_imports(): import numpy`` imports the modules here and on each host."""
        with _IMPORTING:
            yield from self._sync_imports()

    def _sync_imports(self) -> Iterator[None]:
        before, group, thread = builtins.__import__, self, threading.get_ident()
        depth = [0]

        def both(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
            if depth[0] or level or threading.get_ident() != thread:
                return before(name, globals, locals, fromlist, level)
            depth[0] += 1
            try:
                found = before(name, globals, locals, fromlist, level)
                line = f"from {name} import {', '.join(fromlist)}" if fromlist else f"import {name}"
                group.execute(line)
                return found
            finally:
                depth[0] -= 1

        builtins.__import__ = both
        try:
            yield
        finally:
            builtins.__import__ = before

    def _hold(self, code: str | Callable[..., Any]) -> None:
        """Hold code back that is to run on all of them, if the rails of one say so. Raises FlameError."""
        check_group(self._members, code, self._confirmed)

    def _do(self, work: Callable[[Member, Remote], Any], make: Make = Results, quick: bool = False) -> Results:
        return self.wait_for(self._begin(work, make, quick))

    def _begin(self, work: Callable[[Member, Remote], Any], make: Make = Results, quick: bool = False) -> GroupFuture:
        """Begin ``work`` on all members; ``quick`` is as for ``Member.submit``."""
        jobs: dict[str, Job] = {}
        known = {member.label: member for member in self._members}

        def stop(label: str) -> None:
            if label in jobs and not known[label].stop(jobs[label]):
                future.failed(label, NotSent(known[label].location))

        future = GroupFuture(self.labels, stop, make)

        def done(member: Member, value: Any, error: Exception | None) -> None:
            if error is None:
                future.answered(member.label, value)
            else:
                future.failed(member.label, error)

        if quick:
            future.hold()
        pressed = threading.Event()
        with catch_interrupts(pressed.set):  # else Ctrl-C could leave calls running that nobody knows of
            for member in self._members:
                there = partial(work, member) if quick else partial(_worked, member, work, future)
                jobs[member.label] = member.submit(there, partial(done, member), quick)
            if quick or not future.done():
                watch = threading.Thread(
                    target=self._watch, args=(future, jobs, quick), name="flame-group", daemon=True
                )
                watch.start()
        if pressed.is_set():
            future.interrupt()
            raise without_our_frames(KeyboardInterrupt())
        return future

    def _watch(self, future: GroupFuture, jobs: Mapping[str, Job], completes: bool) -> None:
        """Give up hosts that show no sign of life for ``patience`` seconds after all others are done.

        With ``completes`` the future is held, and completed here.
        """
        known = {member.label: member for member in self._members}
        since: dict[str, float] = {}
        while not future.settled(_LOOK):
            pending = [known[label] for label in future.pending]
            silent = [member for member in pending if member.is_silent]
            now = time.monotonic()
            since = {member.label: since.get(member.label, now) for member in silent}
            if len(silent) < len(pending) or not future.progress:
                continue
            for member in silent:
                if now - since[member.label] >= self.patience:
                    job = jobs[member.label]
                    job.is_stopped = not job.has_begun
                    fate = "what was asked may still run there" if job.has_begun else "it was not asked"
                    words = f"its link is down, and the others are done; {fate}"
                    future.failed(member.label, NotAnswered(member.label, words))
        if completes:
            future.complete()

    def wait_for(self, future: GroupFuture, tell: bool = True) -> Results:
        """Wait for a call of ``noblock`` and return its results; raises GroupError if it failed on a host.

        Unless ``tell`` is False, the printed text of calls and the hosts that did not answer are shown here. Ctrl-C
        interrupts all hosts; KeyboardInterrupt is raised when they have stopped, or after 2 s.
        """
        try:
            future.wait()
        except KeyboardInterrupt as stopped:
            future.interrupt()
            with contextlib.suppress(KeyboardInterrupt):  # pressed again: leave at once
                future.wait(_STOP)
            tell_text(future.results)
            left = future.pending
            if left:
                print(f"[not stopped yet: {folding.names(left)}]", file=sys.stderr)
            raise without_our_frames(stopped) from None
        results = future.results
        if tell:
            tell_text(results)
        if tell and results.unreachable and results.ok:
            words = folding.names(list(results.unreachable))
            print(f"[{len(results.unreachable)} of {len(results)} hosts do not answer: {words}]", file=sys.stderr)
        return future.result()

    # -- the end -------------------------------------------------------------------------------------------------------

    def profile(self, seconds: float = asking.SECONDS, **how: Any) -> Profile:
        """Where the time goes on all hosts, as one profile; see `Remote.profile`. Its note names hosts without one."""
        options = asking.ProfileOptions.named(seconds=seconds, **how)
        return asking.together(self.each(lambda remote: asking.Taking(remote.session, options)))

    def interrupt(self) -> None:
        """Interrupt what runs on all hosts."""
        for member in self._members:
            remote = member.known
            if remote is not None:
                with contextlib.suppress(FlameError):  # a host that is gone has nothing to interrupt
                    remote.interrupt()

    def close(self, spare: Collection[str] = ()) -> None:
        """End all sessions in parallel, except those with labels in ``spare``. Idempotent.

        A part of a group (such as ``web[1:3]``) does not own sessions, so nothing is ended.
        """
        if self._owner is None:
            self._leave(Remote.close, spare)

    def detach(self, spare: Collection[str] = ()) -> None:
        """Disconnect: the sessions and what they run stay alive on the servers; ``spare`` as for ``close``."""
        if self._owner is None:
            self._leave(Remote.detach, spare)

    def _leave(self, leave: Callable[[Remote], None], spare: Collection[str]) -> None:
        _open.discard(self)
        self._end.detach()
        leaving = [member for member in self._members if member.label not in spare]
        threads = [threading.Thread(target=member.close, args=(leave,), daemon=True) for member in leaving]
        for member, thread in zip(leaving, threads, strict=True):
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending and starts no new threads
                member.close(leave)
        for thread in threads:
            if thread.ident is not None:
                thread.join()

    def __enter__(self) -> Group:  # noqa: PYI034
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Chain:
    """A path to a module's attribute or a built-in function; calling it calls that function on each host."""

    def __init__(self, group: Group, root: str, path: tuple[str, ...]) -> None:
        self._group = group
        self._root = root
        self._path = path

    def __getattr__(self, name: str) -> Chain:
        if name.startswith("_"):
            raise AttributeError(name)
        return Chain(self._group, self._root, (*self._path, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function on each host."""
        return self._ask((("call", args, kwargs),))

    def fetch(self) -> Any:
        """The attribute's value on each host."""
        return self._ask(())

    def __repr__(self) -> str:
        return f"<{'.'.join((self._root, *self._path))} on {len(self._group)} hosts>"

    def _ask(self, steps: tuple[Any, ...]) -> Any:
        path, root = self._path, [self._root]
        if self._root == "module":
            if not path:
                raise TargetError("name a module: group.modules.os.getloadavg()")
            root, path = ["module", path[0]], path[1:]
        self._group._hold(".".join((*root[1:], *path)) + "(...)" * len(steps))
        chain = (*(("get", name) for name in path), *steps)
        return self._group._do(lambda member, remote: remote.perform(root, chain))


def _worked(member: Member, work: Callable[[Member, Remote], Any], future: GroupFuture, remote: Remote) -> Any:
    """Do ``work`` for a member and return its result; text that calls print meanwhile is stored in the future."""
    member.text = lambda name, text: future.printed(member.label, text)
    try:
        return work(member, remote)
    finally:
        member.text = None


def tell_text(results: Results) -> None:
    """Print what calls have printed on their hosts; equal text only once."""
    texts = {host: text for host, text in results.text.items() if text}
    if texts:
        print(plain_text(folding.told(texts, total=len(results))))


def _dropped(members: Sequence[Member]) -> None:
    """Called when a group that nobody closed is garbage collected: end its sessions, except those whose `Remote`
    somebody was given."""
    for member in members:
        leave = (lambda remote: None) if member.is_handed_out else Remote.close
        threading.Thread(target=member.close, args=(leave,), name="flame-dropped", daemon=True).start()


# Held by sync_imports: only one group at a time may replace the interpreter's __import__.
_IMPORTING = threading.RLock()

# Groups that are closed when the program ends, if they are still open.
_open: weakref.WeakSet[Group] = weakref.WeakSet()


def present() -> list[Group]:
    """The groups of this process that are open."""
    return list(_open)


@atexit.register
def _close_all() -> None:
    for one in list(_open):
        with contextlib.suppress(FlameError, GroupError):
            one.close()
