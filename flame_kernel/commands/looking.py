"""The commands that show what runs on the far side: stacks, values, CPU and memory, profiles. And ``try``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import FlameError
from .command import ANY, ON_CONNECTION, Argument, Command
from .options import MAGICS, Option

EVERY = Option(("--every",), "again every S seconds, in the same output", "S")
END = Option(("--end",), "end that")

# How a profile is taken, and where it is saved.
SAMPLING: tuple[Option, ...] = (
    Option(("--wall",), "count all time, of waiting too (the default)", group="mode"),
    Option(("--cpu",), "count CPU time", group="mode"),
    Option(("--gil",), "count CPU time of Python code, without C code that has released the interpreter", group="mode"),
    Option(("--rate",), "samples a second (100)", "N", kind=float),
    Option(("-o", "--output"), "save it: NAME.json for speedscope, NAME.html as a page", "FILE", tab=("here",)),
    Option(("--against",), "show what has changed since that saved profile", "FILE", tab=("here",)),
)

# Seconds that a tried cell may take.
TRIAL = 60.0

TRY = Command(
    "try",
    "run code in a copy of the process there, and show what it would change",
    (
        Argument(
            "code", "STATEMENTS", "to the line's end; in the Remote Flame kernel also the cell below", ANY, ("code",)
        ),
    ),
    (Option(("--timeout",), f"end it after S seconds ({TRIAL:g})", "S", kind=float), ON_CONNECTION),
    more="Output, result and errors are shown, and what would have changed in the names that it mentions: variables of "
    "the session, and the app's modules. The copy is a fork: it has none of the app's other threads, so locks that "
    "they hold stay locked in it, and it is cut off from the app's connections. Changes of files and of other "
    "processes are real. Not on Windows, and not under gevent. In other notebooks, %%flame --try tries a whole cell.",
    examples=("%flame try shop.prices.clear()", "%flame try --timeout 5 rebuild(index)"),
    code=True,
)

LOOKING: tuple[Command, ...] = (
    Command(
        "where",
        "show where the running cell is: its stack, with source lines",
        (),
        (Option(("--all",), "of every thread and task"), EVERY, END, ON_CONNECTION),
        more="Nothing is stopped, and it answers while a cell runs.",
        examples=("%flame where --all", "%flame where --every 1"),
        passes=True,
    ),
    Command(
        "watch",
        "show a value again and again, in place, even while a cell runs",
        (Argument("code", "EXPRESSION", "taken as it stands", ANY, ("code",)),),
        (
            Option(("--every",), "seconds between two updates (default: 2)", "S"),
            Option(("--end",), "end it (all, if no expression is given); the Stop button does not"),
            ON_CONNECTION,
        ),
        examples=("%flame watch len(results) --every 1", "%flame watch --end"),
        code=True,
        passes=True,
    ),
    Command(
        "top",
        "show what the far side uses: CPU, memory, threads, subprocesses, open files",
        (),
        (EVERY, END, ON_CONNECTION),
        examples=("%flame top --every 2",),
        passes=True,
    ),
    Command(
        "profile",
        "show where the time goes: a flame graph, and the hottest lines",
        (),
        (
            Option(("--cell",), "of the cells that run (the default while one does)", group="scope"),
            Option(("--all",), "of the whole process (the default else)", group="scope"),
            Option(("--thread",), "of this thread, by its name or number", "NAME", group="scope"),
            Option(("--tasks",), "of asyncio's tasks: what each waits for", group="scope"),
            Option(("--seconds",), "how long (10); Stop ends it earlier", "S", kind=float),
            *SAMPLING,
            Option(("--idle",), "with threads that stand still all the time"),
            Option(("--live",), "from now on, renewed in place, until --end", group="live"),
            Option(("--end",), "end the live profile", group="live"),
            ON_CONNECTION,
        ),
        more="Stacks are sampled there: nothing is traced or patched, and it takes at most 2 % of one CPU (the result "
        "tells how much). It works while a cell runs. For one cell: %%profile, in other notebooks %%flame --profile.",
        examples=(
            "%flame profile --all --seconds 5",
            "%flame profile --live",
            "%flame profile --all -o before.json",
            "%flame profile --all --against before.json",
        ),
        passes=True,
    ),
    Command(
        "memory",
        "show what uses memory: growth by line, objects by type, who holds one",
        (),
        (
            Option(("--start",), "note allocations from now on; each takes longer then", group="what"),
            Option(("--stop",), "do not note them any more", group="what"),
            Option(("--types",), "the largest objects by type", group="what"),
            Option(("--of",), "who holds this object: a name there, or an expression in quotes", "NAME", group="what"),
            ON_CONNECTION,
        ),
        more="Without an option: what has grown since --start or the last look, line by line. "
        "A look stops the process for a moment; the result tells for how long. --of shows, as a picture in a notebook, "
        "what refers to the object, what refers to that, and so on, up to modules, classes and running functions.",
        examples=("%flame memory --start", "%flame memory", "%flame memory --types", "%flame memory --of results"),
        passes=True,
    ),
    TRY,
)


def memory_look(values: Mapping[str, Any]) -> str:
    """Which look the options of ``%flame memory`` mean."""
    return next((name for name in ("start", "stop", "types") if values.get(name)), "look")


# What to do where these options of a cell make no sense.
_ALONE = {"profile": "use %flame profile for others", "try": "name one with -t, and leave out --bg"}


def check_alone(values: Mapping[str, Any], elsewhere: bool) -> None:
    """Raise FlameError if a cell that runs on several hosts or in the background is to be profiled, or tried."""
    for name, instead in _ALONE.items():
        if elsewhere and values[name]:
            raise FlameError(f"--{name} is for a cell on one host that is waited for; {instead}")


def trial(seconds: float | None) -> dict[str, float]:
    """How a session is asked to try a cell. Raises FlameError."""
    if seconds is not None and not 0 < seconds <= 86400:
        raise FlameError("--timeout is a number of seconds, above 0 and at most a day")
    return {"seconds": TRIAL if seconds is None else seconds}


PROFILE_CELL = Command(
    "%%profile",
    "run the cell, and show where its time went",
    (),
    SAMPLING,
    examples=("%%profile", "%%profile --cpu -o cell.json"),
    instead={MAGICS: "in this notebook it is: %%flame --profile"},
)
