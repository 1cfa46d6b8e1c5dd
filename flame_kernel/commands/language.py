"""``%flame …`` in a cell of the kernel: parsed here, carried out by the kernel."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
from typing import Any, NoReturn

from ..connect import amounts
from ..connect.keys import without_key
from ..connect.target import PLACES, SHELLS
from ..errors import FlameError
from .options import NAMES, OPTIONS, help_lines, protection

HELP = f"""\
%flame connect WHERE [options]
    run this kernel's cells at WHERE from now on: host:port, ssh://user@host/port, ./u:socket, ns:NAME (what Pyro's
    name server knows, see jupyter flame discover), or a target's name from targets.toml
    --key-file       file of mode 0600 with the server's HMAC key
    --place          auto, process (inside the server's own process), child (a fresh child of it), or main (the
                     server's main thread, where that can be had: signals and GUI loops work; one session at a time)
    --session        a name under which the session can be found again
    --shell          auto, ipython or mini (without IPython)
    --trust          what this server sends may run code here
    --config         another file than the usual targets.toml
{help_lines()}
%flame status    where cells run, in words
%flame doctor [WHERE] [options]
    why can I not connect? Checks the way to WHERE, or to this kernel's server, and what is there; options as above
%flame sessions [--kill NAME]
    what lives on the server; end one, with all that it runs
%flame attach NAME [--ask | --force | --watch]
    take up a session: what was missed is shown, and the cell that runs is followed to its end (Stop interrupts it)
    --ask        ask the client that has it, and wait
    --force      take it, whoever has it
    --watch      see its output until Stop, and touch nothing
%flame detach    leave the session; it lives on there, with what it runs
%flame allow     let the client have the session that asks for it
%flame refuse    … or do not
%flame replay [N | --missed | --all]
    show the whole output of the last cell again, of cell N, of those that were not finished when the browser
    was last heard before this page, or of all that are kept
%flame where [--all] [--every S] [--end]
    the stack of the cell that runs, with its source lines; nothing is stopped, and it answers while a cell runs
    --all        of every thread and task
    --every      again every S seconds, in the same output; --end ends that
%flame watch EXPRESSION [--every S] [--end]
    its value, again every S seconds (2), in the same output, while cells run too; --end, or with no expression, ends
    it (or all); Stop is for cells, and does not
%flame top [--every S] [--end]
    what the far side uses: CPU, memory, threads, subprocesses, open files
%flame help      this text
%%local          first line of a cell that runs on this machine, with the kernel's own Python"""


@dataclasses.dataclass(frozen=True)
class Command:
    """One ``%flame`` line. ``text`` is all there is to say, or empty: then the kernel tells its status."""

    name: str
    location: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    text: str = ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FlameError(f"{message}; {' '.join(self.format_usage().split())}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise FlameError(message or self.format_usage().strip())


def _connect_parser(name: str) -> _Parser:
    parser = _Parser(prog=f"%flame {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("location", metavar="WHERE", nargs="?" if name == "doctor" else None)
    parser.add_argument("--key-file", metavar="FILE")
    parser.add_argument("--place", choices=PLACES)
    parser.add_argument("--session", metavar="NAME")
    parser.add_argument("--shell", choices=SHELLS)
    parser.add_argument("--trust", action="store_true", default=None)
    parser.add_argument("--config", metavar="FILE")
    for flag, about in OPTIONS:
        parser.add_argument(flag, **about)
    return parser


def _sessions_parser() -> _Parser:
    parser = _Parser(prog="%flame sessions", add_help=False, allow_abbrev=False)
    parser.add_argument("--kill", metavar="NAME")
    return parser


def _attach_parser() -> _Parser:
    parser = _Parser(prog="%flame attach", add_help=False, allow_abbrev=False)
    parser.add_argument("name", metavar="NAME")
    how = parser.add_mutually_exclusive_group()
    for mode in ("ask", "force", "watch"):
        how.add_argument(f"--{mode}", dest="how", action="store_const", const=mode)
    return parser


def _replay_parser() -> _Parser:
    parser = _Parser(prog="%flame replay", add_help=False, allow_abbrev=False)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("count", metavar="N", type=int, nargs="?")
    for choice in ("missed", "all"):
        which.add_argument(f"--{choice}", dest="choice", action="store_const", const=choice)
    return parser


def _look_parser(name: str) -> _Parser:
    parser = _Parser(prog=f"%flame {name}", add_help=False, allow_abbrev=False)
    if name == "where":
        parser.add_argument("--all", action="store_true")
    parser.add_argument("--every", metavar="S")
    parser.add_argument("--end", action="store_true")
    return parser


def watched(text: str) -> dict[str, Any]:
    """The options ``expression``, ``every`` (seconds) and ``end`` of a line ``EXPRESSION --every S``, the expression as
    it stands. Raises FlameError."""
    options: dict[str, Any] = {"every": WATCH_EVERY, "end": False}
    while found := _FIRST_OPTION.search(text) or _LAST_OPTION.search(text):
        text = text[: found.start()] + text[found.end() :]
        if found[1] is None:
            options["end"] = True
        else:
            options["every"] = every(found[1])
    expression = text.strip()
    if not expression and not options["end"]:
        raise FlameError("what shall be watched? %flame watch EXPRESSION [--every S], or %flame watch --end")
    return {"expression": expression, **options}


def every(text: str | None) -> float | None:
    """The seconds of ``--every``; raises FlameError."""
    try:
        seconds = None if text is None else amounts.seconds(text)
    except ValueError as e:
        raise FlameError(f"--every is {e}; not {text!r}") from None
    if seconds is not None and seconds < LEAST_EVERY:
        raise FlameError(f"--every is at least {LEAST_EVERY:g} s; not {text!r}")
    return seconds


def is_local(code: str) -> bool:
    """Whether a cell is for this machine."""
    return code.split("\n", 1)[0].strip() == "%%local"


def overtakes(code: str) -> bool:
    """Whether a cell has only orders that are answered while another cell runs: they look, and change no names."""
    lines = [line.split() for line in code.splitlines() if line.strip()]
    return bool(lines) and all(words[0] == "%flame" and (words[1:2] or ["help"])[0] in _OVERTAKING for words in lines)


_PARSERS = {"sessions": _sessions_parser, "attach": _attach_parser, "replay": _replay_parser}
# Orders that overtake a cell that runs.
_OVERTAKING = ("allow", "refuse", "where", "watch", "top", "status", "sessions", "help")
# Seconds between two looks at a watched value; and the least between any two.
WATCH_EVERY, LEAST_EVERY = 2.0, 0.2
_OPTION = r"--(?:end|every[ =]\s*(\S+))"
_FIRST_OPTION, _LAST_OPTION = re.compile(rf"^\s*{_OPTION}(?=\s|$)"), re.compile(rf"(?:^|\s){_OPTION}\s*$")

_PLAIN = ("status", "detach", "allow", "refuse")


def parse(line: str) -> Command:
    """The command of one ``%flame`` line; raises FlameError with a usage line for one that is not well formed."""
    if without_key(line) != line:  # whatever else is wrong with it, no error repeats it
        raise FlameError(
            "a key has no place in a cell, where all who see the notebook see it; take it out: a server that wants "
            "one has it from --key-file FILE, or from targets.toml"
        )
    if line.split()[:2] == ["%flame", "watch"]:  # the expression may have quotes that are not a shell's
        return Command("watch", options=watched(line.split(maxsplit=2)[2] if len(line.split()) > 2 else ""))
    try:
        words = shlex.split(line)
    except ValueError as e:
        raise FlameError(f"{line!r} cannot be read: {e}; %flame help shows the commands") from None
    name, rest = (words[1] if len(words) > 1 else "help"), words[2:]
    if words[0] != "%flame":
        raise FlameError(f"there is no {words[0]}; %flame help shows the commands")
    if name in ("connect", "doctor"):
        options = vars(_connect_parser(name).parse_args(rest))
        settings = {name: value for name, value in options.items() if name not in NAMES}
        return Command(name, settings.pop("location"), settings | protection(options))
    if name in ("help", "--help", "-h"):
        return Command("help", text=HELP)
    if name in ("where", "top"):
        options = vars(_look_parser(name).parse_args(rest))
        return Command(name, options=options | {"every": every(options["every"])})
    if name in _PARSERS:
        return Command(name, options=vars(_PARSERS[name]().parse_args(rest)))
    if name in _PLAIN:
        if rest:
            raise FlameError(f"%flame {name} takes no arguments")
        return Command(name)
    raise FlameError(f"there is no %flame {name}; %flame help shows the commands")
