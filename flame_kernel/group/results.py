"""Results: the answers of the hosts of a group, in the group's order; equal answers are shown once."""

from __future__ import annotations

import hashlib
import html
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import (
    CannotConnect,
    ConnectionLost,
    FlameError,
    GroupError,
    NotAnswered,
    RemoteError,
    SessionGone,
    TargetError,
)
from ..terminal import plain_text
from . import folding

# How many errors are shown with their traceback; of the others only the first lines.
WHOLE = 4
# The style of an error in a table: Jupyter's own background; no single red is readable in both of its themes.
_ERROR = "background: var(--jp-rendermime-error-background); border-left: 3px solid #c62828; padding-left: 4px"
# Most characters of a value's repr in a table.
_SHOWN = 2000
# Libraries whose reprs are shortened, and classes whose reprs never are.
_SHORTENED = ("numpy", "pandas", "polars", "pyarrow")
_EXACT = {int, float, complex, bool, str, bytes, type(None)}

# The file names of cells in a SyntaxError: each has a number of its own.
_OUR_FILES = re.compile(r" \(<flame [^<>]{1,100}>, line (?=\d)| \(<ipython-input-[^<>]{1,100}>, line (?=\d)")

# Errors that mean that the host could not be called or did not answer, so not a failure of the code.
UNREACHABLE = (CannotConnect, NotAnswered, ConnectionLost, TargetError)


class Results(Mapping[str, Any]):
    """A mapping from hosts to their answers; ``results[host]`` raises the error if the host failed.

    ok           the answers of hosts that answered, by host
    errors       the errors of all other hosts, by host, also of those that could not be reached
    unreachable  the errors of hosts that could not be reached or did not answer, by host
    text         the text that calls have printed, by host
    elapsed      seconds until the last answer
    """

    def __init__(self, hosts: tuple[str, ...], ok: Mapping[str, Any], errors: Mapping[str, Exception], elapsed: float):
        self._hosts = hosts
        self.ok = {host: ok[host] for host in hosts if host in ok}
        self.errors = {host: errors[host] for host in hosts if host in errors}
        self.text: dict[str, str] = {}
        self.elapsed = elapsed

    @property
    def unreachable(self) -> dict[str, Exception]:
        return {host: error for host, error in self.errors.items() if is_unreachable(error)}

    @property
    def failed(self) -> dict[str, Exception]:
        """The errors that the code raised, by host."""
        return {host: error for host, error in self.errors.items() if not is_unreachable(error)}

    def __getitem__(self, host: str | int) -> Any:
        if isinstance(host, int):
            host = self._hosts[host]
        if host in self.errors:
            raise self.errors[host]
        return self.ok[host]

    def __contains__(self, host: object) -> bool:
        return host in self.ok or host in self.errors

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def answers(self) -> list[Any]:
        """The list of answers in the group's order; raises GroupError if a host has none."""
        if self.errors:
            raise self._error()
        return list(self.ok.values())

    def fold(self, mask: bool = False) -> list[tuple[Any, tuple[str, ...]]]:
        """Each different answer with its hosts, that of most hosts first. Equal reprs count as equal answers."""
        blocks = folding.fold({host: repr(value) + _digest(value) for host, value in self.ok.items()}, mask)
        return [(self.ok[block.hosts[0]], block.hosts) for block in blocks]

    @property
    def has_failed(self) -> bool:
        """Whether the code failed on a host, or no host has answered. A host that cannot be reached is no failure while
        others answer."""
        return bool(self.failed or (self.errors and not self.ok))

    def raise_failed(self) -> None:
        """Raise GroupError if it ``has_failed``."""
        if self.has_failed:
            raise self._error()

    def _error(self) -> GroupError:
        return GroupError(len(self), self.errors, self, told_errors(self.errors, len(self), WHOLE))

    # -- for people ----------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        lines = [self.told_answers(), *told_errors(self.errors, len(self))]
        return "\n".join(line for line in lines if line) or f"no answers of {len(self)} hosts"

    def told_answers(self) -> str:
        """The answers as text: each different one once, below its hosts."""
        total = len(self)
        lines = []
        for number, (value, hosts) in enumerate(self.fold()):
            block = folding.Block(hosts, "")
            lines.append(folding.headline(block, total, not number))
            lines.append(plain_text(_short(value)))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for value, hosts in self.fold():
            rows.append((folding.names(hosts), len(hosts), html.escape(plain_text(_short(value))), ""))
        for error, hosts, _ in _folded(self.errors, False):
            rows.append((folding.names(hosts), len(hosts), html.escape(plain_text(error)), _ERROR))
        cells = "".join(
            f"<tr><td style='text-align: left'>{html.escape(plain_text(named))}</td><td>{count}</td>"
            f"<td style='text-align: left; {style}'><pre style='margin: 0; background: none'>{text}</pre></td></tr>"
            for named, count, text, style in rows
        )
        head = "<tr><th style='text-align: left'>hosts</th><th></th><th style='text-align: left'>answer</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{cells}</tbody></table>"


def is_unreachable(error: BaseException) -> bool:
    """Whether the error means that the host could not be called, and not that the code failed."""
    return isinstance(error, UNREACHABLE) and not isinstance(error, RemoteError)


def is_lost(error: BaseException) -> bool:
    """Whether the host was lost: it could not be called, or its session ended, and the call may have run there."""
    return is_unreachable(error) or isinstance(error, SessionGone)


def in_a_line(error: BaseException) -> str:
    """An error in one line, like the last line of a traceback."""
    if isinstance(error, RemoteError):
        name, words = str(error.ename), str(error.evalue)
    else:
        name = type(error).__name__
        try:
            words = str(error)
        except Exception:  # a class of the user's own; Python shows these words, too
            words = "<exception str() failed>"
    return name + (f": {words}" if words else "")


def told_errors(errors: Mapping[str, BaseException], total: int, whole: int = 0, mask: bool = False) -> list[str]:
    """The errors as text: equal ones once, with their hosts; the first ``whole`` with traceback. With ``mask`` those
    that differ only in numbers and addresses count as equal."""
    lines = []
    for number, (words, hosts, alike) in enumerate(_folded(errors, mask)):
        error = errors[hosts[0]]
        what = "not reachable" if is_unreachable(error) else "failed"
        count = hosts[0] if len(hosts) == 1 else f"{len(hosts)} of {total} hosts: {folding.names(hosts)}"
        headed = f"── {what}: {count} {'(numbers differ) ' if alike else ''}"
        lines.append(headed + "─" * max(2, 79 - len(headed)))
        traceback = getattr(error, "traceback", "") if number < whole else ""
        lines.append(plain_text(str(traceback).rstrip("\n")) if traceback else plain_text(words))
    return lines


def _folded(errors: Mapping[str, BaseException], mask: bool) -> list[tuple[str, tuple[str, ...], bool]]:
    """Each different error text with its hosts, and whether their texts differ in masked numbers. The comparison
    ignores the location and the name of a host. For sessions that died it ignores all numbers, such as pids and amounts
    of memory."""
    said, keys = {}, {}
    for host, error in errors.items():
        said[host] = _of_any(host, error)
        keys[host] = folding.masked(said[host]) if _is_end(error) else said[host]
    found = []
    for block in folding.fold(keys, mask):
        first = block.hosts[0]
        words = in_a_line(errors[first]) if len(block.hosts) == 1 else said[first]
        found.append((words, block.hosts, block.alike))
    return found


def _of_any(host: str, error: BaseException) -> str:
    """An error in one line without what differs between hosts: the host's location, and its name in our sentences."""
    words, location = _OUR_FILES.sub(" (line ", in_a_line(error)), getattr(error, "location", None)
    if location:
        words = re.sub(rf" (?:at|on) {re.escape(str(location))}", " there", words).replace(str(location), "it")
    if isinstance(error, FlameError) and not isinstance(error, RemoteError):
        name = rf"(?<![\w.-]){re.escape(host)}(?!\.?[\w-])"
        words = re.sub(name, "it", re.sub(rf" (?:at|on) {name}", " there", words))
    return words


def _is_end(error: BaseException) -> bool:
    return isinstance(error, SessionGone) or getattr(error, "ename", "") == "SessionDied"


def _digest(value: Any) -> str:
    """Hashes that distinguish arrays and tables, also those in lists and dicts: their reprs leave out most of them."""
    try:
        return "".join(_hashes(value))
    except Exception:  # any library's error, or a list that is in itself: then only the repr is compared
        return ""


def _hashes(value: Any) -> Iterator[str]:
    kind = type(value)  # not isinstance: a stand-in passes that as a list, and is none
    if issubclass(kind, (list, tuple)):
        for one in value if set(map(type, value)) - _EXACT else ():
            yield from _hashes(one)
    elif issubclass(kind, dict):
        for one in value.values():
            yield from _hashes(one)
    elif kind.__module__.partition(".")[0] in _SHORTENED and hasattr(kind, "__len__"):
        yield hashlib.sha256(pickle.dumps(value)).hexdigest()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… [{len(text) - _SHOWN} characters more]"
