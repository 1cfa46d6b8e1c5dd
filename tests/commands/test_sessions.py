"""The table of sessions: the same columns wherever it is asked for."""

from __future__ import annotations

import re
import time

from flame_kernel.commands import sessions

STARTED = time.mktime((2026, 3, 4, 5, 6, 0, 0, 0, -1))


def test_a_row_for_each_session() -> None:
    living = [
        {
            "session": "train",
            "place": "child",
            "notebook": "/data/fit.ipynb",
            "started": STARTED,
            "state": "busy",
            "code": "fit(everything, epochs=100, verbose=True)\nmore()",
            "waiting": 3 << 20,
            "attached": True,
            "client": "ann@desk",
        },
        {"session": "idle", "place": "process", "started": STARTED, "state": "idle", "alone": 185.0},
    ]
    heading, *rows = (re.split(r"  +", line) for line in sessions.table(living, "train").splitlines())
    assert tuple(heading) == sessions.COLUMNS
    code = "fit(everything, epochs=100, v…"
    assert rows == [
        ["train (this one)", "child", "fit.ipynb", "2026-03-04 05:06", "busy", code, "3 MiB", "ann@desk"],
        ["idle", "process", "-", "2026-03-04 05:06", "idle", "-", "-", "none for 3 min 5 s"],
    ]


def test_what_a_server_says_is_shown_as_text() -> None:
    """Fields of any shape, and what a terminal would obey."""
    odd = {"session": "\x1b]0;title\x07x", "place": 7, "notebook": [], "started": "now", "code": "\n", "alone": "long"}
    assert sessions.table([odd]).splitlines()[1].split() == ["x", "7", "-", "?", "-", "-", "-", "none", "for", "?"]


def test_none() -> None:
    assert sessions.table([]) == "no sessions on this server"
