"""``python -m tests.benchmarks.scale``: what a unit of work costs as the work grows, a line each and a plot.

Cells of one session, printed lines, bytes of files and of text, kernels on one server. A cost that grows with the work
is a defect; the table shows it beside the cost at the beginning.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jupyter_core.utils import ensure_event_loop

from .kernels import OurKernel
from .peers import MIB, _FlameServer

# series -> (unit, amounts of a full run, amounts of a quick one)
SERIES: dict[str, tuple[str, list[int], list[int]]] = {
    "cells": ("ms a cell", [1, 10, 100, 1000, 10_000], [1, 10, 100, 1000]),
    "lines": ("µs a line", [1000, 10_000, 100_000, 1_000_000], [1000, 10_000, 100_000]),
    "text": ("ms a MiB", [1, 4, 16, 64, 256], [1, 4, 16]),
    "put": ("ms a MiB", [1, 4, 16, 64, 256, 1024], [1, 4, 16, 64]),
    "get": ("ms a MiB", [1, 4, 16, 64, 256, 1024], [1, 4, 16, 64]),
    "kernels": ("ms a cell, p95", [1, 5, 10, 20], [1, 5]),
}
FACTOR = {"ms a cell": 1e3, "µs a line": 1e6, "ms a MiB": 1e3, "ms a cell, p95": 1e3}
# Seconds for which the kernels of a server have a cell each second.
MINUTE = 20


def cells(kernel: OurKernel, amounts: list[int]) -> Iterator[tuple[int, float]]:
    """Seconds of a cell when so many have gone before it: the median of twenty."""
    done = 0
    for amount in amounts:
        while done < amount:
            kernel._run("x = 1")
            done += 1
        times = []
        for _ in range(20):
            began = time.perf_counter()
            kernel._run("x = 1")
            times.append(time.perf_counter() - began)
            done += 1
        yield amount, statistics.median(times)


def lines(kernel: OurKernel, amounts: list[int]) -> Iterator[tuple[int, float]]:
    for amount in amounts:
        yield amount, kernel._printing(amount, False) / amount


def text(kernel: OurKernel, amounts: list[int]) -> Iterator[tuple[int, float]]:
    for amount in amounts:
        kernel.sizes["blob"] = amount * MIB
        yield amount, kernel.text() / amount


def transfers(way: str, location: str, amounts: list[int]) -> Iterator[tuple[int, float]]:
    """Files of so many MiB, with their checksums."""
    import flame

    with tempfile.TemporaryDirectory() as folder, flame.connect(location) as pi:
        for amount in amounts:
            source, target = Path(folder, f"source-{amount}"), Path(folder, f"{way}-{amount}")
            piece = os.urandom(MIB)
            with open(source, "wb") as file:
                for _ in range(amount):
                    file.write(piece)
            began = time.perf_counter()
            getattr(pi, way)(str(source), str(target))
            yield amount, (time.perf_counter() - began) / amount
            source.unlink()
            target.unlink()


def kernels_at_once(location: str, amounts: list[int]) -> Iterator[tuple[int, float]]:
    """So many kernels on one server, a cell a second each: the 95th percentile of their cells."""
    for amount in amounts:
        with contextlib.ExitStack() as stack:
            running = [stack.enter_context(_On(location)) for _ in range(amount)]
            times: list[float] = []

            def work(kernel: OurKernel, offset: float, times: list[float] = times) -> None:
                began = time.monotonic() + offset
                for turn in range(MINUTE):
                    time.sleep(max(0.0, began + turn - time.monotonic()))
                    start = time.perf_counter()
                    kernel._run("x = 1")
                    times.append(time.perf_counter() - start)
                ensure_event_loop().close()  # on which this thread's client has been asked

            threads = [threading.Thread(target=work, args=(k, i / amount)) for i, k in enumerate(running)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(times) == amount * MINUTE, "a kernel has failed"
            yield amount, sorted(times)[int(0.95 * (len(times) - 1))]


class _On(OurKernel):
    """A kernel on a server that is there."""

    def __init__(self, location: str) -> None:
        self.env = {"FLAME_TARGET": location}
        super().__init__(quick=True)


def run(wanted: list[str], quick: bool) -> dict[str, list[tuple[int, float]]]:
    """``series -> [(amount, seconds of a unit)]``."""
    found: dict[str, list[tuple[int, float]]] = {}
    with contextlib.ExitStack() as stack:
        location = _FlameServer(stack).location
        works: dict[str, Callable[[list[int]], Iterator[tuple[int, float]]]] = {
            "cells": lambda amounts: cells(kernel, amounts),
            "lines": lambda amounts: lines(kernel, amounts),
            "text": lambda amounts: text(kernel, amounts),
            "put": lambda amounts: transfers("put", location, amounts),
            "get": lambda amounts: transfers("get", location, amounts),
            "kernels": lambda amounts: kernels_at_once(location, amounts),
        }
        for name in wanted:
            with _On(location) as kernel:
                found[name] = list(works[name](SERIES[name][2 if quick else 1]))
    return found


def table(found: dict[str, list[tuple[int, float]]]) -> str:
    rows = []
    for name, points in found.items():
        unit = SERIES[name][0]
        rows.append(f"{name} [{unit}]")
        first = points[0][1]
        rows += [
            f"  {amount:>10,}  {cost * FACTOR[unit]:10.3f}  {cost / first:6.2f} x the first" for amount, cost in points
        ]
    return "\n".join(rows)


def plot(found: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Cost of a unit beside the cost of the first, over the amount of work; both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for name, points in found.items():
        amounts, costs = zip(*points, strict=True)
        axes.loglog(amounts, [cost / costs[0] for cost in costs], "o-", label=f"{name}: {SERIES[name][0]}")
    axes.axhline(1.0, color="0.7", linewidth=0.8)
    axes.set_xlabel("amount of work (cells, lines, MiB, kernels)")
    axes.set_ylabel("cost of a unit / of the first")
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--series", action="append", choices=list(SERIES), help="only this; repeatable")
    parser.add_argument("--quick", action="store_true", help="smaller amounts")
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--plot", metavar="FILE", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = run(options.series or list(SERIES), options.quick)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
