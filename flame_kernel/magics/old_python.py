"""``%%flame`` cells on a server whose Python is too old for a session: plain text, at their end."""

from __future__ import annotations

from ..commands.code_words import check_code
from ..commands.parsing import Line
from ..errors import FlameError
from ..old_python.calls import LIMITS_WITH_VARIABLES, OldPython
from .jobs import cell_error


def in_words(old: OldPython) -> str:
    """Where the cells of such a connection run, and what is missing."""
    return f"Python {old.version} at {old.location}: {LIMITS_WITH_VARIABLES}; they stay until you disconnect"


def run(old: OldPython, line: Line, code: str, raise_error: bool) -> None:
    """Run one cell and show its output; what it raised is raised, or only shown. Raises FlameError."""
    given = [name for name in line.given if name not in ("target", "block", "raise_error", "no_raise_error")]
    if given:
        word = given[0].replace("_", "-")
        raise FlameError(f"a server on Python {old.version} runs plain cells, each to its end; leave out --{word}")
    check_code(code)
    ran = old.run(code, stays=True)
    ran.show()
    if ran.raised is None and not ran.code:
        return
    raised = ran.raised
    content = {
        "ename": "SystemExit" if raised is None else raised.ename,
        "evalue": str(ran.code) if raised is None else raised.evalue,
        "traceback": [] if raised is None else raised.traceback.splitlines(),
    }
    if raise_error:
        raise cell_error(content)
    print("\n".join(content["traceback"]) or f"SystemExit: {ran.code}")
