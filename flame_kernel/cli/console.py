"""``jupyter flame console`` and ``sessions attach``: the prompt of a far side in a terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import ClassVar

from ..errors import AgentError, TargetError
from ..remote.remote import Remote
from .command import FAILED
from .connecting import Connecting
from .run import Program
from .sessions import Page


class Console(Connecting):
    """A console."""

    title = "console"
    word: ClassVar[bool] = True
    about = """
        Work on a server at a prompt like IPython's: colours, history (Up, Ctrl-R), Tab from the far side, several
        lines (Esc Enter runs them, Enter where they are complete), Ctrl-C stops what runs there, Ctrl-D or exit leaves.

        Without a TARGET it is the default one, or a server of its own for a try. With --session the session lives on
        when you leave. Where stdin is no terminal, what it holds is run as one cell.
        """
    typed = """
        jupyter flame console gpu-box
        jupyter flame console ssh://me@lab-pc/9999 --key-file ~/.ssh/lab.key --session mine
        """

    def run(self, options: argparse.Namespace) -> int | None:
        with self.remote() as remote:
            return _talk(remote)


class Attach(Connecting):
    """A session that is there."""

    title = "sessions attach"
    alone: ClassVar[bool] = False
    session: ClassVar[str] = ""
    about = """
        Take up a session of a server in a console: its names, the output that nobody has read, the cell that runs.

        It lives on when you leave. Ctrl-C stops the cell that runs.
        """
    typed = """
        jupyter flame sessions attach train -t gpu-box
        jupyter flame sessions attach train -t gpu-box --watch
        """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="the session, as jupyter flame sessions shows it")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--force", action="store_true", help="take it, whoever has it")
        how.add_argument("--watch", action="store_true", help="see its output until Ctrl-C, and touch nothing")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        if options.watch:
            with self.visitor() as visitor:
                page = Page(visitor.target)
                for events in visitor.watch(options.name):
                    page.show(events)
            return None
        try:
            with self.remote("force" if options.force else "must", session=options.name) as remote:
                return _talk(remote)
        except AgentError as e:
            if e.code == "in_use":
                raise TargetError(f"{e}; --force takes it, --watch shows its output") from None
            raise


def _talk(remote: Remote) -> int | None:
    if not sys.stdin.isatty():
        return Program(remote).execute(sys.stdin.read())
    from .prompt import Prompt  # a terminal's own library, and IPython's: they take long to load

    with contextlib.suppress(EOFError):
        Prompt(remote).interact()
    return FAILED if remote.session.gone is not None else None
