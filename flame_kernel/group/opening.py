"""Makes a group from names and patterns of targets.toml, from locations, or from existing `Remote`s."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ..connect.selection import Chosen, select
from ..connect.targets_file import TargetsFile, targets_path
from ..errors import FlameError, TargetError
from ..remote.remote import Remote
from . import folding
from .group import Group
from .member import CONNECT, Load, Member, load_settings

# How many members may connect at once.
AT_ONCE = 16


def group(
    where: str | Sequence[str] | Sequence[Remote] | None = None,
    *,
    timeout: float | None = None,
    known: Mapping[str, Remote] | None = None,
    load: Load = load_settings,
    file: TargetsFile | None = None,
    shared: dict[str, Member] | None = None,
    back: Callable[[str], None] | None = None,
    confirmed: bool = False,
    **settings: Any,
) -> Group:
    """Make a group from names, patterns and groups of ``targets.toml``, from ``host:port``, or from `Remote`s.

    ``where`` is such as ``"web"``, ``"web1,web2"``, ``"web[1:3]"``, ``"all"``, ``"furnace*4"``, or a list of these;
    None means the default group of ``targets.toml``.  ``timeout`` is in seconds for connecting; ``settings`` are those
    of `flame.connect`, for every member.

    A member connects when it is first used; those in ``known`` are connected already, and the group leaves them open.
    ``load`` makes a member's target from its name and the settings; ``file`` is used in place of the usual
    targets.toml.  ``shared`` has members of other groups by label: they are reused with their sessions, and new members
    are added to it.  ``back`` is called with the label of a member that is there again, in a new session; without it a
    line on stderr says so.  ``confirmed`` says yes where rails of a target ask before code goes to several hosts.

    Raises TargetError.
    """
    where = _named(where)
    _register_backend()
    if _has_remotes(where):
        return _of_remotes(where, confirmed)
    file = file or TargetsFile(targets_path(os.environ))
    words = cast("str | Sequence[str]", _usual(file) if where is None else where)
    lasting, shared, known = shared is not None, {} if shared is None else shared, known or {}
    present = _present(words, shared)
    if present is not None:
        return Group(present, lasting=True, confirmed=confirmed)
    chosen = select(words, file, {name: str(one.location) for name, one in known.items()})
    given, seconds = _given(settings), _patience(timeout)
    gate = threading.BoundedSemaphore(AT_ONCE)
    for one in chosen:
        before = shared.get(one.label)
        if not _can_stay(before, known.get(one.label)):
            if before is not None:
                before.close()
            shared[one.label] = Member(one, given, gate, back or _back, known.get(one.label), load, seconds)
    return Group([shared[one.label] for one in chosen], lasting=lasting, confirmed=confirmed)


def _register_backend() -> None:
    """Register our backend with joblib, if the program uses joblib."""
    if "joblib.parallel" in sys.modules:
        from .joblib_backend import register

        register()


def _present(words: str | Sequence[str], shared: Mapping[str, Member]) -> list[Member] | None:
    """The members that ``words`` name by their labels, such as ``lab:9999/2``: one of several sessions on a server has
    no other name. None if no label is of that kind, or if one of them names no member that can be reused."""
    labels = [part.strip() for part in words.split(",")] if isinstance(words, str) else list(words)
    found = [shared[label] for label in dict.fromkeys(labels) if label in shared and not shared[label].is_closed]
    return found if len(found) == len(set(labels)) and any("/" in label for label in labels) else None


def _named(where: Any) -> Any:
    """Check ``where``; a single `Remote` becomes a list of one. TargetError if it cannot name a group."""
    if isinstance(where, Remote):
        return [where]
    parts = where if isinstance(where, (list, tuple)) else []
    if (where is not None and not isinstance(where, (str, list, tuple))) or any(
        not isinstance(part, (str, Remote)) for part in parts
    ):
        raise TargetError("a group is named by text, or by a list of names or of remotes; write such as web1,web2")
    return where


def _has_remotes(where: str | Sequence[Any] | None) -> bool:
    return where is not None and not isinstance(where, str) and any(isinstance(one, Remote) for one in where)


def _of_remotes(remotes: Any, confirmed: bool) -> Group:
    gate = threading.BoundedSemaphore(AT_ONCE)
    members = [Member(Chosen(label, label), {}, gate, _back, one) for label, one in _labelled(remotes)]
    return Group(members, confirmed=confirmed)


def _can_stay(member: Member | None, known: Remote | None) -> bool:
    """Whether a member can be reused: it must be open, and use ``known``, the connection of its name; or one of its own
    if that is None."""
    return member is not None and not member.is_closed and member.lent is known


def _patience(timeout: Any) -> float:
    if timeout is None:
        return CONNECT
    if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and timeout > 0:
        return float(timeout)
    raise TargetError(f"timeout is a number of seconds above 0, not {timeout!r}")


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _usual(file: TargetsFile) -> str:
    """The default group; raises TargetError if there is none."""
    if file.default_group is None:
        raise TargetError(f"no group is named, and {file.path} has no default_group; name one, or targets")
    return file.default_group


def _labelled(given: Sequence[Any]) -> list[tuple[str, Remote]]:
    """Each `Remote` with a unique name: the target's, with a number if several have the same."""
    remotes = [one for one in given if isinstance(one, Remote)]
    if len(remotes) < len(given):
        raise TargetError("a group is made of names or of remotes, not of both")
    twice = [one.name for at, one in enumerate(remotes) if one in remotes[:at]]
    if twice:
        raise TargetError(f"{twice[0]} is named twice, and a cell would run twice in its session; leave one out")
    names = [remote.name for remote in remotes]
    counts: dict[str, int] = {}
    found = []
    for name, remote in zip(names, remotes, strict=True):
        counts[name] = counts.get(name, 0) + 1
        found.append((f"{name}/{counts[name]}" if names.count(name) > 1 else name, remote))
    return found


# Members by their numbers: 0, 1:3, ::2, or 0,2, which may be in brackets.
_INDEX = re.compile(r"-?\d+(,-?\d+)*|\[-?\d+(,-?\d+)*\]|-?\d*:-?\d*(:-?\d*)?")


def are_numbers(words: str, file: TargetsFile) -> bool:
    """Whether ``words`` are numbers of members, as in ``%%px -t 1:3``, and no name."""
    return _INDEX.fullmatch(words) is not None and words not in file.groups and words not in file.tables


def some(chosen: Group, words: str) -> Group:
    """Members of a group by their numbers; FlameError for a number that nobody has."""
    try:
        if ":" in words:
            parts = [int(part) if part else None for part in words.split(":")]
            return chosen.some(chosen.labels[slice(*parts)])
        return chosen.some([chosen.labels[int(number)] for number in words.strip("[]").split(",")])
    except (IndexError, ValueError):
        last = len(chosen) - 1
        raise FlameError(
            f"{words} selects no host; the members are numbered 0 to {last}: {folding.names(chosen.labels)}"
        ) from None


def _back(label: str) -> None:
    print(f"[{label} is back, in a new session: its variables are lost]", file=sys.stderr)
