"""``jupyter flame doctor``."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from jupyter_core.paths import jupyter_config_dir

from .cli_command import DONE, FAILED, Command
from .config import Target, load_target
from .doctor import FAILED as BROKEN
from .doctor import MARKS, NOTE, OK, SKIPPED, Check, examine, folded, of_target
from .errors import TargetError
from .options import OPTIONS, protection

_COLOURS = {OK: "\x1b[32m", NOTE: "\x1b[33m", BROKEN: "\x1b[31;1m", SKIPPED: "\x1b[2m"}
_PLAIN = "\x1b[0m"


class Doctor(Command):
    """Why can I not connect?"""

    title = "doctor"
    about = """
        Check the way to a server and what is there, one line a check, in the order in which things can go wrong; each
        that failed has its cure, and those that need it are skipped. Nothing is changed there.

        ✓ well   ! it works, and could be better   ✗ failed   - skipped
        exit codes: 0 nothing failed, 1 a check failed, 2 the command was not well formed
        """
    typed = """
        jupyter flame doctor furnace
        jupyter flame doctor lab.example:9999 --key-file ~/.ssh/flame.key --tls-ca ca.pem
        jupyter flame doctor ssh://me@lab.example/9999 --json
        """

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "target", nargs="?", metavar="TARGET", help="a target's name, or WHERE (the default target)"
        )
        key = parser.add_mutually_exclusive_group()
        key.add_argument("--key-file", metavar="FILE", help="its key, in a file of mode 0600")
        key.add_argument("--key", metavar="SOURCE", help="keyring, prompt (you are asked), or env:NAME")
        for flag, about in OPTIONS:
            parser.add_argument(flag, **about)
        parser.add_argument("--json", action="store_true", help="for programs: an object with the list of checks")

    def run(self, options: argparse.Namespace) -> int | None:
        target: Target | None = None
        given = {name: getattr(options, name) for name in ("key", "key_file") if getattr(options, name)}
        try:
            target = load_target(
                options.target,
                config_dir=Path(jupyter_config_dir()),
                overrides=given | protection(vars(options)),
                ask=_ask,
            )
            checks = examine(target)
        except TargetError as error:
            checks = iter([of_target(error)])
        found = list(checks) if options.json else list(_shown(checks))
        well = all(check.verdict != BROKEN for check in found)
        if options.json:
            where = str(target) if target is not None else options.target
            said = {"target": where, "ok": well, "checks": [dataclasses.asdict(check) for check in found]}
            print(json.dumps(said, indent=2))
        return DONE if well else FAILED


def _shown(checks: Iterator[Check]) -> Iterator[Check]:
    """The checks, each printed as soon as it is made."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for check in folded(checks):
        line = str(check)
        if colour:
            mark = MARKS[check.verdict]
            line = f"{_COLOURS[check.verdict]}{mark}{_PLAIN}{line.removeprefix(mark)}"
        print(line, flush=True)
        yield check


def _ask(prompt: str, password: bool) -> str | None:
    if not sys.stdin.isatty():
        return None
    try:
        return getpass.getpass(prompt) if password else input(prompt)
    except EOFError:
        return None
