"""Finds what a module will import next. That is sent with it, so a project of many modules needs few round trips."""

from __future__ import annotations

import ast
from collections.abc import Callable, Container, Iterator

# The most bytes of further modules in one answer: on a slow link they must not delay the one that was asked for.
MOST = 128 << 10


def gathered(
    name: str, text: str, known: Container[str], is_package: Callable[[str], bool], read: Callable[[str], str | None]
) -> dict[str, str]:
    """The texts to send for the module ``name``, by name: its own ``text``, and those of the ``known`` modules that it
    imports, directly or through others. ``read`` returns the text of a module, or None if it is not to be sent."""
    found = {name: text}
    room, waiting = MOST, [name]
    while waiting:
        one = waiting.pop(0)
        for wanted in _imports(one, found[one], is_package(one)):
            for part in _with_parents(wanted):
                if part in found or part not in known:
                    continue
                more = read(part)
                size = 0 if more is None else len(more.encode("utf-8", "surrogatepass"))
                if more is None or size > room:
                    continue
                room -= size
                found[part] = more
                waiting.append(part)
    return found


def _imports(name: str, text: str, package: bool) -> Iterator[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + (1 if package else 0)]
                base = ".".join([*parts, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[: depth + 1]) for depth in range(len(parts)))
