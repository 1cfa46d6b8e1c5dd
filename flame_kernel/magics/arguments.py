"""What stands in a ``%flame`` line, taken apart: options before code, assignments, calls and their values, words."""

from __future__ import annotations

import argparse
import ast
import keyword
import re
import shlex
from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError

from ..errors import FlameError


def exact(method: Any) -> Any:
    """The same magic; its options are to be written out, so that a mistyped one is not taken for another."""
    method.parser.allow_abbrev = False
    return method


def usage(parser: argparse.ArgumentParser) -> str:
    """The usage of a magic in one line."""
    return " ".join(parser.format_usage().replace("::", "", 1).split())


def split_raw(text: str) -> tuple[str, str]:
    """``(options, code)`` of a line whose code is to be taken as it stands; ``--`` ends the options."""
    found = re.match(r"\s*((?:(?:-t\s*|--target(?:\s+|=))(?:\"[^\"]*\"|'[^']*'|\S+)\s*)*)(?:--\s+)?", text)
    assert found is not None
    return found.group(1).strip(), text[found.end() :].strip()


def assignments(text: str) -> list[tuple[str, str | None]]:
    """``a b=EXPRESSION c`` taken apart: each name, and its expression or None; UsageError for what is neither."""
    pieces = re.split(r"(\s+)", text.strip())
    found: list[tuple[str, str | None]] = []
    while pieces:
        piece = pieces.pop(0)
        if not piece.strip():
            continue
        name, equals, expression = piece.partition("=")
        if not name.isidentifier() or keyword.iskeyword(name) or expression.startswith("="):
            raise UsageError(f"{piece!r} is no variable; write %flame push NAME or NAME=EXPRESSION")
        if not equals:
            found.append((name, None))
            continue
        # The expression goes on until it is whole and what follows could be the next variable.
        while pieces and not (_whole(expression) and re.match(r"[^\W\d]\w*(=|$)", pieces[1]) and _no_word(pieces[1])):
            expression += pieces.pop(0) + pieces.pop(0)
        if not _whole(expression):
            raise UsageError(f"{expression.strip() or 'nothing'} behind {name}= is no expression")
        found.append((name, expression.strip()))
    return found


def _no_word(text: str) -> bool:
    return not keyword.iskeyword(text.partition("=")[0])


def _whole(expression: str) -> bool:
    try:
        ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True


def call_of(text: str) -> ast.Call | None:
    """``text`` as a call of a function by its name, or None."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return node if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)) else None


def evaluated(call: ast.Call, value_of: Callable[[str], Any]) -> tuple[Any, list[Any], dict[str, Any]]:
    """The function of a call and its arguments; ``value_of`` evaluates with the notebook's names."""
    function = local_value(ast.unparse(call.func), value_of)
    if not callable(function):
        raise FlameError(f"{ast.unparse(call.func)} is no function; %flame run takes a call of a local function")
    arguments = []
    for argument in call.args:
        if isinstance(argument, ast.Starred):
            arguments += local_value(f"[{ast.unparse(argument)}]", value_of)
        else:
            arguments.append(local_value(ast.unparse(argument), value_of))
    named: dict[str, Any] = {}
    for word in call.keywords:
        written = ast.unparse(word.value)
        if word.arg is None:
            named |= local_value(f"dict(**{written})", value_of)
        else:
            named[word.arg] = local_value(written, value_of)
    return function, arguments, named


def local_value(expression: str, value_of: Callable[[str], Any]) -> Any:
    """The value here of what the user has written; FlameError in one sentence where it has none."""
    try:
        return value_of(expression)
    except Exception as e:  # the user's own code
        raise FlameError(f"{expression} has no value here: {type(e).__name__}: {e}") from None


def words_of(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as e:
        raise UsageError(f"{text} cannot be read: {e}; usage: %flame run FILE [ARGUMENT]…") from None


def script(source: str, name: str, arguments: list[str]) -> str:
    """A cell that runs a script as Python does: ``sys.argv`` for it, its own names, tracebacks with its lines."""
    return (
        "def _flame_script():\n"
        "    import sys, linecache\n"
        f"    source, name = {source!r}, {name!r}\n"
        "    linecache.cache[name] = (len(source), None, source.splitlines(True), name)\n"
        "    before = sys.argv\n"
        f"    sys.argv = [name, *{arguments!r}]\n"
        "    try:\n"
        "        exec(compile(source, name, 'exec'), {'__name__': '__main__', '__file__': name})\n"
        "    finally:\n"
        "        sys.argv = before\n"
        "try:\n"
        "    _flame_script()\n"
        "finally:\n"
        "    del _flame_script"
    )


def unquoted(texts: list[str]) -> list[str]:
    """Words of a line without the quotes that held them together."""
    return [text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text for text in texts]
