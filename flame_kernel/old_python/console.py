"""A plain Python prompt for a server whose Python is too old for a session."""

from __future__ import annotations

import sys

from .calls import LIMITS_WITH_VARIABLES, OldPython


def talk(old: OldPython) -> int:
    """Open the prompt, or run stdin if it is no terminal; the exit status."""
    if sys.stdin.isatty():
        interact(old)
        return 0
    ran = old.run(sys.stdin.read())
    ran.show()
    if ran.raised is not None:
        sys.stderr.write(ran.raised.traceback)
    return ran.code


def interact(old: OldPython) -> None:
    """Ask for lines and run them there, until Ctrl-D, ``exit`` or ``quit``."""
    print(f"Python {old.version} at {old.location}: {LIMITS_WITH_VARIABLES}; Ctrl-D leaves", file=sys.stderr)
    lines: list[str] = []
    while True:
        try:
            lines.append(input("... " if lines else ">>> "))
            if len(lines) == 1 and lines[0].strip() in ("exit", "quit", "exit()", "quit()"):
                return
            ran = old.line("\n".join(lines))
        except EOFError:
            print()
            return
        except KeyboardInterrupt as e:
            lines = []
            print(f"\nKeyboardInterrupt{f': {e}' if str(e) else ''}", file=sys.stderr)
            continue
        ran.show()
        if ran.raised is not None:
            sys.stderr.write(ran.raised.traceback)
        if not ran.more:
            lines = []
        if ran.code and ran.raised is None:
            return
