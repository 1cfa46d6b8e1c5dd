"""Wherever we say that the far side lacks a package, the sentence names the command that sends it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "flame_kernel"
_LIBRARIES = "IPython|debugpy|psutil|pyarrow|numpy|ipywidgets|cloudpickle|dask|%s"
_LACKS = re.compile(rf"not installed|\bneeds? ({_LIBRARIES})\b|has no module|is missing: pip")
COMMAND = "flame pip install"
# (file, words) -> why the command is no answer to it.
OTHERS = {
    ("serve/certs.py", "making certificates"): "here",
    ("serve/ignite.py", "is not installed here"): "here",
    ("connect/keys.py", "the keyring"): "here",
    ("group/joblib_backend.py", "joblib is not installed here"): "here",
    ("cluster/loading.py", "FlameCluster needs"): "here",
    ("cli/subcommands/mcp.py", "the package mcp"): "here",
    ("commands/doctor_here.py", "not installed"): "here",
    ("agent/remote/pickles.py", "(cloudpickle could send it"): "its caller adds the command, or it is about the client",
    ("agent/remote/pickles.py", "a pickle of cloudpickle"): "_how_to_get_it adds the command",
    ("kernel/debugger.py", "the debugger needs"): "_SENT is the command",
    ("agent/shell/mini_magics.py", "%s is not installed on %s"): "a program that %%script names",
    ("agent/remote/objects.py", "not installed"): "a word of the protocol",
    ("remote/calls.py", "not installed"): "a word of the protocol",
    ("agent/wire/tables/arrays.py", "a value of %s"): "remote/calls adds the command, as it knows whose side it is",
    ("agent/wire/tables/numpy_kinds.py", "an array of StringDType"): "likewise",
}


def _sentences(tree: ast.AST, source: str) -> Iterator[tuple[str, str]]:
    """Text in the code of a file, but for docstrings, and the function that it is in."""
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and isinstance(node.body[0], ast.Expr)
    }
    around: dict[int, str] = {}
    lines = source.splitlines()
    for node in ast.walk(tree):  # outer ones come first
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Assign)):
            text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            if not isinstance(node, ast.Assign) or node in getattr(tree, "body", ()):
                around.update(dict.fromkeys(map(id, ast.walk(node)), text))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield node.value, around.get(id(node), "")


def test_what_is_missing_there_can_be_sent_by_the_command_in_the_sentence() -> None:
    lacking, used, found = [], set(), 0
    for path in sorted(PACKAGE.rglob("*.py")):
        name, source = path.relative_to(PACKAGE).as_posix(), path.read_text("utf-8")
        if not _LACKS.search(source):
            continue
        for text, around in _sentences(ast.parse(source), source):
            if not _LACKS.search(text) or name.startswith("packages/"):
                continue
            found += 1
            others = [one for one in OTHERS if one[0] == name and one[1] in text]
            used.update(others)
            if not others and COMMAND not in around:
                lacking.append(f"{name}: {text}")
    assert not lacking
    assert found > len(OTHERS)
    assert used == set(OTHERS), "these are not there any more: strike them"
