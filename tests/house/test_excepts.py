"""Whoever catches everything says why, on that line: a blind ``except`` hides what nobody has thought of."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from flame_kernel.session import bootstrap

PACKAGE = Path(bootstrap.__file__).parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))
BLIND = {"Exception", "BaseException"}
# Of a comment, what is for tools and says nothing to a reader.
_FOR_TOOLS = re.compile(r"#\s*(noqa|type:|pragma|fmt:)[^#]*")


def words(source: str) -> dict[int, str]:
    """What the comments of a text say, by line."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = _FOR_TOOLS.sub("", token.string).strip("# ")
    return found


def names(caught: ast.expr | None) -> Iterator[str]:
    """The classes that a handler names; of a bare one BaseException."""
    if caught is None:
        yield "BaseException"
    elif isinstance(caught, ast.Tuple):
        for one in caught.elts:
            yield from names(one)
    else:
        yield ast.unparse(caught).rpartition(".")[2]


def unexplained(source: str) -> list[int]:
    """The lines that catch everything, by ``except`` or ``suppress``, and do not say why."""
    said = words(source)
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            caught = set(names(node.type))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "suppress":
            caught = {name for one in node.args for name in names(one)}
        else:
            continue
        if caught & BLIND and not said.get(node.lineno):
            found.append(node.lineno)
    return sorted(found)


def test_a_blind_except_says_why() -> None:
    found = {}
    for path in FILES:
        lines = unexplained(path.read_text(encoding="utf-8"))
        if lines:
            found[path.relative_to(PACKAGE).as_posix()] = lines
    assert not found, f"{found}: these lines catch everything; say why there, or name what is expected"


def test_the_test_sees_it() -> None:
    source = "try:\n    pass\n{}\n    pass\n"
    for caught in (
        "except:",
        "except Exception:",
        "except BaseException as e:",
        "except (ValueError, Exception):",
        "except builtins.Exception:",
        "except Exception:  # noqa: BLE001",
    ):
        assert unexplained(source.format(caught)) == [3]
        assert unexplained(source.format(caught + "  # the user's code may raise anything")) == []
    assert unexplained("with contextlib.suppress(OSError, Exception):\n    pass\n") == [1]
    assert unexplained("try:\n    pass\nexcept (OSError, ValueError):\n    pass\n") == []
