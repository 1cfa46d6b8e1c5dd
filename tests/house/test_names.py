"""Files, classes and functions have the field's names, and none that only their author understands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from rooms import PACKAGE

# Words that once stood for something that has a name of its own: a process of the same machine was a neighbour, an
# options object a wish, the steps after an interrupt a ladder.
METAPHORS = {
    "ahead": "prefetched",
    "death": "exit_reason",
    "doors": "probes",
    "fronts": "clients",
    "inside": "main",
    "ladder": "stops",
    "leaves": "scalars",
    "looks": "monitor",
    "neighbour": "local_process",
    "orders": "commands",
    "outside": "stacks",
    "pieces": "chunks",
    "sight": "reachability",
    "spoilt": "tampered",
    "stranger": "identify",
    "tangled": "nesting",
    "twins": "same_files",
    "undress": "strip",
    "visitor": "agent_client",
    "wish": "options",
    "wishes": "options",
}


def words(name: str) -> list[str]:
    """The words of a name: ``AgentClient`` and ``agent_client`` are both agent, client."""
    return [one.lower() for one in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def names() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        where = str(path.relative_to(PACKAGE))
        yield where, path.stem
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield where, node.name


def test_names_are_no_metaphors() -> None:
    found = [f"{where}: {name}" for where, name in names() if METAPHORS.keys() & set(words(name))]
    assert not found, f"rename, see METAPHORS: {found}"


def test_a_name_is_taken_apart() -> None:
    assert words("_AgentClient") == words("agent_client") == ["agent", "client"]
    assert words("ZMQShell") == ["zmq", "shell"]
