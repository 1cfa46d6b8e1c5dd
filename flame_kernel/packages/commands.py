"""Carries out ``install``, ``list`` and ``uninstall`` of ``%flame pip`` and ``jupyter flame pip``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..errors import FlameError
from ..session.session import Session
from ..terminal import plain_text
from . import install
from .install import Consent
from .pip import Stop

OURS = ("install", "list", "uninstall")


@dataclass(frozen=True)
class Words:
    """``verb`` and the words after it; with ``there``, all words are in ``rest``, for the far side's pip."""

    verb: str
    rest: tuple[str, ...]
    there: bool = False
    first: bool = False
    yes: bool = False


def read(words: Sequence[str]) -> Words:
    """The Words of a command. Raises FlameError if there is no verb."""
    there, first = "--there" in words, "--first" in words
    left = [word for word in words if word not in ("--there", "--first")]
    if left[:1] == ["--"]:
        left = left[1:]
    if {"-t", "--target"} & set(left[:1]):
        raise FlameError(
            "pip -t is for the magics of %load_ext flame and the shell; in the kernel: %flame connect SERVER"
        )
    if there or (left and left[0] not in OURS):
        return Words("", tuple(left or ["--help"]), there=True)
    if not left:
        raise FlameError("write install NAME, list, or uninstall NAME; --there runs pip of the far side itself")
    yes = bool({"-y", "--yes"} & set(left))
    return Words(left[0], tuple(one for one in left[1:] if one not in ("-y", "--yes")), first=first, yes=yes)


def without_there(code: str) -> str:
    """The ``%pip`` line for the far side's own pip."""
    return "%pip " + code.replace("--there", "").strip()


def carry_out(
    session: Session,
    words: Words,
    consent: Consent,
    say: Callable[[str], None],
    progress: bool | None = None,
    stop: Stop | None = None,
) -> str:
    """Carry it out; returns the result as text. ``consent`` is called before the first write to the far side's disk."""
    where = session.target.name or session.location
    if words.verb == "list":
        if words.rest:
            raise FlameError(f"list takes no words, so not {words.rest[0]!r}; --there list … is that of pip there")
        found = install.listed(session)
        if not found:
            return plain_text(f"no packages were sent to {where}; --there lists those of its own pip")
        return plain_text("\n".join(f"{name} {version}" for name, version in found.items()))
    if words.verb == "uninstall":
        if not words.rest:
            raise FlameError("name the packages, or --all")
        if "--all" in words.rest and len(words.rest) > 1:
            raise FlameError("name the packages, or --all, not both")
        removed = install.uninstall(session, None if words.rest == ("--all",) else words.rest)
        return plain_text(f"removed from {where}: {', '.join(removed) or 'what was sent in part'}")
    done = install.install(
        session,
        words.rest,
        consent=(lambda question: True) if words.yes else consent,
        first=words.first,
        say=say,
        progress=progress,
        stop=stop,
    )
    return plain_text(str(done))


def on_each(
    labels: Iterable[str],
    session: Callable[[str], Session],
    words: Words,
    consent: Consent,
    say: Callable[[str], None],
    tell: Callable[[str], None],
    stop: Stop | None = None,
) -> list[str]:
    """Carry it out on several hosts, one after the other. ``session`` gives the session of a label, and ``tell`` gets
    each result. Returns a sentence for each host where it failed."""
    failed = []
    for label in labels:
        try:
            tell(f"{label}: {carry_out(session(label), words, consent, say, False, stop)}")
        except FlameError as error:
            failed.append(plain_text(f"{label}: {error}"))
    return failed
