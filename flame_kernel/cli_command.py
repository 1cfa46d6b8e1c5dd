"""What the commands of ``jupyter flame`` have in common: a parser whose help teaches, and exit codes.

0: done.  1: it could not be done, and one sentence on stderr says why.  2: the command was not well formed.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar

from jupyter_core.application import JupyterApp
from jupyter_core.paths import jupyter_config_dir

from .errors import FlameError
from .targets import TargetsFile, targets_path
from .terminal import clean

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


class Command(JupyterApp):
    """One command. Subclasses say what they take (``arguments``) and do it (``run``).

    title       the words that call it, such as ``targets add``
    about       what it is for; its first line is shown in lists
    typed       examples: lines that can be typed as they stand
    """

    title: ClassVar[str]
    about: ClassVar[str]
    typed: ClassVar[str] = ""
    options: argparse.Namespace

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what the command takes to its parser."""

    def run(self, options: argparse.Namespace) -> int | None:
        """Do it; the exit code, None for 0. A FlameError becomes a sentence on stderr and 1."""
        raise NotImplementedError

    def initialize(self, argv: Any = None) -> None:
        """Called by traitlets' machinery with the words behind the command; exits with 2 where they mean nothing."""
        parser = parser_for(self.title, self.about, self.typed)
        self.arguments(parser)
        self.options = parser.parse_args(argv)

    def start(self) -> None:
        """Called when ``initialize`` has returned: do it, and exit."""
        try:
            code = self.run(self.options) or DONE
            sys.stdout.flush()
        except FlameError as error:
            print(f"jupyter flame {self.title}: {clean(str(error))}", file=sys.stderr)
            code = FAILED
        except KeyboardInterrupt:
            code = INTERRUPTED
        self.exit(code)

    @staticmethod
    def targets() -> TargetsFile:
        """The file of targets of this user."""
        return TargetsFile(targets_path(os.environ, Path(jupyter_config_dir())))


def parser_for(title: str, about: str, examples: str) -> argparse.ArgumentParser:
    """A parser that shows paragraphs and examples as they were written."""
    lines = textwrap.dedent(examples).strip().splitlines()
    return argparse.ArgumentParser(
        prog=f"jupyter flame {title}".strip(),
        description=textwrap.dedent(about).strip(),
        epilog="examples:\n" + "\n".join(f"  {line}" for line in lines) if lines else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
