"""``%%flame -t web``: a cell on several far sides at once, and what they show told once where they agree.

The words are those of ipyparallel's ``%%px``: https://ipyparallel.readthedocs.io/en/stable/tutorial/magics.html
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import sys
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
from ..errors import FlameError, GroupError
from ..group import folding
from ..group.cell import CellResults
from ..group.displays import displays
from ..group.future import GroupFuture
from ..group.group import Group, group
from ..group.member import Member
from ..group.results import told_errors
from ..session.user import catch_interrupts, next_of
from ..terminal import coloured_text, plain_text
from .connections import Connections

# Seconds after which it is shown who is done; px has the same.
PROGRESS_AFTER = 2.0
# Seconds between two renewals of that.
RENEWED = 0.5
# Hosts up to which text is shown as it comes.
STREAMED = 2
# Seconds that hosts have to stop after Ctrl-C; pressed twice it is not waited for.
STOP_PATIENCE = 2.0
# Lines of text that are shown of what runs.
_LATEST = 5
_BAR = 30


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

    def __repr__(self) -> str:
        return f"<Groups {', '.join(self._groups) or 'none'}>"

    def items(self) -> list[tuple[str, Group]]:
        return list(self._groups.items())

    def means(self, words: str | None) -> bool:
        """Whether ``words`` name several far sides, and no connection of this notebook. Raises TargetError."""
        if words is None or self._connections.is_connected(words):
            return False
        return (
            words in self._groups
            or words in self._members
            or _INDEX.fullmatch(words) is not None
            or is_group(words, self._file())
        )

    def _file(self) -> TargetsFile:
        return _file().with_targets({name: str(one.location) for name, one in self._connections.items()})

    def of(self, words: str | None) -> Group:
        """The group of these words; its sessions stay until it is disconnected. Raises TargetError.

        None is the group of before, or the default group, or all connections; ``0``, ``1:3``, ``::2`` are some of its
        members, as in ``%%px``.
        """
        if words is None or _INDEX.fullmatch(words):
            usual = self._usual()
            return usual if words is None else _some(usual, words)
        self._words = words
        if words not in self._groups:
            defaults = self._connections.defaults
            known = dict(self._connections.items())
            self._groups[words] = group(
                words,
                known=known,
                load=lambda where, given: load_target(where, overrides=given, defaults=defaults),
                shared=self._members,
            )
        return self._groups[words]

    def _usual(self) -> Group:
        names = self._connections.names
        words = self._words or _file().default_group or ",".join(names)
        if not words:
            raise FlameError("no group is meant: name one by -t, or write default_group into targets.toml")
        return self.of(words)

    def disconnect(self, words: str, keep: bool = False) -> None:
        """End a group's sessions; with ``keep`` they live on there."""
        found = self._groups.pop(words)
        used = {label for other in self._groups.values() for label in other.labels}
        found.detach(used) if keep else found.close(used)
        for label in found.labels:
            if label not in used:
                self._members.pop(label, None)
        self._words = None if self._words == words else self._words

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
        chosen = self.of(line["target"])
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
            return None if out else future
        if line["local"]:
            self._shell.run_cell(code)
        self._follow(chosen, future, told, how)
        self._end(chosen, future, pulled, how)
        return None

    def _end(self, chosen: Group, future: GroupFuture, pulled: list[str], how: Wishes) -> None:
        """All are done: show what they gave, fetch what is wanted, raise what was raised."""
        results = future.results
        self.show(results, how)
        if pulled and results.ok:
            some = chosen.some(results.ok)
            for name in pulled:
                self._shell.user_ns[name] = some.pull(name)
        if results.errors and how.raise_error:
            raise GroupError(len(results), results.errors, results, _errors(results))

    def _follow(self, chosen: Group, future: GroupFuture, told: queue.SimpleQueue[Any], wanted: Wishes) -> None:
        """Wait for the hosts; text and who is done appear meanwhile, Ctrl-C goes to all of them."""
        future.add_done_callback(lambda done: told.put(None))
        live, lines = _Live(self._shell, chosen, future), _Lines()
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
        left = future.pending
        if left:
            print(f"[not stopped yet: {folding.names(left)}]", file=sys.stderr)
        if not wanted.stop:
            raise FlameError("not waited for any more; it goes on there: %flame result")
        self.show(future.results, wanted)
        raise KeyboardInterrupt

    # -- showing -------------------------------------------------------------------------------------------------------

    def show(self, results: Any, wanted: Wishes) -> None:
        """Show what a cell has given on all hosts; errors are raised, or shown where they are not."""
        assert isinstance(results, CellResults)
        outputs = results.outputs
        if wanted.how == "fold":
            if not wanted.stream:
                texts = {host: one.text for host, one in outputs.items() if host in results.ok or one.text}
                _print(folding.told(texts, diff=wanted.diff, mask=wanted.mask, total=len(results)))
            for one in displays(outputs, len(results)):
                if one.line:
                    _print(one.line)
                self._shell.display_pub.publish(one.data, one.metadata)
        else:
            self._one_by_one(results, wanted)
        if results.errors and not wanted.raise_error:
            _print("\n".join(_errors(results)), sys.stderr)

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
                _print(f"[{name}:{host}] {text.rstrip()}", sys.stderr if name == "stderr" else sys.stdout)

    def _bundles(self, shown: list[tuple[str, Any]]) -> None:
        for host, (data, metadata) in shown:
            if set(data) - {"text/plain"}:
                _print(f"[output:{host}]")
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


class _Lines:
    """Text of several hosts as it comes: whole lines, the host before each."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], str] = {}

    def add(self, host: str, name: str, text: str) -> None:
        *whole, rest = (self._open.pop((host, name), "") + text).split("\n")
        for line in whole:
            self._say(host, name, line)
        if rest:
            self._open[host, name] = rest

    def end(self) -> None:
        """Show what no line's end has followed."""
        for (host, name), rest in self._open.items():
            self._say(host, name, rest)
        self._open.clear()

    def _say(self, host: str, name: str, line: str) -> None:
        _print(f"[{host}] {line}", sys.stderr if name == "stderr" else sys.stdout)


class _Live:
    """Who is done, renewed in place while a cell runs on a group."""

    def __init__(self, shell: Any, chosen: Group, future: GroupFuture) -> None:
        self._shell = shell
        self._chosen = chosen
        self._future = future
        self._id: str | None = None
        self._shown = ""
        self._in_notebook = getattr(shell, "kernel", None) is not None
        self._at = 0.0

    def renew(self) -> None:
        """Show it, or show it anew, where something has changed."""
        if time.monotonic() - self._at < RENEWED:
            return
        self._at = time.monotonic()
        self._display(self._words())

    def end(self) -> None:
        """What is shown stays as one line."""
        if self._id is None and not self._shown:
            return
        self._display(_counts(self._chosen, self._future))
        if not self._in_notebook:
            sys.stderr.write("\n")

    def _words(self) -> str:
        done, total = self._future.progress, len(self._future)
        full = _BAR * done // total
        lines = [f"{_counts(self._chosen, self._future)}", f"{'█' * full}{'░' * (_BAR - full)} {done}/{total}"]
        results = self._future.results
        outputs = getattr(results, "outputs", {})
        latest = {host: _last_line(one.text) for host, one in outputs.items() if one.text.strip()}
        for block in folding.fold(latest)[:_LATEST]:
            lines.append(f"{folding.names(block.hosts, 4)}: {plain_text(block.text)}")
        return "\n".join(lines)

    def _display(self, words: str) -> None:
        if words == self._shown:
            return
        self._shown = words
        if not self._in_notebook:
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\x1b[K{words.splitlines()[0]}")
                sys.stderr.flush()
            return
        update = self._id is not None
        self._id = self._id or uuid.uuid4().hex
        self._shell.display_pub.publish({"text/plain": words}, transient={"display_id": self._id}, update=update)


def _counts(chosen: Group, future: GroupFuture) -> str:
    """``38 done · 10 running · 1 failed · 1 not reachable · 3.2 s``."""
    results = future.results
    pending = set(future.pending)
    states = [member.state for member in chosen.members if member.label in pending]
    counts = {
        "done": len(results.ok),
        "running": sum(state in ("busy", "idle") for state in states),
        "connecting": sum(state in ("connecting", "not connected") for state in states),
        "silent": sum(state in ("silent", "lost") for state in states),
        "failed": len(results.failed),
        "not reachable": len(results.unreachable),
    }
    told = [f"{count} {state}" for state, count in counts.items() if count]
    return " · ".join([*told, f"{future.elapsed:.1f} s"])


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2].rpartition("\r")[2][:100]


def _print(text: str, stream: Any = None) -> None:
    if text:
        print(coloured_text(text), file=stream or sys.stdout, flush=True)


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
