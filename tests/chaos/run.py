"""A chaos run: a kernel on a stock server, cells, Stop, kills and attaching, while the weather spoils what it can."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import farside
import psutil
from farside import FlameServer, wait_until
from flakylink import FlakyLink
from kernels import Kernel, Run, remote_flame

from flame_kernel.agent.wire import message as wire
from flame_kernel.connect.connection import Connection
from flame_kernel.connect.target import Location, Target
from flame_kernel.session.bootstrap import agent_name

from .diary import Diary
from .ledger import Cell, Ledger, Violation, no_strays, of_others
from .weather import Weather

# Seconds: how long a cell may take beyond its own work, whatever the weather; one that was stopped; an attach.
PATIENCE, STOP_PATIENCE = 60.0, 30.0


class Chaos:
    """One run. ``seconds`` long, made of ``seed`` alone but for the time that things take."""

    def __init__(self, seed: int, seconds: float, verbose: bool = False) -> None:
        self.seed = seed
        self.seconds = seconds
        self.done: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0
        self.characters = 0
        self._random = random.Random(seed)
        self.diary = Diary(verbose)
        self._stack = contextlib.ExitStack()
        self._kernel_stack = contextlib.ExitStack()
        self._k: Kernel | None = None
        self._number = 0
        self._session = ""  # the name of the one in which cells run
        self._kept: set[str] = set()  # names of those that stay when their kernel goes, as they were taken up by name
        self.link: FlakyLink | None = None
        self.weather: Weather | None = None

    def run(self) -> None:
        """Raises Violation."""
        with self._stack:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
            self.ledger = Ledger(folder / "ledger")
            self.server = FlameServer(farside.pythons()[-1])
            self._stack.callback(self.server.stop)
            self.link = self._stack.enter_context(FlakyLink(self.server.location, seed=self.seed))
            self.weather = Weather(self.link, self.seed + 1, self.server.pid, self._pid, self.tell)
            self._stack.callback(self._kernel_ends)
            self._stack.callback(self.weather.stop)
            self._kernel_starts()
            self._learn_the_name()
            self.weather.start()
            self.diary.begin()
            while self.diary.seconds < self.seconds:
                step = self._random.choices(*zip(*self._steps(), strict=True))[0]
                self.done[step.__name__.lstrip("_")] += 1
                step()
                assert self._k is not None
                no_strays(self._k.strays)
                self._k.strays.clear()
            self.weather.stop()
            self.tell("the weather is fair")
            self._lines()  # it still works
            self._kernel_ends()
            self._left_on_the_far_side(set())
            self.ledger.check()

    def _steps(self) -> list[tuple[Callable[[], None], int]]:
        return [
            (self._lines, 10),
            (self._large, 3),
            (self._several, 4),
            (self._rich, 3),
            (self._asks, 3),
            (self._fails, 2),
            (self._stop, 4),
            (self._restart, 1),
            (self._kill_and_attach, 2),
            (self._detach_and_attach, 1),
        ]

    def tell(self, words: str) -> None:
        """A line of the diary."""
        self.diary.tell(words)

    @property
    def cells(self) -> int:
        """How many were sent."""
        return self._number

    @property
    def cuts(self) -> int:
        """Connections that were cut."""
        return self.link.cuts if self.link else 0

    @property
    def faults(self) -> collections.Counter[str]:
        """How often each kind of weather was there."""
        return self.weather.faults if self.weather else collections.Counter()

    # -- the kernel --------------------------------------------------------------------------------------------------

    def _pid(self) -> int | None:
        return None if self._k is None or self._k.ended else self._k.pid

    @property
    def k(self) -> Kernel:
        assert self._k is not None
        return self._k

    def _kernel_starts(self) -> None:
        env: dict[str, str | None] = {"FLAME_TARGET": self.link.location, "FLAME_FAST": "1"}
        self._k = self._kernel_stack.enter_context(remote_flame(env=env))

    def _learn_the_name(self) -> None:
        """Of the session in which cells run."""
        status = self.k.execute("%flame status", timeout=PATIENCE).stdout
        named = re.search(r"; session ([^;]+);", status)
        if named is None:
            raise Violation(f"the status names no session: {status!r}")
        self._session = named[1]

    def _kernel_ends(self) -> None:
        self._k = None
        self._kernel_stack.close()

    def _left_on_the_far_side(self, due: set[str]) -> None:
        """These sessions are there, and those that were taken up by name, which are ended now; no other, no process."""
        for one in self._ask_far_side("sessions"):
            if one["session"] in self._kept - due:
                self._ask_far_side("kill", session=one["session"], life=one["life"])
        self._kept &= due

        def is_so() -> bool:
            there = self._ask_far_side("sessions")
            with contextlib.suppress(psutil.NoSuchProcess):
                known = {one["pid"] for one in there if one["pid"]}
                known |= {psutil.Process(pid).ppid() for pid in known}  # the fork server
                known.add(self._ask_far_side("checkup").get("spare"))
                others = [one for one in self.server.children() if one.pid not in known]
                return {one["session"] for one in there} == due and not others
            return False

        try:
            wait_until(is_so, "the sessions before are ended", 30)
        except AssertionError as e:
            there = self._ask_far_side("sessions")
            raise Violation(f"{e}: due are {due}, there are {there} and {self.server.children()}") from e

    def _ask_far_side(self, op: str, **fields: Any) -> Any:
        """An op of the agent, past the link."""
        link = Connection(Target(Location.parse(self.server.location)))
        try:
            asked = wire.encode({"op": op, "n": "1", **fields})
            answer = wire.decode(link.invoke(f"{agent_name()}.{wire.HANDLE}", asked))[0]
        finally:
            link.close()
        if "result" not in answer:
            raise Violation(f"{op}: {answer}")
        return answer["result"]

    # -- cells -------------------------------------------------------------------------------------------------------

    def _cell(self, body: str, expected: str, endless: bool = False) -> Cell:
        self._number += 1
        name = f"cell {self._number}:"
        cell = Cell(self._number, body.replace("NAME", name), expected.replace("NAME", name), endless)
        self.ledger.sent.append(cell.number)
        return cell

    def _numbered(self) -> Cell:
        count = self._random.choice((1, 10, 100, 1000, 5000))
        pause = self._random.choice((0, 0, 0.001)) if count <= 1000 else 0
        body = f"import time\nfor _i in range({count}):\n    print('NAME', _i)\n    {pause} and time.sleep({pause})"
        return self._cell(body, "".join(f"NAME {i}\n" for i in range(count)))

    def _submit(self, cell: Cell) -> Run:
        self.tell(f"cell {cell.number}, {len(cell.expected)} characters")
        return self.k.submit(cell.code(self.ledger.path))

    def _wait(self, run: Run, what: str, seconds: float = PATIENCE) -> None:
        began = time.monotonic()
        try:
            self.k.wait(run, seconds)
        except AssertionError as e:
            raise Violation(f"{what} does not come to an end: {str(e)[:1500]}") from e
        self.slowest = max(self.slowest, time.monotonic() - began)

    def _is_done(self, cell: Cell, run: Run) -> None:
        self._wait(run, f"cell {cell.number}")
        if run.reply is None or run.reply["status"] != "ok":
            raise Violation(f"cell {cell.number} is not ok: {str(run)[-1500:]}")
        of_others(run, cell)
        self.ledger.is_done(cell, run.stdout, run.result)
        self.characters += len(run.stdout)
        self.tell(f"cell {cell.number} is done")

    def _lines(self) -> None:
        cell = self._numbered()
        self._is_done(cell, self._submit(cell))

    def _several(self) -> None:
        cells = [self._numbered() for _ in range(self._random.randint(2, 5))]
        runs = [self._submit(cell) for cell in cells]
        for cell, run in zip(cells, runs, strict=True):
            self._is_done(cell, run)

    def _large(self) -> None:
        size = self._random.choice((10_000, 100_000, 1_000_000))
        cell = self._cell(f"print('NAME', 'x' * {size})", f"NAME {'x' * size}\n")
        self._is_done(cell, self._submit(cell))

    def _rich(self) -> None:
        count = self._random.randint(1, 30)
        body = f"for _i in range({count}):\n    print('NAME', _i)\n    display({{'text/plain': str(_i)}}, raw=True)"
        cell = self._cell(body, "".join(f"NAME {i}\n" for i in range(count)))
        run = self._submit(cell)
        self._is_done(cell, run)
        order = [
            message.content.get("text") or message.content["data"]["text/plain"]
            for message in run.of_type("stream", "display_data")
            if message.type == "stream" or message.content["data"]["text/plain"].isdigit()
        ]
        due = [text for i in range(count) for text in (f"cell {cell.number}: {i}\n", str(i))]
        if order != due:
            raise Violation(f"displays and text in another order: {order} instead of {due}")

    def _asks(self) -> None:
        cell = self._cell("print('NAME', input('? '))", "NAME the answer\n")
        run = self._submit(cell)
        try:
            self.k.wait_for(lambda: run.prompts or run.done, "the prompt", PATIENCE)
        except AssertionError as e:
            raise Violation(f"the prompt of cell {cell.number} does not come: {str(e)[:1500]}") from e
        self.tell(f"cell {cell.number} is answered")
        self.k.answer_input("the answer")
        self._is_done(cell, run)
        if run.prompts != [("? ", False)]:
            raise Violation(f"cell {cell.number} asked {run.prompts}")

    def _fails(self) -> None:
        cell = self._cell("print('NAME')\nraise ValueError('NAME')", "NAME\n")
        run = self._submit(cell)
        self._wait(run, f"cell {cell.number}")
        if run.error is None or run.error["ename"] != "ValueError":
            raise Violation(f"cell {cell.number} should have failed: {str(run)[-1500:]}")
        self.ledger.is_stopped(cell, run.stdout)
        if run.stdout != cell.expected:
            raise Violation(f"cell {cell.number} lost its output: {run.stdout!r}")

    def _stop(self) -> None:
        body = "import time\nfor _i in range(100000):\n    print('NAME', _i)\n    time.sleep(0.01)"
        cell = self._cell(body, "".join(f"NAME {i}\n" for i in range(100_000)), endless=True)
        run = self._submit(cell)
        if self._random.random() < 0.7:
            with contextlib.suppress(AssertionError):
                self.k.wait_for(lambda: run.stdout, "some output", 10)
        self.tell(f"stop cell {cell.number}")
        began = time.monotonic()
        while not run.done and time.monotonic() - began < STOP_PATIENCE:
            self.k.interrupt()  # a person would press it again
            with contextlib.suppress(AssertionError):
                self.k.wait(run, 4)
        self._wait(run, f"the stopped cell {cell.number}", 1)
        self.slowest = max(self.slowest, time.monotonic() - began)
        if run.error is None and (run.reply or {}).get("status") != "aborted":
            raise Violation(f"cell {cell.number} was stopped and has no error: {str(run)[-1500:]}")
        if run.error is not None and run.error["ename"] not in ("KeyboardInterrupt", "ConnectionLost"):
            raise Violation(f"cell {cell.number} was stopped: {run.error['ename']}: {run.error['evalue']}")
        of_others(run, cell)
        self.ledger.is_stopped(cell, run.stdout)
        self.tell(f"cell {cell.number} is stopped: {run.error['ename'] if run.error else 'aborted'}")
        # None of that reaches the next one.
        after = self._numbered()
        self._is_done(after, self._submit(after))

    # -- comings and goings --------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        with self.weather.calm():
            self.tell("restart")
            self.k.restart()
            self._learn_the_name()
            self.ledger.new_session()
            self._lines()
            self._left_on_the_far_side({self._session})

    def _kill_and_attach(self) -> None:
        """The kernel dies in a cell; another one takes the session up, with all that the cell had to say."""
        cell = self._cell(
            "import time\nfor _i in range(200):\n    print('NAME', _i)\n    time.sleep(0.01)",
            "".join(f"NAME {i}\n" for i in range(200)),
        )
        run = self._submit(cell)
        try:
            self.k.wait_for(lambda: "\n" in run.stdout, "some output", PATIENCE)
        except AssertionError as e:
            raise Violation(f"cell {cell.number} says nothing: {str(e)[:1500]}") from e
        with self.weather.calm():
            self.tell("the kernel is killed")
            os.kill(self.k.pid, signal.SIGKILL)
            self.k.take_all(0.2)  # what it has said is on its way to the notebook
            seen = run.stdout
            self.k.kill()
            self._kernel_ends()
            self._kernel_starts()
            self.k.execute("%flame status", timeout=PATIENCE)  # its own session is open, and can be left
            taken = self._attach()
        self._wait(taken, f"attaching in cell {cell.number}")
        self._is_taken_up(cell, seen, taken)

    def _detach_and_attach(self) -> None:
        with self.weather.calm():
            self.tell("detach")
            left = self.k.execute("%flame detach")
            if left.error is not None:
                raise Violation(f"it cannot be left: {left}")
            taken = self._attach()
            self._wait(taken, "attaching")
            if taken.error is not None:
                raise Violation(f"it cannot be taken up: {taken}")

    def _attach(self) -> Run:
        """A command of a person's: it may fail in bad weather, and be said again. Here it has begun."""
        self.tell(f"attach {self._session}")
        self._kept.add(self._session)
        run = self.k.submit(f"%flame attach {self._session}")
        with contextlib.suppress(AssertionError):
            self.k.wait_for(lambda: run.done or run.output, "the session is taken up", 20)
        return run

    def _is_taken_up(self, cell: Cell, seen: str, taken: Run) -> None:
        if taken.error is not None:
            raise Violation(f"the session cannot be taken up: {str(taken)[-1500:]}")
        due = cell.expected.splitlines()
        before = seen.count("\n")
        there = {*seen.splitlines()[:before], *taken.stdout.splitlines()}
        missing = [line for line in due if line not in there]
        # What the killed kernel had read and was just handing on is lost with it: one batch at most. Replays have it.
        if missing and (missing[0] != due[before] or missing != due[before : before + len(missing)]):
            raise Violation(f"of cell {cell.number} {len(missing)} lines are lost with its kernel: {missing[:5]}")
        if len(missing) > 20:
            raise Violation(f"of cell {cell.number} {len(missing)} lines were under way in its kernel: {missing[:5]}")
        if cell.number not in self.ledger.ended:
            raise Violation(f"cell {cell.number} is taken up, and did not run to its end")
        self.ledger.check()
        again = self.k.execute("%flame replay", timeout=PATIENCE)
        if cell.expected not in again.stdout:
            raise Violation(f"the replay of cell {cell.number} is not whole: {again.stdout[:500]!r} …")
        self.tell(f"cell {cell.number} was taken up")
