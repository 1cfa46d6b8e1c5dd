"""Finds the servers that are meant by ``web``, ``web1,web2``, ``web[1:3]``, ``web,-web2``, ``furnace*4`` or ``all``.

A selection is a list of words with commas between. Each word is one of these:

- the name of a target or of a group (``@web`` is always a group), or a location such as ``host:port``;
- ``all``: every target of ``targets.toml``;
- ``pi-*``, ``lab?``, ``[ab]-pi``: the targets whose names match, as in a shell;
- ``web[0]``, ``web[1:3]``, ``web[::2]``: some members of a group, by index or slice as in Python;
- ``furnace*4``: four sessions on one server;
- ``-web2``: leave out this target, group or pattern.

Servers come in the order in which they are named; ``all`` and patterns use the order of the file. No server comes
twice.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import TargetError
from .location import Location
from .targets_file import TargetsFile, located

ALL = "all"
# The most sessions of one group; a server in Pyro's default configuration takes about twenty.
MOST = 1000

_SLICE = re.compile(r"(?P<name>@?[^\[\]]+)\[(?P<index>-?\d*(?::-?\d*){0,2})\]")
_COPIES = re.compile(r"(?P<name>.+)\*(?P<count>\d{1,4})")
_COMMA = re.compile(r",(?![^\[\]]*\])")
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Chosen:
    """One session of a selection: ``label`` is shown to people, ``where`` is the target's name or a location."""

    label: str
    where: str


def select(words: str | Sequence[str], file: TargetsFile, also: Mapping[str, str] | None = None) -> list[Chosen]:
    """The sessions that ``words`` mean, at least one; raises TargetError, one sentence.

    ``also`` has more target names beside those of the file, each with its location.
    """
    file = file.with_targets(also or {})
    parts = _parts(words) if isinstance(words, str) else [part for one in words for part in _parts(one)]
    if not parts:
        raise TargetError("no target is named; write names, patterns or groups of targets.toml, with commas between")
    found = _chosen(parts, file)
    if not found:
        raise TargetError(f"nothing is left of {', '.join(parts)}; take out fewer")
    if len(found) > MOST:
        raise TargetError(f"{len(found)} sessions are more than a group can have ({MOST}); name fewer")
    chosen = list(found.values())
    _check_distinct(chosen, file)
    return chosen


def _chosen(parts: Sequence[str], file: TargetsFile) -> dict[str, Chosen]:
    """The chosen sessions, by label. If every part begins with "-", all targets are chosen first."""
    found: dict[str, Chosen] = {}
    if all(part.startswith("-") for part in parts):
        found = {one.label: one for one in _one(ALL, file, ())}
    for part in parts:
        if not part.startswith("-"):
            found |= {one.label: one for one in _one(part, file, ())}
            continue
        for one in _one(part[1:].strip(), file, ()):
            if found.pop(one.label, None) is None:
                raise TargetError(f"{part} takes out {one.label}, which was not chosen before it; leave it out")
    return found


def is_group(words: str, file: TargetsFile) -> bool:
    """Whether ``words`` mean a group and not one server."""
    if words in file.tables:
        return False
    if words in file.groups or words == ALL or words.startswith(("@", "-")) or _COMMA.search(words):
        return True
    named = _SLICE.fullmatch(words) or _COPIES.fullmatch(words)
    return named is not None or (":" not in words and _PATTERN.search(words) is not None)


def _parts(words: str) -> list[str]:
    """The words of a selection, split at commas outside of brackets."""
    return [part.strip() for part in _COMMA.split(words) if part.strip()]


def _one(word: str, file: TargetsFile, within: tuple[str, ...]) -> list[Chosen]:
    """The sessions that one word means; ``within`` are the groups whose members led to it."""
    if word == ALL:
        if not file.tables:
            raise TargetError(
                f"all means the targets of {file.path}, which has none; add one: jupyter flame targets add"
            )
        return [Chosen(name, name) for name in file.tables]
    if word in file.tables:
        return [Chosen(word, word)]
    if word.removeprefix("@") in file.groups:
        return _group(word.removeprefix("@"), file, within)
    sliced = _SLICE.fullmatch(word)
    if sliced is not None and sliced["name"].removeprefix("@") in file.groups and sliced["index"]:
        return _sliced(sliced["name"].removeprefix("@"), sliced["index"], file, within)
    copies = _COPIES.fullmatch(word)
    if copies is not None and (copies["name"] in file.tables or ":" in copies["name"]):
        return _copies(copies["name"], int(copies["count"]))
    if ":" in word:
        Location.parse(word)
        return [Chosen(word, word)]
    return _matching(word, file)


def _matching(word: str, file: TargetsFile) -> list[Chosen]:
    """The targets whose names match a pattern; TargetError if it is not a pattern, or none match."""
    if word.startswith("@") or not _PATTERN.search(word):
        what = "group" if word.startswith("@") else "target or group"
        raise TargetError(unknown(word.removeprefix("@"), file, what))
    matching = [Chosen(name, name) for name in file.tables if fnmatch.fnmatchcase(name, word)]
    if not matching:
        raise TargetError(f"the pattern {word} matches no target in {file.path}; {_known(file)}")
    return matching


def _group(name: str, file: TargetsFile, within: tuple[str, ...]) -> list[Chosen]:
    if name in within:
        circle = " → ".join((*within[within.index(name) :], name))
        raise TargetError(f"the group {name} is a member of itself ({circle}); take one of them out in {file.path}")
    chosen: dict[str, Chosen] = {}
    if not file.groups[name]:
        raise TargetError(f"group {name} in {file.path} is empty; name a target in its members, or remove it")
    for member in file.groups[name]:
        leaves_out = member.startswith("-")
        try:
            found = _one(member.removeprefix("-").strip(), file, (*within, name))
        except TargetError as error:
            if within and str(error).startswith("group "):
                raise
            raise TargetError(f"group {name}: {error}") from None
        for one in found:
            if leaves_out:
                chosen.pop(one.label, None)
            elif one.label in chosen and file.groups[name].count(member) > 1 and member == one.where:
                raise TargetError(
                    f"group {name} names {one.label} twice in {file.path}; for two sessions on it write {one.label}*2"
                )
            else:
                chosen[one.label] = one
    if not chosen:
        raise TargetError(f"group {name} in {file.path} has no members left; take out fewer of them")
    return list(chosen.values())


def _sliced(name: str, index: str, file: TargetsFile, within: tuple[str, ...]) -> list[Chosen]:
    members = _group(name, file, within)
    numbers = [int(part) if part else None for part in index.split(":")]
    if len(numbers) == 1 and numbers[0] is not None:
        if not -len(members) <= numbers[0] < len(members):
            raise TargetError(
                f"group {name} has {len(members)} members, and none with the number {numbers[0]}; they count from 0"
            )
        return [members[numbers[0]]]
    if len(numbers) == 3 and numbers[2] == 0:
        raise TargetError(f"{name}[{index}] has a step of 0; leave the step out, or write 1 or more")
    found = members[slice(*numbers)]
    if not found:
        raise TargetError(f"{name}[{index}] selects no member: {name} has {len(members)} members, numbered from 0")
    return found


def _copies(where: str, count: int) -> list[Chosen]:
    if not 1 <= count <= MOST:
        raise TargetError(f"{where}*{count} is not a number of sessions; write 1 to {MOST}")
    if ":" in where:
        Location.parse(where)
    return [Chosen(f"{where}/{number}", where) for number in range(1, count + 1)]


def _check_distinct(chosen: Sequence[Chosen], file: TargetsFile) -> None:
    """Raise TargetError if two names mean the same server: a cell would run twice there by mistake."""
    seen: dict[Location, Chosen] = {}
    for one in chosen:
        table = file.tables.get(one.where, {"location": one.where})
        location = located(table["location"], table.get("ssh"))
        other = seen.setdefault(location, one)
        if other.where != one.where:
            raise TargetError(
                f"{other.label} and {one.label} are the same server, {location}; leave one out, "
                f"or write {other.label}*2 for two sessions on it"
            )


def _known(file: TargetsFile) -> str:
    names = [*file.tables, *(f"@{name}" for name in file.groups)]
    return f"there are {', '.join(_few(names))}" if names else "it has none"


def _few(names: Sequence[str], most: int = 12) -> Iterator[str]:
    yield from names[:most]
    if len(names) > most:
        yield f"and {len(names) - most} more"


def unknown(word: str, file: TargetsFile, what: str = "target or group") -> str:
    """The sentence for a name that stands for nothing."""
    return f"there is no {what} {word!r} in {file.path}; {_known(file)}; or give host:port"
