"""Another version of the agent, in the form that was released before there were rooms: all its modules in one folder.

It is the present one, flattened: what both share in a process they know of each other as two versions do.
"""

from __future__ import annotations

import ast
import base64
import functools
import json
import zlib

import farside

from flame_kernel.agent.wire import message as wire
from flame_kernel.session import bootstrap

NAME = "flame_agent_f1a7f1a7f1a7"
# The two modules by which others know an agent had these names.
_NAMES = {"handle": "session", "wire.message": "wire"}


def _flat(dotted: str) -> str:
    return _NAMES.get(dotted, dotted.replace(".", "_"))


def _flattened(name: str, source: str, known: set[str]) -> str:
    """The text of a module, whose imports are of siblings."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = ".".join([*name.split(".")[: -node.level], *filter(None, [node.module])])
        made = []
        for one in node.names:
            whole = f"{base}.{one.name}".lstrip(".")
            if whole in known:
                made.append(f"from . import {_flat(whole)} as {one.asname or one.name}")
            else:
                made.append(f"from .{_flat(base)} import {one.name} as {one.asname or one.name}")
        end = node.end_lineno or node.lineno
        lines[node.lineno - 1] = " " * node.col_offset + "; ".join(made)
        lines[node.lineno : end] = [""] * (end - node.lineno)
    return "\n".join(lines)


@functools.cache
def push_source() -> str:
    """What Flame's ``execute`` is given to have it there."""
    files = json.loads(bootstrap._read()[2])["files"]
    known = {name for name, _ in files}
    texts = [[_flat(name), _flattened(name, source, known)] for name, source in files]
    text = json.dumps({"name": NAME, "files": texts}).replace(wire.CHILD, _flat("session.child.main") + ".main")
    loader = (farside.HERE / "apps" / "flat_loader.py").read_text(encoding="utf-8")
    packed = base64.b64encode(zlib.compress(json.dumps([loader, text]).encode())).decode("ascii")
    return (
        "(lambda parts, space: (exec(parts[0], space), space['boot'](parts[1], parts[0])))("
        "__import__('json').loads(__import__('zlib').decompress(__import__('base64').b64decode("
        f"'{packed}')).decode()), {{}})"
    )


def flat() -> dict[str, str]:
    """The options of a ``RawAgent`` of this version."""
    return {"entry": f"{NAME}.session.handle", "source": push_source()}
