"""The text of cells: what can be told, and done, without the far side."""

from __future__ import annotations

from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

# Every magic, shell command or question (``obj?``) has one of these characters in it.
_SIGNS = "%!?"
# Cells that were copied with their indentation or prompts: IPython takes those off.
_STARTS = (" ", "\t", ">>>", "In [")


class Source:
    """IPython's input transformations, here: they need no round trip, and work for far sides without IPython."""

    def __init__(self) -> None:
        self._manager = TransformerManager()

    def is_complete(self, code: str) -> dict[str, Any]:
        """The content of an is_complete_reply
        (https://jupyter-client.readthedocs.io/en/stable/messaging.html#code-completeness)."""
        status, indent = self._manager.check_complete(code)
        reply: dict[str, Any] = {"status": status}
        if status == "incomplete":
            reply["indent"] = " " * (indent or 0)
        return reply

    def as_python(self, code: str) -> str:
        """``code`` with magics, ``!cmd`` and ``obj?`` as calls of ``get_ipython()``; plain Python is left as it is."""
        if not any(sign in code for sign in _SIGNS) and not code.lstrip("\n").startswith(_STARTS):
            return code
        try:
            compile(code, "<cell>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
            try:
                empty = code[: len(code) - len(code.lstrip("\n"))]  # IPython removes these lines; errors count them
                return empty + self._manager.transform_cell(code)
            except SyntaxError:
                return code  # the far side says what is wrong with it
        return code
