"""The call in a ``%flame run`` line, evaluated with the notebook's variables."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from ..errors import FlameError


def evaluated(call: ast.Call, value_of: Callable[[str], Any]) -> tuple[Any, list[Any], dict[str, Any]]:
    """The function of a call and its arguments; ``value_of`` evaluates with the notebook's names."""
    function = local_value(ast.unparse(call.func), value_of)
    if not callable(function):
        raise FlameError(f"{ast.unparse(call.func)} is not a function; %flame run takes a call of a local function")
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
    """The value of an expression that the user has written; FlameError where evaluating it fails."""
    try:
        return value_of(expression)
    except Exception as e:  # the user's own code
        raise FlameError(f"{expression} has no value here: {type(e).__name__}: {e}") from None
