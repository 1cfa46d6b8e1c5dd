"""A chaos run of a group: the same cell on several hosts, each of which has weather of its own."""

from __future__ import annotations

import collections
import contextlib
import io
import random
import tempfile
import time
from pathlib import Path

import farside
from farside import FlameServer
from flakylink import FlakyLink

import flame
from flame_kernel.group.future import GroupFuture
from flame_kernel.group.group import Group

from .diary import Diary
from .ledger import Violation
from .weather import Weather

HOSTS = 4
# Seconds: how long an answer may take beyond its own work, whatever the weather.
PATIENCE = 60.0

NOTE = """\
import os
with open(os.environ["LEDGER"], "a") as file:
    file.write("{number}\\n")
{more}print({number})"""


class GroupChaos:
    """One run, as `run.Chaos`: nothing runs twice on any host, nothing that was answered was not run, and the answers
    stand in the order of the hosts."""

    def __init__(self, seed: int, seconds: float, verbose: bool = False) -> None:
        self.seconds = seconds
        self.done: collections.Counter[str] = collections.Counter()
        self.cells = self.characters = 0
        self.slowest = 0.0
        self._seed = seed
        self._random = random.Random(seed)
        self.diary = Diary(verbose)
        self._links: list[FlakyLink] = []
        self._weather: list[Weather] = []
        self._answered: dict[str, list[int]] = collections.defaultdict(list)

    def tell(self, words: str) -> None:
        """A line of the diary."""
        self.diary.tell(words)

    @property
    def cuts(self) -> int:
        return sum(link.cuts for link in self._links)

    @property
    def faults(self) -> collections.Counter[str]:
        return sum((weather.faults for weather in self._weather), collections.Counter[str]())

    def run(self) -> None:
        """Raises Violation."""
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
            for number in range(HOSTS):
                env: dict[str, str | None] = {"LEDGER": str(self._folder / str(number))}
                server = stack.enter_context(farside.stopped(FlameServer(farside.pythons()[-1], env=env)))
                link = stack.enter_context(FlakyLink(server.location, seed=self._seed + number))
                tell = lambda words, number=number: self.tell(f"host {number}: {words}")  # noqa: E731
                weather = Weather(link, self._seed + 10 + number, server.pid, lambda: None, tell)
                self._links.append(link)
                self._weather.append(weather)
                stack.callback(weather.stop)
            where = [link.location for link in self._links]
            # What a group says of hosts that do not answer is not for the one who reads this.
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            self.group: Group = stack.enter_context(flame.group(where, place="process", shell="mini", fast=True))
            for remote in self.group:  # one after the other: a busy machine has much to do for each
                remote.evaluate("1")
            for weather in self._weather:
                weather.start()
            self.diary.begin()
            while self.diary.seconds < self.seconds:
                step = self._random.choice((self._cell, self._cell, self._several, self._stopped, self._shared))
                self.done[step.__name__.lstrip("_")] += 1
                step()
            for weather in self._weather:
                weather.stop()
            self.tell("the weather is fair")
            self.group.patience = PATIENCE
            if len(self._check(self.group.noblock.cell(self._note()), self.cells)) < HOSTS:
                raise Violation("the weather is fair, and not all hosts answer")
            self._ledgers()

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _note(self, more: str = "") -> str:
        self.cells += 1
        return NOTE.format(number=self.cells, more=more)

    def _cell(self) -> None:
        """A cell on all."""
        self.tell(f"cell {self.cells + 1}")
        self._check(self.group.noblock.cell(self._note()), self.cells)

    def _several(self) -> None:
        """Some, one behind the other."""
        futures = []
        for _ in range(3):
            futures.append((self.group.noblock.cell(self._note()), self.cells))
        self.tell(f"cells up to {self.cells}")
        for future, number in futures:
            self._check(future, number)

    def _stopped(self) -> None:
        """One that is stopped."""
        future = self.group.noblock.cell(self._note("import time; time.sleep(30)\n"))
        self.tell(f"cell {self.cells}, to be stopped")
        time.sleep(self._random.uniform(0.0, 0.5))
        future.interrupt()
        if not future.wait(PATIENCE):
            raise Violation(f"cell {self.cells} was stopped, and hosts still owe an answer: {future.pending}")

    def _shared(self) -> None:
        """Calls that any host may make; each is made by one at most."""
        path = str(self._folder / "shared")
        first, count = self.cells + 1, 8
        self.cells += count
        self.tell(f"calls {first} to {self.cells}")

        def work(path: str, number: int) -> int:
            with open(path, "a") as file:
                file.write(f"{number}\n")
            return number

        with self.group.executor() as executor:
            futures = {number: executor.submit(work, path, number) for number in range(first, first + count)}
            for number, future in futures.items():
                with contextlib.suppress(flame.FlameError):
                    if future.result(PATIENCE) != number:
                        raise Violation(f"call {number} has the result of another one")
                    self._answered["shared"].append(number)

    # -- what must hold ------------------------------------------------------------------------------------------------

    def _check(self, future: GroupFuture, number: int) -> dict[str, object]:
        began = time.monotonic()
        if not future.wait(PATIENCE):
            raise Violation(f"cell {number} is not done after {PATIENCE:g} s at {future.pending}")
        self.slowest = max(self.slowest, time.monotonic() - began)
        results = future.results
        if tuple(results) != self.group.labels:
            raise Violation(f"the answers to cell {number} stand in another order: {list(results)}")
        for label, output in results.ok.items():
            if output.text != f"{number}\n":
                raise Violation(f"cell {number} printed {output.text!r} at {label}")
            self.characters += len(output.text)
            self._answered[str(self.group.labels.index(label))].append(number)
        for label, error in results.errors.items():
            if not isinstance(error, flame.FlameError) or isinstance(error, flame.RemoteError):
                raise Violation(f"cell {number} failed at {label}: {error!r}")
        return dict(results.ok)

    def _ledgers(self) -> None:
        """Each number once at most, in order, and those that were answered all."""
        for name in [*map(str, range(HOSTS)), "shared"]:
            path = self._folder / name
            ran = [int(line) for line in path.read_text().split()] if path.exists() else []
            twice = [number for number, count in collections.Counter(ran).items() if count > 1]
            if twice:
                raise Violation(f"ran twice at {name}: {twice}")
            if name != "shared" and ran != sorted(ran):
                raise Violation(f"ran out of turn at {name}: {ran}")
            if set(self._answered[name]) - set(ran):
                raise Violation(f"answered and never run at {name}: {set(self._answered[name]) - set(ran)}")
