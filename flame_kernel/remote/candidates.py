"""Candidates: completions for a ``%flame`` line: local and remote names, targets, sessions and paths.

The far side is asked only for its own names and paths, by requests that it answers even while a cell runs.
"""

from __future__ import annotations

import builtins
import contextlib
import glob
import os
import re
import uuid
from collections.abc import Callable, Iterable
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

from ..agent.wire.files import file_names
from ..commands.tab import Wanted
from ..errors import FlameError
from ..files.far_files import far_files
from ..files.transfer import wire_path
from ..security.completions import modules, offered, paths
from ..session.agent_client import AgentClient
from ..session.session import Session

# The most names of a remote folder; more would not help.
MAX_PATHS = 1000
# Seconds to wait for an answer of the far side.
PATIENCE = 5.0


@dataclass(frozen=True)
class Candidates:
    """``found`` has pairs of a text and its kind; each text replaces ``fragment``, the word before the cursor."""

    fragment: str
    found: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Side:
    """What a front end provides for completion.

    session      returns the session for the name of a connection or server (None: the current one); returns None if
                 there is none, because Tab never connects
    connections, targets, names   return the connections, targets of targets.toml, or local variables that begin with
                 a word
    """

    session: Callable[[str | None], Session | None]
    connections: Callable[[], Iterable[str]]
    targets: Callable[[], Iterable[str]]
    names: Callable[[str], Iterable[str]]


def candidates(wanted: Wanted, side: Side) -> Candidates:
    """The completions for the wanted word. Blocks while the far side is asked; if that fails or takes too long, there
    are fewer."""
    if "code" in wanted.kinds:
        session = _session(side, wanted.target)
        return Candidates("") if session is None else code(session, wanted.word, len(wanted.word))
    word = wanted.word.lstrip("\"'")
    quote = wanted.word[: len(wanted.word) - len(word)]
    found = [(one, "flame") for one in dict.fromkeys(wanted.words) if one.startswith(word)]
    for kind in wanted.kinds:
        with contextlib.suppress(FlameError, futures.TimeoutError, OSError):
            found += [one for one in _OF_KIND[kind](side, wanted.target, word) if _completes(one[0], word)]
    shown = {(_as_one_word(text, quote), kind): None for text, kind in found}
    return Candidates(word, [(text, kind) for text, kind in shown if text])


def _completes(text: str, word: str) -> bool:
    """Whether ``text`` continues the typed word and is not an option: others may have chosen such a name."""
    return text.startswith(word) and not text.startswith("-")


def _as_one_word(text: str, quote: str) -> str:
    """``text`` quoted as one word of a line, after an open ``quote`` if there is one; empty if that is impossible."""
    if not text.isprintable() or (quote and quote in text):
        return ""
    if quote or not re.search("[\\s'\"]", text):
        return text
    return next((f"{sign}{text}{sign}" for sign in "\"'" if sign not in text), "")


def code(session: Session, text: str, cursor: int) -> Candidates:
    """The far side's completions for Python code at ``cursor``."""
    try:
        reply = session.complete(uuid.uuid4().hex, text, cursor).result(PATIENCE)
    except (FlameError, futures.TimeoutError):
        return Candidates("")
    found = offered(reply, text, cursor)
    return Candidates(text[found.start : cursor], [(one.text, one.kind) for one in found.offers])


def _session(side: Side, target: str | None) -> Session | None:
    with contextlib.suppress(FlameError):
        session = side.session(target)
        return None if session is None or session.gone is not None else session
    return None


def _plain(names: Iterable[str], word: str) -> list[tuple[str, str]]:
    return [(name, "flame") for name in names if name.startswith(word)]


def _sessions(side: Side, target: str | None, word: str) -> list[tuple[str, str]]:
    session = _session(side, target)
    if session is None:
        return []
    with contextlib.closing(AgentClient(session.target)) as client:
        return _plain((str(one.get("session")) for one in client.sessions()), word)


def _here(side: Side, target: str | None, word: str) -> list[tuple[str, str]]:
    folder = word[: len(word) - len(word.rpartition("/")[2])]
    names = (
        os.path.basename(path) + ("/" if os.path.isdir(path) else "")
        for path in sorted(glob.glob(os.path.join(glob.escape(os.path.expanduser(folder)), "*")))
    )
    return [(folder + name, "path") for name in names if (folder + name).startswith(word)]


def _there(side: Side, target: str | None, word: str) -> list[tuple[str, str]]:
    """Remote paths (with the server's name in front if it is another server), and names of servers."""
    name, colon, path = word.partition(":")
    if colon and "/" not in name:
        session, before = _session(side, name or target), f"{name}:"
    else:
        session, before, path = _session(side, target), "", word
    found = [] if session is None else _paths_there(session, path)
    servers = [] if colon or "/" in word else [*side.connections(), *side.targets()]
    return [
        *((before + one, "path") for one in found if before or not _names_a_server(one)),
        *((f"{one}:", "flame") for one in servers if one.startswith(word)),
    ]


def _names_a_server(path: str) -> bool:
    """Whether a path such as ``a:b`` would be read as a path on server ``a``; ``./a:b`` would not."""
    return ":" in path.partition("/")[0]


def _paths_there(session: Session, path: str) -> list[str]:
    folder = path[: len(path) - len(path.rpartition("/")[2])]
    cwd = session.request("cwd").result(PATIENCE).get("cwd") if not path.startswith(("/", "~")) else None
    pattern = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in path) + "*"
    with contextlib.closing(far_files(session)) as far:
        entries = far.request(op="find", sources=[wire_path(pattern)], cwd=cwd).get("found")
    kinds = {}
    for one in entries if isinstance(entries, list) else []:
        if isinstance(one, dict) and isinstance(one.get("name"), str):
            kinds[os.fsdecode(file_names.from_wire(one["name"]))] = one.get("kind")
    begun = path[len(folder) :]
    shown = [name for name in paths(list(kinds)) if "/" not in name and not _is_hidden(name, begun)]
    return [folder + name + ("/" if kinds[name] == "folder" else "") for name in shown[:MAX_PATHS]]


def _is_hidden(name: str, begun: str) -> bool:
    """Whether a file begins with a dot and the typed word does not; then, as in a shell, it is not offered."""
    return name.startswith(".") and not begun.startswith(".")


def _either(side: Side, target: str | None, word: str) -> list[tuple[str, str]]:
    there = _there(side, target, word) if ":" in word else []
    servers = [(f"{one}:", "flame") for one in [*side.connections(), *side.targets()] if one.startswith(word)]
    return [*there, *_here(side, target, word), *(servers if ":" not in word else [])]


def _modules(side: Side, target: str | None, word: str) -> list[tuple[str, str]]:
    return _behind(side, target, "import ", word)


def _builtins(side: Side, target: str | None, word: str) -> list[tuple[str, str]]:
    """The built-in functions of the local Python: nearly the same ones as there, without a request."""
    return _plain((name for name in dir(builtins) if not name.startswith("_")), word)


def _behind(side: Side, target: str | None, before: str, word: str) -> list[tuple[str, str]]:
    """The far side's completions for ``word`` after some code, as whole words."""
    session = _session(side, target)
    if session is None:
        return []
    behind = code(session, before + word, len(before + word))
    start = word[: len(word) - len(behind.fragment)]
    kinds = {start + name: kind for name, kind in behind.found}
    return [(name, kinds[name]) for name in modules(list(kinds))]


_OF_KIND: dict[str, Callable[[Side, Any, str], list[tuple[str, str]]]] = {
    "connection": lambda side, target, word: _plain(side.connections(), word),
    "target": lambda side, target, word: _plain(side.targets(), word),
    "session": _sessions,
    "here": _here,
    "there": _there,
    "either": _either,
    "name": lambda side, target, word: _plain(side.names(word), word),
    "module": _modules,
    "builtin": _builtins,
}
