"""Packages for a far side: ``pip install`` for hosts without internet.

The far side tells its Python, platform and packages. pip chooses and fetches wheels here. They are sent through the
link and unpacked there into a folder of ours, which sessions have on ``sys.path``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..connect.units import size_in_words
from ..errors import MAX_MESSAGE, FlameError, cap
from ..files import transfer
from ..session.session import Session
from ..terminal import one_line, plain_text
from . import closure, pip, tags

# How often pip is run again for requirements of the far side's markers.
_ROUNDS = 6
# Room that an unpacked wheel may need, as a multiple of its size.
_UNPACKED = 5

# When the first wheel may have been made, in seconds since 1970.
_TIME = 315532800

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")

# Called with a question before the first write to a host's disk; returns whether to go on.
Consent = Callable[[str], bool]


@dataclass(frozen=True)
class Installed:
    """The result: the ``packages`` that were sent, with versions, those of the host that already suit, and sentences
    that the user should read."""

    where: str
    folder: str
    packages: dict[str, str]
    kept: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = ", ".join(f"{name} {version}" for name, version in sorted((self.packages or self.kept).items()))
        if self.packages:
            kept = f"; of its own it uses {', '.join(sorted(self.kept))}" if self.kept else ""
            text = f"installed at {self.where}: {names} ({size_in_words(self.bytes)} sent, in {self.folder}){kept}"
        else:
            none = f"none of the requirements is for {self.where}"
            text = f"nothing to send: {f'{self.where} has {names} already' if names else none}"
        return "\n".join([text, *(f"Note: {one}" for one in self.notes)])


def facts(session: Session) -> dict[str, Any]:
    """The facts about the far side."""
    return tags.checked(_ask(session, "facts"))


def install(
    session: Session,
    words: Sequence[str],
    *,
    consent: Consent,
    first: bool = False,
    say: Callable[[str], None] = lambda text: None,
    progress: bool | None = None,
    stop: pip.Stop | None = None,
) -> Installed:
    """Install what ``words`` name, written as for ``pip install``. Raises FlameError.

    first  the sent packages come before the host's own on the path, not after them
    say    called with sentences about the progress
    stop   another thread may call it, to end the installation

    Branches because each is something that may be wrong, before anything is sent.
    """
    requirements, passed = pip.split(words)
    if not requirements and not {"-r", "--requirement"} & set(passed):
        raise FlameError("name a package, such as rich, or -r requirements.txt")
    there = facts(session)
    where = session.target.name or session.location
    if not there["writable"]:
        raise FlameError(
            f"{there['prefix']} at {where} cannot be written to; packages need a folder of the user's there"
        )
    stop = stop or pip.Stop()
    mark = first and there["exists"] and not there["first"]
    first = first or there["first"]
    if pip.starts_over(words):
        there["ours"] = {}
    say(f"looking for wheels for {_what(there)} …")
    with tempfile.TemporaryDirectory(prefix="flame-wheels-") as folder:
        runs = pip.Pip(passed, tags.options(there), there["environment"], _what(there), folder, stop)
        entries, wanted = _suitable(runs, runs.built(requirements), there, first, words, folder)
        if wanted.hidden and not first:
            name, wish = next(iter(wanted.hidden.items()))
            raise FlameError(
                f"{where} has {name} {there['host'][name]} of its own, which comes first, and {wish} is wanted; "
                "--first (first=True) puts what is sent before what the host has"
            )
        if not wanted.names:
            if mark:
                _ask(session, "install", wheels=[], first=True)
            return Installed(where, there["prefix"], {}, {**wanted.kept, **wanted.sent}, notes=tuple(wanted.extras))
        chosen_entries = [one for one in entries if closure.plain(one["metadata"]["name"]) in wanted.names]
        wheels = _wheels(runs.download(chosen_entries), chosen_entries)
        size = sum(os.path.getsize(path) for path, _ in wheels)
        many = f"{len(wheels)} package{'s' if len(wheels) > 1 else ''}"
        if _UNPACKED * size > there["free"]:
            raise FlameError(
                f"no space at {where}: {size_in_words(there['free'])} are free, and {many} may need about "
                f"{size_in_words(_UNPACKED * size)}"
            )
        question = f"Write {many} ({size_in_words(size)}) into {there['prefix']} at {where}?"
        if not there["exists"] and not consent(plain_text(question)):
            raise FlameError("nothing was written there")
        say(f"sending {many}, {size_in_words(size)} …")
        done = _sent(session, there["prefix"] + "/wheels/", wheels, first, progress, stop)
    ours = done["ours"] if isinstance(done.get("ours"), dict) else {}
    sent = {name: str(ours.get(name, "")) for name in wanted.names}
    notes = (*wanted.extras, *_notes(done, there, chosen_entries))
    return Installed(where, there["prefix"], sent, wanted.kept, size, notes)


def _sent(
    session: Session,
    inbox: str,
    wheels: Sequence[tuple[str, str]],
    first: bool,
    progress: bool | None,
    stop: pip.Stop,
) -> dict[str, Any]:
    """Send wheels and have them installed. Another session that installs at the same time may remove a wheel that both
    have sent; it is then sent again."""
    named = [[os.path.basename(path), digest] for path, digest in wheels]
    for _ in range(_ROUNDS):
        _ask(session, "begin")
        with transfer.Transfer(session, "put", progress) as sending, stop.by(sending.stop):
            sending.put([path for path, _ in wheels], inbox)
        done = _ask(session, "install", wheels=named, first=first)
        if not done.get("missing"):
            return done
    raise FlameError(f"at {session.location}: another session installs packages there now; install again")


def _notes(done: dict[str, Any], there: dict[str, Any], entries: Sequence[dict[str, Any]]) -> Iterable[str]:
    """What the user should know of an installation."""
    new = {closure.plain(one["metadata"]["name"]): one["metadata"]["version"] for one in entries}
    versions = {**there["host"], **there["ours"], **new}
    yield from closure.broken(there["requires"], there["environment"], versions, set(new))
    for kind, text in (
        ("imported", "was imported before; a new session imports what is there now"),
        ("pth", "has a .pth file, which is not run there"),
    ):
        names = done.get(kind)
        if isinstance(names, list) and names:
            yield f"{one_line(', '.join(map(str, names)))} {text}"


def _suitable(
    runs: pip.Pip, requirements: Sequence[str], there: dict[str, Any], first: bool, words: Sequence[str], folder: str
) -> tuple[list[dict[str, Any]], closure.Needed]:
    """pip's choice, and what of it the far side needs. What the host has in a version that will do is left as it is,
    unless the user wants to upgrade."""
    alone = "--no-deps" in words
    entries, wanted = _resolved(runs, requirements, there, first, alone)
    if wanted.hidden and not first and not pip.upgrades(words):
        path = os.path.join(folder, "constraints.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{name}=={there['host'][name]}\n" for name in wanted.hidden)
        with contextlib.suppress(FlameError):
            return _resolved(runs, requirements, there, first, alone, ["-c", path])
    return entries, wanted


def _resolved(
    runs: pip.Pip,
    requirements: Sequence[str],
    there: dict[str, Any],
    first: bool,
    alone: bool,
    options: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], closure.Needed]:
    """pip's choice, and what of it the far side needs; pip is run again for what only the far side's markers
    require."""
    more: list[str] = []
    asked: set[str] = set()
    for _ in range(_ROUNDS):
        entries = runs.resolve([*requirements, *more], options)
        for one in entries:  # what we added is a dependency, not a request of the user
            if closure.plain(one["metadata"]["name"]) in asked:
                one["requested"] = False
            url = str(one["download_info"].get("url"))
            if one.get("is_direct") and not url.partition("#")[0].endswith(".whl"):
                raise FlameError(f"{url} is no wheel; make one of it (pip wheel NAME), and give its file")
        wanted = closure.needed(
            entries, there["environment"], there["host"], there["ours"], first=first, dependencies=not alone
        )
        if not wanted.missing:
            return entries, wanted
        more += wanted.missing
        asked |= {closure.plain(re.split(r"[^\w.-]", one)[0]) for one in wanted.missing}
    raise FlameError(f"pip finds no end of what is needed there: {', '.join(more[-3:])}")


def _wheels(folder: str, entries: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The fetched wheels with their SHA-256; raises FlameError if the index has another one."""
    said = {}
    for one in entries:
        digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        said[closure.plain(one["metadata"]["name"])] = digest
    found = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        expected = said.get(closure.plain(name.split("-")[0]))
        if expected is not None and expected != digest:
            raise FlameError(f"{name} is not the file that the index has named; nothing was sent")
        # A file that was sent in part is known there by its size and time: pip gives it another time on each download.
        os.utime(path, (_TIME + int(digest[:7], 16),) * 2)
        found.append((path, digest))
    return found


def listed(session: Session) -> dict[str, str]:
    """The packages that were sent there, and their versions."""
    return dict(sorted(facts(session)["ours"].items()))


def uninstall(session: Session, names: Sequence[str] | None) -> list[str]:
    """Remove packages that were sent; None: all. With the last one, the folder there goes too."""
    there = facts(session)
    if not there["ours"] and not (names is None and there["begun"]):
        raise FlameError(f"no packages were sent to {session.target.name or session.location}")
    done = _ask(session, "uninstall", names=None if names is None else [_name(one) for one in names])
    removed = done.get("removed")
    return [one_line(str(one)) for one in removed] if isinstance(removed, list) else []


def _name(word: object) -> str:
    if not isinstance(word, str) or not _NAME.fullmatch(word):
        raise FlameError(f"{word!r} is not the name of a package; write names alone, such as rich")
    return word


def _what(there: dict[str, Any]) -> str:
    libc = there["libc"]
    words = f"Python {there['version'][0]}.{there['version'][1]} on {there['platform']}"
    return words + (f" ({libc[0]} {libc[1]})" if libc[0] else "")


def _ask(session: Session, op: str, **fields: Any) -> dict[str, Any]:
    reply = session.request("packages", op=op, **fields).result()
    if reply.get("status") != "ok":
        raise FlameError(f"at {session.location}: {cap(one_line(str(reply.get('evalue'))), MAX_MESSAGE)}")
    return dict(reply)
