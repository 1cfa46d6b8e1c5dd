"""``python -m tests.benchmarks.looks``: what a live app under load loses by being looked into, changed, and noted.

The app is that of ``notebooks/live_app.py``; one visitor asks it as fast as it answers. With a session that does
nothing, then with a profile, memory noted, hot code, a hotfix, and cells without and with rails that note them: in
turn, in one run, each beside the session that does nothing of the same round, so that what else the machine does meets
them alike. ``--computing 2`` adds threads to the app that compute all the time, and counts what they get done, too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import flame

from .live import live_app, visit

COMPUTE = """
import threading
done, over = [0] * {count}, threading.Event()
def compute(number):
    while not over.is_set():
        sum(range(500))
        done[number] += 1
threads = [threading.Thread(target=compute, args=(number,)) for number in range({count})]
for one in threads: one.start()
"""
FIX = "def to_fahrenheit(celsius):\n    return celsius * 9 / 5 + 32"
CELLS_EVERY = 0.05
Doing = AbstractContextManager[None]


@dataclass
class Phase:
    """What was measured while one thing was done."""

    name: str
    doing: Callable[[], Doing]
    rates: list[float] = field(default_factory=list)  # answers a second, one of each round
    seconds: list[float] = field(default_factory=list)  # of each answer
    computed: list[float] = field(default_factory=list)  # rounds a second of the computing threads
    cpu: list[float] = field(default_factory=list)  # seconds of the app for each answer
    costs: list[str] = field(default_factory=list)


class Looks:
    """The sessions in the app, and each thing that is done in them, as a context."""

    def __init__(self, plain: flame.Remote, railed: flame.Remote, folder: Path, seconds: float, rate: float) -> None:
        self._plain, self._railed, self._folder = plain, railed, folder
        self._seconds, self._rate = seconds, rate
        self.cost = ""

    @contextlib.contextmanager
    def nothing(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def profile(self) -> Iterator[None]:
        def take() -> None:
            found = self._plain.profile(self._seconds, scope="all", rate=self._rate)
            share = 100 * found.cost / found.seconds
            self.cost = f"{share:.1f} % of a CPU, {found.samples / found.seconds:.0f} samples/s {found.note}"

        taking = threading.Thread(target=take)
        taking.start()
        yield
        taking.join()

    @contextlib.contextmanager
    def memory(self) -> Iterator[None]:
        self._plain.memory("start")
        yield
        self._plain.memory("stop")

    @contextlib.contextmanager
    def hot(self) -> Iterator[None]:
        with self._plain.hot(self._folder, reload=True):
            self._plain.execute("import some_hot_code")
            yield

    @contextlib.contextmanager
    def hotfix(self) -> Iterator[None]:
        with self._plain.hotfix("__main__.to_fahrenheit", FIX):
            yield

    def cells(self) -> Doing:
        return self._cells(self._plain)

    def noted_cells(self) -> Doing:
        return self._cells(self._railed)

    @contextlib.contextmanager
    def _cells(self, session: flame.Remote) -> Iterator[None]:
        over = threading.Event()

        def run() -> None:
            while not over.wait(CELLS_EVERY):
                session.execute("app.kiln.celsius")

        running = threading.Thread(target=run)
        running.start()
        yield
        over.set()
        running.join()


def rounds(phases: list[Phase], looks: Looks, session: flame.Remote, address: str, options: argparse.Namespace) -> None:
    """Measure all phases in turn, several times."""
    state = f"({'sum(done)' if options.computing else '0'}, __import__('time').process_time())"
    for _ in range(options.rounds):
        for phase in phases:
            with phase.doing():
                (before, cpu), began = session.evaluate(state), time.monotonic()
                took = visit(address, options.seconds)
                (after, used), lasted = session.evaluate(state), time.monotonic() - began
            phase.rates.append(len(took) / lasted)
            phase.computed.append((after - before) / lasted)
            phase.cpu.append((used - cpu) / len(took))
            phase.seconds += took
            phase.costs += [looks.cost] if looks.cost else []
            looks.cost = ""


def change(found: list[float], before: list[float]) -> str:
    """The change of a figure, as the median of all rounds."""
    return f"{statistics.median(100 * (one / other - 1) for one, other in zip(found, before, strict=True)):+8.1f}%"


def told(phases: list[Phase]) -> Iterator[str]:
    """The figures as lines of text."""
    first = phases[0]
    computes = any(first.computed)
    yield f"{'':24}{'answers/s':>10}{'change':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU each':>10}{'computed' * computes:>10}"
    for phase in phases:
        times = sorted(phase.seconds)
        yield (
            f"{phase.name:24}{statistics.median(phase.rates):10.0f}{change(phase.rates, first.rates)}"
            f"{1000 * times[len(times) // 2]:9.3f}{1000 * times[len(times) * 99 // 100]:9.3f}"
            f"{change(phase.cpu, first.cpu):>10}{change(phase.computed, first.computed) if computes else '':>10}"
        )
        yield from (f"    {cost}" for cost in phase.costs)


def main() -> None:
    parser = argparse.ArgumentParser(description="what a live app under load loses by looks, changes and rails")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each phase in each round")
    parser.add_argument("--rate", type=float, default=100.0, help="samples a second of the profile")
    parser.add_argument("--computing", type=int, default=0, help="how many threads compute in the app, besides")
    parser.add_argument("--only", default="", help="the phases whose names have this in them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as code, live_app(folder) as address:
        Path(code, "some_hot_code.py").write_text("x = 1\n")
        config, railed = Path(folder, "kiln.toml"), Path(folder, "railed.toml")
        railed.touch(0o600)
        railed.write_text(config.read_text() + '[targets.kiln.rails]\nconfirm = true\nlog = "audit"\n')
        with (
            flame.connect("kiln", config=str(config)) as plain,
            flame.connect("kiln", config=str(railed)) as noted,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            for one in (plain, noted):
                one.execute("import __main__ as app")
            if options.computing:
                plain.execute(COMPUTE.format(count=options.computing))
            looks = Looks(plain, noted, Path(code), options.seconds, options.rate)
            phases = [
                Phase("a session, idle", looks.nothing),
                Phase(f"profile, {options.rate:g}/s", looks.profile),
                Phase("memory noted", looks.memory),
                Phase("hot code", looks.hot),
                Phase("hotfix", looks.hotfix),
                Phase("20 cells/s", looks.cells),
                Phase("20 cells/s, with rails", looks.noted_cells),
            ]
            phases = [phases[0], *(one for one in phases[1:] if options.only in one.name)]
            rounds(phases, looks, plain, address, options)
            if options.computing:
                plain.execute("over.set(); [one.join() for one in threads]")
    print("\n".join(told(phases)))


if __name__ == "__main__":
    main()
