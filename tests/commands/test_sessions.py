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
    heading, *rows = (re.split(r"  +", line) for line in sessions.lines(living, "train"))
    assert tuple(heading) == sessions.COLUMNS
    assert rows == [
        ["train (this one)", "child", "fit.ipynb", "2026-03-04", "busy", "fit(everythin…", "3 MiB", "ann@desk"],
        ["idle", "process", "-", "2026-03-04", "idle", "-", "-", "none for 3 min 5 s"],
    ]


def test_what_a_server_says_is_shown_as_text() -> None:
    """Fields of any shape, and what a terminal would obey."""
    odd = {"session": "\x1b]0;title\x07x", "place": 7, "notebook": [], "started": "now", "code": "\n", "alone": "long"}
    assert sessions.lines([odd])[1].split() == ["x", "7", "?", "-", "none", "for", "?"]


def test_none() -> None:
    assert sessions.lines([]) == ["no sessions on this server"]


def test_lines_fit_a_cell() -> None:
    living = [
        {
            "session": "c79afda790ee",
            "place": "process",
            "notebook": "/data/a-notebook-with-a-long-name.ipynb",
            "started": STARTED,
            "state": "busy",
            "code": "for epoch in range(1000): fit(everything)",
            "waiting": waiting,
            "attached": True,
            "client": "somebody@a-host-of-long-name.example.org, pid 12345",
        }
        for waiting in (0, 3 << 20)
    ]
    found = sessions.lines(living, "c79afda790ee")
    assert max(map(len, found)) <= 100
    assert [line.split()[:2] for line in found[1:]] == [["c79afda790ee", "(this"]] * 2
    assert sessions.lines([{**living[0], "session": "n" * 200}])[1].startswith("n" * 200)  # to be typed, so it is whole
