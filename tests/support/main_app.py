"""An app whose main thread cells can have (apps/main_app.py), and whether it is as it was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from subprocess import DEVNULL
from typing import Any

from farside import HERE, FarProcess, Python, pythons, wait_until
from rawagent import RawAgent

# In a thread: whether the thread that runs this is the main one.
IS_MAIN = "import threading; threading.current_thread() is threading.main_thread()"


class MainApp(FarProcess):
    """``apps/main_app.py``."""

    def __init__(self, python: Python, way: str, servertype: str = "thread") -> None:
        self.key = None
        super().__init__([str(HERE / "apps" / "main_app.py"), way], python, {"PYRO_SERVERTYPE": servertype}, DEVNULL)
        self.location = self._wait_for_line("app uri: ").partition("@")[2]


@contextlib.contextmanager
def app(way: str, servertype: str = "thread", python: Python | None = None) -> Iterator[MainApp]:
    one = MainApp(python or pythons()[-1], way, servertype)
    try:
        yield one
    finally:
        one.stop()


def state(agent: RawAgent) -> dict[str, Any]:
    """The app's own ``state``, taken on one of its worker threads."""
    return dict(json.loads(agent.evaluate("__import__('json').dumps(__import__('__main__').state())")))


def is_as_found(agent: RawAgent) -> None:
    found = json.loads(agent.evaluate("__import__('json').dumps(__import__('__main__').FOUND)"))

    def same() -> bool:
        now = state(agent)
        return all(now[part] == found[part] for part in ("handlers", "events", "threads"))

    with contextlib.suppress(AssertionError):
        wait_until(same, "everything as it was found", 10)
    assert {**state(agent), "loop": None} == {**found, "loop": None}
    assert agent.evaluate("__import__('signal').getitimer(__import__('signal').ITIMER_REAL)") == (0.0, 0.0)
