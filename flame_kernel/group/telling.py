"""Shows the output of a cell on many hosts: equal output once, or each host's own in one of ipyparallel's orders."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..commands.parsing import Line
from ..errors import FlameError, GroupError
from ..terminal import coloured_text
from . import folding
from .cell import CellResults
from .displays import displays
from .results import WHOLE, told_errors

# Seconds after which the progress is shown, as for ipyparallel's px.
PROGRESS_AFTER = 2.0
# What is said if there is no cell whose results could be shown.
NO_CELL = "no cell has run on several far sides yet; %%flame -t TARGETS runs one"
# For up to so many hosts, text is shown as it comes.
STREAMED = 2


class Screen(Protocol):
    """Where output is shown: a cell of an ordinary notebook or of the Remote Flame kernel, or a terminal."""

    def text(self, name: str, text: str) -> None:
        """Show text of ``stdout`` or ``stderr``; it ends with a line end."""

    def display(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Show a MIME bundle."""

    def live(self, words: str, over: bool) -> None:
        """Show the progress in place of the last one; with ``over`` it is final."""


@dataclass(frozen=True)
class CellOptions:
    """How a cell on a group runs, and how its output is shown."""

    stream: bool = False
    how: str = "fold"  # fold, type, engine or order
    diff: bool = True
    mask: bool = False
    progress_after: float = PROGRESS_AFTER
    stop: int = int(signal.SIGINT)  # the signal of Stop; 0: none
    seconds: float | None = None
    raise_error: bool = True
    single: bool = False  # there is one host only, whose name need not be said


def cell_options(line: Line, hosts: int, seconds: float | None, raise_error: bool) -> CellOptions:
    """The CellOptions for the options of a ``%%flame`` line. Raises FlameError."""
    how = _how(line)
    few = hosts <= STREAMED and not (line["fold"] or how or line["mask"])
    after = line["progress_after"]
    return CellOptions(
        stream=line["stream"] or (few and not line["no_stream"]),
        how=how or "fold",
        diff=not line["no_diff"],
        mask=line["mask"],
        progress_after=PROGRESS_AFTER if after is None else after if after >= 0 else float("inf"),
        stop=_signal(line["signal_on_interrupt"]),
        seconds=seconds,
        raise_error=raise_error,
        single=hosts == 1,
    )


def again(line: Line) -> CellOptions:
    """The CellOptions for showing a cell's output again, from the options of ``%flame result``."""
    return CellOptions(how=_how(line) or "fold", diff=not line["no_diff"], mask=line["mask"], raise_error=False)


def _how(line: Line) -> str:
    """The one of px's orders that is asked for; empty for none."""
    return line["group_outputs"] or ("engine" if line["e"] else "order" if line["r"] else "")


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
        raise FlameError(f"{word} is not a signal; write one such as SIGINT or SIGTERM, or 0 for none")
    return number


def tell(screen: Screen, results: CellResults, wanted: CellOptions) -> None:
    """Show a cell's output on all hosts. Errors are shown only if they are not raised, such as those of hosts that do
    not answer while others do."""
    outputs = results.outputs
    if wanted.how == "fold":
        if not wanted.stream:
            texts = {host: one.text for host, one in outputs.items() if host in results.ok or one.text}
            say(screen, folding.told(texts, diff=wanted.diff, mask=wanted.mask, total=len(results)))
        for one in displays(outputs, len(results)):
            if one.line and not wanted.single:
                say(screen, one.line)
            screen.display(one.data, one.metadata)
    else:
        _one_by_one(screen, results, wanted)
    if results.errors and not (wanted.raise_error and results.has_failed):
        say(screen, "\n".join(errors(results, wanted.mask)), "stderr")


def runs_on(hosts: Sequence[str]) -> str:
    """What ``--verbose`` says before a cell."""
    return f"runs on {hosts[0]}" if len(hosts) == 1 else f"runs on {len(hosts)} hosts: {folding.names(hosts, None)}"


def failure(results: CellResults, mask: bool) -> Exception:
    """What a cell on a group raises if it failed: the error of a single host is its own."""
    if len(results) == 1:
        return next(iter(results.errors.values()))
    return GroupError(len(results), results.errors, results, errors(results, mask))


def errors(results: Any, mask: bool) -> list[str]:
    """The errors of all hosts as lines of text; with ``mask`` those that differ only in numbers are told once."""
    return told_errors(results.errors, len(results), WHOLE, mask)


def say(screen: Screen, text: str, name: str = "stdout") -> None:
    """Show lines of text, if there are any."""
    if text:
        screen.text(name, f"{coloured_text(text)}\n")


def _one_by_one(screen: Screen, results: CellResults, wanted: CellOptions) -> None:
    """Show each host's output by itself, in one of px's three orders."""
    outputs = results.outputs
    text: Callable[[str, str, str], None] = lambda host, name, said: (  # noqa: E731
        say(screen, f"[{name}:{host}] {said.rstrip()}", name) if said and not wanted.stream else None
    )
    if wanted.how == "engine":
        for host, one in outputs.items():
            text(host, "stdout", one.stdout)
            text(host, "stderr", one.stderr)
            _bundles(screen, [(host, bundle) for bundle in one.bundles])
        return
    for name in ("stdout", "stderr"):
        for host, one in outputs.items():
            text(host, name, getattr(one, name))
    everybodys = [[(host, bundle) for bundle in one.bundles] for host, one in outputs.items()]
    if wanted.how == "order":
        most = max(map(len, everybodys), default=0)
        everybodys = [[one[number] for one in everybodys if number < len(one)] for number in range(most)]
    for shown in everybodys:
        _bundles(screen, shown)


def _bundles(screen: Screen, shown: list[tuple[str, Any]]) -> None:
    for host, (data, metadata) in shown:
        if set(data) - {"text/plain"}:
            say(screen, f"[output:{host}]")
            screen.display(data, metadata)


def live_line(words: str, over: bool) -> None:
    """Show the progress as one line of a terminal; nothing if stderr is no terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        end = "\n" if over else ""
        print(f"\r\x1b[K{words.splitlines()[0]}", end=end, file=sys.stderr, flush=True)
