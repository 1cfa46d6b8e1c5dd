"""An app that knows nothing of Flame (apps/plain_app.py), for ignite."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from farside import HERE, FarProcess, Python, bare_pyro, pythons
from needs import missing

KEY = "0123456789abcdef" * 4


class PlainApp(FarProcess):
    """``apps/plain_app.py``, with these threads; ``pyro``: whether Pyro4 can be imported there."""

    key = None

    def __init__(self, python: Python, *threads: str, pyro: bool = False) -> None:
        env = {"PYTHONPATH": bare_pyro() if pyro else None, "PYRO_FLAME_ENABLED": None}
        super().__init__([str(HERE / "apps" / "plain_app.py"), *threads], python, env, subprocess.PIPE)
        self._asked = 0
        self._wait_for_line("app pid: ")

    def send(self, expression: str) -> None:
        assert self.process.stdin is not None
        self._asked += 1
        self.process.stdin.write(expression.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, expression: str) -> Any:
        """The value of an expression, by the app's main thread."""
        self.send(expression)
        return self.answer()

    def answer(self) -> Any:
        """The value of what was sent last."""
        return json.loads(self._wait_for_line(f"answer {self._asked}: "))


def bare() -> Python:
    """An interpreter without Pyro4 of its own."""
    found = [python for python in pythons() if not python.pyro]
    if not found:
        missing("a Python without Pyro4 (pyenv)")
    return found[-1]
