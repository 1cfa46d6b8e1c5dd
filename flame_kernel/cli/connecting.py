"""What those commands have in common that talk to a server: which one, how to get in, and who is asked what."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from jupyter_core.paths import jupyter_config_dir

from ..commands.options import OPTIONS, protection
from ..connect.settings import FlameSettings
from ..connect.target import PLACES, SHELLS, Target, load_target
from ..errors import TargetError
from ..remote.remote import Remote
from ..security.terminal import clean
from ..session.agent_client import Visitor
from ..session.user import ask_here
from .command import Command
from .parser import Parser

# The title of the options that say how a link is protected.
PROTECTION = "how the link is protected"
# Seconds after which it is said that we are still connecting.
WORTH_SAYING = 1.0


class Connecting(Command):
    """A command for one server.

    alone       whether, where no server is named and none is the default, one is started for it on this machine
    word        whether the server can be named by a word of its own as well as by ``-t``
    session     what ``--session`` is for, in the help; empty for a command that has no such option
    """

    alone: ClassVar[bool] = True
    word: ClassVar[bool] = False
    session: ClassVar[str] = "take up, or make, the session of this name; it is left alive at the end"

    def arguments(self, parser: Parser) -> None:
        if self.word:
            parser.add_argument("where", nargs="?", metavar="TARGET", help="the server; as -t")
        group = parser.add_argument_group("the server")
        group.add_argument(
            "-t",
            "--target",
            metavar="TARGET",
            help="a saved name, host:port, ssh://user@host/port, ./u:socket or ns:NAME",
        )
        key = group.add_mutually_exclusive_group()
        key.add_argument("--key-file", metavar="FILE", help="its key, in a file of mode 0600")
        key.add_argument("--key", metavar="SOURCE", help="keyring, prompt (you are asked), or env:NAME")
        if self.session:
            group.add_argument("--session", metavar="NAME", help=self.session)
            group.add_argument(
                "--place", choices=PLACES, metavar="PLACE", help=f"where code runs there: {', '.join(PLACES)}"
            )
            group.add_argument(
                "--shell", choices=SHELLS, metavar="SHELL", help=f"with IPython or without: {', '.join(SHELLS)}"
            )
            group.add_argument("--trust", action="store_true", help="let this server run code here (pickles)")
        protected = parser.shared(PROTECTION)
        for flag, about in OPTIONS:
            protected.add_argument(flag, **about)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.asked = threading.Event()  # the user was asked something

    def _ask(self, prompt: str, password: bool) -> str | None:
        self.asked.set()
        if sys.stderr is not None and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        return ask_here(prompt, password)

    @property
    def where(self) -> str | None:
        """The server that is named, or None; TargetError for two of them."""
        options = vars(self.options)
        word, option = options.get("where"), options.get("target")
        if word and option and word != option:
            raise TargetError(f"{word} and {option} are two servers; name one")
        return word or option

    def target(self, **more: Any) -> Target:
        """The server that is meant; ``more`` are settings that win. Raises TargetError."""
        options = vars(self.options)
        names = ("key_file", "key", "session", "place", "shell", "trust")
        given = {name: options[name] for name in names if options.get(name)}
        folder = Path(jupyter_config_dir())
        target = load_target(
            self.where,
            config_dir=folder,
            overrides=given | protection(options) | more,
            ask=self._ask,
            defaults=FlameSettings(parent=self).values(),
        )
        if target.location is None and not self.alone:
            raise TargetError(
                "no server is named, and there is no default; name one with -t, or jupyter flame targets default NAME"
            )
        return target

    @contextlib.contextmanager
    def remote(self, attach: str | None = None, **more: Any) -> Iterator[Remote]:
        """A session on the server that is meant. One that has a name, or was taken up, is left alive at the end."""
        target = self.target(**more)
        with connecting(target, self.asked):
            remote = Remote(target, attach)
        remote.on_link = _say_link
        for sentence in remote.target.cautions():
            print(f"Warning: {clean(sentence)}", file=sys.stderr)
        try:
            with _ending():
                yield remote
        finally:
            if target.session is not None and target.location is not None:
                remote.detach()
            else:
                remote.close()

    @contextlib.contextmanager
    def visitor(self) -> Iterator[Visitor]:
        """A connection to the server that is meant, without a session."""
        target = self.target()
        with connecting(target, self.asked):
            visitor = Visitor(target)
        with contextlib.closing(visitor):
            yield visitor


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Where we are told to go, or the terminal is closed, the far side hears of it."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    ours = [
        number for number, handler in before.items() if handler != signal.SIG_IGN
    ]  # under nohup it is meant to stay
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextlib.contextmanager
def connecting(target: Target, asked: threading.Event) -> Iterator[None]:
    """While we connect; where that takes long, a terminal says so, unless the user was ``asked`` something."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    said = threading.Event()

    def say() -> None:
        if asked.is_set():
            return
        said.set()
        print(f"\rconnecting to {clean(str(target))} …", end="", file=sys.stderr, flush=True)

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
    print(clean(f"[{sentence or 'the link is back'}]"), file=sys.stderr)
