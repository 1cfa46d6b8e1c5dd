"""Carries out ``%flame hot`` and ``%flame hotfix`` for all front ends; the answer is text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import TargetError
from ..session.session import Session
from . import fixing, serving

# The first line of a cell whose text is a function's new code.
FIXES = re.compile(r"%%flame\s+hotfix(?:\s|$)")


def hot(session: Session, values: Mapping[str, Any]) -> str:
    """Serve folders, stop serving, or list what is served; returns what to show. Raises FlameError."""
    now = serving.serving(session)
    if values["off"]:
        if values["folders"] or values["reload"]:
            raise TargetError("--off ends it for all folders; write %flame hot --off")
        if now is None:
            return "nothing is served there"
        count = now.close()
        return f"nothing is served there any more; {count} module{'' if count == 1 else 's'} forgotten"
    if not values["folders"]:
        if values["reload"]:
            raise TargetError("name the folder, too: %flame hot src --reload")
        return "nothing is served there; %flame hot src serves the folder src" if now is None else str(now)
    made = serving.serve(session, values["folders"], values["reload"])
    more = "; those that you edit are reloaded before the next cell" if made.reload else ""
    left = [f"{shown} is left out: {why}" for shown, why in list(made.left_out.items())[: serving.SHOWN]]
    return "\n".join([made.words + more, *left])


def hotfix(session: Session, values: Mapping[str, Any], text: str = "") -> tuple[str, str]:
    """Fix a function with the ``text`` of a cell, undo fixes, or list them. Returns what to show, and the text for the
    next cell. Raises FlameError."""
    name = values["name"]
    if values["undo"]:
        undone = fixing.undo(session, name)
        return "\n".join(f"{one} has its old code" for one in undone) or "this session has fixed nothing there", ""
    if name is None:
        return fixing.table(session), ""
    if text.strip():
        return str(fixing.fix(session, name, text)), ""
    return f"edit {name} in the next cell, and run it", f"%%flame hotfix {name}\n{fixing.source_of(session, name)}"
