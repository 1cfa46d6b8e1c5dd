"""``jupyter flame install``, ``list`` and ``remove``: Jupyter kernels, each for one far side."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ...connect.selection import is_group, select
from ...connect.target import PLACES, SHELLS
from ...connect.targets_file import located
from ...errors import TargetError
from .. import kernelspec
from ..command import Command
from ..output import show_json, show_table
from ..parser import Parser


class Install(Command):
    """Installs a kernelspec for one server."""

    title = "install"
    about = """
        Make a kernel for a server: a tile of its own in JupyterLab's launcher, and a name in every list of kernels.

        WHERE is a target of targets.toml, or host:port, ssh://user@host/port, ./u:socket; or a group: then each cell
        runs on all of its servers. Without WHERE it is the kernel that starts a server of its own. No secret is
        written: a key stays where targets.toml, or --key-file, says it is.
        `python -m flame_kernel install` is the same.
        """
    typed = """
        jupyter flame install gpu-box
        jupyter flame install ssh://me@lab-pc/9999 --key-file ~/.ssh/lab.key --display-name "The lab's PC"
        jupyter flame install gpu-box --session train --place child --name flame-train
        jupyter flame install --sys-prefix --replace
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("where", nargs="?", metavar="WHERE", help="the server: a target's name, or host:port, …")
        parser.add_argument("-t", "--target", metavar="WHERE", help="the same")
        parser.add_argument("--name", help="the kernel's name, for commands (flame-WHERE)")
        parser.add_argument("--display-name", metavar="TEXT", help='the name that people see ("Remote Flame: WHERE")')
        parser.add_argument("--key-file", type=Path, metavar="FILE", help="the server's key, in a file of mode 0600")
        parser.add_argument("--place", choices=PLACES, help="where cells run there")
        parser.add_argument("--session", metavar="NAME", help="attach to the session of this name, or create it")
        parser.add_argument("--shell", choices=SHELLS, help="with IPython or without")
        parser.add_argument(
            "--env", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="for the kernel; repeatable"
        )
        where = parser.add_mutually_exclusive_group()
        where.add_argument("--user", action="store_true", help="for this user (the default)")
        where.add_argument("--sys-prefix", action="store_true", help=f"for this environment, {sys.prefix}")
        where.add_argument("--prefix", metavar="DIR", help="below this folder, such as /usr/local")
        parser.add_argument("--replace", action="store_true", help="replace one of this name")

    def run(self, options: argparse.Namespace) -> int | None:
        target = self._server(options)
        name = options.name or kernelspec.name_for(target)
        title = options.display_name or _title(target, options)
        content = kernelspec.kernel_json(name, title, _environ(target, options))
        prefix = sys.prefix if options.sys_prefix else options.prefix
        place = kernelspec.destination(name, prefix)
        kernelspec.install(name, content, place, replace=options.replace)
        print(f"Installed kernelspec {name} in {place}")
        return None

    def _server(self, options: argparse.Namespace) -> str:
        """The target or location that the user named; empty for the kernel's own server. Raises TargetError."""
        if options.where and options.target and options.where != options.target:
            raise TargetError(f"{options.where} and {options.target} are two servers; name one")
        target = str(options.where or options.target or "")
        if not target:
            if options.key_file:
                raise TargetError("--key-file is the key of a server; name it as WHERE")
            return ""
        if target in self.targets().tables:
            return target
        if is_group(target, self.targets()):
            select(target, self.targets())  # raises an error that says what is wrong with it
            return target
        if ":" not in target:
            known = ", ".join(self.targets().tables) or "none"
            raise TargetError(f"there is no target {target!r} (there are: {known}); add it, or give host:port")
        return str(located(target, None))


def _title(target: str, options: argparse.Namespace) -> str:
    """The text on the tile in JupyterLab's launcher."""
    words = [word for word in (options.place, options.session and f"session {options.session}") if word]
    return "Remote Flame" + (f": {target}" if target else "") + (f" ({', '.join(words)})" if words else "")


def _environ(target: str, options: argparse.Namespace) -> dict[str, str]:
    """The kernelspec's ``env``: the options of the command, and what the user adds with ``--env``."""
    said = {
        "FLAME_TARGET": target,
        "FLAME_KEY_FILE": os.path.abspath(options.key_file.expanduser()) if options.key_file else "",
        "FLAME_PLACE": options.place or "",
        "FLAME_SESSION": options.session or "",
        "FLAME_SHELL": options.shell or "",
        "FLAME_CONFIG": os.environ.get("FLAME_CONFIG", ""),
    }
    # A key or session in Jupyter's own environment belongs to another server.
    none = {"FLAME_KEY_FILE": "", "FLAME_SESSION": ""} if target else {}
    return none | {variable: value for variable, value in said.items() if value} | dict(options.env)


class List(Command):
    """Lists our kernelspecs."""

    title = "list"
    about = "The kernels of Remote Flame that Jupyter knows, and the servers that they are for."

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("--json", action="store_true", help="for a program")

    def run(self, options: argparse.Namespace) -> int | None:
        found = kernelspec.installed()
        if options.json:
            listed = [
                {"name": one.name, "display_name": one.title, "target": one.target or None, "folder": str(one.folder)}
                for one in found
            ]
            show_json(listed)
            return None
        if not found:
            print("no kernels yet. Make one: jupyter flame install WHERE")
            return None
        rows = [(one.name, one.title, one.target or "(its own server)", str(one.folder)) for one in found]
        show_table(("kernel", "name", "server", "folder"), rows)
        return None


class Remove(Command):
    """Removes kernelspecs."""

    title = "remove"
    about = "Remove kernels of Remote Flame from Jupyter. Servers, sessions and targets stay as they are."
    typed = """
        jupyter flame remove flame-gpu-box
        jupyter flame remove flame-gpu-box flame-lab -y
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("names", nargs="+", metavar="KERNEL", help="its name, as jupyter flame list shows it")
        parser.add_argument("-f", "--force", action="store_true", help="do not ask; as -y")

    def run(self, options: argparse.Namespace) -> int | None:
        found = {one.name: one for one in kernelspec.installed()}
        for name in options.names:
            if name not in found:
                raise TargetError(
                    f"{name} is not a kernel of Remote Flame; there are: {', '.join(found) or 'none'} "
                    "(jupyter flame list)"
                )
        listed = ", ".join(str(found[name].folder) for name in options.names)
        if not options.force and not self.confirm(f"Remove {listed}?"):
            print("nothing is removed")
            return 1
        for name in options.names:
            kernelspec.remove(found[name])
            print(f"Removed {found[name].folder}")
        return None
