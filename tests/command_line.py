"""``jupyter flame`` as a shell runs it: a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect

COMMAND = str(Path(sysconfig.get_path("scripts")) / "jupyter-flame")


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """Ours, with what a terminal would set out of the way."""
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", **more}


def flame(*words: object, stdin: str = "", cwd: Path | None = None, timeout: float = 50, **environ: str) -> Done:
    """Run a command to its end. No traceback of ours may be in what it says."""
    done = subprocess.run(
        [COMMAND, *map(str, words)],
        input=stdin,
        cwd=cwd,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert "flame_kernel" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def typed(*words: object, cwd: Path | None = None, **environ: str) -> Iterator[pexpect.spawn[str]]:
    """A command in a terminal of 120 columns."""
    child = pexpect.spawn(
        COMMAND,
        [str(word) for word in words],
        env={**os.environ, "TERM": "xterm", "PYTHONWARNINGS": "ignore", "PROMPT_TOOLKIT_NO_CPR": "1", **environ},
        cwd=str(cwd) if cwd else None,
        encoding="utf-8",
        timeout=30,
        dimensions=(50, 120),
    )
    try:
        yield child
    finally:
        child.close(force=True)
