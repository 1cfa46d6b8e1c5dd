"""A function has at most fifteen ways through it, or says in its docstring why it has more.

Counted as McCabe did, by the standard library's ``ast``: one, and one more for each place where it may branch.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from flame_kernel.session import bootstrap

PACKAGE = Path(bootstrap.__file__).parents[1]
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
MOST = 15
# How the sentence of a docstring begins that gives the reason.
REASON = "Branches because"

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# A function in a function is counted by itself; a lambda, like a comprehension, is part of what it stands in.
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The functions below a node, with their dotted names."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            name = f"{prefix}{node.name}."
        if isinstance(node, FUNCTIONS):
            yield name[:-1], node
        yield from functions(node, name)


def complexity(function: ast.AST) -> int:
    """The ways through a function, without those of functions and classes in it."""
    ways, below = 1, list(ast.iter_child_nodes(function))
    while below:
        node = below.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            continue
        below.extend(ast.iter_child_nodes(node))
        if isinstance(node, _BRANCHES):
            ways += 1 + (isinstance(node, _LOOPS) and bool(node.orelse))
        elif isinstance(node, ast.BoolOp):
            ways += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            ways += 1 + len(node.ifs)
        elif isinstance(node, ast.Match):
            ways += len(node.cases)
        elif isinstance(node, ast.Try):
            ways += bool(node.orelse)
    return ways


def too_many(source: str) -> dict[str, int]:
    """Functions of a text with more ways than MOST and no reason for them."""
    return {
        name: ways
        for name, function in functions(ast.parse(source))
        if (ways := complexity(function)) > MOST and REASON not in (ast.get_docstring(function) or "")
    }


def test_a_function_has_few_ways_through_it() -> None:
    found = {}
    for name, path in FILES.items():
        for one, ways in too_many(path.read_text(encoding="utf-8")).items():
            found[f"{name}:{one}"] = ways
    assert not found, f"{found}: at most {MOST} each, or a sentence '{REASON} …' in the docstring"


def test_the_counter_counts() -> None:
    source = """
def f(x):
    '''Does it.'''
    if x and x > 1 or x < 0:                # 3
        for y in [z for z in x if z]:       # 3
            pass
        else:                               # 1
            pass
    try:
        return 1 if x else 2                # 1
    except ValueError:                      # 1
        return (lambda: x or 1)()           # 1
    while x:                                # 1
        assert x                            # 1
    def inner():
        if x:                               # none: its own
            pass
"""
    tree = ast.parse(source)
    assert {name: complexity(one) for name, one in functions(tree)} == {"f": 13, "f.inner": 2}
    long = "def f(x):\n    '''Does it.'''\n" + "    if x: pass\n" * MOST
    assert too_many(long) == {"f": MOST + 1}
    assert too_many(long.replace("Does it.", f"Does it. {REASON} each is another op.")) == {}
