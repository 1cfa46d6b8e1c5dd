"""``jupyter flame`` as a Jupyter application: finds the command that is named, and has options of its own."""

from __future__ import annotations

from typing import ClassVar

from .command import CommandGroup
from .index import ABOUT, COMMANDS


class FlameApp(CommandGroup):
    """``jupyter flame`` itself."""

    title: ClassVar[str] = ""
    about: ClassVar[str] = ABOUT
    commands: ClassVar[dict[str, tuple[str, str]]] = COMMANDS
