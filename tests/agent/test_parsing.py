"""Functions that arrive while another thread parses: CPython 3.11 and 3.12 then fail at random, and we try again."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from flame_kernel.agent.remote import functions


@pytest.mark.parametrize("source", ["x = 1\n", "    x = 1\n"], ids=["plain", "indented"])
def test_a_tree_that_another_thread_has_disturbed(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tries = ast.parse, []

    def parse(*given: Any, **more: Any) -> ast.AST:
        tries.append(given)
        if len(tries) < 3:
            raise SystemError("AST constructor recursion depth mismatch (before=63, after=61)")
        return real(*given, **more)

    monkeypatch.setattr(ast, "parse", parse)
    (statement,) = functions._parse(source)
    assert isinstance(statement, ast.Assign)
    assert len(tries) == 3
