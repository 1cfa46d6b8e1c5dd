"""``jupyter flame groups …``: several saved servers under one name (``connect/selection.py`` has the words)."""

from __future__ import annotations

import argparse
from typing import ClassVar

from ..connect.selection import select
from ..connect.targets_file import TargetsFile
from ..errors import TargetError
from ..group import folding
from .command import Command, CommandGroup
from .output import show_json, show_table
from .parser import Parser


class Groups(CommandGroup):
    """The commands on the groups of targets.toml."""

    title = "groups"
    about = """\
Name several servers at once: -t NAME of exec, eval, run, put and sync, %%flame -t NAME, flame.group("NAME").

Members are saved targets, patterns such as pi-*, and other groups (@NAME); -web2 leaves one out. Without a saved group
it goes as well: -t web1,web2, -t "pi-*", -t web[0:3], -t furnace*4 (four sessions on one server), -t all."""
    commands: ClassVar[dict[str, tuple[str, str]]] = {
        "add": ("flame_kernel.cli.groups.Add", "save a group, or give it other members"),
        "list": ("flame_kernel.cli.groups.List", "list the saved groups"),
        "show": ("flame_kernel.cli.groups.Show", "show which servers a group, or any words, mean"),
        "remove": ("flame_kernel.cli.groups.Remove", "remove groups; the servers stay saved"),
        "default": ("flame_kernel.cli.groups.Default", "choose the group to use when none is named"),
    }


class Add(Command):
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


class List(Command):
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


class Show(Command):
    title = "groups show"
    about = "Show which servers a group means; or any words that can stand behind -t."
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


class Remove(Command):
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


class Default(Command):
    title = "groups default"
    about = "Choose the group to use when none is named; without NAME, say which it is."
    typed = """
        jupyter flame groups default web
        jupyter flame groups default --none
        """

    def arguments(self, parser: Parser) -> None:
        choice = parser.add_mutually_exclusive_group()
        choice.add_argument("name", nargs="?", metavar="NAME")
        choice.add_argument("--none", action="store_true", help="none any more")

    def run(self, options: argparse.Namespace) -> int | None:
        file = self.targets()
        if options.none or options.name:
            file.set_default_group(options.name)
        print(f"the default group is {file.default_group}" if file.default_group else "there is no default group")
        return None


def _members(name: str, file: TargetsFile) -> str:
    """The servers that a group means now, in few words; or why it means none."""
    try:
        chosen = select(name, file)
    except TargetError as error:
        return str(error)
    return folding.names([one.label for one in chosen])


def _location(where: str, file: TargetsFile) -> str:
    table = file.tables.get(where)
    return str(table["location"]) if table else where
