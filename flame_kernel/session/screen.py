"""From event to screen: one switch for the events of a session, whatever shows them.

The screens are a front end's iopub channel (``kernel/iopub.py``), IPython's own display (``magics/output.py``) and a
terminal (``remote/foreground.py``).

Contents: https://jupyter-client.readthedocs.io/en/stable/messaging.html#messages-on-the-iopub-pub-sub-channel
"""

from __future__ import annotations

from typing import Any, Protocol

from ..agent.wire.message import COMMS
from ..security.rendering import Rendering
from .inbox import Event


class Screen(Protocol):
    """Shows events of one cell, or of several. Each method is called with what an event says, by ``show``."""

    def stream(self, name: str, text: str) -> None:
        """Text of ``stdout`` or ``stderr``."""

    def display(self, content: dict[str, Any], update: bool) -> None:
        """A ``display_data``, or an update of an earlier one."""

    def result(self, content: dict[str, Any]) -> None:
        """A cell's value, as Out."""

    def error(self, content: dict[str, Any]) -> None:
        """An error, with its traceback."""

    def clear(self, wait: bool) -> None:
        """Clear the output: at once, or when new output comes."""

    def comm(self, event: Event) -> None:
        """A message of a comm, for the front end; with its buffers."""

    def other(self, event: Event) -> None:
        """Any other event: a question to the user, a debugger's event, …"""


def show(event: Event, screen: Screen) -> None:
    """Show one event; replies and others without output show nothing."""
    kind, content = event["type"], event.get("content")
    if content is None:
        screen.other(event)
    elif kind == "stream":
        screen.stream("stderr" if content.get("name") == "stderr" else "stdout", str(content.get("text", "")))
    elif kind == "display_data":
        screen.display(content, False)
    elif kind == "update_display_data":
        screen.display(content, True)
    elif kind == "execute_result":
        screen.result(content)
    elif kind == "error":
        screen.error(content)
    elif kind == "clear_output":
        screen.clear(bool(content.get("wait")))
    elif kind in COMMS:
        screen.comm(event)
    else:
        screen.other(event)


def allowed(event: Event, rendering: Rendering) -> Event | None:
    """The part of an event that may be shown from this server, or None."""
    if event["type"] != "stream":
        return rendering.event(event)
    content = event["content"]
    name = "stderr" if content.get("name") == "stderr" else "stdout"
    text = rendering.text(event.get("request"), name, str(content.get("text", "")))
    return {**event, "content": {"name": name, "text": text}}
