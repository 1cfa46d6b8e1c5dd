"""What all commands that connect to a server share: choosing the server, connecting, and asking the user."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jupyter_core.paths import jupyter_config_dir

from ..commands import rails
from ..commands.options import KEY, KEY_FILE, OPTIONS, PLACE, SESSION, SHELL, TRUST, settings
from ..connect.rails_table import Rails
from ..connect.selection import is_group
from ..connect.settings import FlameSettings
from ..connect.target import Target, load_target
from ..errors import CannotConnect, TargetError
from ..remote.foreground import in_colour, write
from ..remote.remote import Remote
from ..session.agent_client import AgentClient
from ..session.user import ask_here
from ..terminal import COLOUR, plain_text, warning
from .command import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..old_python.calls import OldPython

# The title of the options that say how a link is protected.
PROTECTION = "how the link is protected"
# Seconds until we tell the user that we are still connecting.
WORTH_SAYING = 1.0
# Options of commands or of Jupyter that have the same name as a setting of a connection but mean something else.
_OTHER = ("config", "timeout")


class Connecting(Command):
    """A command for one server.

    alone       whether to start a server on this machine if none is named and there is no default
    word        whether the server can also be named without ``-t``
    several     for a command that takes a group: what the help says about several servers
    writes      whether it plainly writes there: then it is refused where the target is read_only
    session     what the help says about ``--session``; empty if the command has no such option
    """

    alone: ClassVar[bool] = True
    writes = False
    word: ClassVar[bool] = False
    several: ClassVar[str] = ""
    session: ClassVar[str] = "attach to the session of this name, or create it; it is left alive at the end"

    def arguments(self, parser: Parser) -> None:
        if self.word:
            parser.add_argument("where", nargs="?", metavar="TARGET", help="the server; as -t")
        group = parser.add_argument_group("the server")
        group.add_argument(
            "-t",
            "--target",
            metavar="TARGET",
            help="a saved name, host:port, ssh://user@host/port, ./u:socket or ns:NAME" + self.several,
        )
        key = group.add_mutually_exclusive_group()
        KEY_FILE.add_to(key)
        KEY.add_to(key)
        if self.session:
            SESSION.add_to(group, help=self.session)
            for option in (PLACE, SHELL, TRUST):
                option.add_to(group)
        protected = parser.shared(PROTECTION)
        for option in OPTIONS:
            option.add_to(protected)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.asked = threading.Event()  # set once the user was asked something

    def _ask(self, prompt: str, password: bool) -> str | None:
        self.asked.set()
        if sys.stderr is not None and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        return ask_here(prompt, password)

    @property
    def where(self) -> str | None:
        """The server that the user named, or None; TargetError if there are two."""
        options = vars(self.options)
        word, option = options.get("where"), options.get("target")
        if word and option and word != option:
            raise TargetError(f"{word} and {option} are two servers; name one")
        return word or option

    @property
    def is_group(self) -> bool:
        """Whether the user named several servers. Raises TargetError."""
        where = self.where
        return where is not None and is_group(where, self.targets())

    @property
    def folder(self) -> Path:
        """Jupyter's configuration folder."""
        return Path(jupyter_config_dir())

    def given(self, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """``(the settings of the command line, overridden by ``more``; those of the configuration)``."""
        given = settings({name: value for name, value in vars(self.options).items() if name not in _OTHER})
        return given | more, FlameSettings(parent=self).values()

    def target(self, **more: Any) -> Target:
        """The server to use; ``more`` are settings that override all others. Raises TargetError."""
        given, defaults = self.given(**more)
        target = load_target(self.where, config_dir=self.folder, overrides=given, ask=self._ask, defaults=defaults)
        if target.location is None and not self.alone:
            raise TargetError(
                "no server is named, and there is no default; name one with -t, or jupyter flame targets default NAME"
            )
        return target

    @contextlib.contextmanager
    def remote(self, attach: str | None = None, **more: Any) -> Iterator[Remote]:
        """A session on the server. It ends with the command, unless it has a name or existed before."""
        target = self.target(**more)
        if target.rails is not None:
            self.hold({str(target.name or target.location): target.rails})
        with connecting(target, self.asked):
            remote = Remote(target, attach)
        remote.on_link = _say_link
        for sentence in remote.target.cautions():
            print(warning(sentence), file=sys.stderr)
        try:
            with ending():
                yield remote
        finally:
            if target.session is not None and target.location is not None:
                remote.detach()
            else:
                remote.close()

    def hold(self, held: Mapping[str, Rails]) -> None:
        """Print the line that names these targets. Raises FlameError if their rails refuse the command."""
        if self.writes:
            rails.refuse_command(held, self.title, "jupyter flame")
        for name, one in held.items():
            line = rails.line(one, name)
            write("stderr", line if in_colour("stderr") else COLOUR.sub("", line))

    def hold_group(self, hosts: Sequence[rails.Host], code: str) -> None:
        """The same for a group that is to run ``code``; also ask the user, if the rails want that. Raises FlameError if
        they hold it back. The code is noted when a host runs it, not here."""
        self.hold(rails.of_hosts(hosts))
        rails.hold_on(hosts, code, self._ask)

    @contextlib.contextmanager
    def old_python(self, error: CannotConnect) -> Iterator[OldPython]:
        """The server, if ``error`` says that its Python is too old for a session; any other ``error`` is raised."""
        from ..old_python import calls  # rarely needed

        if not calls.is_old(error):
            raise error
        print(f"{plain_text(error.detail)} there: {calls.LIMITS}", file=sys.stderr)
        with calls.OldPython(self.target()) as old:
            yield old

    @contextlib.contextmanager
    def agent_client(self) -> Iterator[AgentClient]:
        """A connection to the server, without a session."""
        target = self.target()
        with connecting(target, self.asked):
            client = AgentClient(target)
        with contextlib.closing(client):
            yield client


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Turn SIGTERM, and SIGHUP of a closed terminal, into SystemExit, so that the far side is told that we leave."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in known}
    # nohup ignores SIGHUP: then the command stays.
    ours = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextlib.contextmanager
def connecting(target: Target, asked: threading.Event) -> Iterator[None]:
    """A context for connecting: if it takes long, a terminal says so, unless the user was ``asked`` something."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    said = threading.Event()

    def say() -> None:
        if asked.is_set():
            return
        said.set()
        print(f"\rconnecting to {plain_text(str(target))} …", end="", file=sys.stderr, flush=True)

    timer = threading.Timer(WORTH_SAYING, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if said.is_set():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _say_link(sentence: str | None) -> None:
    print(plain_text(f"[{sentence or 'the link is back'}]"), file=sys.stderr)
