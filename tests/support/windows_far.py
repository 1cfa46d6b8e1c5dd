"""Windows' Python under wine: a stock Flame server, and our client. ``other_pythons.py --windows`` fetches both."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import other_pythons
import pip
import psutil
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
    with wine(), another_server(key) as one:
        yield one


@contextlib.contextmanager
def another_server(key: str | None = None) -> Iterator[FlameServer]:
    """The same, within ``wine()``."""
    program = str(other_pythons.windows_python())
    python = Python(program, (3, 13, 2), ipython=False, pyro=True, numpy=False, jedi=False)
    one = FlameServer(python, key=key, env={"WINEDEBUG": "-all"})
    try:
        yield one
    finally:
        one.stop()


def processes(words: str) -> list[psutil.Process]:
    """The processes there whose command line has these words."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "python.exe" in (line := " ".join(process.cmdline())) and words in line:
                found.append(process)
    return found


# -- our client there, within ``wine()``


def path(here: Path) -> str:
    """What a path of this machine is called there."""
    return str(PureWindowsPath("Z:" + str(here)))


def ssh(folder: Path) -> None:
    """Put an ``ssh.exe`` there which forwards to this machine. It is pip's own launcher, with a script behind it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(ROOT / "tests" / "apps" / "windows_ssh.py", "__main__.py")
    launcher = (Path(pip.__file__).parent / "_vendor" / "distlib" / "t64.exe").read_bytes()
    python = path(other_pythons.WINDOWS / "cp313" / "python.exe")
    (folder / "ssh.exe").write_bytes(launcher + f"#!{python}\r\n".encode() + packed.getvalue())


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
        "WINEPATH": path(folder),  # in front of PATH there
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
