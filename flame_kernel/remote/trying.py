"""``pi.try_``: runs code in a copy of the process there, which is thrown away; the agent's ``trial`` tells how."""

from __future__ import annotations

from typing import Any

from ..commands import rails
from ..commands.looking import trial
from .exceptions import raised_there
from .foreground import Foreground


class _Shown(Foreground):
    """Writes what a trial prints to where the calls of the library write; its error is raised."""

    def stream(self, name: str, text: str) -> None:
        self._far.write(name, text)

    def error(self, content: dict[str, Any]) -> None:
        """Nothing: it is raised."""


def tried(remote: Any, code: str, seconds: float | None) -> None:
    """Try code; raises what it raised, as RemoteError, and FlameError."""
    how = trial(seconds)
    rails.hold(remote.session, code, tried=True)
    shown = _Shown(remote)
    reply = shown.run(code, store_history=False, trial=how)
    if shown.presses:
        raise KeyboardInterrupt
    if reply.get("status") == "error":
        raise raised_there({**reply, "bases": [reply.get("ename")]}, {})
