"""Selects the packages that a far side needs from those that pip found: by the far side's markers, without what it has.

pip evaluates markers such as ``python_version < "3.11"`` for the Python that runs it, not for the target's.

``packaging`` is imported inside functions: that takes as long as a session does to begin, and few install something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import FlameError

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@dataclass
class Needed:
    """``names``: packages to send; ``missing``: requirements that pip must still find; ``kept``: packages that the far
    side has, with their versions; ``sent``: those that were sent before; ``hidden``: those that it has in an unsuitable
    version, with who requires which; ``extras``: those that were asked for and do not exist."""

    names: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    extras: list[str] = field(default_factory=list)


def needed(
    entries: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str],
    host: Mapping[str, str],
    ours: Mapping[str, str],
    *,
    first: bool = False,
    dependencies: bool = True,
) -> Needed:
    """What the requested ``entries`` of pip's report need on a far side with this environment.

    host, ours  the packages of its own, and those sent before; ``first``: ours come before the host's

    Branches because each package is new, there already, there in another version, or not found yet.
    """
    known: dict[str, Mapping[str, Any]] = {plain(one["metadata"]["name"]): one for one in entries}
    found = Needed()
    waiting: list[tuple[str, frozenset[str], bool]] = [
        (name, frozenset(one.get("requested_extras") or ()), True)
        for name, one in known.items()
        if one.get("requested")
    ]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras, asked = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        one = known[name]
        offered = {plain(extra) for extra in one["metadata"].get("provides_extra") or ()}
        found.extras += [f"{name} has no extra {extra}" for extra in sorted(extras) if plain(extra) not in offered]
        if name in host and not first and asked and host[name] != one["metadata"]["version"]:
            found.hidden[name] = f"{name} {one['metadata']['version']}"
        if name in host and not first and host[name] == one["metadata"]["version"]:
            found.kept[name] = host[name]
        elif ours.get(name) == one["metadata"]["version"] and not one.get("is_direct"):
            found.sent[name] = ours[name]
        elif name not in found.names:
            found.names.append(name)
        if not dependencies:
            continue
        for requirement in _requirements(one["metadata"].get("requires_dist") or (), environment, extras):
            child = plain(requirement.name)
            if not first and child in host:
                if _does(requirement, host[child]) and not requirement.extras:
                    found.kept[child] = host[child]
                    continue
                if not _does(requirement, host[child]):
                    found.hidden[child] = f"{requirement} (for {name})"
            if child in known:
                waiting.append((child, frozenset(requirement.extras), False))
            elif not (child in ours and _does(requirement, ours[child])):
                requirement.marker = None
                found.missing.append(str(requirement))
    return found


def broken(
    requires: Mapping[str, Sequence[str]], environment: Mapping[str, str], versions: Mapping[str, str], new: set[str]
) -> list[str]:
    """Sentences about packages sent before whose requirements the ``new`` packages do not meet.

    requires, versions  of all packages that are there after the installation
    """
    said = []
    for name, texts in requires.items():
        for one in _requirements(texts, environment, frozenset()) if name not in new else ():
            child = plain(one.name)
            if child in new and not _does(one, versions.get(child, "")):
                said.append(f"{name} {versions.get(name, '')}, sent before, needs {one.name}{one.specifier}")
    return said


def _requirements(
    texts: Iterable[str], environment: Mapping[str, str], extras: frozenset[str]
) -> Iterable[Requirement]:
    from packaging.markers import InvalidMarker
    from packaging.requirements import InvalidRequirement, Requirement

    for text in texts:
        try:
            one = Requirement(text)
            marker = one.marker
            if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in (*extras, "")):
                yield one
        except (InvalidRequirement, InvalidMarker) as e:
            raise FlameError(f"a package has a requirement that cannot be read: {text!r}") from e


def plain(name: str) -> str:
    """A package's name in the form for comparing (PEP 503)."""
    from packaging.utils import canonicalize_name

    return str(canonicalize_name(name))


def _does(requirement: Requirement, version: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False
