"""The agent's mini shell on any far-side Python, without a server: requests in, answers out (apps/mini_shell.py)."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from typing import Any

import farside
from farside import Python

AGENT = farside.HERE.parent / "flame_kernel" / "agent"


@dataclass(frozen=True)
class Answer:
    """What one request gave: its answer, the events it published, what it printed."""

    value: Any
    events: list[tuple[str, dict[str, Any]]]
    stdout: str
    stderr: str

    @property
    def status(self) -> Any:
        return self.value["status"]

    @property
    def result(self) -> str | None:
        """The text/plain of the execute_result, None without one."""
        found = [content["data"]["text/plain"] for kind, content in self.events if kind == "execute_result"]
        assert len(found) < 2
        return found[0] if found else None

    @property
    def error(self) -> tuple[str, str] | None:
        return (self.value["ename"], self.value["evalue"]) if self.status == "error" else None

    @property
    def traceback(self) -> str:
        """The traceback of the error event, without colours."""
        (content,) = [content for kind, content in self.events if kind == "error"]
        return plain("\n".join(content["traceback"]))


def plain(text: str) -> str:
    """Text without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def ask(python: Python, *requests: Any, seconds: float = 50) -> list[Answer]:
    """Send requests to a fresh shell. A text is a cell; a tuple is a request of apps/mini_shell.py."""
    made = [("run", {"code": one}) if isinstance(one, str) else one for one in requests]
    done = subprocess.run(
        [python.path, str(farside.HERE / "apps" / "mini_shell.py"), str(AGENT)],
        input=json.dumps(made),
        env={**farside.clean_environ(), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout)
    assert len(answers) == len(made)
    return [Answer(value, [(kind, c) for kind, c in events], out, err) for value, events, out, err in answers]


def cell(code: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """A cell with ``silent`` or ``store_history``."""
    return "run", {"code": code, **options}
