"""``jupyter flame doctor``: checks the connection to a server; the checks themselves are in commands/doctor.py."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from itertools import chain

from ...commands.doctor import FAILED as BROKEN
from ...commands.doctor import MARKS, NOTE, OK, SKIPPED, Check, examine, folded, of_target
from ...commands.doctor_here import examine_lab
from ...connect.target import Target
from ...errors import TargetError
from ...remote.foreground import in_colour
from ...remote.program import DONE, FAILED
from ..connecting import Connecting
from ..output import show_json
from ..parser import Parser

_COLOURS = {OK: "\x1b[32m", NOTE: "\x1b[33m", BROKEN: "\x1b[31;1m", SKIPPED: "\x1b[2m"}
_PLAIN = "\x1b[0m"


class Doctor(Connecting):
    """Checks the connection to a server, and tells the cure of each fault."""

    title = "doctor"
    about = """
        Check the connection to a server and what is installed there: one line for each check, in the order in which
        things can go wrong. A check that failed tells how to fix it, and checks that depend on it are skipped.
        Nothing is changed there.

          ✓ good   ! works, but could be better   ✗ failed   - skipped

        Exit codes: 0 nothing failed, 1 a check failed, 2 the command line is wrong
        """
    typed = """
        jupyter flame doctor furnace
        jupyter flame doctor lab.example:9999 --key-file ~/.ssh/flame.key --tls-ca ca.pem
        jupyter flame doctor ssh://me@lab.example/9999 --json
        """

    word = True
    session = ""

    def arguments(self, parser: Parser) -> None:
        super().arguments(parser)
        parser.add_argument("--json", action="store_true", help="for programs: an object with the list of checks")

    def run(self, options: argparse.Namespace) -> int | None:
        target: Target | None = None
        try:
            target = self.target()
            checks: Iterator[Check] = chain(examine(target), examine_lab())
        except TargetError as error:
            checks = iter([of_target(error)])
        found = list(checks) if options.json else list(_shown(checks))
        well = all(check.verdict != BROKEN for check in found)
        if options.json:
            where = str(target) if target is not None else self.where
            show_json({"target": where, "ok": well, "checks": [dataclasses.asdict(check) for check in found]})
        return DONE if well else FAILED


def _shown(checks: Iterator[Check]) -> Iterator[Check]:
    """The checks; each is printed as soon as it is made."""
    colour = in_colour("stdout")
    for check in folded(checks):
        line = str(check)
        if colour:
            mark = MARKS[check.verdict]
            line = f"{_COLOURS[check.verdict]}{mark}{_PLAIN}{line.removeprefix(mark)}"
        print(line, flush=True)
        yield check
