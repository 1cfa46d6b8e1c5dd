"""``jupyter flame forward``: makes ports of a server reachable on this machine, or the reverse, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
import threading
from typing import ClassVar

from ...commands.language import BY_NAME
from ...connect.target import LIGHT
from ...errors import TargetError
from ...forward import browser
from ...forward import commands as forwarding
from ...forward import forwards as kept
from ...terminal import plain_text
from ..connecting import Connecting
from ..parser import Parser


class Forward(Connecting):
    """Forwards ports until Ctrl-C."""

    title = "forward"
    alone: ClassVar[bool] = False
    session: ClassVar[str] = ""
    about = """
        Reach ports of a server here: what connects to this machine's port comes out there, as with `ssh -L`; with
        --reverse it is the other way round, as with `ssh -R`. Several at once; connections survive an outage.

        PORT is 6006, HERE:THERE, HERE:HOST:PORT, or the path of a unix socket for either end. They listen on
        loopback, where every user of the machine can connect; --unix and --bind listen elsewhere. Ctrl-C ends them.
        """
    typed = """
        jupyter flame forward gpu-box 6006 --open
        jupyter flame forward gpu-box 8080:db.internal:80 5432:/run/postgresql/.s.PGSQL.5432
        jupyter flame forward gpu-box 8000 --reverse
        jupyter flame forward gpu-box --socks 1080
        """

    def arguments(self, parser: Parser) -> None:
        parser.add_argument("words", nargs="*", metavar="TARGET PORT", help="the server (or -t), and what to forward")
        for option in BY_NAME["forward"].options:
            if option.name not in ("stop", "target"):
                option.add_to(parser)
        super().arguments(parser)

    def run(self, options: argparse.Namespace) -> int | None:
        words = list(options.words)
        if options.target is None and words:
            options.target = words.pop(0)
        if options.target is not None and options.target.isdigit():
            raise TargetError(f"{options.target} names no server: jupyter flame forward TARGET {options.target}")
        over = threading.Event()

        def trouble(one: kept.Forward, sentence: str) -> None:
            print(plain_text(f"[{sentence}]"), file=sys.stderr, flush=True)
            if one.closed:
                over.set()

        with self.remote(**LIGHT) as remote:
            remote.forwards.on_trouble = trouble
            made = forwarding.open_all(remote.forwards, words, vars(options))
            print(forwarding.text(made), flush=True)
            for one in made if options.open else ():
                browser.open_link(one)
            while not over.wait(3600):
                pass
        return 1
