"""Rails before a cell: what is refused, what is asked, the line above its output, and who ran what, noted.

They hold for cells and ``%flame`` lines of the kernel and the magics, consoles, ``jupyter flame``, and calls of the
library (``library_rails.py``).
"""

from __future__ import annotations

import ast
import collections
import contextlib
import hashlib
import json
import os
import re
import symtable
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jupyter_core.paths import jupyter_config_dir

from ..connect.keys import Ask
from ..connect.rails_table import COLOURS, Rails
from ..connect.target import look_up
from ..connect.targets_file import TargetsFile, targets_path
from ..errors import FlameError, TargetError
from ..security import private_files
from ..session.handshake import client_name
from ..session.session import Session
from ..terminal import one_line
from .far_path import IsTarget, put_paths, sync_paths
from .parsing import Line
from .tables import aligned

# The commands of ``%flame`` that write there.
WRITES = ("put", "sync", "push", "sendmodule", "pip", "run", "hot", "hotfix")
_MAGICS = re.compile(r"%%(?:bash|sh|script|writefile|file|system|!|perl|ruby|python\w*)\b|%%!")
_LINE = re.compile(r"\s*(?:\w[\w, ]*=\s*)?(?:!|%(?:system|sx|sc|pip|conda|run|cd)\b)")
# Functions, and methods, that plainly write.
_FUNCTIONS = re.compile(
    r"os\.(?:remove|unlink|rename|replace|rmdir|removedirs|mkdir|makedirs|system|popen|kill|killpg|truncate|chmod|chown"
    r"|putenv|_exit|abort)|shutil\.(?:rmtree|move|copy\w*)|subprocess\.\w+|signal\.\w*kill|sys\.exit"
)
_METHODS = ("write_text", "write_bytes", "unlink", "rmdir", "mkdir", "touch", "terminate", "kill", "to_csv", "to_sql")
# How the answers of ``writes`` begin if only something in memory is changed.
_IN_MEMORY = ("assigns to ", "deletes ", "calls setattr(", "calls delattr(")
_HOW = "take read_only out of its rails in targets.toml to do that"
# The part of a line of code that is not noted: all from its first quote, comment or command on.
_HIDDEN = re.compile(r"['\"#].*|=\s*[!%].*")
_COMMAND = re.compile(r"!+|%+\w*|\?+")
_COLUMNS = ("at", "user", "target", "session", "hash", "first")
_SHOWN = 20

# The names that cells have bound, by target. What they name counts as the user's, not the app's.
_bound: collections.defaultdict[str, set[str]] = collections.defaultdict(set)


class Host(Protocol):
    """A member of a group: ``where`` is its target's name or location, ``known`` its `Remote`, or None."""

    @property
    def where(self) -> str: ...

    @property
    def known(self) -> Any: ...


# -- whose rails -----------------------------------------------------------------------------------------------------


def of_targets(names: Iterable[str]) -> dict[str, Rails]:
    """The rails of the targets, or servers at locations, of these names; those without rails are left out. Raises
    TargetError."""
    file = TargetsFile(targets_path(os.environ, Path(jupyter_config_dir())))
    found = {}
    for name in names:
        with contextlib.suppress(TargetError):  # no target has this name: connecting to it reports that
            table = look_up(name, file, None)[2].get("rails")
            if table is not None:
                found[name] = Rails(**table)
    return found


def of_hosts(hosts: Sequence[Host]) -> dict[str, Rails]:
    """The rails of a group's members; those without rails are left out. The file is read only if a member is not
    connected. Raises TargetError."""
    known = [(one.where, one.known) for one in hosts]
    unknown = [where for where, remote in known if remote is None]
    found = of_targets(unknown) if unknown else {}
    for where, remote in known:
        if remote is not None and remote.target.rails is not None:
            found[where] = remote.target.rails
    return found


# -- what is refused -------------------------------------------------------------------------------------------------


def refuse(
    rails: Rails,
    name: str,
    code: str,
    now: time.struct_time | None = None,
    *,
    tried: bool = False,
    own: Collection[str] = (),
    how: str = _HOW,
) -> None:
    """Raise FlameError if a cell may not run there: at this time, or because it plainly writes. If it is only
    ``tried``, it may change what is in memory. It may always change what names of its ``own`` hold. ``how`` ends the
    error."""
    if not rails.is_open(now or time.localtime()):
        raise FlameError(f"not run: the rails of {name} allow cells at {rails.window} only")
    found = writes(code, {*_bound[name], *own}) if rails.read_only else ""
    if found and not (tried and found.startswith(_IN_MEMORY)):
        raise FlameError(f"not run: {name} is read_only, and this cell {found}. That is a rail, no wall: {how}")


def refuse_command(held: Mapping[str, Rails | None], command: str, face: str = "%flame") -> None:
    """For a command that writes: raise FlameError if one of these servers is read-only."""
    for name, one in held.items():
        if one is not None and one.read_only:
            words = f"{name} is read_only, and {face} {command} writes"
            raise FlameError(f"not done: {words}. That is a rail, no wall: {_HOW}")


def written(line: Line, is_target: IsTarget) -> tuple[bool, str | None]:
    """Whether a ``%flame`` line plainly writes on a far side, and the name of that far side (None: where cells run).
    Raises TargetError if its paths are wrong."""
    option = line.values.get("target")
    if line.name == "put":
        return True, put_paths(line["source"], line["destination"], is_target, option)[0]
    if line.name == "sync":
        server, source, _ = sync_paths(line["source"], line["destination"], is_target, option)
        return source is None and not line["dry_run"], server
    if (line.name == "hot" and not line["folders"]) or (line.name == "hotfix" and (line["undo"] or not line["name"])):
        return False, None
    if line.name == "pip" and line["code"].split()[:1] == ["list"]:
        return False, None
    return line.name in WRITES, option


def writes(code: str, own: Collection[str] = ()) -> str:
    """What a cell plainly writes, in words; empty if it writes nothing that can be seen. It is read, not run. It may
    change its own names, and those that earlier cells have bound (``own``)."""
    first = code.strip().partition("\n")[0]
    if _MAGICS.match(first):
        return f"is {first.split()[0]}"
    command = next(filter(_LINE.match, code.split("\n")), None)
    if command is not None:
        return f"runs a command ({one_line(command.strip(), 40)})"
    try:
        tree = ast.parse(_python(code))
        own = {*own, *_names(tree)}
        return next((found for node in ast.walk(tree) for found in _writings(node, own)), "")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""


def _python(code: str) -> str:
    """A cell without its lines with magics."""
    return "\n".join(line for line in code.split("\n") if not line.lstrip().startswith("%"))


def _names(tree: ast.AST) -> Iterator[str]:
    """The names that a cell binds, also in its functions; without those that it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _keep_names(name: str, code: str) -> None:
    """Remember the names that a cell leaves bound there; without those that it imports."""
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        symbols = symtable.symtable(_python(code), "cell", "exec").get_symbols()
        _bound[name] |= {one.get_name() for one in symbols if one.is_assigned() and not one.is_imported()}


def _writings(node: ast.AST, own: Collection[str]) -> Iterator[str]:
    """What a node of the syntax tree writes, if that is not the cell's own."""
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
    """The question to ask before a cell that goes to ``hosts`` hosts, with ``behind`` cells sent after it; or empty."""
    most = rails.max_hosts if rails.max_hosts is not None else 1 if rails.confirm else hosts
    if hosts > most:
        return f"Run this cell on {hosts} hosts, {name} among them? [y/N] "
    if rails.confirm and behind:
        return f"Run this cell and the {behind} sent with it on {name}? [y/N] "
    return ""


def check_answer(answer: str | None) -> None:
    """Raise FlameError unless the answer is a yes. None means that nobody could be asked."""
    if answer is None:
        raise FlameError(
            "not run: the rails in targets.toml want a yes before this cell, and nobody can be asked here; send it "
            "from a notebook that takes answers, or take confirm or max_hosts out of them"
        )
    if answer.strip().lower() not in ("y", "yes"):
        raise FlameError("not run: the rails in targets.toml want a yes before this cell, and you did not give it")


# -- what is shown and noted -----------------------------------------------------------------------------------------


def line(rails: Rails, name: str) -> str:
    """The coloured line above a cell's output."""
    words = f"{one_line(name, 60)}{' (read only)' if rails.read_only else ''}"
    return f"\x1b[{COLOURS[rails.colour]};1m {words} \x1b[0m\n"


def words(rails: Rails) -> str:
    """A target's rails in words, for its status."""
    most = f"more than {rails.max_hosts} hosts" if rails.max_hosts is not None else "several hosts"
    found = [
        "read only" if rails.read_only else "",
        f"asks before Run All and {most}" if rails.confirm else f"asks before {most}" if rails.max_hosts else "",
        f"cells at {rails.window} only" if rails.window else "",
        f"noted in {audit_path(rails)}",
    ]
    return f"rails: {', '.join(filter(None, found))}"


def entry(name: str, session: str, code: str) -> dict[str, Any]:
    """What is noted about a cell. No output, and nothing of its first line that may be a secret."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "user": client_name(),
        "target": name,
        "session": session,
        "hash": hashlib.sha256(code.encode("utf-8", "replace")).hexdigest()[:16],
        "first": _first(code),
    }


def _first(code: str) -> str:
    """The part of a cell's first line that is noted; of a command only its name."""
    first = next((one.strip() for one in code.split("\n") if one.strip()), "")
    command = _COMMAND.match(first)
    if command is not None:
        return command[0] if command[0] == first else f"{command[0]} …"
    return one_line(_HIDDEN.sub("…", first), 100)


def hold(session: Session, code: str, *, tried: bool = False, own: Collection[str] = ()) -> str:
    """Raise FlameError if the rails of the session's target hold a cell back; else note it, here and in the program's
    own log. Return the line to show above its output; it is empty without rails."""
    target = session.target
    if target.rails is None:
        return ""
    name = str(target.name or target.location)
    refuse(target.rails, name, code, tried=tried, own=own)
    noted = entry(name, session.session_id, code)
    note(target.rails, noted)
    if not tried:
        _keep_names(name, code)
    session.request("audit", entry=noted)
    return line(target.rails, f"{name} {target.location}" if target.name else name)


def hold_on(hosts: Sequence[Host], code: str, ask: Ask) -> str:
    """The same for a cell on several hosts, for which the user may be asked. If the rails of one hold it back, it
    runs on none. It is not noted here, but for each host when it runs there. Blocks."""
    held = of_hosts(hosts)
    for name, one in held.items():
        refuse(one, name, code)
    asked = next(filter(None, (question(one, name, len(hosts), 0) for name, one in held.items())), "")
    if asked:
        check_answer(ask(asked, False))
    alike: dict[Rails, list[str]] = {}
    for name, one in held.items():
        alike.setdefault(one, []).append(name)
    return "".join(line(one, ", ".join(names)) for one, names in alike.items())


def note(rails: Rails, noted: dict[str, Any]) -> None:
    """Add an entry to the audit file here (mode 0600). Raises FlameError if that fails: the cell must not run."""
    path = audit_path(rails)
    try:
        private_files.append(path, json.dumps(noted).encode() + b"\n")
    except OSError as e:
        raise FlameError(f"not run: it cannot be noted in {path} ({e.strerror}); free space, or change log") from None


def audit_path(rails: Rails | None = None) -> Path:
    """The audit file."""
    return Path(rails.log) if rails is not None and rails.log else Path(jupyter_config_dir()) / "flame_audit.log"


def audit(rails: Rails | None) -> str:
    """The latest cells that were noted, as a table. Raises FlameError."""
    path = audit_path(rails)
    try:
        lines = path.read_text("utf-8", "replace").splitlines()[-_SHOWN:]
    except FileNotFoundError:
        return f"nothing has been noted in {path}"
    except OSError as e:
        raise FlameError(f"cannot read {path}: {e.strerror}") from None
    rows: list[tuple[str, ...]] = [(*_COLUMNS[:-1], "cell")]
    for text in lines:
        try:
            one = json.loads(text)
            rows.append(tuple(one_line(str(one.get(name, "")), 100) for name in _COLUMNS))
        except (ValueError, AttributeError):  # a line that somebody else has written
            rows.append(("?", "", "", "", "", one_line(text, 60)))
    return "\n".join([os.fspath(path), *aligned(rows)])
