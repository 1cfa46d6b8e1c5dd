"""Writes files that only the user can read (mode 0600): keys, certificates, targets, known servers, histories.

All functions raise OSError; callers turn it into a message of their own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

# Flags to open a file that must not exist yet, and to open one for appending.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_MORE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def create(path: Path, content: bytes) -> None:
    """Create a file, and its folder (mode 0700) if missing; FileExistsError if the name is taken."""
    _write(path, content, _NEW)


def append(path: Path, content: bytes) -> None:
    """Append to a file; it and its folder are created if missing. An existing file keeps its mode."""
    _write(path, content, _MORE)


def replace(path: Path, content: bytes) -> None:
    """Replace a file, or create it: either completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, making = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # creates it with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(making, path)
    except BaseException:  # raised again, whatever it is; no partial file is left
        with contextlib.suppress(OSError):
            os.unlink(making)
        raise


def _write(path: Path, content: bytes, flags: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
