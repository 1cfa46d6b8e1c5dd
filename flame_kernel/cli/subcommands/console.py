"""``jupyter flame console`` and ``sessions attach``: a Python prompt for a far side, in a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from ...commands import rails
from ...errors import AgentError, CannotConnect, TargetError
from ...old_python.console import talk as talk_to_old
from ...remote import console
from ...remote.foreground import in_colour, write
from ...remote.program import FAILED, Program
from ...remote.remote import Remote
from ...session.requests import Reply
from ...terminal import plain_text
from ..connecting import Connecting
from ..parser import Parser
from .sessions import Page


class Console(Connecting):
    """Opens a console on a server."""

    title = "console"
    word: ClassVar[bool] = True
    about = """
        Work on a server at a prompt like IPython's: colours, history (Up, Ctrl-R), Tab from the far side, several
        lines (Esc Enter runs them, Enter where they are complete), Ctrl-C stops what runs there, Ctrl-D or exit leaves.

        Without TARGET it uses the default one, or a test server of its own. With --session the session lives on
        when you leave. If stdin is not a terminal, its text is run as one cell.
        """
    typed = """
        jupyter flame console gpu-box
        jupyter flame console ssh://me@lab-pc/9999 --key-file ~/.ssh/lab.key --session mine
        """

    def run(self, options: argparse.Namespace) -> int | None:
        try:
            with self.remote() as remote:
                return _talk(remote)
        except CannotConnect as e:
            with self.old_python(e) as old:
                return talk_to_old(old)


class Attach(Connecting):
    """Opens a console on a session that exists already."""

    title = "sessions attach"
    alone: ClassVar[bool] = False
    session: ClassVar[str] = ""
    about = """
        Take up a session of a server in a console: its variables, the output that nobody has read, the running cell.

        It lives on when you leave. Ctrl-C stops the running cell.
        """
    typed = """
        jupyter flame sessions attach train -t gpu-box
        jupyter flame sessions attach train -t gpu-box --watch
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("name", metavar="NAME", help="the session, as jupyter flame sessions shows it")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--force", action="store_true", help="take over from another client")
        how.add_argument("--watch", action="store_true", help="follow its output read-only, until Ctrl-C")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        if options.watch:
            with self.agent_client() as client:
                page = Page(client.target)
                for events in client.watch(options.name):
                    page.show(events)
            return None
        try:
            with self.remote("force" if options.force else "must", session=options.name) as remote:
                return _talk(remote)
        except AgentError as e:
            if e.code == "in_use":
                raise TargetError(f"{e}; --force takes over, --watch follows its output") from None
            raise


class CellConsole(console.Console):
    """A console that numbers its statements, like IPython."""

    def __init__(self, remote: Remote) -> None:
        super().__init__(remote, console.history_file())
        self._remote = remote
        self._count = 1

    def banner(self) -> str:
        """The first line: the far side's Python and shell, and where statements run."""
        session = self._remote.session
        ready = session.ready.result()
        shell = f"IPython {ready.get('ipython')}" if ready.get("shell") == "ipython" else "built-in shell"
        return plain_text(
            f"Python {ready.get('python')}, {shell}, on {ready.get('host')}, pid {ready.get('pid')}, "
            f"at {session.location} ({session.target.protection}); Ctrl-D leaves"
        )

    def begin(self) -> None:
        """Continue the numbers of a session that was taken up, and follow its running cells."""
        session = self._remote.session
        cells = [] if session.server["fresh"] else session.ask("cells").result()
        counts = [one.get("count") for one in cells if isinstance(one, dict)] if isinstance(cells, list) else []
        self._count = max((count for count in counts if isinstance(count, int)), default=0) + 1
        for cell, told in self._remote.taken_up:
            code = str(cell.get("code") or "").strip().partition("\n")[0]
            write("stdout", plain_text(f"[running: {code[:60]}]") + "\n")
            request = cell["request"]
            self.guarded(partial(self._foreground.follow, told, session.follow(request), request))

    def end(self) -> None:
        """Say nothing: the prompt of the user's shell shows that the console is closed."""

    def words(self) -> Sequence[tuple[str, str]]:
        """The prompt: the target's name, and the statement's number."""
        where = plain_text(self._remote.target.name or "")
        number = ("class:number", str(self._count))
        return [("class:where", f"{where} " if where else ""), ("class:in", "In ["), number, ("class:in", "]: ")]

    def more(self, columns: int) -> str:
        """The prompt of further lines: dots that end in the same column as the first prompt."""
        return " " * max(0, columns - 5) + "...: "

    def label(self, content: dict[str, Any]) -> str:
        """``Out[3]: ``, the label of a value."""
        count = content.get("execution_count")
        label = f"Out[{count if isinstance(count, int) else self._count}]: "
        return f"\x1b[31m{label}\x1b[0m" if in_colour("stdout") else label

    def ran(self, reply: Reply) -> None:
        """Called after each statement: go on to the next number."""
        count = reply.get("execution_count")
        self._count = count + 1 if isinstance(count, int) else self._count + 1


def _talk(remote: Remote) -> int | None:
    if not sys.stdin.isatty():
        code = sys.stdin.read()
        rails.hold(remote.session, code)
        return Program(remote, ends=remote.session.target.session is None).execute(code)
    CellConsole(remote).interact()
    return FAILED if remote.session.gone is not None else None
