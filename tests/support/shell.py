"""``jupyter flame`` as people call it: a process of its own, with nothing of ours in its environment.

Starting Python and loading what a command needs takes most of the time; ``warm`` does that once, in a process that
then forks for each call.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect

_WARM = """
import importlib, json, os, signal, sys, tempfile
for name in sys.argv[1:]:
    importlib.import_module(name)
from flame_kernel.cli import __main__ as cli, index
for path, _ in index.COMMANDS.values():
    importlib.import_module(path.rpartition(".")[0])
for line in sys.stdin:
    argv, environ, stdin, cwd = json.loads(line)
    streams = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        for number, (_, end) in zip((1, 2), streams):
            os.dup2(end, number)
        with tempfile.TemporaryFile() as typed:
            typed.write(stdin.encode())
            typed.seek(0)
            os.dup2(typed.fileno(), 0)
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        os.chdir(cwd)
        os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(environ)
        sys.argv = ["jupyter-flame", *argv]
        code = 1
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    for _, end in streams:
        os.close(end)
    texts = []
    for start, _ in streams:
        with open(start, encoding="utf-8") as stream:
            texts.append(stream.read())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps([code, *texts]), flush=True)
"""
_warm: list[subprocess.Popen[str]] = []

# The script as it is installed: it does not put the present folder on the import path, as ``python -m`` would.
COMMAND = str(Path(sysconfig.get_path("scripts")) / "jupyter-flame")


@contextlib.contextmanager
def warm(*modules: str) -> Iterator[None]:
    """Calls in here begin at once; ``modules`` are those that they would load themselves."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WARM, *modules], env=_clean(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _warm.append(process)
    try:
        yield
    finally:
        _warm.remove(process)
        process.communicate(timeout=20)


def _clean() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith(("FLAME_", "PYRO_"))}


def run(
    *words: str, env: dict[str, str] | None = None, stdin: str = "", cwd: Path | None = None
) -> tuple[int, str, str]:
    """``jupyter flame`` with these words: exit code, stdout, stderr. No traceback of ours may be in it."""
    environ = {**_clean(), **(env or {})}
    if _warm:
        process = _warm[-1]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([words, environ, stdin, str(cwd or os.getcwd())]) + "\n")
        process.stdin.flush()
        code, out, err = json.loads(process.stdout.readline())
    else:
        done = subprocess.run(
            [COMMAND, *words], env=environ, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=50
        )
        code, out, err = done.returncode, done.stdout, done.stderr
    assert "flame_kernel" not in err, err
    return code, out, err


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


def flame(*words: object, stdin: str = "", cwd: Path | None = None, **environ: str) -> Done:
    """The same, more kinds of words, and what is typed."""
    plain = {"NO_COLOR": "1", "COLUMNS": "120", "FLAME_CONFIG": os.environ.get("FLAME_CONFIG", "")}
    return Done(*run(*map(str, words), env={**plain, **environ}, stdin=stdin, cwd=cwd))


@contextlib.contextmanager
def typed(*words: object, cwd: Path | None = None, **environ: str) -> Iterator[pexpect.spawn[str]]:
    """A command in a terminal of 120 columns."""
    settings = {"TERM": "xterm", "PYTHONWARNINGS": "ignore", "PROMPT_TOOLKIT_NO_CPR": "1"}
    with terminal(COMMAND, *words, env={**_clean(), **settings, **environ}, cwd=cwd, columns=120) as child:
        yield child


@contextlib.contextmanager
def terminal(
    program: str, *words: object, env: dict[str, str], cwd: Path | None = None, columns: int = 200
) -> Iterator[pexpect.spawn[str]]:
    """A program in a terminal of its own, ended at the end."""
    child = pexpect.spawn(
        program,
        [str(word) for word in words],
        env=env,  # type: ignore[arg-type]
        cwd=str(cwd) if cwd else None,
        encoding="utf-8",
        timeout=30,
        dimensions=(50, columns),
    )
    try:
        yield child
    finally:
        child.close(force=True)


def tab(c: pexpect.spawn[str], shown: str) -> None:
    """Press Tab until there is an answer: the first one may take the far side longer than Tab waits."""
    for _ in range(4):
        c.send("\t")
        if c.expect_exact([shown, pexpect.TIMEOUT], timeout=10) == 0:
            return
    raise AssertionError(f"Tab: no {shown!r}")
