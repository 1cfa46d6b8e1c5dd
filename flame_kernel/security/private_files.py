"""Writes files that only the user can read (mode 0600): keys, certificates, targets, known servers, histories.

On Windows they get an access list of their own (``access_lists.py``), where the disk has such lists.
All functions raise OSError; callers turn it into a message of their own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from . import access_lists

# Flags to open a file that must not exist yet, and to open one for appending.
# Those of Windows keep line ends as they are, and keep child processes from inheriting the descriptor.
_ALWAYS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY", "O_NOINHERIT"))
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _ALWAYS
_MORE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _ALWAYS
# Flags to read a file; opening does not hang if it is a FIFO, and for regular files that flag has no effect.
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _ALWAYS


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
            _keep_others_out(Path(making))
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
    is_new = not path.exists()
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        if is_new:
            _keep_others_out(path)
        file.write(content)


def _keep_others_out(path: Path) -> None:
    if os.name == "nt":
        with contextlib.suppress(OSError):  # a disk without access lists; a key that lies there is refused
            access_lists.make_private(path)
