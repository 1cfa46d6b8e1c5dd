"""``python -m tests.benchmarks.before FOLDER``: this version beside another one of this project, on the same work.

``FOLDER`` is a checkout of the other version (``git worktree add FOLDER COMMIT``). Each has a process of its own, and
they take turns, one measurement after the other; wall time and the CPU time of the process that asks, medians. Machines
differ and are busy: the ratios are what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Round trip of the slow link, in seconds.
TRIP = 0.1
KEY = "0123456789abcdef0123456789abcdef"


def _value(push: Callable[[Any], Any], value: Any) -> Callable[[], Any]:
    return lambda: push(value)


@contextlib.contextmanager
def _kernel(location: str) -> Iterator[Callable[[str], Any]]:
    """Runs a cell in a Remote Flame kernel whose cells run in the server's process."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="flame")
    spec: Any = manager.kernel_spec
    spec.argv = [sys.executable, "-c", "from flame_kernel.__main__ import main; main()", "-f", "{connection_file}"]
    where = {"FLAME_TARGET": location, "FLAME_PLACE": "process", "FLAME_SHELL": "mini"}
    manager.start_kernel(env={**os.environ, **where}, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield lambda code: client.execute_interactive(code, timeout=60, output_hook=lambda message: None)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


@contextlib.contextmanager
def works() -> Iterator[dict[str, Callable[[], Any]]]:
    """What is measured, by its name: each does its work once."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from farside import FlameServer, pythons, stopped
    from flakylink import FlakyLink, SlowDial

    import flame

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(stopped(FlameServer(pythons()[-1])))
        near = stack.enter_context(flame.connect(server.location, place="process", shell="mini"))
        link = stack.enter_context(SlowDial(server.location, delay=TRIP / 2))
        far = stack.enter_context(flame.connect(link.location, place="process", shell="mini"))
        small = stack.enter_context(FlakyLink(server.location, seed=1))
        cut = stack.enter_context(flame.connect(small.location, place="process", shell="mini"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        secret = stack.enter_context(stopped(FlameServer(pythons()[-1], key=KEY)))
        keyed = stack.enter_context(flame.connect(secret.location, key=KEY, place="process", shell="mini"))

        def queued() -> None:
            for cell in [far.cell("1", lambda event: None) for _ in range(50)]:
                cell.result()

        def lines_through_cuts() -> None:
            small.cut_every(20_000)
            try:
                cut.cell("for i in range(5000): print(i)", lambda event: None).result(60)
            finally:
                small.cut_every(None)

        def connect(location: str, place: str) -> Callable[[], Any]:
            return lambda: flame.connect(location, place=place, shell="mini").close()

        def first_answer() -> None:
            with flame.connect(server.location, place="child", shell="mini") as child:
                child.evaluate("1")

        own = stack.enter_context(stopped(FlameServer(pythons()[-1])))
        kernel = stack.enter_context(_kernel(own.location))
        values: dict[str, Any] = {
            "200,000 records": [{"id": n, "name": f"name {n}", "x": n * 0.5} for n in range(200_000)],
            "200,000 rows (tuples)": [(n, f"name {n}", n * 0.5) for n in range(200_000)],
            "200,000 records with fields missing": [
                {"id": n, "name": f"name {n}"} if n % 2 else {"id": n} for n in range(200_000)
            ],
            "a million short texts": [f"text {n}" for n in range(1_000_000)],
            "a million ints": list(range(1_000_000)),
        }
        found: dict[str, Callable[[], Any]] = {}
        for number, (name, value) in enumerate(values.items()):
            near[f"v{number}"] = value
            found[f"push {name}"] = _value(lambda one: near.push({"pushed": one}), value)
            found[f"pull {name}"] = _value(lambda key: near.evaluate(key, ref=True).fetch(), f"v{number}")
        bulk = random.randbytes(64 << 20)
        keyed["kept"] = bulk
        (folder / "file").write_bytes(bulk)
        yield found | {
            "push 64 MiB of bytes, with a key": lambda: keyed.push({"pushed": bulk}),
            "pull 64 MiB of bytes, with a key": lambda: keyed.evaluate("kept", ref=True).fetch(),
            "put a file of 64 MiB, with a key": lambda: keyed.put(folder / "file", dst=str(folder / "there")),
            "get a file of 64 MiB, with a key": lambda: keyed.get(str(folder / "file"), dst=folder / "here"),
            "50 cells `print('a')` in a notebook": lambda: [kernel("print('a')") for _ in range(50)],
            "50 calls of `execute`": lambda: [near.execute("1") for _ in range(50)],
            "cell `1`": lambda: near.execute("1"),
            "library call": lambda: near.modules.os.getpid(),
            "50 queued cells, round trip 100 ms": queued,
            "5,000 lines, link cut every 20 kB": lines_through_cuts,
            "connect to a process and leave": connect(server.location, "process"),
            "the same, round trip 100 ms with TCP's own": connect(link.location, "process"),
            "a child's first answer": first_answer,
        }


def serve() -> None:
    """The process of one version: names of works come by stdin, one a line; wall and CPU seconds go out."""
    out = sys.stdout
    sys.stdout = sys.stderr
    with works() as known:
        print(json.dumps(list(known)), file=out, flush=True)
        for line in sys.stdin:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                known[line.rstrip("\n")]()
                told: Any = [time.perf_counter() - wall, time.process_time() - cpu]
            except Exception as error:  # a figure that is missing is a cell of the table
                told = f"{type(error).__name__}: {error}"
            print(json.dumps(told), file=out, flush=True)


class Version:
    """One version at work."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environ(folder)
        )
        self.names: list[str] = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def measure(self, name: str) -> Any:
        assert self._process.stdin is not None
        print(name, file=self._process.stdin, flush=True)
        return json.loads(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _environ(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="works whose names have this in them")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve()
        return
    before, now = Version(chosen.folder.resolve()), Version(ROOT)
    print("| work | before, ms (CPU) | now, ms (CPU) | ratio (CPU) |\n|---|---|---|---|")
    for name in now.names:
        if chosen.only and chosen.only not in name:
            continue
        told: tuple[list[Any], list[Any]] = [], []
        for _ in range(chosen.repeats):
            for version, figures in zip((before, now), told, strict=True):
                figures.append(version.measure(name))
        print(f"| {name} | {' | '.join(_row(*told))} |", flush=True)
    before.close()
    now.close()


def _row(before: list[Any], now: list[Any]) -> list[str]:
    errors = [one for one in (*before, *now) if isinstance(one, str)]
    if errors:
        return [errors[0][:60], "", ""]
    (old, old_cpu), (new, new_cpu) = (
        [statistics.median(each) * 1000 for each in zip(*figures, strict=True)] for figures in (before, now)
    )
    ratio = f"{new / old:.2f} ({new_cpu / old_cpu:.2f})" if old_cpu else f"{new / old:.2f}"
    return [f"{old:.1f} ({old_cpu:.1f})", f"{new:.1f} ({new_cpu:.1f})", ratio]


if __name__ == "__main__":
    main()
