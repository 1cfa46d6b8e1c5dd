"""Parses code in a ``%flame`` line without running it: assignments to push, the call or the script to run."""

from __future__ import annotations

import ast
import keyword
import re
from pathlib import Path

from ..errors import FlameError, TargetError


def assignments(text: str) -> list[tuple[str, str | None]]:
    """The parts of ``a b=EXPRESSION c``: each name, and its expression or None; FlameError for anything else."""
    pieces = re.split(r"(\s+)", text.strip())
    found: list[tuple[str, str | None]] = []
    while pieces:
        piece = pieces.pop(0)
        if not piece.strip():
            continue
        name, equals, expression = piece.partition("=")
        if not name.isidentifier() or keyword.iskeyword(name) or expression.startswith("="):
            raise FlameError(f"{piece!r} is not a variable name; write %flame push NAME or NAME=EXPRESSION")
        if not equals:
            found.append((name, None))
            continue
        # The expression continues until it is complete and what follows could be the next variable.
        while pieces and not (_whole(expression) and re.match(r"[^\W\d]\w*(=|$)", pieces[1]) and _no_word(pieces[1])):
            expression += pieces.pop(0) + pieces.pop(0)
        if not _whole(expression):
            raise FlameError(f"{expression.strip() or 'nothing'} behind {name}= is not an expression")
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
    """``text`` as a call of a function by its name, which may be dotted; or None."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return node if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)) else None


def identifier(name: str, what: str = "name") -> str:
    """``name``, which must be one that Python can bind; raises TargetError."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise TargetError(f"{name!r} is not a {what}: use letters, digits and _")
    return name


def check_code(code: str) -> None:
    """Raise FlameError if there is nothing below ``%%flame``."""
    if not code.strip():
        raise FlameError("the cell is empty below %%flame; write what is to run there")


def script(words: list[str]) -> str:
    """A cell that runs the script FILE of this machine, with its arguments, as Python does: its own ``sys.argv`` and
    names, tracebacks with its lines. Raises FlameError if it cannot be read."""
    file, *arguments = words
    path = Path(file).expanduser()
    name = path.name
    try:
        source = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = getattr(e, "strerror", None) or e
        raise FlameError(f"cannot read {file}: {reason}; %flame run takes a script of this machine") from None
    return (
        "def _flame_script():\n"
        "    import io, sys, linecache\n"
        "    __tracebackhide__ = True\n"
        f"    source, name = {source!r}, {name!r}\n"
        "    linecache.cache[name] = (len(source), None, io.StringIO(source, None).readlines(), name)\n"
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
