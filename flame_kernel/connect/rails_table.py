"""Rails: what a user does not want to do by mistake on a target. They guard against slips, not against bad intent.

In ``targets.toml``::

    [targets.prod.rails]
    confirm = true             # ask before a cell that goes to several hosts, or comes with others ("Run All")
    max_hosts = 5              # ask before a cell that goes to more hosts than that
    colour = "red"             # of the line above each cell's output: red, yellow, green, blue, magenta, cyan
    read_only = true           # refuse what plainly writes
    window = "09:00-17:00"     # run cells only at this time of the day, here
    log = "prod-audit.log"     # where each cell is noted; else flame_audit.log in Jupyter's configuration folder
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TargetError

# What a terminal is told for each colour: background, and text that can be read on it. By number, because the first 16
# colours are the theme's: JupyterLab's white is a grey.
COLOURS = {
    "red": "48;5;160;38;5;231",
    "green": "48;5;28;38;5;231",
    "yellow": "48;5;220;38;5;16",
    "blue": "48;5;25;38;5;231",
    "magenta": "48;5;127;38;5;231",
    "cyan": "48;5;44;38;5;16",
}
# The settings in the table, and their types.
RAILS = {"confirm": bool, "max_hosts": int, "colour": str, "read_only": bool, "window": str, "log": str}
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Rails:
    """The rails of one target."""

    confirm: bool = False
    max_hosts: int | None = None
    colour: str = "red"
    read_only: bool = False
    window: str = ""
    log: str = ""

    def is_open(self, now: time.struct_time) -> bool:
        """Whether cells may run at this time; a window may span midnight."""
        found = _WINDOW.fullmatch(self.window)
        if found is None:
            return True
        begin, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
        minute = now.tm_hour * 60 + now.tm_min
        return begin <= minute < end if begin <= end else minute >= begin or minute < end


def check_option(name: str, path: Path) -> None:
    """Raise TargetError for an option that would change rails."""
    if name == "rails" or name in RAILS:
        raise TargetError(f"{name!r} stands in the rails of a target in {path}; no option changes rails")


def check_rails(table: Any, whose: str, folder: Path) -> dict[str, Any]:
    """Check the table of ``targets.toml``, and return it with the path of ``log`` made absolute: in the file it is
    relative to ``folder``. Raises TargetError."""
    if not isinstance(table, Mapping):
        raise TargetError(f"rails of {whose} is not a table; write [targets.NAME.rails]")
    for key, value in table.items():
        if key not in RAILS:
            raise TargetError(f"rails of {whose} has an unknown setting {key!r}; there are {', '.join(RAILS)}")
        if type(value) is not RAILS[key]:
            words = {bool: "true or false", int: "a whole number", str: "text in quotes"}[RAILS[key]]
            raise TargetError(f"{key} in rails of {whose} must be {words}")
    made = Rails(**table)
    if made.colour not in COLOURS:
        raise TargetError(f"colour in rails of {whose} is one of {', '.join(COLOURS)}, not {made.colour!r}")
    if made.max_hosts is not None and made.max_hosts < 1:
        raise TargetError(f"max_hosts in rails of {whose} must be 1 or more")
    if made.window and not _WINDOW.fullmatch(made.window):
        raise TargetError(f'window in rails of {whose} is written "09:00-17:00", not {made.window!r}')
    return {**table, "log": str(folder / os.path.expanduser(made.log))} if made.log else dict(table)
