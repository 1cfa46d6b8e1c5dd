"""A stock Flame server of Windows' Python under wine (``other_pythons.py --windows`` has fetched both)."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import other_pythons
from farside import FlameServer, Python
from needs import missing


@contextlib.contextmanager
def server(key: str | None = None) -> Iterator[FlameServer]:
    """It ends with everything of wine's, which stays a while otherwise."""
    program = other_pythons.windows_python()
    if program is None:
        missing("Windows' Python: python tests/support/other_pythons.py --windows")
    python = Python(str(program), (3, 13, 2), ipython=False, pyro=True, numpy=False, jedi=False)
    one = None
    try:
        one = FlameServer(python, key=key, env={"WINEDEBUG": "-all"})
        yield one
    finally:
        if one is not None:
            one.stop()
        ended = [str(other_pythons.WINDOWS / "usr/lib/x86_64-linux-gnu/wine/wineserver"), "-k"]
        subprocess.run(ended, env={"WINEPREFIX": str(other_pythons.WINDOWS / "prefix")}, check=False, timeout=30)
