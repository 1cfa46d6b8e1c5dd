"""``jupyter flame status``, ``sessions`` and ``logs``: show what lives on a server, and what cells have printed."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import Any, ClassVar

from ...commands import sessions
from ...connect import units
from ...connect.target import Target
from ...errors import AgentError, FlameError, TargetError
from ...remote.foreground import Terminal, in_colour, write
from ...remote.program import FAILED
from ...session.agent_client import AgentClient
from ...session.inbox import Event
from ...session.screen import allowed, show
from ...terminal import COLOUR, one_line, plain_text
from ..command import CommandGroup
from ..connecting import Connecting, connecting
from ..index import SUBCOMMANDS
from ..output import show_json, show_lines, show_table
from ..parser import Parser

# How many times a round trip is measured.
_TRIPS = 5


class Status(Connecting):
    """Shows the state of one server, or of all targets."""

    title = "status"
    word: ClassVar[bool] = True
    alone: ClassVar[bool] = False
    session: ClassVar[str] = ""
    about = """
        Show whether a server answers, how the connection is protected, and what runs there; --all: for each target.

        Nothing is started there. The exit code is 1 if a server does not answer.
        """
    typed = """
        jupyter flame status gpu-box
        jupyter flame status --all
        jupyter flame status gpu-box --json
        """

    def arguments(self, parser: Parser) -> None:
        super().arguments(parser)
        parser.add_argument("--all", action="store_true", help="each target of targets.toml, a line each")
        parser.add_argument("--json", action="store_true", help="for a program")

    def run(self, options: argparse.Namespace) -> int | None:
        if options.all:
            return self._all()
        target = self.target()
        with connecting(target, self.asked):
            found = _looked_at(target)
        if options.json:
            show_json(found)
            return None
        print(plain_text(f"{target} answers: {found['round_trip_ms']:.1f} ms a round trip ({target.protection})"))
        if found["python"] is None:
            print("no session was ever opened there, so nothing more is known")
            return None
        place = "a bare flame server" if found["bare"] else f"an app, {found['main'] or 'name unknown'}"
        print(
            one_line(
                f"{found['host']}, pid {found['pid']}, Python {found['python']}, {place} ({found['servertype']})",
                1000,
            )
        )
        count = len(found["sessions"])
        print(f"{count} session{'' if count == 1 else 's'}" + (": jupyter flame sessions" if count else ""))
        return None

    def _all(self) -> int:
        file = self.targets()
        if not file.tables:
            raise TargetError(f"there are no targets in {file.path}; jupyter flame targets add NAME WHERE")
        rows: list[tuple[str, ...]] = []
        found: list[dict[str, Any]] = []
        for name in file.tables:
            self.options.where = name
            try:
                target = self.target()
                with connecting(target, self.asked):
                    one = _looked_at(target)
                answers = f"{one['round_trip_ms']:.1f} ms"
            except FlameError as e:
                one = {"target": name, "error": str(e)}
                answers = str(e)
            found.append(dict(one, name=name))
            mark = "*" if name == file.default else " "
            sessions = str(len(one["sessions"])) if "sessions" in one else "-"
            rows.append((f"{mark} {name}", str(one.get("python") or "-"), sessions, answers))
        if self.options.json:
            show_json(found)
        else:
            show_table(("  target", "Python", "sessions", "answers"), rows)
        return FAILED if any("error" in one for one in found) else 0


def _looked_at(target: Target) -> dict[str, Any]:
    """What a server tells about itself; nothing is started there."""
    with contextlib.closing(AgentClient(target)) as client:
        trips = []
        hello: Any = None
        for _ in range(_TRIPS):
            begun = time.monotonic()
            try:
                hello = client.ask("hello")
            except AgentError as e:
                if e.code != "no_agent":
                    raise
            trips.append(time.monotonic() - begun)
        hello = hello if isinstance(hello, dict) else {}
        python = hello.get("python")
        return {
            "target": target.name,
            "location": str(target.location),
            "protection": target.protection,
            "round_trip_ms": sorted(trips)[_TRIPS // 2] * 1000,
            "python": ".".join(map(str, python)) if isinstance(python, list) else None,
            **{name: hello.get(name) for name in ("host", "pid", "servertype", "bare", "main")},
            "sessions": client.sessions() if hello else [],
        }


class Sessions(CommandGroup):
    """The commands on the sessions of a server."""

    title = "sessions"
    about = """\
The sessions that live on a server. A session keeps its variables, cell and output, with a client or without.
jupyter flame sessions [TARGET] lists them."""
    commands: ClassVar[dict[str, tuple[str, str]]] = {
        "list": (f"{SUBCOMMANDS}.sessions.List", "what lives on a server"),
        "attach": (f"{SUBCOMMANDS}.console.Attach", "take up a session in a console, or watch it"),
        "kill": (f"{SUBCOMMANDS}.sessions.Kill", "end sessions, with all that they run"),
        "cull": (f"{SUBCOMMANDS}.sessions.Cull", "end those that nobody uses"),
    }
    other: ClassVar[str | None] = "list"


class List(Connecting):
    """Lists the sessions of a server."""

    title = "sessions list"
    about = "The sessions that live on a server: who has each, what it runs, and how much output waits to be read."
    word: ClassVar[bool] = True
    alone: ClassVar[bool] = False
    session: ClassVar[str] = ""
    typed = """
        jupyter flame sessions gpu-box
        jupyter flame sessions list gpu-box --json
        """

    def arguments(self, parser: Parser) -> None:
        super().arguments(parser)
        parser.add_argument("--json", action="store_true", help="for a program")

    def run(self, options: argparse.Namespace) -> int | None:
        with self.agent_client() as client:
            living = client.sessions()
        if options.json:
            show_json(living)
            return None
        show_lines(sessions.lines(living))
        return None


class Kill(Connecting):
    """Ends sessions by name."""

    title = "sessions kill"
    about = "End sessions, with all that they run. Their variables and their output are lost."
    alone: ClassVar[bool] = False
    session: ClassVar[str] = ""
    typed = """
        jupyter flame sessions kill train -t gpu-box
        jupyter flame sessions kill train test -t gpu-box -y
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("names", nargs="+", metavar="NAME", help="sessions, as jupyter flame sessions shows them")
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        with self.agent_client() as client:
            living = {str(one.get("session")): one for one in client.sessions()}
            for name in options.names:
                if name not in living:
                    names = ", ".join(map(one_line, living)) or "none"
                    raise TargetError(f"there is no session {name}; there are: {names}")
            busy = [name for name in options.names if living[name].get("state") == "busy"]
            warning = f" {', '.join(busy)} run{'' if len(busy) > 1 else 's'} something." if busy else ""
            if warning and not self.confirm(f"End {', '.join(options.names)}?{warning}"):
                print("no session was ended")
                return FAILED
            for name in options.names:
                _end(client, living[name])
        return None


class Cull(Connecting):
    """Ends sessions that nobody uses."""

    title = "sessions cull"
    about = """
        End the sessions that run nothing and have had no client for some time. One that runs a cell stays.
        """
    alone: ClassVar[bool] = False
    word: ClassVar[bool] = True
    session: ClassVar[str] = ""
    typed = """
        jupyter flame sessions cull gpu-box --idle 12h --dry-run
        jupyter flame sessions cull gpu-box --idle 12h
        """

    def arguments(self, parser: Parser) -> None:
        super().arguments(parser)
        parser.add_argument(
            "--idle", required=True, type=_time, metavar="TIME", help='without a client for this long: "90 min", 12h'
        )
        parser.add_argument("-n", "--dry-run", action="store_true", help="only say which sessions would end")

    def run(self, options: argparse.Namespace) -> int | None:
        with self.agent_client() as client:
            unused = [
                one
                for one in client.sessions()
                if not one.get("attached") and one.get("state") != "busy" and _alone(one) >= options.idle
            ]
            for one in unused:
                if options.dry_run:
                    print(f"would end session {one_line(str(one.get('session')))}")
                else:
                    _end(client, one)
            if not unused:
                print("no session has been unused for that long")
        return None


def _alone(one: dict[str, Any]) -> float:
    """Seconds without a client."""
    alone = one.get("alone")
    return float(alone) if isinstance(alone, (int, float)) else 0.0


def _time(text: str) -> float:
    try:
        return units.seconds(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; give {e}") from None


def _end(client: AgentClient, session: dict[str, Any]) -> None:
    name, ended = one_line(str(session.get("session"))), client.end(session)
    print(f"ended session {name}" if ended else f"session {name} had already ended")


class Logs(Connecting):
    """Shows the output of a session's cells."""

    title = "logs"
    about = """
        Show what the cells of a session have printed and shown, as text: its latest cells with their output, from the
        journal that the server keeps; --follow goes on with new output, until Ctrl-C.

        Without --session it is the only session there. Nothing changes for the client that has the session.
        Output that has not been sent to its notebook yet is shown with --follow only.
        """
    word: ClassVar[bool] = True
    alone: ClassVar[bool] = False
    session: ClassVar[str] = ""
    typed = """
        jupyter flame logs gpu-box --session train
        jupyter flame logs gpu-box --session train -n 1 --follow
        """

    def arguments(self, parser: Parser) -> None:
        super().arguments(parser)
        parser.add_argument("--session", metavar="NAME", help="whose output (the only session)")
        parser.add_argument("-n", "--cells", type=int, metavar="N", help="only the last N cells (10; 0 for none)")
        parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes, until Ctrl-C")

    def run(self, options: argparse.Namespace) -> int | None:
        count = 10 if options.cells is None else options.cells
        if count < 0:
            raise TargetError("-n is a number of cells, 0 or more")
        with self.agent_client() as client:
            name = options.session or _only(client)
            cells = _cells(client, name)
            page = Page(client.target)
            for cell in cells[-count:] if count else ():
                if options.follow and cell.get("ended") is None:
                    break  # --follow shows its output from the beginning
                page.header(cell)
                page.show(event for events in client.replay(name, str(cell.get("request"))) for event in events)
            if options.follow:
                for events in client.watch(name):
                    page.follow(events, lambda: _cells(client, name))
        return None


def _cells(client: AgentClient, name: str) -> list[dict[str, Any]]:
    """The cells of a session whose output is kept, the oldest first."""
    cells = client.ask("cells", session=name)
    return [one for one in cells if isinstance(one, dict)] if isinstance(cells, list) else []


def _only(client: AgentClient) -> str:
    """The name of the only session there; TargetError if there is none or more than one."""
    living = client.sessions()
    if len(living) != 1:
        names = ", ".join(one_line(str(one.get("session"))) for one in living) or "none"
        raise TargetError(f"name a --session; there are: {names}")
    return str(living[0].get("session"))


class Page(Terminal):
    """Prints the events of cells as text."""

    def __init__(self, target: Target) -> None:
        self._rendering = target.rendering(lambda request, sentence: write("stderr", sentence + "\n"))
        self._cell: str | None = None

    def header(self, cell: dict[str, Any]) -> None:
        """Print the line above a cell's output."""
        number = "*" if cell.get("count") is None else cell["count"] or "-"
        part = "" if cell.get("complete", True) else "; its beginning is not kept any more"
        when = units.moment_in_words(cell.get("started"))
        line = plain_text(f"--- [{number}] {sessions.first_line(cell.get('code'))} ({when}{part})")
        print(f"\x1b[1m{line}\x1b[0m" if in_colour("stdout") else line)

    def follow(self, events: list[Event], cells: Callable[[], list[dict[str, Any]]]) -> None:
        """Print events as they come, with a header when another cell prints. ``cells`` returns the present cells."""
        for event in events:
            request = event.get("request")
            if request is not None and request != self._cell and not event["type"].endswith("_reply"):
                self._cell = request
                for cell in cells():
                    if cell.get("request") == request:
                        self.header(cell)
            self.show([event])

    def show(self, events: Any) -> None:
        """Print events."""
        for event in events:
            may = allowed(event, self._rendering)
            if may is not None:
                show(may, self)

    def stream(self, name: str, text: str) -> None:
        """Print on stdout, also what came on stderr: the output is what the user asked for."""
        write("stdout", text if in_colour("stdout") else COLOUR.sub("", text))

    def error(self, content: dict[str, Any]) -> None:
        self.stream("stdout", "\n".join(map(str, content.get("traceback") or ())) + "\n")
