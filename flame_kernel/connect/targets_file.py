"""``targets.toml``: the servers that a user has saved. Reading is strict; editing keeps comments and order.

::

    default = "furnace"

    [targets.furnace]
    location = "ssh://me@furnace/9999"   # or host:port, ./u:socket, ns:NAME, ns:NAME@host:port
    key = "keyring"                      # or file:…, env:NAME, prompt; or  key_file = "furnace.key"
    place = "process"                    # auto | process | child | main
    session = "ab12"
    shell = "auto"                       # auto | ipython | mini
    trust = true                         # it may send objects that run code here (pickles); rich output too
    rich = true                          # show HTML and widgets although it has no key; no pickles
    linger = "24 h"                      # how long a session lives on the server when nobody uses it
    journal = "256 MB"                   # how much unread output the server keeps
    when_full = "drop"                   # beyond that: drop the middle (with a mark), or "block" the cell
    forward = true                       # false: no ports are forwarded through the link
    fast = false                         # true: detect a dead connection within 15 s instead of 45

    [targets.plant]
    location = "plant.example:9999"
    key_file = "plant.key"               # files are relative to this one; keys have mode 0600
    tls = { ca = "ca.pem", certificate = "client.pem" }
    ns_key_file = "names.key"            # the key of the name server, if the location is ns:NAME

    [targets.plant.rails]                # guards against mistakes there; see `rails_table.py`
    confirm = true

    [groups.web]                         # several targets under one name; see `selection.py`
    members = ["furnace", "pi-*", "@racks"]

The file never holds a key itself. Reading and editing raise TargetError: one sentence with the next step.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import TargetError
from ..security import private_files
from . import units
from .keys import check_folder, check_owned, check_private, check_source, note_variables, read_small
from .location import Location, SshHost
from .rails_table import check_rails

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

_WHAT = "the configuration file"
_ENTRIES = ("default", "default_group", "targets", "groups")
_GROUP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_MAX_CONFIG = 1 << 20  # bytes

# The settings of a target in the file, except its location: name and type.
SETTINGS: dict[str, type] = {
    "key": str,
    "key_file": str,
    "ssh": str,
    "tls": dict,
    "place": str,
    "session": str,
    "shell": str,
    "trust": bool,
    "rich": bool,
    "allow_plain": bool,
    "ns_key_file": str,
    "linger": object,
    "journal": object,
    "when_full": str,
    "fast": object,
    "forward": bool,
    "hot": list,
    "hot_reload": bool,
}
# Settings that can be written in several ways, each with the function that reads it.
AMOUNTS: dict[str, Callable[[object], Any]] = {
    "linger": units.seconds,
    "journal": units.size,
    "fast": units.truth,
}
TLS_SETTINGS: dict[str, type] = {
    "ca": str,
    "pin": str,
    "certificate": str,
    "key_file": str,
    "verify": bool,
    "server_name": str,
}
# Those that hold the path of a file, relative to targets.toml.
_TLS_FILES = ("ca", "certificate", "key_file")
# A file with one of these settings must be private: it says how to get into a server.
_CREDENTIALS = ("key", "key_file", "tls", "ssh")

_WORDS: dict[type, str] = {
    str: "text; put it in quotes",
    list: 'a list of folders; write hot = ["src"]',
    bool: "true or false; write one of them, without quotes",
    dict: 'a table; write tls = { ca = "ca.pem" }, or tls = true to be asked at the first contact',
}


def targets_path(environ: Mapping[str, str], config_dir: Path | None = None) -> Path:
    """The file: ``$FLAME_CONFIG``, or ``targets.toml`` in ``config_dir``, Jupyter's configuration folder."""
    if environ.get("FLAME_CONFIG"):
        return Path(os.path.expanduser(environ["FLAME_CONFIG"]))
    return configuration_folder(environ, config_dir) / "targets.toml"


def configuration_folder(environ: Mapping[str, str], config_dir: Path | None = None) -> Path:
    """``config_dir``, or Jupyter's configuration folder in this environment."""
    return config_dir or Path(environ.get("JUPYTER_CONFIG_DIR") or os.path.expanduser("~/.jupyter"))


class TargetsFile:
    """The content of the file at ``path``: ``default`` and ``default_group`` (a name, or None), ``tables`` (name to
    settings) and ``groups`` (name to members, as written).

    Empty if there is no such file. In ``tables``, file paths are complete, and ``tls`` is always a table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.default: str | None = None
        self.tables: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, list[str]] = {}
        self.default_group: str | None = None
        if path.exists():
            raw, status = read_small(path, _WHAT, _MAX_CONFIG)
            note_variables(raw.decode("utf-8", "replace"))
            check_owned(path, _WHAT, status)
            check_folder(path, _WHAT)
            self._take(_parse(raw, path), status)

    def __repr__(self) -> str:
        return f"<TargetsFile {self.path}: {', '.join(self.tables) or 'empty'}>"

    def _take(self, content: dict[str, Any], status: os.stat_result | None) -> None:
        path = self.path
        for entry in content:
            if entry not in _ENTRIES:
                raise TargetError(
                    f"{_WHAT} {path} has an unknown entry {entry!r}; there are default, default_group, "
                    "[targets.NAME] and [groups.NAME]"
                )
        targets = content.get("targets", {})
        if not isinstance(targets, dict):
            raise TargetError(f"targets in {path} is not a table; write [targets.NAME]")
        self.tables = {name: _checked(path, name, table) for name, table in targets.items()}
        if status is not None and any(name in table for table in self.tables.values() for name in _CREDENTIALS):
            check_private(path, _WHAT, status)
        default = content.get("default")
        if default is not None and not (isinstance(default, str) and default in self.tables):
            raise TargetError(
                f"the default {default!r} in {path} is not one of its targets; add [targets.{default}] or change it"
            )
        self.default = default
        self._take_groups(content)

    def _take_groups(self, content: dict[str, Any]) -> None:
        path, groups = self.path, content.get("groups", {})
        if not isinstance(groups, dict):
            raise TargetError(f"groups in {path} is not a table; write [groups.NAME]")
        self.groups = {name: _members(path, name, table, self.tables) for name, table in groups.items()}
        default = content.get("default_group")
        if default is not None and not (isinstance(default, str) and default in self.groups):
            raise TargetError(
                f"the default_group {default!r} in {path} is not one of its groups; add [groups.{default}] or change it"
            )
        self.default_group = default

    def with_targets(self, locations: Mapping[str, str]) -> TargetsFile:
        """A copy that has these targets, too. It must not be used to edit the file."""
        if not locations:
            return self
        made = object.__new__(TargetsFile)
        made.__dict__.update(self.__dict__)
        made.tables = self.tables | {name: {"location": where} for name, where in locations.items()}
        return made

    # --- editing: comments and order are kept; the file is replaced as a whole, and no other user can read it

    def add(self, name: str, settings: Mapping[str, Any], *, default: bool = False) -> None:
        """Add a target; ``settings`` as in the file, with its ``location``. Creates the file if necessary."""
        if name in self.tables:
            raise TargetError(
                f"there is a target {name} in {self.path} already; edit it, remove it, or choose another name"
            )

        def change(content: Any, toml: Any) -> None:
            table = toml.table()
            _fill(table, settings, toml)
            if "targets" not in content:
                content["targets"] = toml.table(is_super_table=True)
            content["targets"][name] = table
            if default:
                content["default"] = name

        self._edit(change)

    def edit(self, name: str, settings: Mapping[str, Any]) -> None:
        """Change settings of a target; None removes a setting."""
        self._known(name)
        self._edit(lambda content, toml: _fill(content["targets"][name], settings, toml))

    def remove(self, name: str) -> None:
        """Remove a target; if it was the default, there is none afterwards."""
        self._known(name)

        def change(content: Any, toml: Any) -> None:
            del content["targets"][name]
            if not content["targets"]:
                del content["targets"]
            if content.get("default") == name:
                del content["default"]

        self._edit(change)

    def set_default(self, name: str | None) -> None:
        """Set the default target. With None there is none, and a kernel starts a server of its own."""
        if name is not None:
            self._known(name)

        def change(content: Any, toml: Any) -> None:
            if name is not None:
                content["default"] = name
            elif "default" in content:
                del content["default"]

        self._edit(change)

    def set_group(self, name: str, members: Sequence[str]) -> None:
        """Add a group or replace its members; ``members`` as in the file."""

        def change(content: Any, toml: Any) -> None:
            if "groups" not in content:
                content["groups"] = toml.table(is_super_table=True)
            if name not in content["groups"]:
                content["groups"][name] = toml.table()
            content["groups"][name]["members"] = list(members)

        self._edit(change)

    def remove_group(self, name: str) -> None:
        """Remove a group but not its members; if it was the default, there is none afterwards."""
        self._known_group(name)

        def change(content: Any, toml: Any) -> None:
            del content["groups"][name]
            if not content["groups"]:
                del content["groups"]
            if content.get("default_group") == name:
                del content["default_group"]

        self._edit(change)

    def set_default_group(self, name: str | None) -> None:
        """Set the default group; None: no default."""
        if name is not None:
            self._known_group(name)

        def change(content: Any, toml: Any) -> None:
            if name is not None:
                content["default_group"] = name
            elif "default_group" in content:
                del content["default_group"]

        self._edit(change)

    def _known_group(self, name: str) -> None:
        if name not in self.groups:
            known = f"it has {', '.join(sorted(self.groups))}" if self.groups else "it has none"
            raise TargetError(f"there is no group {name!r} in {self.path} ({known}); name one of those")

    def _known(self, name: str) -> None:
        if name not in self.tables:
            known = f"it has {', '.join(sorted(self.tables))}" if self.tables else "it has none"
            raise TargetError(f"there is no target {name!r} in {self.path} ({known}); name one of those")

    def _edit(self, change: Callable[[Any, Any], None]) -> None:
        import tomlkit  # slow to load, and needed only for editing
        from tomlkit.exceptions import TOMLKitError

        raw = read_small(self.path, _WHAT, _MAX_CONFIG)[0] if self.path.exists() else b""
        try:
            document = tomlkit.parse(raw.decode("utf-8"))
            change(document, tomlkit)
            text = tomlkit.dumps(document)
        except (TOMLKitError, UnicodeDecodeError, KeyError) as error:
            raise TargetError(f"{_WHAT} {self.path} cannot be edited: {error}; do it with an editor") from error
        made = object.__new__(TargetsFile)
        made.path = self.path
        made._take(_parse(text.encode(), self.path), None)  # raises TargetError before anything invalid is written
        with _reporting(self.path):
            private_files.replace(Path(os.path.realpath(self.path)), text.encode())
        self.default, self.tables = made.default, made.tables
        self.default_group, self.groups = made.default_group, made.groups


def _fill(table: Any, settings: Mapping[str, Any], toml: Any) -> None:
    for key, value in settings.items():
        if value is None:
            if key in table:
                del table[key]
        elif isinstance(value, Mapping):
            inner = toml.inline_table()
            inner.update({name: part for name, part in value.items() if part is not None})
            table[key] = inner
        else:
            table[key] = value


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TargetError(f"cannot write {path}: {error.strerror}; check the folder's owner and its space") from error


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TargetError(f"{_WHAT} {path} is not valid TOML: {error}; correct that line") from error
    return content


def _checked(path: Path, name: str, table: Any) -> dict[str, Any]:
    """A target's table with complete paths; TargetError for unknown settings, and if the table holds a key itself."""
    if not isinstance(table, dict) or ":" in name:
        raise TargetError(f"{name!r} in {path} is not a target; write [targets.NAME] with a name without colons")
    whose = f"target {name} in {path}"
    checked: dict[str, Any] = {}
    for key, value in table.items():
        if key == "insecure":
            raise TargetError(f"insecure cannot be saved in {whose}; give it each time you connect")
        if key == "location":
            checked[key] = check_value(key, value, str, whose)
        elif key == "rails":
            checked[key] = check_rails(value, whose, path.parent)
        elif key not in SETTINGS:
            raise TargetError(
                f"{whose} has an unknown setting {key!r}; there are location, {', '.join(SETTINGS)}, rails"
            )
        elif key == "tls":
            tls = check_tls(value, whose, path.parent)
            if tls is not None:
                checked[key] = tls
        else:
            checked[key] = check_value(key, value, SETTINGS[key], whose)
    if "location" not in checked:
        raise TargetError(f'{whose} has no location; add location = "host:port"')
    _find_keys(checked, path.parent, whose)
    return checked


def _members(path: Path, name: str, table: Any, targets: Mapping[str, Any]) -> list[str]:
    """The members of a group, as written; TargetError if the table or the name is invalid."""
    whose = f"group {name} in {path}"
    if not isinstance(table, dict) or table.keys() - {"members"}:
        raise TargetError(f'{whose} has one setting: members = ["target", "pattern-*", "@group"]')
    if not _GROUP_NAME.fullmatch(name) or name == "all":
        raise TargetError(f"{whose} has no usable name; use letters, digits and _ . -, and not the word all")
    if name in targets:
        raise TargetError(f"{name} in {path} is a target and a group; give one of them another name")
    members = table.get("members")
    if not (isinstance(members, list) and all(isinstance(one, str) and one.strip() for one in members)):
        raise TargetError(f'{whose} has no members; write members = ["target", "pattern-*", "@group"]')
    return [one.strip() for one in members]


def _find_keys(table: dict[str, Any], folder: Path, whose: str) -> None:
    """Replace ``key_file`` by ``key``, and complete the paths of keys, which are relative to ``folder``."""
    source = table.get("key", "")
    if "key" in table:
        check_source(source, whose)
        if "key_file" in table:
            raise TargetError(f"{whose} has a key and a key_file; keep one of them")
    key_file = table.pop("key_file", None)
    if key_file is None and source.startswith("file:"):
        key_file = source.removeprefix("file:")
    if key_file is not None:
        table["key"] = f"file:{folder / os.path.expanduser(key_file)}"
    if "ns_key_file" in table:
        table["ns_key_file"] = str(folder / os.path.expanduser(table["ns_key_file"]))


def check_value(key: str, value: Any, kind: type, whose: str) -> Any:
    """``value`` if it has this type; an amount is converted to a number or bool. Else TargetError."""
    if key in AMOUNTS:
        try:
            return AMOUNTS[key](value)
        except ValueError as error:
            raise TargetError(f"{key} {value!r} of {whose} cannot be used; give {error}") from error
    if type(value) is not kind:
        raise TargetError(f"{key} of {whose} must be {_WORDS[kind]}")
    return value


def check_tls(value: Any, whose: str, folder: Path | None = None) -> dict[str, Any] | None:
    """The ``tls`` setting as a table, with files relative to ``folder``; true gives an empty table, false None."""
    if value is True or value is False:
        return {} if value else None
    table = check_value("tls", value, dict, whose)
    checked = {}
    for key, part in table.items():
        if key not in TLS_SETTINGS:
            raise TargetError(f"tls of {whose} has an unknown setting {key!r}; there are {', '.join(TLS_SETTINGS)}")
        part = os.fspath(part) if isinstance(part, os.PathLike) else part
        part = check_value(f"{key} in tls", part, TLS_SETTINGS[key], whose)
        if key in _TLS_FILES and not (key == "ca" and part == "system"):
            part = os.path.expanduser(part)
            part = str(folder / part if folder else part)
        checked[key] = part
    return checked


def located(text: str, ssh: str | None) -> Location:
    """The location in ``text``; on the machine ``ssh`` (``user@host``), if given."""
    place = Location.parse(text)
    return place.behind(SshHost.parse(ssh)) if ssh else place
