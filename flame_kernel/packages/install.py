"""Packages for a far side: ``pip install`` for hosts without internet.

The far side tells its Python, platform and packages. pip chooses and fetches wheels here. They are sent through the
link and unpacked there into a folder of ours, which sessions have on ``sys.path``.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Sequence
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

# Called with a question before the first write to a host's disk; returns whether to go on.
Consent = Callable[[str], bool]


@dataclass(frozen=True)
class Installed:
    """The result: the ``packages`` that were sent, with versions, and those of the host that already suit."""

    where: str
    folder: str
    packages: dict[str, str]
    kept: dict[str, str] = field(default_factory=dict)
    bytes: int = 0

    def __str__(self) -> str:
        if not self.packages:
            names = ", ".join(f"{name} {version}" for name, version in self.kept.items())
            return f"nothing to send: {self.where} has {names or 'all of it'} already"
        names = ", ".join(f"{name} {version}" for name, version in sorted(self.packages.items()))
        kept = f"; of its own it uses {', '.join(sorted(self.kept))}" if self.kept else ""
        return f"installed at {self.where}: {names} ({size_in_words(self.bytes)} sent, in {self.folder}){kept}"


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
) -> Installed:
    """Install what ``words`` name, written as for ``pip install``. Raises FlameError.

    first  the sent packages come before the host's own on the path, not after them
    say    called with sentences about the progress

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
    chosen = tags.options(there)
    say(f"looking for wheels for {_what(there)} …")
    entries, wanted = _resolved(requirements, passed, chosen, there, first)
    if wanted.hidden and not first:
        name, wish = next(iter(wanted.hidden.items()))
        raise FlameError(
            f"{where} has {name} {there['host'][name]} of its own, which comes first, and {wish} is wanted; "
            "--first (first=True) puts what is sent before what the host has"
        )
    if not wanted.names:
        return Installed(where, there["prefix"], {}, wanted.kept)
    chosen_entries = [one for one in entries if closure.plain(one["metadata"]["name"]) in wanted.names]
    with tempfile.TemporaryDirectory(prefix="flame-wheels-") as folder:
        pip.download(chosen_entries, passed, chosen, folder)
        wheels = _wheels(folder, chosen_entries)
        size = sum(os.path.getsize(path) for path, _ in wheels)
        if _UNPACKED * size > there["free"]:
            raise FlameError(
                f"no space at {where}: {size_in_words(there['free'])} are free, and {len(wheels)} packages need about "
                f"{size_in_words(_UNPACKED * size)}"
            )
        question = f"Write {len(wheels)} packages ({size_in_words(size)}) into {there['prefix']} at {where}?"
        if not there["exists"] and not consent(plain_text(question)):
            raise FlameError("nothing was written there")
        say(f"sending {len(wheels)} packages, {size_in_words(size)} …")
        _ask(session, "begin")
        inbox = there["prefix"] + "/wheels/"
        transfer.put(session, [path for path, _ in wheels], inbox, progress=progress)
        named = [[os.path.basename(path), digest] for path, digest in wheels]
        done = _ask(session, "install", wheels=named, first=first)
    ours = done["ours"] if isinstance(done.get("ours"), dict) else {}
    sent = {name: str(ours.get(name, "")) for name in wanted.names}
    return Installed(where, there["prefix"], sent, wanted.kept, size)


def _resolved(
    requirements: Sequence[str], passed: Sequence[str], chosen: Sequence[str], there: dict[str, Any], first: bool
) -> tuple[list[dict[str, Any]], closure.Needed]:
    """pip's choice, and what of it the far side needs; pip is run again for what only the far side's markers
    require."""
    more: list[str] = []
    asked: set[str] = set()
    for _ in range(_ROUNDS):
        entries = pip.resolve([*requirements, *more], passed, chosen, _what(there))
        for one in entries:  # what we added is a dependency, not a request of the user
            if closure.plain(one["metadata"]["name"]) in asked:
                one["requested"] = False
        wanted = closure.needed(
            entries, there["environment"], there["host"], there["ours"], first=first,
            dependencies="--no-deps" not in passed,
        )  # fmt: skip
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
    if not there["ours"]:
        raise FlameError(f"no packages were sent to {session.target.name or session.location}")
    done = _ask(session, "uninstall", names=None if names is None else list(names))
    removed = done.get("removed")
    return [one_line(str(one)) for one in removed] if isinstance(removed, list) else []


def _what(there: dict[str, Any]) -> str:
    libc = there["libc"]
    words = f"Python {there['version'][0]}.{there['version'][1]} on {there['platform']}"
    return words + (f" ({libc[0]} {libc[1]})" if libc[0] else "")


def _ask(session: Session, op: str, **fields: Any) -> dict[str, Any]:
    reply = session.request("packages", op=op, **fields).result()
    if reply.get("status") != "ok":
        raise FlameError(f"at {session.location}: {cap(one_line(str(reply.get('evalue'))), MAX_MESSAGE)}")
    return dict(reply)
