"""Windows' Python under wine: a stock Flame server, and our client. ``other_pythons.py --windows`` fetches both."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import other_pythons
from farside import FlameServer, Python, clean_environ
from needs import missing

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def wine() -> Iterator[str]:
    """The program that runs Windows' Python. At the end all of wine's processes end, which stay a while otherwise."""
    program = other_pythons.windows_python()
    if program is None:
        missing("Windows' Python: python tests/support/other_pythons.py --windows")
    try:
        yield str(program)
    finally:
        ended = [str(other_pythons.WINDOWS / "usr/lib/x86_64-linux-gnu/wine/wineserver"), "-k"]
        subprocess.run(ended, env={"WINEPREFIX": str(other_pythons.WINDOWS / "prefix")}, check=False, timeout=30)


@contextlib.contextmanager
def server(key: str | None = None) -> Iterator[FlameServer]:
    """A stock server there."""
    with wine() as program:
        python = Python(program, (3, 13, 2), ipython=False, pyro=True, numpy=False, jedi=False)
        one = FlameServer(python, key=key, env={"WINEDEBUG": "-all"})
        try:
            yield one
        finally:
            one.stop()


# -- our client there, within ``wine()``


def path(here: Path) -> str:
    """What a path of this machine is called there."""
    return str(PureWindowsPath("Z:" + str(here)))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python there in ``folder``, with our client and what it needs, and with settings of its own."""
    program = other_pythons.windows_python()
    assert program is not None
    environ = {
        **clean_environ(),
        "PYTHONPATH": ";".join(path(one) for one in (other_pythons.WINDOWS_CLIENT, ROOT)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JUPYTER_CONFIG_DIR": path(folder / "config"),
        "IPYTHONDIR": path(folder / "ipython"),
    }
    return subprocess.run(
        [program, *arguments],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )


def found(folder: Path, *arguments: str) -> dict[str, Any]:
    """What ``tests/apps/windows_client.py`` has found there."""
    done = run(folder, path(ROOT / "tests" / "apps" / "windows_client.py"), *arguments)
    lines = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    assert lines, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(lines[-1][len("found ") :])
    return result
