"""``jupyter flame``: the commands, by name. Each is a class of its own file, loaded when it is called."""

from __future__ import annotations

import os
import sys
from typing import Any, ClassVar

from jupyter_core.application import JupyterApp

from . import __version__
from .cli_command import DONE, FAILED, MISUSED

# name -> (where its class is, what it is for). A command with commands of its own has them as `name word`.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("flame_kernel.cli_serve.Serve", "start a Flame server that is safe to start"),
    "certs": ("flame_kernel.cli_certs.Certs", "make a private CA, and certificates for TLS"),
    "targets": ("flame_kernel.cli_targets.Targets", "write down servers: how to reach them, how they are protected"),
}


class CommandGroup(JupyterApp):
    """A word with commands behind it: ``jupyter flame`` itself, and those of its commands that have some."""

    title: ClassVar[str] = ""
    about: ClassVar[str] = "A notebook, a console and commands on any remote Python process, through Pyro4's Flame."
    commands: ClassVar[dict[str, tuple[str, str]]] = COMMANDS
    version = __version__

    def initialize(self, argv: Any = None) -> None:
        """Called with the words behind ours: load the command that they name, or say which there are."""
        words = list(sys.argv[1:] if argv is None else argv)
        if words and words[0] in self.commands:
            self.subcommands = {name: (path, about) for name, (path, about) in self.commands.items()}
            self.initialize_subcommand(words[0], words[1:])
            return
        if words and words[0] in ("-h", "--help", "help"):
            print(self.overview())
            self.exit(DONE)
        if words and words[0] == "--version" and not self.title:
            print(self.version)
            self.exit(DONE)
        if words:
            print(f"jupyter flame{self._behind}: there is no command {words[0]!r}\n", file=sys.stderr)
        print(self.overview(), file=sys.stderr)
        self.exit(MISUSED)

    def start(self) -> None:
        """Run the command that was found."""
        assert self.subapp is not None
        self.subapp.start()

    @property
    def _behind(self) -> str:
        return f" {self.title}" if self.title else ""

    def overview(self) -> str:
        """The commands, one a line."""
        width = max(map(len, self.commands))
        lines = [f"  {name:<{width}}  {about}" for name, (_, about) in self.commands.items()]
        usage = f"usage: jupyter flame{self._behind} COMMAND [options]"
        more = f"jupyter flame{self._behind} COMMAND --help tells more of each."
        return "\n".join([usage, "", self.about, "", "commands:", *lines, "", more])


def main() -> None:
    """The console script ``jupyter-flame``, which is what ``jupyter flame`` runs."""
    try:
        CommandGroup.launch_instance()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read what we print has had enough: `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
