"""Files that only the user can read: keys, certificates' keys, targets, known servers, histories. All of mode 0600.

Whoever writes one says in their own words what could not be written: OSError is raised as it comes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

# What is chosen for a new file that is added to, or that must not be there yet.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_MORE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def create(path: Path, content: bytes) -> None:
    """A new file, and its folder of mode 0700; FileExistsError where there is something of that name."""
    _write(path, content, _NEW)


def append(path: Path, content: bytes) -> None:
    """Add to a file, which is made if need be, as is its folder; what was there keeps its mode."""
    _write(path, content, _MORE)


def replace(path: Path, content: bytes) -> None:
    """Put a file in the place of the one of that name: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, making = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(making, path)
    except BaseException:  # goes on, whatever it is; half a file does not stay
        with contextlib.suppress(OSError):
            os.unlink(making)
        raise


def _write(path: Path, content: bytes, flags: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
