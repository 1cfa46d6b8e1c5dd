"""Transfers: the far sides that they are tried with, trees to copy, and what is seen of them afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import farside
from farside import FlameServer, LiveApp

import flame
from flame_kernel.agent.wire import frames
from flame_kernel.remote.remote import Remote

KEY = "a key for the tests of transfers"
MiB = 1 << 20

# name -> (kind of server, its options, the interpreter: "" for the tests' own)
SERVERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "child": ("flame", {}, ""),
    "key": ("flame", {"key": KEY}, ""),
    "unix": ("flame", {"unix": True}, ""),
    "process": ("app", {}, ""),
    "multiplex": ("flame", {"servertype": "multiplex", "key": KEY}, ""),
    "oldest": ("flame", {"key": KEY}, "oldest"),
}


@contextlib.contextmanager
def far_side(name: str, **options: Any) -> Iterator[FlameServer | LiveApp]:
    kind, own, version = SERVERS[name]
    python = farside.pythons()[0 if version == "oldest" else -1]
    server = (FlameServer if kind == "flame" else LiveApp)(python, **own, **options)
    try:
        yield server
    finally:
        server.stop()


def connected(server: FlameServer | LiveApp, location: str = "") -> Remote:
    return flame.connect(location or server.location, key=server.key)


def snapshot(top: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below ``top``: kind, mode, time, and content or target."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        name = os.fsencode(path.relative_to(top)).decode("latin1")
        if stat.S_ISLNK(status.st_mode):
            found[name] = ("link", os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            found[name] = ("folder", stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        else:
            found[name] = ("file", stat.S_IMODE(status.st_mode), status.st_mtime_ns, path.read_bytes())
    return found


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".flame-*.part"))


def digest(path: Path) -> str:
    total = hashlib.blake2b()
    with open(path, "rb") as file:
        while piece := file.read(MiB):
            total.update(piece)
    return total.hexdigest()


def planted(top: Path) -> Path:
    """``top``, made: a folder with one of everything that can be copied."""
    (top / "empty folder").mkdir(parents=True)
    (top / "deep" / "er" / "est").mkdir(parents=True)
    (top / "deep" / "er" / "est" / "leaf").write_text("leaf")
    (top / "empty").touch()
    (top / "large").write_bytes(random.Random(1).randbytes(3 * MiB + 17))
    (top / "exactly one chunk").write_bytes(random.Random(2).randbytes(frames.CHUNK))
    with open(top / "sparse", "wb") as file:
        file.seek(5 * MiB)
        file.write(b"end")
        file.truncate(8 * MiB)
    for name in ("späß 🔥", "line\nbreak", "-rf", " blank ", "\\", "*", "[x]", "n" * 255, os.fsdecode(b"\xff\xfe raw")):
        (top / name).write_text(name, errors="surrogateescape")
    (top / "link").symlink_to("deep/er/est/leaf")
    (top / "deep" / "up").symlink_to("../large")
    (top / "dangling").symlink_to("not there")
    (top / "private").write_text("x")
    (top / "private").chmod(0o400)
    (top / "script").write_text("#!/bin/sh")
    (top / "script").chmod(0o755)
    (top / "deep" / "er").chmod(0o555)
    os.utime(top / "script", ns=(10**18, 10**18 + 123_456_789))
    os.utime(top / "deep", ns=(10**18, 10**18 + 987_654_321))
    return top
