"""Requests about hot code: how the far side is asked, and on which targets it may change nothing."""

from __future__ import annotations

from typing import Any

from ..errors import TransferError
from ..session.session import Session
from ..terminal import one_line


def ask(session: Session, op: str, **fields: Any) -> dict[str, Any]:
    """The reply to a request ``hot``. Raises FlameError."""
    reply = session.request("hot", op=op, **fields).result()
    if reply.get("status") != "ok":
        raise TransferError(f"at {session.location}: {one_line(str(reply.get('evalue')), 1000)}")
    return reply


def check_writable(session: Session, what: str) -> None:
    """Raise TransferError if the rails of the session's target are read_only; ``what`` changes code there."""
    rails = session.target.rails
    if rails is not None and rails.read_only:
        raise TransferError(f"{session.target.name or session.location} is read_only, and {what} changes what runs")
