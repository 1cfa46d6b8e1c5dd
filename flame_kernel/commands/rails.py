"""Rails before a cell: what is refused, what is asked, the line above its output, and who ran what, noted."""

from __future__ import annotations

import ast
import getpass
import hashlib
import json
import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_dir

from ..connect.keys import without_key
from ..connect.rails import COLOURS, Rails
from ..errors import FlameError
from ..security import private_files
from ..session.session import Session
from ..terminal import one_line
from .tables import aligned

# The commands of ``%flame`` that write there.
WRITES = ("put", "sync", "push", "sendmodule", "pip", "run")
# Arguments that may name a server: TARGET:PATH.
PLACES = ("destination", "source")
_MAGICS = re.compile(r"%%(?:bash|sh|script|writefile|file|system|!|perl|ruby|python\w*)\b|%%!")
_LINE = re.compile(r"\s*(?:\w[\w, ]*=\s*)?(?:!|%(?:system|sx|sc|pip|conda|run|cd)\b)")
# Functions, and methods, that plainly write.
_FUNCTIONS = re.compile(
    r"os\.(?:remove|unlink|rename|replace|rmdir|removedirs|mkdir|makedirs|system|popen|kill|killpg|truncate|chmod|chown"
    r"|putenv|_exit|abort)|shutil\.(?:rmtree|move|copy\w*)|subprocess\.\w+|signal\.\w*kill|sys\.exit"
)
_METHODS = ("write_text", "write_bytes", "unlink", "rmdir", "mkdir", "touch", "terminate", "kill", "to_csv", "to_sql")
_QUOTED = re.compile(r"(?:'[^']*(?:'|$)|\"[^\"]*(?:\"|$))")
_SHOWN = 20


# -- what is refused -------------------------------------------------------------------------------------------------


def refuse(rails: Rails, name: str, code: str, now: time.struct_time | None = None) -> None:
    """FlameError where a cell may not run there: at this time, or as it plainly writes."""
    if not rails.is_open(now or time.localtime()):
        raise FlameError(f"not run: the rails of {name} allow cells at {rails.window} only")
    found = writes(code) if rails.read_only else ""
    if found:
        raise FlameError(f"not run: {name} is read_only, and this cell {found}. That is a rail, no wall: {_HOW}")


_HOW = "take read_only out of its rails in targets.toml to do that"


def refuse_command(rails: Rails, name: str, command: str) -> None:
    """FlameError where a ``%flame`` command plainly writes there, and may not."""
    if rails.read_only and command in WRITES:
        raise FlameError(f"not done: {name} is read_only, and %flame {command} writes. That is a rail, no wall: {_HOW}")


def writes(code: str) -> str:
    """What a cell plainly writes, in words; empty where nothing is seen. Nothing of it runs."""
    lines = code.split("\n")
    if lines and _MAGICS.match(lines[0].strip()):
        return f"is {lines[0].split()[0]}"
    command = next((line for line in lines if _LINE.match(line)), None)
    if command is not None:
        return f"runs a command ({one_line(command.strip(), 40)})"
    try:
        tree = ast.parse("\n".join(line for line in lines if not line.lstrip().startswith("%")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return next((f"{found}" for node in ast.walk(tree) for found in _written(node, own)), "")


def _written(node: ast.AST, own: Collection[str]) -> Iterator[str]:
    """What a node writes that is not the cell's own."""
    if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        if _root(node) not in own:
            yield f"{'deletes' if isinstance(node.ctx, ast.Del) else 'assigns to'} {ast.unparse(node)[:60]}"
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        is_method = isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS
        sets = name in ("setattr", "delattr") and bool(node.args) and _root(node.args[0]) not in own
        if is_method or sets or _FUNCTIONS.fullmatch(name) or (name == "open" and _opens_to_write(node)):
            yield f"calls {ast.unparse(node)[:60]}"


def _root(node: ast.AST) -> str:
    """The name with which ``a.b[0].c`` begins; empty for anything else."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _opens_to_write(call: ast.Call) -> bool:
    modes = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)


# -- what is asked ---------------------------------------------------------------------------------------------------


def question(rails: Rails, name: str, hosts: int, behind: int) -> str:
    """What the user is asked before a cell that goes to so many hosts, with so many cells sent behind it; or empty."""
    most = rails.max_hosts if rails.max_hosts is not None else 1 if rails.confirm else hosts
    if hosts > most:
        return f"Run this cell on {hosts} hosts, {name} among them? [y/N] "
    if rails.confirm and behind:
        return f"Run this cell and the {behind} sent with it on {name}? [y/N] "
    return ""


# -- what is shown and noted -----------------------------------------------------------------------------------------


def line(rails: Rails, name: str) -> str:
    """The coloured line above a cell's output, and in the status."""
    words = f"{one_line(name, 60)}{' (read only)' if rails.read_only else ''}"
    return f"\x1b[{COLOURS[rails.colour]};97;1m {words} \x1b[0m\n"


def entry(name: str, session: str, code: str) -> dict[str, Any]:
    """What is noted of a cell: no output, and no text that stands in quotes, which may be a secret."""
    first = next((one.strip() for one in code.split("\n") if one.strip()), "")
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "user": getpass.getuser(),
        "target": name,
        "session": session,
        "hash": hashlib.sha256(code.encode("utf-8", "replace")).hexdigest()[:16],
        "first": one_line(_QUOTED.sub("'…'", without_key(first)), 100),
    }


def hold(session: Session, code: str) -> str:
    """Hold a cell back where the rails of its target say so (FlameError); else note it, here and in the program's own
    log. The line that is shown above its output; empty where there are no rails."""
    target = session.target
    if target.rails is None:
        return ""
    name = str(target.name or target.location)
    refuse(target.rails, name, code)
    noted = entry(name, session.session_id, code)
    note(target.rails, noted)
    session.request("audit", entry=noted)
    return line(target.rails, f"{name} {target.location}" if target.name else name)


def note(rails: Rails, noted: dict[str, Any]) -> None:
    """Write it into the audit file here, of mode 0600. Raises FlameError: what cannot be noted does not run."""
    path = audit_path(rails)
    try:
        private_files.append(path, json.dumps(noted, ensure_ascii=False).encode() + b"\n")
    except OSError as e:
        raise FlameError(f"not run: it cannot be noted in {path} ({e.strerror}); free space, or change log") from None


def audit_path(rails: Rails | None = None) -> Path:
    """Where cells are noted."""
    return Path(rails.log) if rails is not None and rails.log else Path(jupyter_config_dir()) / "flame_audit.log"


def audit(rails: Rails | None) -> str:
    """The latest cells that were noted, as a table. Raises FlameError."""
    path = audit_path(rails)
    try:
        lines = path.read_text("utf-8").splitlines()[-_SHOWN:]
    except FileNotFoundError:
        return f"nothing has been noted in {path}"
    except OSError as e:
        raise FlameError(f"cannot read {path}: {e.strerror}") from None
    rows = [("at", "user", "target", "session", "hash", "cell")]
    for text in lines:
        try:
            one = json.loads(text)
            names = ("at", "user", "target", "session", "hash", "first")
            rows.append(tuple(str(one.get(name, "")) for name in names))  # type: ignore[arg-type]
        except (ValueError, AttributeError):
            rows.append(("?", "", "", "", "", text[:60]))
    return "\n".join([os.fspath(path), *aligned(rows)])
