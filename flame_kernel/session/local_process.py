"""LocalProcess: a server's process on this machine, so that its end can be seen and is not guessed from silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..agent.wire.machine import machine as this_machine


class LocalProcess:
    """The process ``pid`` of this machine; a later process with the same number is another one."""

    def __init__(self, pid: int, started: str) -> None:
        self._pid = pid
        self._started = started

    def __repr__(self) -> str:
        return f"<LocalProcess {self._pid} {'lives' if self.lives() else 'has ended'}>"

    @classmethod
    def of(cls, server: Mapping[str, Any]) -> LocalProcess | None:
        """The process with this ``machine`` and ``pid``; None if it is on another machine, or cannot be seen."""
        machine, pid = server.get("machine"), server.get("pid")
        if not machine or machine != this_machine() or not isinstance(pid, int) or pid <= 0:
            return None
        started = _start_of(pid)
        return cls(pid, started) if started else None

    def lives(self) -> bool:
        """Whether the process still runs; a zombie does not."""
        return _start_of(self._pid) == self._started


def _start_of(pid: int) -> str:
    """When process ``pid`` was started, in the system's ticks; empty if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if not fields or fields[0] in "ZXx" else fields[19]
