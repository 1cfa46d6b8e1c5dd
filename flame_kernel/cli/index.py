"""The list of the commands of ``jupyter flame``: their names, and where they are. ``--help`` needs nothing else."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

from ..terminal import WIDTH

ABOUT = "A notebook, a console and commands on any remote Python process, through Pyro4's Flame."

SUBCOMMANDS = "flame_kernel.cli.subcommands"
# name -> (where its class is, what it is for)
COMMANDS: dict[str, tuple[str, str]] = {
    "targets": (f"{SUBCOMMANDS}.targets.Targets", "save servers under a name, with their key and protection"),
    "groups": (f"{SUBCOMMANDS}.targets.Groups", "name several saved servers at once"),
    "install": (f"{SUBCOMMANDS}.install.Install", "make a kernel for a server: a tile in JupyterLab's launcher"),
    "list": (f"{SUBCOMMANDS}.install.List", "list the kernels that install has made"),
    "remove": (f"{SUBCOMMANDS}.install.Remove", "remove kernels that install has made"),
    "console": (f"{SUBCOMMANDS}.console.Console", "a prompt like IPython's on a server"),
    "exec": (f"{SUBCOMMANDS}.run.Exec", "run statements on a server"),
    "eval": (f"{SUBCOMMANDS}.run.Eval", "print the value of an expression on a server"),
    "run": (f"{SUBCOMMANDS}.run.Run", "run a script of this machine, or a notebook, on a server"),
    "pip": (f"{SUBCOMMANDS}.pip.Pip", "send packages to a server without internet, or run its own pip"),
    "put": (f"{SUBCOMMANDS}.files.Put", "copy files and folders to a server"),
    "get": (f"{SUBCOMMANDS}.files.Get", "copy files and folders from a server"),
    "sync": (f"{SUBCOMMANDS}.files.Sync", "make a folder like one on the other side: only what changed"),
    "forward": (f"{SUBCOMMANDS}.forward.Forward", "reach ports of a server here, and ports of this machine there"),
    "dask": (f"{SUBCOMMANDS}.dask.Dask", "make a Dask cluster of several servers, until Ctrl-C"),
    "status": (f"{SUBCOMMANDS}.sessions.Status", "show whether a server answers, and what runs there"),
    "sessions": (f"{SUBCOMMANDS}.sessions.Sessions", "list the sessions of a server, attach to one, end some"),
    "logs": (f"{SUBCOMMANDS}.sessions.Logs", "show what the cells of a session have printed"),
    "profile": (f"{SUBCOMMANDS}.profile.Profile", "show where the time of a server's process goes, as a flame graph"),
    "hotfix": (f"{SUBCOMMANDS}.hotfix.Hotfix", "give a function of a running program new code, and take it back"),
    "mcp": (f"{SUBCOMMANDS}.mcp.Mcp", "tools for language-model agents: run code on a server, by MCP"),
    "doctor": (f"{SUBCOMMANDS}.doctor.Doctor", "diagnose the connection to a server, with a cure for each failure"),
    "discover": (f"{SUBCOMMANDS}.discover.Discover", "list the Flame servers that a Pyro name server knows"),
    "serve": (f"{SUBCOMMANDS}.serve.Serve", "start a Flame server with safe settings"),
    "ignite": (f"{SUBCOMMANDS}.ignite.Ignite", "open Flame in a Python process that runs already"),
    "extinguish": (f"{SUBCOMMANDS}.ignite.Extinguish", "take Flame out of that process again"),
    "certs": (f"{SUBCOMMANDS}.certs.Certs", "make a private CA, and certificates for TLS"),
    "completion": ("flame_kernel.cli.completion.Completion", "print the completion script for bash, zsh or fish"),
}
HELP = ("-h", "--help", "help")
# The options of every command; `jupyter flame --help` shows them in this one line.
COMMON = "--config FILE, --generate-config, --show-config, --log-level LEVEL, --debug and -y are as in all of Jupyter."


def asks(words: Sequence[str]) -> bool:
    """Whether these words ask for the list of commands; ``help NAME`` does not, it asks for help on one."""
    return bool(words) and words[0] in HELP and (words[0] != "help" or len(words) == 1)


def overview(title: str, about: str, commands: Mapping[str, tuple[str, str]]) -> str:
    """The help of ``jupyter flame``, or of its command group ``title``: one command a line."""
    behind = f" {title}" if title else ""
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in commands.items()]
    usage = f"usage: jupyter flame{behind} COMMAND [options]"
    more = f"jupyter flame{behind} COMMAND --help tells more of each."
    ends = [more] if title else [more, COMMON]
    return "\n".join([usage, "", paragraphs(about), "", "commands:", *lines, "", *map(paragraphs, ends)])


def paragraphs(text: str) -> str:
    """``text`` wrapped at `WIDTH` columns; indented lines stay as they are."""
    found = []
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text).strip("\n")):
        begun: list[str] = []  # the lines of this paragraph so far
        for line in paragraph.splitlines():
            if line.startswith(" ") or not begun or begun[-1].startswith(" "):
                begun.append(line.rstrip())
            else:
                begun[-1] += " " + line.strip()
        found.append("\n".join(line if line.startswith(" ") else textwrap.fill(line, WIDTH) for line in begun))
    return "\n\n".join(found)
