"""``%%flame -t web``: a cell on several far sides at once, and what they show told once where they agree.

The words are those of ipyparallel's ``%%px``: https://ipyparallel.readthedocs.io/en/stable/tutorial/magics.html
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..commands.code_words import identifier
from ..commands.parsing import Line
from ..connect.selection import is_group
from ..connect.target import load_target
from ..connect.targets_file import TargetsFile, targets_path
from ..errors import FlameError, GroupError, NotSent
from ..group import folding
from ..group.cell import CellResults
from ..group.displays import displays
from ..group.future import GroupFuture
from ..group.group import Group
from ..group.member import Member
from ..group.opening import group
from ..group.results import told_errors
from ..session.user import catch_interrupts, next_of
from ..terminal import plain_text
from .connections import Connections
from .progress import RENEWED, Lines, Live, show_text
from .px import Auto

# Seconds after which it is shown who is done; px has the same.
PROGRESS_AFTER = 2.0
# Hosts up to which text is shown as it comes.
STREAMED = 2
# Seconds that hosts have to stop after Ctrl-C; pressed twice it is not waited for.
STOP_PATIENCE = 2.0


@dataclass(frozen=True)
class Wishes:
    """How a cell on a group is to run and to be told."""

    stream: bool
    how: str  # fold, type, engine or order
    diff: bool
    mask: bool
    progress_after: float
    stop: int  # the signal of Stop; 0: none
    seconds: float | None
    raise_error: bool


def wishes(line: Line, hosts: int, seconds: float | None, raise_error: bool) -> Wishes:
    """What the options of a ``%%flame`` line ask for. Raises FlameError."""
    how = line["group_outputs"] or ("engine" if line["e"] else "order" if line["r"] else "")
    few = hosts <= STREAMED and not (line["fold"] or how or line["mask"])
    after = line["progress_after"]
    return Wishes(
        stream=line["stream"] or (few and not line["no_stream"]),
        how=how or "fold",
        diff=not line["no_diff"],
        mask=line["mask"],
        progress_after=PROGRESS_AFTER if after is None else after if after >= 0 else float("inf"),
        stop=_signal(line["signal_on_interrupt"]),
        seconds=seconds,
        raise_error=raise_error,
    )


class Groups:
    """The groups of one IPython shell, by the words that named them; ``last`` is the last cell's future."""

    def __init__(self, shell: Any, connections: Connections) -> None:
        self._shell = shell
        self._connections = connections
        self._groups: dict[str, Group] = {}
        self._members: dict[str, Member] = {}  # of all of them: a host has one session, whatever words name it
        self._words: str | None = None  # those of the last group
        self.last: GroupFuture | None = None
        self.current: str | None = None  # the group that is meant where no target is named
        self.auto = Auto()

    def __repr__(self) -> str:
        return f"<Groups {', '.join(self._groups) or 'none'}>"

    def items(self) -> list[tuple[str, Group]]:
        return list(self._groups.items())

    def means(self, words: str | None) -> bool:
        """Whether ``words`` name several far sides, and no connection of this notebook. Raises TargetError."""
        if words is None:
            return self.current is not None
        if self._connections.is_connected(words):
            return False
        if words in self._groups or words in self._members:
            return True
        file = self._file()
        return is_group(words, file) or (words not in file.tables and _INDEX.fullmatch(words) is not None)

    def _file(self) -> TargetsFile:
        return _file().with_targets({name: str(one.location) for name, one in self._connections.items()})

    def of(self, words: str | None) -> Group:
        """The group of these words; its sessions stay until it is disconnected. Raises TargetError.

        None is the group of before, or the default group, or all connections; ``0``, ``1:3``, ``::2`` are some of its
        members, as in ``%%px``.
        """
        file = self._file()
        if words is None:
            return self._usual()
        if _INDEX.fullmatch(words) and words not in file.groups and words not in file.tables:
            return _some(self._usual(), words)
        self._words = words
        defaults, before = self._connections.defaults, self._groups.get(words)
        # Made anew each time, of the members that there are: the file, or a connection, may have changed.
        found = self._groups[words] = group(
            words,
            known=dict(self._connections.items()),
            load=lambda where, given: load_target(where, overrides=given, defaults=defaults),
            shared=self._members,
        )
        if before is not None and before.labels != found.labels:
            self._leave(before, keep=False)
        return found

    def _leave(self, group: Group, keep: bool) -> None:
        """End the sessions of a group that no other one has."""
        used = {label for other in self._groups.values() for label in other.labels}
        group.detach(used) if keep else group.close(used)
        for label in group.labels:
            if label not in used:
                self._members.pop(label, None)

    def _usual(self) -> Group:
        names = self._connections.names
        words = self._words or _file().default_group or ",".join(names)
        if not words:
            raise FlameError("no group is meant: name one by -t, or write default_group into targets.toml")
        return self.of(words)

    def disconnect(self, words: str, keep: bool = False) -> None:
        """End a group's sessions; with ``keep`` they live on there."""
        self._leave(self._groups.pop(words), keep)
        self._words = None if self._words == words else self._words
        self.current = None if self.current == words else self.current

    def close(self) -> None:
        """End all of them."""
        for words in list(self._groups):
            with contextlib.suppress(FlameError):
                self.disconnect(words)

    # -- a cell --------------------------------------------------------------------------------------------------------

    def run(
        self,
        line: Line,
        code: str,
        values: dict[str, Any],
        *,
        background: bool = False,
        raise_error: bool = True,
        seconds: float | None = None,
    ) -> GroupFuture | None:
        """Run one cell on a group; its future where it is not waited for."""
        out, pulled = line["out"], line["pull"]
        for wanted in (*pulled, *([out] if out else [])):
            identifier(wanted, "variable name")
        if not code.strip():
            raise FlameError("the cell is empty below %%flame; write what is to run there")
        chosen = self.of(line["target"] or self.current)
        how = wishes(line, len(chosen), seconds, raise_error)
        if line["verbose"]:
            print(f"runs on {len(chosen)} hosts: {folding.names(chosen.labels, None)}")
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        on_text = (lambda *one: told.put(one)) if how.stream and not background else None
        future: GroupFuture = chosen.noblock.cell(code, values=values, on_text=on_text)
        self.last = future
        if out:
            self._shell.user_ns[out] = future
        if background:
            if pulled:
                future.add_done_callback(lambda done: self._pull_behind(chosen, future, pulled))
            return None if out else future
        if line["local"]:
            with self.auto.off():
                self._shell.run_cell(code)
        self._follow(chosen, future, told, how)
        self._end(chosen, future, pulled, how)
        return None

    def _end(self, chosen: Group, future: GroupFuture, pulled: list[str], how: Wishes) -> None:
        """All are done: show what they gave, fetch what is wanted, raise what was raised."""
        results = future.results
        self.show(results, how)
        self._pull(chosen, future, pulled)
        if results.errors and how.raise_error:
            raise GroupError(len(results), results.errors, results, _errors(results))

    def _pull(self, chosen: Group, future: GroupFuture, names: list[str]) -> None:
        """Bind names to what they are on the hosts that are done."""
        done = future.results.ok
        for name in names if done else ():
            self._shell.user_ns[name] = chosen.some(done).pull(name)

    def _pull_behind(self, chosen: Group, future: GroupFuture, names: list[str]) -> None:
        """The same, behind a cell that nobody waits for; on a thread, for this is called on a member's own."""

        def pull() -> None:
            try:
                self._pull(chosen, future, names)
            except FlameError as e:
                print(plain_text(f"{', '.join(names)}: {e}"), file=sys.stderr)

        threading.Thread(target=pull, name="flame-pull", daemon=True).start()

    def _follow(self, chosen: Group, future: GroupFuture, told: queue.SimpleQueue[Any], wanted: Wishes) -> None:
        """Wait for the hosts; text and who is done appear meanwhile, Ctrl-C goes to all of them."""
        future.add_done_callback(lambda done: told.put(None))
        live, lines = Live(self._shell, chosen, future), Lines()
        deadline = float("inf") if wanted.seconds is None else time.monotonic() + wanted.seconds
        pressed = left_at = float("inf")
        if wanted.progress_after == 0:
            live.renew()
        with catch_interrupts(lambda: told.put(_PRESSED)):
            while time.monotonic() < left_at:
                event = _next(told)
                if event is None:
                    break
                if event is _PRESSED:
                    left_at = 0.0 if pressed < left_at or not wanted.stop else time.monotonic() + STOP_PATIENCE
                    pressed = time.monotonic()
                    _stop(chosen, future, wanted.stop)
                elif event:
                    lines.add(*event)
                if future.elapsed >= wanted.progress_after:
                    live.renew()
                if time.monotonic() > deadline:
                    deadline = float("inf")
                    future.interrupt()
        lines.end()
        live.end()
        if pressed < float("inf"):
            self._stopped(future, wanted)

    def _stopped(self, future: GroupFuture, wanted: Wishes) -> None:
        """Ctrl-C has ended the wait; raises."""
        results = future.results
        left = (*future.pending, *results.unreachable)
        if left:
            print(f"[not stopped yet: {folding.names(left)}]", file=sys.stderr)
        if not wanted.stop:
            raise FlameError("not waited for any more; it goes on there: %flame result")
        self.show(results, dataclasses.replace(wanted, raise_error=True))
        failed = {host: error for host, error in results.failed.items() if not _is_stop(error)}
        show_text("\n".join(told_errors(failed, len(results), 4)), sys.stderr)
        raise KeyboardInterrupt

    # -- showing -------------------------------------------------------------------------------------------------------

    def show(self, results: Any, wanted: Wishes) -> None:
        """Show what a cell has given on all hosts; errors are raised, or shown where they are not."""
        assert isinstance(results, CellResults)
        outputs = results.outputs
        if wanted.how == "fold":
            if not wanted.stream:
                texts = {host: one.text for host, one in outputs.items() if host in results.ok or one.text}
                show_text(folding.told(texts, diff=wanted.diff, mask=wanted.mask, total=len(results)))
            for one in displays(outputs, len(results)):
                if one.line:
                    show_text(one.line)
                self._shell.display_pub.publish(one.data, one.metadata)
        else:
            self._one_by_one(results, wanted)
        if results.errors and not wanted.raise_error:
            show_text("\n".join(_errors(results)), sys.stderr)

    def show_again(self, line: Line) -> None:
        """Show what is there of the last cell, and who is not done; no error is raised."""
        if self.last is not None:
            self.show(self.last.results, wishes(line, len(self.last), None, raise_error=False))
            if self.last.pending:
                print(f"[not done yet: {folding.names(self.last.pending)}]", file=sys.stderr)

    def _one_by_one(self, results: CellResults, wanted: Wishes) -> None:
        """Each host's output by itself, in px's three orders."""
        outputs = results.outputs
        if wanted.how == "engine":
            for host, one in outputs.items():
                self._texts(host, [("stdout", one.stdout), ("stderr", one.stderr)], wanted)
                self._bundles([(host, bundle) for bundle in one.bundles])
            return
        for name in ("stdout", "stderr"):
            for host, one in outputs.items():
                self._texts(host, [(name, getattr(one, name))], wanted)
        everybodys = [[(host, bundle) for bundle in one.bundles] for host, one in outputs.items()]
        if wanted.how == "order":
            most = max(map(len, everybodys), default=0)
            everybodys = [[one[number] for one in everybodys if number < len(one)] for number in range(most)]
        for shown in everybodys:
            self._bundles(shown)

    def _texts(self, host: str, texts: list[tuple[str, str]], wanted: Wishes) -> None:
        for name, text in texts:
            if text and not wanted.stream:
                show_text(f"[{name}:{host}] {text.rstrip()}", sys.stderr if name == "stderr" else sys.stdout)

    def _bundles(self, shown: list[tuple[str, Any]]) -> None:
        for host, (data, metadata) in shown:
            if set(data) - {"text/plain"}:
                show_text(f"[output:{host}]")
                self._shell.display_pub.publish(data, metadata)


_PRESSED = object()


def _next(told: queue.SimpleQueue[Any]) -> Any:
    """The next thing that is told; an empty tuple after a while without one."""
    try:
        return next_of(told, time.monotonic() + RENEWED)
    except queue.Empty:
        return ()


# Members by their numbers: 0, 1:3, ::2, or 0,2.
_INDEX = re.compile(r"-?\d+(,-?\d+)*|-?\d*:-?\d*(:-?\d*)?")


def _some(chosen: Group, words: str) -> Group:
    """Members by their numbers; raises FlameError for a number that nobody has."""
    try:
        if ":" in words:
            parts = [int(part) if part else None for part in words.split(":")]
            return chosen.some(chosen.labels[slice(*parts)])
        return chosen.some([chosen.labels[int(number)] for number in words.split(",")])
    except (IndexError, ValueError):
        last = len(chosen) - 1
        raise FlameError(
            f"{words} is nobody; the members count from 0 to {last}: {folding.names(chosen.labels)}"
        ) from None


def _is_stop(error: Exception) -> bool:
    """Whether it only says that Stop has done its work."""
    return isinstance(error, NotSent) or getattr(error, "ename", "") == "KeyboardInterrupt"


def _errors(results: Any) -> list[str]:
    return told_errors(results.errors, len(results), 4)


def _stop(chosen: Group, future: GroupFuture, number: int) -> None:
    """Send a signal to the hosts that are not done: SIGINT is Stop, any other goes to the children of the servers."""
    if number == signal.SIGINT:
        future.interrupt()
        return
    pending = set(future.pending)
    for member in chosen.members:
        remote = member.known
        if number and member.label in pending and remote is not None:
            ready = remote.session.ready
            if not ready.done() or ready.result().get("place") != "child":
                print(f"[{member.label} runs in its server's own process, which gets no signal]", file=sys.stderr)
                continue
            with contextlib.suppress(FlameError):  # it is told by the cell's own end
                code = f"import os as _os\n_os.kill(_os.getpid(), {number})"
                remote.cell(
                    code, lambda event: None, silent=True, store_history=False, lane=f"signal-{uuid.uuid4().hex[:8]}"
                )


def _signal(word: str | None) -> int:
    """The number of a signal by its name or number; SIGINT where none is named."""
    if word is None:
        return int(signal.SIGINT)
    if word.isdigit():
        number = int(word)
    else:
        name = word.upper() if word.upper().startswith("SIG") else f"SIG{word.upper()}"
        number = int(getattr(signal, name, -1))
    if number != 0 and number not in set(map(int, signal.Signals)):
        raise FlameError(f"{word} is no signal; write one such as SIGINT or SIGTERM, or 0 for none")
    return number


def _file() -> TargetsFile:
    return TargetsFile(targets_path(os.environ))


def names() -> Iterator[str]:
    """The groups of targets.toml, for Tab. Raises TargetError."""
    yield from _file().groups
