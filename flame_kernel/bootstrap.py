"""Puts our agent onto a stock Flame server: its files go as text, by one ``execute``, into memory, and only if missing.

The package there is named by the hash of that text (``flame_agent_3f2a…``), so that versions live side by side and one
that is there already is found by its name.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import zlib
from importlib import resources

# In the order of their imports: each one uses only files before it.
FILES = (
    "wire",
    "events",
    "streams",
    "figures",
    "display",
    "introspect",
    "magics",
    "runner",
    "ishell",
    "lane",
    "capture",
    "usage",
    "child",
    "core",
    "session",
)


@functools.lru_cache(maxsize=1)
def _read() -> tuple[str, str, str]:
    """``(package name, loader text, bundle text)`` of this version's agent."""
    folder = resources.files(__package__).joinpath("agent")
    loader = folder.joinpath("loader.py").read_text(encoding="utf-8")
    files = [[name, folder.joinpath(f"{name}.py").read_text(encoding="utf-8")] for name in FILES]
    digest = hashlib.sha256(json.dumps([loader, files]).encode()).hexdigest()[:12]
    name = f"flame_agent_{digest}"
    return name, loader, json.dumps({"name": name, "files": files})


def agent_name() -> str:
    """The name of the package that is, or will be, in ``sys.modules`` of the server."""
    return _read()[0]


def push_source() -> str:
    """What Flame's ``execute`` is given. It leaves no name behind in the globals that all its clients share."""
    name, loader, bundle = _read()
    packed = base64.b64encode(zlib.compress(json.dumps([loader, bundle]).encode(), 9)).decode("ascii")
    return (
        "(lambda parts, space: (exec(parts[0], space), setattr(space['boot'](parts[1]), 'LOADER', parts[0])))("
        "__import__('json').loads(__import__('zlib').decompress(__import__('base64').b64decode("
        f"'{packed}')).decode()), {{}})"
    )
