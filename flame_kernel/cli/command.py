"""What all commands of ``jupyter flame`` share: a parser whose help shows examples, and exit codes.

0: done.  1: it failed, and one sentence on stderr says why.  2: the command line is wrong.
130: Ctrl-C.

A command is a Jupyter application: ``--config``, ``--generate-config``, ``--show-config``, ``--log-level``, ``--debug``
and ``-y`` are Jupyter's own.  ``--Class.trait=value`` and ``jupyter_flame_config.py`` can set any trait.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

from jupyter_core.application import JupyterApp, NoStart
from jupyter_core.paths import jupyter_config_dir
from traitlets import Bool, TraitError
from traitlets.config import Config

from .. import __version__
from ..connect.settings import FlameSettings
from ..connect.targets_file import TargetsFile, targets_path
from ..errors import FlameError, TargetError
from ..remote.foreground import flush_output
from ..remote.program import DONE, FAILED, INTERRUPTED
from ..session.user import agrees, ask_line
from ..terminal import plain_text
from .index import asks, overview
from .parser import Parser, meant

MISUSED = 2

_TRAIT = re.compile(r"--[A-Z]\w*\.\w")


class Command(JupyterApp):
    """One command. A subclass declares its ``arguments``, and does the work in ``run``.

    title       the words that the user types, such as ``targets add``
    about       what it is for; lists show the first line
    typed       examples, which can be typed as they are
    takes_all   whether everything after its first argument is passed on unchanged; traits must come before that
    """

    name = "jupyter-flame"
    version = __version__
    classes = [FlameSettings]  # noqa: RUF012, declared so by traitlets
    raise_config_file_errors = Bool(True)
    title: ClassVar[str]
    about: ClassVar[str]
    typed: ClassVar[str] = ""
    takes_all: ClassVar[bool] = False
    options: argparse.Namespace

    def arguments(self, parser: Parser) -> None:
        """Add the command's arguments to its parser."""

    def run(self, options: argparse.Namespace) -> int | None:
        """Do the work; returns the exit code, None for 0. A FlameError becomes a sentence on stderr and code 1."""
        raise NotImplementedError

    @classmethod
    def parser(cls) -> Parser:
        """The command's parser, complete."""
        parser = Parser(cls.title, cls.about, cls.typed)
        cls.arguments(cls.__new__(cls), parser)
        add_common(parser)
        parser.say_usage()
        return parser

    def initialize(self, argv: Any = None) -> None:
        """Called by traitlets with the words after the command; exits with 2 if they are wrong."""
        self.parse_command_line(argv)
        said = deepcopy(self.config)
        if self.config_file and not Path(self.config_file).is_file():
            self._fail(f"there is no configuration file {self.config_file}")
        try:
            self.load_config_file(suppress_errors=False)
            self.update_config(said)  # the command line wins over the configuration file
            FlameSettings(parent=self)
        except TraitError as error:
            self._fail(f"the configuration cannot be used: {error}")
        except Exception as error:  # a configuration file is a program, and may raise anything
            self._fail(f"{self.config_file or 'the configuration file'}: {type(error).__name__}: {error}")

    def parse_command_line(self, argv: Any = None) -> None:
        """Split the words into ``options`` and traits."""
        words = list(sys.argv[1:] if argv is None else argv)
        end = words.index("--") if "--" in words else len(words)
        if self.takes_all:
            end = next((n for n, word in enumerate(words) if not word.startswith("--")), end)
        traits = [word for word in words[:end] if _TRAIT.match(word)]
        others = [word for word in words[:end] if not _TRAIT.match(word)] + words[end:]
        self.options = self.parser().parse_args(others)
        try:
            super().parse_command_line(traits)
            self.update_config(common_config(self.options))
        except TraitError as error:
            self._fail(str(error), MISUSED)

    def migrate_config(self) -> None:
        """Nothing to migrate: there was no version of ours for IPython 3."""

    def start(self) -> None:
        """Called after ``initialize``: run the command and exit."""
        try:
            super().start()  # --show-config, --generate-config
        except NoStart:
            self.exit(DONE)
        try:
            if self.generate_config:
                self.write_default_config()
                self.exit(DONE)
            code = self.run(self.options) or DONE
            flush_output()
        except FlameError as error:
            self.log.debug("raised here:", exc_info=True)
            self._fail(str(error))
        except KeyboardInterrupt:
            code = INTERRUPTED
        self.exit(code)

    def _fail(self, sentence: str, code: int = FAILED) -> None:
        print(f"jupyter flame {self.title}: {plain_text(sentence)}", file=sys.stderr)
        self.exit(code)

    def confirm(self, question: str) -> bool:
        """Whether the user says yes, or has given ``-y``; TargetError if nobody can be asked."""
        if self.answer_yes:
            return True
        if not sys.stdin.isatty():
            raise TargetError(f"{question} There is no terminal to ask in; add -y")
        return agrees(ask_line, question)

    @staticmethod
    def targets() -> TargetsFile:
        """This user's targets.toml."""
        return TargetsFile(targets_path(os.environ, Path(jupyter_config_dir())))


class CommandGroup(Command):
    """A command that has commands of its own, such as ``jupyter flame`` itself or ``jupyter flame targets``.

    other   the command to run if the user names none; None: show the list of commands
    """

    commands: ClassVar[dict[str, tuple[str, str]]]
    other: ClassVar[str | None] = None

    def initialize(self, argv: Any = None) -> None:
        """Called with the words after ours: load the command that they name, or list the commands."""
        words = list(sys.argv[1:] if argv is None else argv)
        if asks(words):
            print(overview(self.title, self.about, self.commands))
            self.exit(DONE)
        if words[:1] == ["help"]:
            words = [*words[1:], "--help"]
        name = words[0] if words and words[0] in self.commands else self.other
        if name is not None:
            self.subcommands = {one: (path, about) for one, (path, about) in self.commands.items()}
            self.initialize_subcommand(name, words[1:] if words[:1] == [name] else words)
            return
        if words and words[0].startswith("-"):
            super().initialize(words)
            return
        if words:
            program = f"jupyter flame {self.title}".strip()
            like = _as_in_a_notebook(words[0]) if not self.title else ""
            like = like or meant(words[0], self.commands)
            print(
                plain_text(f"{program}: there is no command {words[0]!r}{like} {program} --help lists them"),
                file=sys.stderr,
            )
            self.exit(MISUSED)
        self._misused()

    def start(self) -> None:
        """Run the command that ``initialize`` has loaded."""
        if self.subapp is not None:
            self.subapp.start()
        super().start()

    def run(self, options: argparse.Namespace) -> int | None:
        """Called if there are options but no command: list the commands."""
        self._misused()
        return None

    def _misused(self) -> None:
        print(overview(self.title, self.about, self.commands), file=sys.stderr)
        self.exit(MISUSED)


def add_common(parser: Parser) -> None:
    """The options that every application of Jupyter has."""
    group = parser.shared("as in all of Jupyter")
    group.add_argument("--config", dest="config_file", metavar="FILE", help="a configuration file for traits")
    group.add_argument("--generate-config", action="store_true", help="write jupyter_flame_config.py, and end")
    group.add_argument("--show-config", action="store_true", help="show what is configured, and end")
    group.add_argument("--show-config-json", action="store_true", help=argparse.SUPPRESS)
    group.add_argument("--log-level", type=_log_level, metavar="LEVEL", help="DEBUG, INFO, WARN, ERROR, or a number")
    group.add_argument("--debug", action="store_true", help="the same as --log-level=DEBUG")
    group.add_argument("--version", action="version", version=__version__, help="the version of Remote Flame")
    group.add_argument("-y", "--yes", dest="answer_yes", action="store_true", help="answer yes to any question")


def common_config(options: argparse.Namespace) -> Config:
    """The configuration that the options of ``add_common`` stand for."""
    said = vars(options)
    names = ("config_file", "generate_config", "answer_yes", "show_config", "show_config_json", "log_level")
    found = {name: said[name] for name in names if said.get(name)}
    if said.get("debug"):
        found["log_level"] = logging.DEBUG
    return Config({"JupyterApp": found})


def _log_level(text: str) -> int:
    found = int(text) if text.isdigit() else getattr(logging, text.upper(), None)
    if not isinstance(found, int):
        raise argparse.ArgumentTypeError(f"{text!r} is not a log level; give DEBUG, INFO, WARN, ERROR or a number")
    return found


def _as_in_a_notebook(word: str) -> str:
    """The end of a sentence about a ``word`` that is a command of notebooks alone; empty if it is none."""
    from ..commands.language import BY_NAME  # here, because it takes time and only a mistake needs it

    if word == "connect":
        return ": each command here connects to the server that -t names;"
    return f": it is a notebook's, as %flame {word};" if word in BY_NAME else ""
