"""``jupyter flame targets …`` and ``groups …``: save servers under names, and several of them under one name.

``connect/targets_file.py`` describes the file, ``connect/selection.py`` how users name several servers.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, ClassVar

from ...commands.options import OPTIONS, RICH, protection
from ...commands.tables import aligned
from ...connect.keys import Secret, store_in_keyring
from ...connect.location import Location
from ...connect.selection import select
from ...connect.target import PLACES, SHELLS, WHEN_FULL
from ...connect.targets_file import SETTINGS, TargetsFile, located
from ...errors import TargetError
from ...group import folding
from ...session.user import ask_here
from ..command import Command, CommandGroup
from ..index import SUBCOMMANDS
from ..output import show_json, show_table
from ..parser import Parser

# One permission is never saved: to reach a server without encryption and without a key.
_OPTIONS = tuple(option for option in OPTIONS if option.name != "insecure")


class Targets(CommandGroup):
    """The commands on targets.toml."""

    title = "targets"
    about = """\
Save servers under a name: %flame connect NAME, FLAME_TARGET=NAME and flame.connect("NAME") then use them.

They are saved in targets.toml in Jupyter's configuration folder, mode 0600. The key itself is never saved there, only
where to find it: a private file, the system's keyring, an environment variable, or a prompt."""
    commands: ClassVar[dict[str, tuple[str, str]]] = {
        "add": (f"{SUBCOMMANDS}.targets.Add", "save a server under a name"),
        "list": (f"{SUBCOMMANDS}.targets.List", "list the saved servers"),
        "show": (f"{SUBCOMMANDS}.targets.Show", "show the settings of one"),
        "edit": (f"{SUBCOMMANDS}.targets.Edit", "change the settings of one"),
        "remove": (f"{SUBCOMMANDS}.targets.Remove", "remove one"),
        "default": (f"{SUBCOMMANDS}.targets.Default", "choose the server to use when none is named"),
    }


def _settings(parser: Parser) -> None:
    key = parser.add_mutually_exclusive_group()
    key.add_argument("--key-file", type=Path, metavar="FILE", help="the server's key, in a file of mode 0600")
    key.add_argument("--key", metavar="SOURCE", help="keyring (you are asked once), prompt (each time), or env:NAME")
    parser.add_argument("--place", choices=PLACES, help="where cells run: inside the server's process, or in a child")
    parser.add_argument("--session", metavar="NAME", help="attach to the session of this name")
    parser.add_argument("--shell", choices=SHELLS, help="with IPython or without")
    parser.add_argument("--trust", action="store_true", default=None, help="let this server run code here (pickles)")
    parser.add_argument("--rich", action="store_true", default=None, help=RICH.help)
    parser.add_argument("--linger", metavar="TIME", help='how long a session waits for its client, such as "24 h"')
    parser.add_argument("--journal", metavar="SIZE", help='how much unread output is kept, such as "256 MB"')
    parser.add_argument("--when-full", choices=WHEN_FULL, help="when the journal is full: drop the middle, or wait")
    parser.add_argument("--fast", action="store_true", default=None, help="give up a dead link within 15 s, not 45")
    protected = parser.shared("how the link is protected")
    for option in _OPTIONS:
        option.add_to(protected)


def _given(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """The settings in the options, in the file's form. A key for the keyring is asked for and stored."""
    values = vars(options)
    found: dict[str, Any] = protection(values)
    for setting in SETTINGS:
        if setting not in found and values.get(setting) is not None and setting not in ("tls", "ssh", "allow_plain"):
            found[setting] = values[setting]
    for part, value in list((found.get("tls") or {}).items()):
        if part in ("ca", "certificate", "key_file") and value != "system":
            found["tls"][part] = _absolute(Path(value))
    if found.get("tls") == {}:
        found["tls"] = True
    if "ns_key_file" in found:
        found["ns_key_file"] = _absolute(Path(found["ns_key_file"]))
    if "key_file" in found:
        found["key_file"] = _absolute(found["key_file"])
    if found.get("key") == "keyring":
        typed = ask_here(f"Key of {name}, for the keyring (empty: it is there already): ", True)
        if typed is None:
            raise TargetError("there is no terminal to ask for the key; run this in one, or use --key-file FILE")
        if typed:
            store_in_keyring(name, Secret(typed.encode()))
    return found


def _absolute(path: Path) -> str:
    return os.path.abspath(path.expanduser())  # in the file, a relative path would start at the file's folder


class Add(Command):
    title = "targets add"
    about = "Save a server under a name."
    typed = """
        jupyter flame targets add furnace ssh://me@furnace/9999 --key-file ~/.ssh/furnace.key --default
        jupyter flame targets add lab lab.example:9999 --tls-ca ca.pem --tls-cert me.pem --key keyring
        jupyter flame targets add here ./u:/run/user/1000/flame/s --key env:FLAME_KEY_HERE
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("location", metavar="WHERE", help="host:port, ssh://user@host/port, ./u:socket, ns:NAME")
        parser.add_argument("--default", action="store_true", help="use it when no server is named")
        _settings(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        if options.name in file.tables:
            raise TargetError(f"there is a target {options.name} already; edit it, or choose another name")
        located(options.location, options.ssh)
        settings = {"location": options.location, **_given(options, options.name)}
        file.add(options.name, settings, default=options.default)
        print(f"saved {options.name!r} in {file.path}; use it with: %flame connect {options.name}")
        return None


class List(Command):
    title = "targets list"
    about = "List the saved servers; * marks the default."

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("--json", action="store_true", help="for a program")

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        if options.json:
            listed = [{"name": name, "default": name == file.default, **file.tables[name]} for name in file.tables]
            show_json(listed)
            return None
        if not file.tables:
            print(f"no servers saved in {file.path}. Save one: jupyter flame targets add NAME WHERE")
            return None
        rows = []
        for name, table in file.tables.items():
            where = located(table["location"], table.get("ssh"))
            rows.append((f"{'*' if name == file.default else ' '} {name}", str(where), _protection(where, table)))
        show_table(("  target", "server", "protected by"), rows)
        return None


def _protection(where: Location, table: dict[str, Any]) -> str:
    ways = []
    if where.ssh is not None:
        ways.append("ssh")
    if table.get("tls") is not None:
        ways.append("TLS" if table["tls"].get("verify", True) else "TLS, unverified")
    if table.get("key") is not None:
        ways.append("key")
    if table.get("trust"):
        ways.append("trusted")
    elif table.get("rich"):
        ways.append("rich output")
    return ", ".join(ways) or "no key"


class Show(Command):
    title = "targets show"
    about = "Show the settings of a saved server. Its key is not shown, only where it is."

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("name", metavar="TARGET")

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        table = _table(file.tables, options.name, file.path)
        print(f"{options.name}{' (default)' if options.name == file.default else ''}, in {file.path}")
        rows = []
        for setting, value in table.items():
            shown = ", ".join(f"{part} = {one}" for part, one in value.items()) if isinstance(value, dict) else value
            rows.append((f"  {setting}", "first contact decides" if value == {} else str(shown)))
        print(*aligned(rows), sep="\n")
        return None


class Edit(Command):
    title = "targets edit"
    about = "Change the settings of a saved server; those that are not named stay as they are."
    typed = """
        jupyter flame targets edit lab --where lab2.example:9999
        jupyter flame targets edit lab --key prompt --unset session --unset trust
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("name", metavar="TARGET")
        parser.add_argument("--where", metavar="WHERE", help="its location")
        parser.add_argument(
            "--unset", action="append", default=[], choices=sorted(SETTINGS), metavar="SETTING", help="remove it"
        )
        _settings(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        _table(file.tables, options.name, file.path)
        changes: dict[str, Any] = dict.fromkeys(options.unset)
        if options.where is not None:
            changes["location"] = options.where
        changes |= _given(options, options.name)
        if not changes:
            raise TargetError("nothing to change; name what, as in --key-file FILE or --unset session")
        if "key" in changes or "key_file" in changes:
            changes = {"key": None, "key_file": None} | changes
        file.edit(options.name, changes)
        print(f"changed {options.name!r} in {file.path}")
        return None


class Remove(Command):
    title = "targets remove"
    about = "Remove a saved server. Its key file, or its key in the keyring, stays."

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("name", metavar="TARGET")

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        file.remove(options.name)
        print(f"removed {options.name!r} from {file.path}")
        return None


class Default(Command):
    title = "targets default"
    about = "Choose the server to use when none is named. With --none, a kernel starts its own local server."

    def arguments(self, parser: Parser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("name", metavar="TARGET", nargs="?")
        which.add_argument("--none", action="store_true", help="no default")

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        file.set_default(options.name)
        print(f"the default in {file.path} is {options.name or 'none'}")
        return None


def _table(tables: dict[str, dict[str, Any]], name: str, path: Path) -> dict[str, Any]:
    if name not in tables:
        known = f"it has {', '.join(sorted(tables))}" if tables else "it has none"
        raise TargetError(f"there is no target {name!r} in {path} ({known}); name one of those")
    return tables[name]


# -- groups ------------------------------------------------------------------------------------------------------------


class Groups(CommandGroup):
    """The commands on the groups of targets.toml."""

    title = "groups"
    about = """\
Name several servers at once: -t NAME of exec, eval, run, put and sync, %%flame -t NAME, flame.group("NAME").

Members are saved targets, patterns such as pi-*, and other groups (@NAME); -web2 leaves one out. You can
also name several servers without a group: -t web1,web2, -t "pi-*", -t web[0:3], -t all, -t furnace*4 (four sessions on
one server)."""
    commands: ClassVar[dict[str, tuple[str, str]]] = {
        "add": (f"{SUBCOMMANDS}.targets.AddGroup", "save a group, or give it other members"),
        "list": (f"{SUBCOMMANDS}.targets.ListGroups", "list the saved groups"),
        "show": (f"{SUBCOMMANDS}.targets.ShowGroup", "show which servers a group, or any words, mean"),
        "remove": (f"{SUBCOMMANDS}.targets.RemoveGroups", "remove groups; the servers stay saved"),
        "default": (f"{SUBCOMMANDS}.targets.DefaultGroup", "choose the group to use when none is named"),
    }


class AddGroup(Command):
    title = "groups add"
    about = "Save a group, or give one other members."
    typed = """
        jupyter flame groups add web web1 web2 "pi-*" @racks
        jupyter flame groups add night @web -web2 --default
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("members", nargs="+", metavar="MEMBER", help="a target, a pattern, @GROUP; -X leaves X out")
        parser.add_argument("--default", action="store_true", help="use it when no group is named")

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        file.set_group(options.name, options.members)
        if options.default:
            file.set_default_group(options.name)
        print(f"saved group {options.name!r} in {file.path}: {_members(options.name, file)}")
        return None


class ListGroups(Command):
    title = "groups list"
    about = "List the saved groups, and the servers they mean now."
    typed = "jupyter flame groups list --json"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("--json", action="store_true", help="for a program")

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        if options.json:
            show_json(
                {name: {"members": file.groups[name], "default": name == file.default_group} for name in file.groups}
            )
            return None
        if not file.groups:
            print("no group is saved: jupyter flame groups add NAME TARGET TARGET")
            return None
        rows = [
            (f"{name}{' (default)' if name == file.default_group else ''}", " ".join(members), _members(name, file))
            for name, members in file.groups.items()
        ]
        show_table(("group", "members", "servers"), rows)
        return None


class ShowGroup(Command):
    title = "groups show"
    about = "Show which servers a group, or any words for -t, mean."
    typed = """
        jupyter flame groups show web
        jupyter flame groups show "all,-web2"
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("words", metavar="GROUP", help="a group, web1,web2, pi-*, web[0:3], all")

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        chosen = select(options.words, file)
        show_table(("host", "where"), [(one.label, _location(one.where, file)) for one in chosen])
        return None


class RemoveGroups(Command):
    title = "groups remove"
    about = "Remove groups; the servers stay saved."
    typed = "jupyter flame groups remove night"

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("names", nargs="+", metavar="NAME")

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        for name in options.names:
            file.remove_group(name)
            print(f"removed group {name!r}")
        return None


class DefaultGroup(Command):
    title = "groups default"
    about = "Choose the group to use when none is named; without NAME, say which it is."
    typed = """
        jupyter flame groups default web
        jupyter flame groups default --none
        """

    def arguments(self, parser: Parser) -> None:
        choice = parser.add_mutually_exclusive_group()
        choice.add_argument("name", nargs="?", metavar="NAME")
        choice.add_argument("--none", action="store_true", help="no default group any more")

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        if options.none or options.name:
            file.set_default_group(options.name)
        print(f"the default group is {file.default_group}" if file.default_group else "there is no default group")
        return None


def _members(name: str, file: TargetsFile) -> str:
    """The servers that a group stands for now, in few words; or why there are none."""
    try:
        chosen = select(name, file)
    except TargetError as error:
        return str(error)
    return folding.names([one.label for one in chosen])


def _location(where: str, file: TargetsFile) -> str:
    table = file.tables.get(where)
    return str(table["location"]) if table else where
