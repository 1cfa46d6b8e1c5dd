"""What a test leaves behind: threads, descriptors, processes and files of this run, compared before and after.

Nothing here waits for a length of time: ``leftovers`` looks again until all is clean or its time is over.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

# Every process that a test starts, directly or not, inherits this name and is found by it, orphans too.
RUN_MARK = "REMOTE_FLAME_TEST_RUN"

# Threads that belong to a library's global state, not to a test; by the start of their names.
THREADS_ALLOWED = (
    "pymon",  # psutil and profilers
    "IPythonHistorySavingThread",  # IPython's own, one for each history database, ends with the process
)


@dataclass(frozen=True)
class Snapshot:
    """What there is of this run at one moment."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    processes: frozenset[psutil.Process]
    files: frozenset[Path]

    @classmethod
    def take(cls) -> Snapshot:
        return cls(frozenset(threading.enumerate()), _descriptors(), _processes(), _files())


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists the folder itself
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return frozenset(found)


def _processes() -> frozenset[psutil.Process]:
    """Living processes that carry the mark of this run, and every child of ours, zombies among them."""
    mark = f"{RUN_MARK}={os.environ[RUN_MARK]}".encode()
    found = set(psutil.Process().children(recursive=True))
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError, psutil.NoSuchProcess), open(f"/proc/{name}/environ", "rb") as environ:
                if mark in environ.read():  # the mark is a random name
                    found.add(psutil.Process(int(name)))
    return frozenset(found)


def _files() -> frozenset[Path]:
    """The first two levels of the run's own folder for temporary files (``conftest`` makes TMPDIR point there)."""
    root = Path(tempfile.gettempdir())
    with contextlib.suppress(FileNotFoundError):
        return frozenset([*root.glob("*"), *root.glob("*/*")])
    return frozenset()


def _describe(process: psutil.Process) -> str:
    try:
        return f"process {process.pid} ({process.status()}): {' '.join(process.cmdline())[:300]}"
    except psutil.NoSuchProcess:
        return f"process {process.pid}, which has just ended"


def _new(before: Snapshot, after: Snapshot, used: bool) -> list[str]:
    """``used``: the folders of a far side that lives longer than the test count too; it may make them at any time."""
    threads = [
        thread
        for thread in after.threads - before.threads
        if thread.is_alive() and not thread.name.startswith(THREADS_ALLOWED)
    ]
    processes = [process for process in after.processes - before.processes if process.is_running()]
    return [
        *(f"thread {thread!r}" for thread in threads),
        *(f"descriptor {number}: {target}" for number, target in sorted(after.descriptors - before.descriptors)),
        *(_describe(process) for process in processes),
        *(
            f"temporary file {path}"
            for path in sorted(after.files - before.files)
            if used or not any(part.startswith(("flame_child_", "flame_jedi_")) for part in path.parts)
        ),
    ]


def leftovers(before: Snapshot, seconds: float = 10.0, *, used: bool = False) -> list[str]:
    """What is there now and was not at ``before``, in words; empty as soon as all is as it was.

    Processes take a moment to end; what is still there after ``seconds`` stays.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = _new(before, Snapshot.take(), used)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


@contextlib.contextmanager
def nothing_left(seconds: float = 20.0) -> Iterator[None]:
    """Around what lives longer than a test: AssertionError if it leaves anything behind."""
    before = Snapshot.take()
    yield
    gc.collect()
    left = leftovers(before, seconds, used=True)
    end(before)
    assert not left, "left behind:\n" + "\n".join(left)


def end(before: Snapshot) -> None:
    """End the processes that came after ``before``, so that one leak does not fail every later test."""
    for process in Snapshot.take().processes - before.processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
