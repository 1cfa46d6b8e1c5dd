"""``python -m tests.benchmarks.group``: a cell on all of many sessions, beside the same number of bare round trips and
of ipyparallel's engines.

The sessions are shared out among stock servers, each on a host of its own where network namespaces are allowed.  What a
client process pays for sessions that do nothing is measured too: CPU, memory, threads, descriptors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .measure import Figure, interleaved, timed

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

# A stock server takes 20 sessions: it has 40 threads, and a session two connections.
MOST_EACH = 19
# ipyparallel's engines start so many at a time: more of them outrun their controller's patience on few cores.
BATCH = 8
PATIENCE = 600
IDLE = 50.0
KEY = "FLAME_BENCHMARK_KEY"  # the variable that has it


@contextlib.contextmanager
def servers(count: int) -> Iterator[tuple[list[str], str, bool]]:
    """So many stock servers: their locations, the key, and whether each is on a host of its own."""
    import farside
    import netns

    key = os.environ[KEY] = secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        try:
            nets = [stack.enter_context(netns.net()) for _ in range(count)]
        except BaseException as error:  # pytest's skip, where it is not allowed: then all are on this host
            print(f"without network namespaces: {error}", file=sys.stderr)
            nets = []
        made = []
        for number in range(count):
            where = {"within": nets[number].within, "arguments": ("-H", nets[number].address)} if nets else {}
            made.append(
                stack.enter_context(farside.stopped(farside.FlameServer(farside.pythons()[-1], key=key, **where)))
            )
        yield [server.location for server in made], key, bool(nets)


class Sessions:
    """A group of sessions on these servers."""

    def __init__(self, locations: list[str], count: int, place: str) -> None:
        import flame

        each = -(-count // len(locations))
        words = [f"{location}*{min(each, count - at * each)}" for at, location in enumerate(locations)]
        before = _memory()
        self.group = flame.group(words, key=f"env:{KEY}", allow_plain=True, place=place, shell="mini", timeout=120)
        began = time.perf_counter()
        self.group.execute("kept = 1")
        self.connected = time.perf_counter() - began
        self.remotes = list(self.group)
        self.memory = (_memory() - before) / len(self.remotes)

    def cell(self) -> float:
        """``pass`` on all of them."""
        return timed(lambda: self.group.cell("pass"))

    def bare(self) -> float:
        """As many bare round trips of ours: the least that the agent answers, one after the other."""

        def ask() -> None:
            for remote in self.remotes:
                remote.session.ask("hello").result()

        return timed(ask)

    def idle(self) -> dict[str, float]:
        """What they cost while nothing is asked."""
        time.sleep(2.0)
        used, began = _cpu(), time.monotonic()
        time.sleep(IDLE)
        return {
            "idle CPU, % of a core": 100 * (_cpu() - used) / (time.monotonic() - began),
            "memory a session, MiB": self.memory / (1 << 20),
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "connect all, s": self.connected,
        }


class Stock:
    """As many connections of stock Pyro4, to the same servers: ``evaluate("0")`` on each, one after the other."""

    def __init__(self, locations: list[str], key: str, count: int) -> None:
        import Pyro4
        import Pyro4.utils.flame

        Pyro4.config.SERIALIZER = "pickle"
        self.proxies = []
        for number in range(count):
            proxy = Pyro4.utils.flame.connect(locations[number % len(locations)], key)
            self.proxies.append(proxy)

    def bare(self) -> float:
        return timed(lambda: [proxy.evaluate("0") for proxy in self.proxies])

    def close(self) -> None:
        for proxy in self.proxies:
            proxy._pyroRelease()


class Engines:
    """So many of ipyparallel's engines, on this machine."""

    def __init__(self, stack: contextlib.ExitStack, count: int) -> None:
        import logging

        import ipyparallel

        cluster = ipyparallel.Cluster(n=min(BATCH, count), engine_timeout=PATIENCE, log_level=logging.ERROR)
        stack.callback(cluster.stop_cluster_sync)
        began = time.perf_counter()
        client = cluster.start_and_connect_sync()
        stack.callback(client.close)
        for there in range(BATCH, count, BATCH):
            more = min(BATCH, count - there)
            cluster.start_engines_sync(more)
            client.wait_for_engines(there + more, timeout=PATIENCE, interactive=False)
            print(f"{there + more} engines are there", file=sys.stderr, flush=True)
        self.started = time.perf_counter() - began
        self._view = client[:]
        assert len(self._view) == count

    def cell(self) -> float:
        """``pass`` on all of them, as ``%%px`` does it."""
        return timed(lambda: self._view.execute("pass", silent=False, block=True))


def _memory() -> float:
    return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run(count: int, hosts: int, place: str, engines: int, repeats: int) -> dict[str, Any]:
    """All figures; with no ``engines``, without ipyparallel."""
    left_out, extra, theirs = "", {}, f"ipyparallel: a cell on all of {engines} engines"
    with contextlib.ExitStack() as stack:
        locations, key, apart = stack.enter_context(servers(hosts))
        print(f"connecting {count} sessions", file=sys.stderr, flush=True)
        ours = Sessions(locations, count, place)
        stack.callback(ours.group.close)
        extra = ours.idle()
        measures = {"remote flame: a cell on all": ours.cell, "remote flame: bare round trips": ours.bare}
        stock = Stock(locations, key, min(count, hosts * (40 - 2 * -(-count // hosts))))
        stack.callback(stock.close)
        measures[f"stock flame: {len(stock.proxies)} bare round trips"] = stock.bare
        if engines:
            print(f"starting {engines} engines of ipyparallel", file=sys.stderr, flush=True)
            try:
                peer = Engines(stack, engines)
                extra["ipyparallel: start, s"] = peer.started
                measures[theirs] = peer.cell
            except Exception as error:  # one peer's trouble is a line of the table
                left_out = f"ipyparallel: {type(error).__name__}: {error}"[:200]
        for measure in measures.values():
            measure()
        figures: dict[str, Figure] = interleaved(measures, repeats)
    ours_, bare = figures["remote flame: a cell on all"].median, figures["remote flame: bare round trips"].median
    ratios = {"a cell on all / the bare round trips": ours_ / bare}
    found = figures.get(theirs)
    if found is not None and found.values:
        ratios[f"a cell on {count} sessions / on ipyparallel's {engines} engines"] = ours_ / found.median
    return {
        "sessions": count,
        "engines": engines,
        "servers": hosts,
        "apart": apart,
        "place": place,
        "figures": {name: figure.as_json() for name, figure in figures.items()},
        "ratios": ratios,
        "extra": extra,
        "left_out": left_out,
    }


def table(found: dict[str, Any]) -> str:
    """The figures as a table in Markdown."""
    where = "each on a host of its own" if found["apart"] else "all on this host"
    rows = [
        f"| {found['sessions']} sessions ({found['place']}), {found['servers']} stock servers, {where} | |",
        "|---|---|",
    ]
    for name, figure in found["figures"].items():
        said = f"{figure['median'] * 1000:.1f} ms" if figure["values"] else figure["error"]
        rows.append(f"| {name} | {said} |")
    rows += [f"| {name} | {value:.2f} × |" for name, value in found["ratios"].items()]
    rows += [f"| {name} | {value:.4g} |" for name, value in found["extra"].items()]
    return "\n".join([*rows, *([f"left out: {found['left_out']}"] if found["left_out"] else [])])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.group", description=__doc__)
    parser.add_argument("--sessions", type=int, default=50, help="how many sessions (50)")
    parser.add_argument("--engines", type=int, help="how many engines of ipyparallel (as many as sessions)")
    parser.add_argument("--servers", type=int, default=5, help="how many stock servers (5)")
    parser.add_argument("--place", choices=["process", "child"], default="process", help="where cells run (process)")
    parser.add_argument("--alone", action="store_true", help="without ipyparallel, whose engines take long to start")
    parser.add_argument("--repeats", type=int, default=15, help="medians of so many (15)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    options = parser.parse_args()
    if not 0 < options.sessions <= MOST_EACH * options.servers:
        parser.error(f"a stock server takes {MOST_EACH} sessions: name more servers")
    engines = 0 if options.alone else options.sessions if options.engines is None else options.engines
    if engines < 0:
        parser.error("--engines is a number from 0 on")
    found = run(options.sessions, options.servers, options.place, engines, options.repeats)
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
