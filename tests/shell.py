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
from collections.abc import Iterator

_WARM = """
import importlib, json, os, signal, sys
from flame_kernel import cli, cli_app
for path, _ in cli_app.COMMANDS.values():
    importlib.import_module(path.rpartition(".")[0])
for line in sys.stdin:
    argv, environ = json.loads(line)
    streams = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        for number, (_, end) in zip((1, 2), streams):
            os.dup2(end, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
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


@contextlib.contextmanager
def warm() -> Iterator[None]:
    """Calls in here begin at once."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WARM], env=_clean(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _warm.append(process)
    try:
        yield
    finally:
        _warm.remove(process)
        process.communicate(timeout=20)


def _clean() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if not name.startswith(("FLAME_", "PYRO_"))}


def run(*words: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """``jupyter flame`` with these words: exit code, stdout, stderr. No traceback of ours may be in it."""
    environ = {**_clean(), **(env or {})}
    if _warm:
        (process,) = _warm
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([words, environ]) + "\n")
        process.stdin.flush()
        code, out, err = json.loads(process.stdout.readline())
    else:
        command = [sys.executable, "-m", "flame_kernel.cli", *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=50)
        code, out, err = done.returncode, done.stdout, done.stderr
    assert "Traceback" not in err, err
    return code, out, err
