"""Profile: in which calls the threads of one or more far sides have spent their time."""

from __future__ import annotations

import dataclasses
import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ..commands.tables import aligned
from ..connect.units import time_in_words
from ..errors import FlameError, UnsafeAnswer
from ..security import answers
from ..terminal import one_line
from . import flame_graph

# How many of the lines that took most time are shown.
HOTTEST = 12
# What each mode counts.
MODES = {"wall": "time", "cpu": "CPU time", "gil": "CPU time with the interpreter"}
_T = TypeVar("_T")
_LONG = 100  # characters of a source line that are shown


@dataclasses.dataclass(frozen=True, order=True)
class Call:
    """One call in a stack: the function, its file, and the line that was running."""

    function: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """The end of the file's path, and the line: ``…/app/web.py:61``."""
        parts = self.file.split("/")
        short = self.file if len(parts) < 4 else "…/" + "/".join(parts[-2:])
        return f"{short}:{self.line}" if self.line else short


Stack = tuple[str, tuple[Call, ...]]  # a thread, and its calls, the outermost first


@dataclasses.dataclass(frozen=True)
class Profile:
    """The seconds spent in each stack, and how they were measured. Texts are single lines without control characters.

    stacks    ``{(thread, calls): seconds}``
    sources   ``{(file, line): text}`` of the hottest lines
    mode      ``wall``, ``cpu`` or ``gil``;  scope  ``cell``, ``all``, ``thread`` or ``tasks``
    seconds   how long it took;  samples  how many were taken;  cost  the CPU seconds that they cost the far side
    idle      the threads left out because they stood in one place all the time, each with that place
    note      what else the user should know;  hosts  how many hosts it comes from
    before    the profile with which it is compared, or None
    """

    stacks: Mapping[Stack, float]
    sources: Mapping[tuple[str, int], str]
    mode: str
    scope: str
    seconds: float
    samples: int
    cost: float
    idle: tuple[str, ...] = ()
    note: str = ""
    hosts: int = 1
    before: Profile | None = None

    @classmethod
    def of_reply(cls, reply: dict[str, Any], location: str) -> Profile:
        """The profile in a profile_reply; raises UnsafeAnswer if its shape is wrong, FlameError if it is an error."""
        answers.reply("profile", reply, location)
        if reply["status"] != "ok":
            raise FlameError(one_line(f"{reply.get('evalue') or reply.get('ename') or 'no answer'}", 1000))
        try:
            stacks, sources = _tables(reply)
        except IndexError:
            raise UnsafeAnswer(location, "a profile with numbers of calls that it does not have") from None
        return cls(
            {stack: seconds for stack, seconds in stacks.items() if seconds > 0},
            sources,
            mode=reply["mode"] if reply["mode"] in MODES else "wall",
            scope=one_line(reply["scope"], 20),
            seconds=max(0.0, float(reply["seconds"])),
            samples=reply["samples"],
            cost=max(0.0, float(reply["cost"])),
            idle=tuple(one_line(one, 200) for one in reply["idle"]),
            note=one_line(reply["note"], 500),
        )

    @property
    def total(self) -> float:
        """The seconds of all stacks together; with several threads this is more than the time that has passed."""
        return sum(self.stacks.values())

    def by_line(self) -> dict[tuple[str, int], tuple[float, float, str]]:
        """``{(file, line): (own seconds, seconds with the calls below, function)}``, the most own seconds first."""
        own: defaultdict[tuple[str, int], float] = defaultdict(float)
        whole: defaultdict[tuple[str, int], float] = defaultdict(float)
        names: dict[tuple[str, int], str] = {}
        for (_, calls), seconds in self.stacks.items():
            for call in calls:
                names[call.file, call.line] = call.function
            for place in {(call.file, call.line) for call in calls}:
                whole[place] += seconds
            own[calls[-1].file, calls[-1].line] += seconds
        return {place: (own[place], whole[place], names[place]) for place in _greatest_first(own)}

    def by_function(self) -> dict[str, tuple[float, float]]:
        """``{function: (own share, share with the calls below)}``, shares of 1, the greatest own share first."""
        own: defaultdict[str, float] = defaultdict(float)
        whole: defaultdict[str, float] = defaultdict(float)
        for (_, calls), seconds in self.stacks.items():
            for function in {call.function for call in calls}:
                whole[function] += seconds
            own[calls[-1].function] += seconds
        total = self.total or 1.0
        order = sorted(whole, key=lambda name: (-own[name], -whole[name]))
        return {name: (own[name] / total, whole[name] / total) for name in order}

    def against(self, before: Profile) -> Profile:
        """This profile compared with an earlier one: it then shows which shares have grown or shrunk."""
        return dataclasses.replace(self, before=before)

    # -- as words ----------------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """What was measured, in one line."""
        count = len({thread for thread, _ in self.stacks})
        threads = "task" if self.scope == "tasks" else "thread"
        words = [
            f"{time_in_words(self.total)} of {MODES[self.mode]} in {count} {threads}{'s' if count != 1 else ''}",
            f"{self.samples} sample{'s' if self.samples != 1 else ''} in {time_in_words(self.seconds)}",
        ]
        if self.hosts > 1:
            words.append(f"{self.hosts} hosts")
        if self.cost and self.seconds:
            words.append(f"taking them cost {100 * self.cost / self.seconds / self.hosts:.1f} % of one CPU")
        return ", ".join(words)

    @property
    def notes(self) -> list[str]:
        """What the user should know beside the figures, a sentence each."""
        found = [self.note] if self.note else []
        if not self.stacks:
            reason = "no asyncio task was there" if self.scope == "tasks" else "no Python code ran in that time"
            reason = "all threads stood still" if self.idle else reason
            found.append(f"nothing to show: {reason}")
        if self.idle:
            shown = "; ".join(self.idle[:5]) + ("; …" if len(self.idle) > 5 else "")
            count = f"{len(self.idle)} thread{'s' if len(self.idle) > 1 else ''}"
            found.append(f"{count} stood still all the time, left out ({shown}); --idle shows them")
        return found

    def rows(self, most: int = HOTTEST) -> list[tuple[str, ...]]:
        """The hottest lines as a table with a heading: own share, share with calls, function, place, source. If it is
        compared, the first column is the change of the own share in percentage points."""
        total, lines = self.total or 1.0, self.by_line()
        head: tuple[str, ...] = ("own", "with calls", "function", "line", "source")
        if self.before is None:
            shown = [(place, "") for place in list(lines)[:most]]
        else:
            changes = self._changes(lines)
            shown = [(place, f"{change:+.1f}") for place, change in changes[:most]]
            head = ("change", *head)
        rows: list[tuple[str, ...]] = [head]
        for place, change in shown:
            own, whole, function = lines.get(place) or (0.0, 0.0, "")
            source = self.sources.get(place) or (self.before.sources.get(place) if self.before else None) or ""
            figures = (f"{100 * own / total:.1f} %", f"{100 * whole / total:.1f} %")
            where = Call(function, *place).place
            rows.append((*([change] if change else []), *figures, function, where, source[:_LONG]))
        return rows

    def _changes(
        self, lines: Mapping[tuple[str, int], tuple[float, float, str]]
    ) -> list[tuple[tuple[str, int], float]]:
        """Each line with the change of its own share since ``before``, the greatest change first."""
        assert self.before is not None
        then, total, earlier = self.before.by_line(), self.total or 1.0, self.before.total or 1.0
        changes = {
            place: 100 * (lines.get(place, (0.0,))[0] / total - then.get(place, (0.0,))[0] / earlier)
            for place in {*lines, *then}
        }
        return sorted(changes.items(), key=lambda one: (-abs(one[1]), one[0]))

    def __str__(self) -> str:
        """The hottest lines, for a terminal."""
        table = aligned(self.rows()) if self.stacks else []
        return "\n".join([self.title, *self.notes, *table])

    def __repr__(self) -> str:
        return f"<Profile: {self.title}>"

    # -- as a page ---------------------------------------------------------------------------------------------------

    def page(self) -> str:
        """The flame graph and the hottest lines as HTML that needs no other file and is readable without its script."""
        rows = self.rows() if self.stacks else []
        cells = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in _tagged(rows)]
        table = f"<table>{''.join(f'<tr>{one}</tr>' for one in cells)}</table>" if cells else ""
        words = "".join(f"<p>{html.escape(one)}</p>" for one in (self.title, *self.notes))
        earlier = self.before._by_function_stacks() if self.before is not None else None
        return flame_graph.page(self._by_function_stacks(), words, table, earlier)

    def _by_function_stacks(self) -> dict[tuple[Any, ...], float]:
        """Seconds by thread and functions: the lines of one function share a box."""
        found: defaultdict[tuple[Any, ...], float] = defaultdict(float)
        for (thread, calls), seconds in self.stacks.items():
            path = (thread, *((call.function, call.file) for call in calls))
            found[path] += seconds
        return found

    def bundle(self) -> dict[str, str]:
        """The data of a display, by MIME type."""
        return {"text/plain": str(self), "text/html": self.page()}

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return self.bundle()


def _greatest_first(seconds: Mapping[_T, float]) -> list[_T]:
    return sorted(seconds, key=lambda one: -seconds[one])


def _tagged(rows: Sequence[tuple[str, ...]]) -> Iterable[tuple[str, tuple[str, ...]]]:
    return (("th" if number == 0 else "td", row) for number, row in enumerate(rows))


def _tables(reply: Mapping[str, Any]) -> tuple[dict[Stack, float], dict[tuple[str, int], str]]:
    """``(stacks, sources)`` of a reply, with names in place of its numbers; IndexError for a number without a name."""
    functions = [(one_line(name, 300), one_line(file, 300)) for name, file in reply["functions"]]
    calls = [Call(functions[at][0], functions[at][1], line) for at, line in reply["frames"]]
    threads = [one_line(name, 100) for name in reply["threads"]]
    stacks: defaultdict[Stack, float] = defaultdict(float)
    for thread, seconds, numbers in reply["stacks"]:
        if numbers:
            stacks[threads[thread], tuple(calls[number] for number in numbers)] += max(0.0, float(seconds))
    stacks["other", (Call("[stacks left out]", "", 0),)] += max(0.0, float(reply["left_out"]))
    return stacks, {(calls[at].file, calls[at].line): one_line(text, 300) for at, text in reply["sources"]}


def merged(profiles: Mapping[str, Profile]) -> Profile:
    """The profiles of several hosts as one; raises FlameError if there are none."""
    if not profiles:
        raise FlameError("there is no profile to merge")
    every = list(profiles.values())
    stacks: defaultdict[Stack, float] = defaultdict(float)
    for one in every:
        for stack, seconds in one.stacks.items():
            stacks[stack] += seconds
    return Profile(
        dict(stacks),
        {place: text for one in every for place, text in one.sources.items()},
        mode=every[0].mode,
        scope=every[0].scope,
        seconds=max(one.seconds for one in every),
        samples=sum(one.samples for one in every),
        cost=sum(one.cost for one in every),
        idle=tuple(
            f"{host}: {idle}" if len(every) > 1 else idle for host, one in profiles.items() for idle in one.idle
        ),
        note="; ".join(
            f"{host}: {one.note}" if len(every) > 1 else one.note for host, one in profiles.items() if one.note
        ),
        hosts=len(every),
    )
