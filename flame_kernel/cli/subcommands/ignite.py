"""``jupyter flame ignite`` and ``extinguish``: open Flame in a running process, and take it out again."""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
from pathlib import Path

from jupyter_core.paths import jupyter_runtime_dir

from ...errors import TargetError
from ...security import private_files
from ...serve import ignite
from ..command import Command
from ..parser import Parser


def key_path(pid: int) -> Path:
    """The file with the key of an ignited process."""
    return Path(jupyter_runtime_dir()) / f"flame-ignited-{pid}.key"


class Ignite(Command):
    """Opens Flame in a running Python process."""

    title = "ignite"
    about = f"""
        Open Flame in a Python process that runs already, by its process id: a notebook then works inside it.

        The process must be yours, on this machine, and a CPython from 3.6 on. It needs nothing installed: where it
        has no Pyro4 it is given one, in memory. It gets a server on loopback, on threads of its own, with a fresh key
        in a file of mode 0600. jupyter flame extinguish takes it all out again.

        If both sides run the same Python, 3.14 or newer, the main thread there runs a few lines of ours. Otherwise,
        and if the main thread waits, one thread is stopped for a moment, as by a debugger. Only a thread that sleeps
        is stopped so: stopping one that computes can hang or end the process. If all threads compute, --force stops
        one all the same; do not use it on a process that must not die, nor on one that is still importing.

        You must be allowed to attach to the process: /proc/sys/kernel/yama/ptrace_scope is 0, or you are root.
        A process that hangs is given up after {ignite.PATIENCE:g} seconds.
        """
    typed = """
        jupyter flame ignite 4711
        jupyter flame ignite $(pgrep -f worker.py) --as worker
        jupyter flame extinguish 4711
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("pid", type=int, metavar="PID", help="the process")
        parser.add_argument("--as", dest="name", metavar="NAME", help="save it as a target of this name")
        _common(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        pid, path = options.pid, key_path(options.pid)
        file = self.targets()
        if options.name in file.tables:
            raise TargetError(f"there is a target {options.name} already; choose another name")
        key = secrets.token_hex(32)
        making = path.with_suffix(f".{secrets.token_hex(4)}")
        _write(making, key)  # first, so that no process is opened whose key cannot be kept
        try:
            fire = ignite.ignite(pid, key, options.timeout, options.force)
            making.replace(path)
        finally:
            making.unlink(missing_ok=True)
        location = f"127.0.0.1:{fire.port}"
        if options.name:
            file.add(options.name, {"location": location, "key_file": str(path)})
        program = f", {fire.program}" if fire.program else ""
        way = options.name or f"{location} --key-file {shlex.quote(str(path))}"
        print(f"Flame is open in process {pid} (Python {fire.python}{program}). Paste into a notebook:")
        print(f"    %flame connect {way}")
        print(f"Take it out again: jupyter flame extinguish {pid}")
        return None


class Extinguish(Command):
    """Takes Flame out of a process that was ignited."""

    title = "extinguish"
    about = """
        Take out of a process what jupyter flame ignite has put in: sessions and their cells, server, threads, modules.

        What a cell has changed in the process stays changed.
        """
    typed = """
        jupyter flame extinguish 4711
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("pid", type=int, metavar="PID", help="the process")
        _common(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        path = key_path(options.pid)
        try:
            left = ignite.extinguish(options.pid, options.timeout, options.force)
        finally:
            if not os.path.exists(f"/proc/{options.pid}"):
                self._forget(path)  # the process has ended, so there is nothing to take out
        self._forget(path)
        rest = f" but for {', '.join(left)}, which a cell keeps" if left else ""
        print(f"Flame is out of process {options.pid}{rest}.")
        return None

    def _forget(self, path: Path) -> None:
        """Delete the key file, and the targets that name it."""
        path.unlink(missing_ok=True)
        file = self.targets()
        for name in [name for name, table in file.tables.items() if table.get("key") == f"file:{path}"]:
            file.remove(name)


def _common(parser: Parser) -> None:
    parser.add_argument("--force", action="store_true", help="even if all threads compute; that may end the process")
    parser.add_argument(
        "--timeout", type=float, default=ignite.PATIENCE, metavar="S", help="seconds to wait for it (%(default)g)"
    )


def _write(path: Path, key: str) -> None:
    try:
        private_files.create(path, f"{key}\n".encode("ascii"))
    except OSError as error:
        raise TargetError(f"cannot write the key file {path}: {error.strerror}") from error
