"""``python -m tests.benchmarks``: ours and the peers on the same work, interleaved in one run.

Figures of one machine mean little; the ratios are what counts: to local ipykernel, to the best peer, to a raw socket.
Peers that are not installed are named and left out (``pip install '.[bench]'`` brings them all).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import forwards, kernels, links, peers, secure
from .measure import Figure, interleaved

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"

PEERS: tuple[type[peers.Peer], ...] = (
    peers.RawSocket,
    peers.StockFlame,
    peers.Rpyc,
    peers.Execnet,
    peers.Ipyparallel,
    secure.RawTls,
    secure.OurLibraryTls,
    kernels.LocalKernel,
    kernels.BareKernel,
    peers.OurLibrary,
    peers.OurLibraryCold,
    peers.OurLibraryInProcess,
    peers.OurLibraryWithKey,
    kernels.OurKernel,
    kernels.OurKernelInProcess,
    kernels.OurKernelMini,
    kernels.OurKernelMiniChild,
    kernels.StockServerKernel,
    forwards.Direct,
    forwards.SshForward,
    forwards.OurForward,
    forwards.OurForwardWithKey,
    forwards.OurForwardTls,
)

# name -> (what is done, unit, repeats); each is a method of the peers that take part.
METRICS: dict[str, tuple[str, str, int]] = {
    "own_memory": ("memory of its own where cells run, before any Tab", "MiB", 3),
    "idle_cpu": ("idle, % of a core", "%", 1),
    "ping": ("the least there is to ask", "ms", 7),
    "cell": ("cell `pass`, request to idle", "ms", 9),
    "print_cell": ("cell `print('a')`", "ms", 9),
    "cell_cpu_here": ("CPU of a cell in the kernel's process", "ms", 5),
    "cell_cpu_there": ("CPU of a cell in the process where it runs, if that is another one", "ms", 5),
    "getpid": ("remote `os.getpid()`", "ms", 7),
    "connect": ("connect, one answer, and leave", "ms", 5),
    "kernel_start": ("start to ready", "s", 3),
    "first_cell": ("start to the end of the first cell", "s", 5),
    "first_output": ("first output of `print; sleep; print`", "ms", 5),
    "lines": ("100,000 short lines", "s", 3),
    "lines_flushed": ("the same, each flushed", "s", 3),
    "text": ("64 MiB of text in one print", "s", 3),
    "push_bytes": ("push 64 MiB of bytes", "s", 3),
    "pull_bytes": ("pull 64 MiB of bytes", "s", 3),
    "push_array": ("push a 256 MiB array", "s", 3),
    "pull_array": ("pull a 256 MiB array", "s", 3),
    "push_ints": ("push 1e6 ints", "s", 3),
    "pull_ints": ("pull 1e6 ints", "s", 3),
    "push_records": ("push 200,000 records", "s", 3),
    "pull_records": ("pull 200,000 records", "s", 3),
    "push_texts": ("push a million short texts", "s", 3),
    "pull_texts": ("pull a million short texts", "s", 3),
    "put_small_file": ("put a file of 1 KiB", "ms", 7),
    "get_small_file": ("get a file of 1 KiB", "ms", 7),
    "put_file": ("put a 256 MiB file", "s", 3),
    "get_file": ("get a 256 MiB file", "s", 3),
    "put_file_tls": ("the same through TLS: put", "s", 3),
    "get_file_tls": ("the same through TLS: get", "s", 3),
    "forward_echo": ("64 bytes through a forwarded port and back", "ms", 7),
    "forward_open": ("a new connection through it, and a byte back", "ms", 5),
    "forward_down": ("256 MiB through it, down", "s", 3),
    "forward_up": ("256 MiB through it, up", "s", 3),
    "interrupt": ("Stop of `while True: pass`", "ms", 5),
}
FACTOR = {"ms": 1000.0, "s": 1.0, "%": 1.0, "MiB": 1.0, "round trips": 1.0}


@contextlib.contextmanager
def compiled() -> Iterator[None]:
    """Processes started meanwhile find their modules compiled, as an installation has them; whoever starts first
    compiles."""
    known = os.environ.copy()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(known)


def run(metrics: list[str], names: list[str], quick: bool) -> dict[str, Any]:
    """All figures: metric -> peer -> Figure as JSON, and what the run was."""
    kinds = [kind for kind in PEERS if not names or kind.name in names]
    left_out = {kind.name: kind.lacking() for kind in kinds if kind.lacking()}
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(compiled())
        living = []
        for kind in kinds:
            if kind.name in left_out or not any(hasattr(kind, metric) for metric in metrics):
                continue
            print(f"starting {kind.name}", file=sys.stderr, flush=True)
            try:
                living.append(stack.enter_context(kind(quick)))
            except Exception as error:
                left_out[kind.name] = f"{type(error).__name__}: {error}"[:200]
        for metric in metrics:
            measures = {peer.name: getattr(peer, metric) for peer in living if hasattr(peer, metric)}
            if not measures:
                continue
            print(f"measuring {metric}", file=sys.stderr, flush=True)
            repeats = METRICS[metric][2]
            figures = interleaved(measures, min(repeats, 3) if quick else repeats)
            results[metric] = {name: figure.as_json() for name, figure in figures.items()}
        memory = {}
        for peer in living:
            for metric in ("push_array", "put_file", "get_file", "text"):
                if metric in metrics and hasattr(peer, metric) and peer.pids() is not None:
                    with contextlib.suppress(Exception):
                        memory[f"{metric} {peer.name}"] = kernels.peak_memory(peer, getattr(peer, metric))
    if "round_trips" in metrics or set(metrics) == set(METRICS):
        results["round_trips"] = links.round_trips()
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "quick": quick,
        "left_out": left_out,
        "metrics": results,
        "memory": memory,
    }


def table(results: dict[str, Any]) -> str:
    """The figures as text: a metric a block, a peer a line, with its ratio to the best one that is not ours."""
    lines = []
    for metric, figures in results["metrics"].items():
        if metric == "round_trips":
            continue
        what, unit, _ = METRICS[metric]
        lines.append(f"\n{what} [{unit}]")
        known = {name: f for name, f in figures.items() if f["values"]}
        others = [f["median"] for name, f in known.items() if "flame " not in name + " " or name == "stock flame"]
        best = min(others) if others else None
        for name, figure in sorted(figures.items(), key=lambda item: item[1].get("median", 1e99)):
            if not figure["values"]:
                lines.append(f"  {name:28s} {figure['error']}")
                continue
            factor = FACTOR[unit]
            local = known.get("ipykernel", {}).get("median")
            ratio = f"{figure['median'] / best:8.2f} x best peer" if best else ""  # of an idle CPU there is none
            beside = f"{figure['median'] / local:8.2f} x ipykernel" if local else ""
            lines.append(
                f"  {name:28s} {figure['median'] * factor:10.3f}  p95 {figure['p95'] * factor:10.3f} {ratio} {beside}"
            )
    if results.get("memory"):
        lines.append("\npeak memory over what it was, MiB here / there")
        lines += [f"  {name:40s} {a:8.1f} / {b:8.1f}" for name, (a, b) in results["memory"].items()]
    trips = results["metrics"].get("round_trips")
    if trips:
        lines.append("\nround trips on a link of 20 ms")
        lines += [f"  {name:40s} {value:6.2f}" for name, value in trips.items()]
    for name, why in results["left_out"].items():
        lines.append(f"\nleft out: {name} ({why})")
    return "\n".join(lines)


def readme_table(results: dict[str, Any]) -> str:
    """The short table that stands in the README."""
    ours = ("remote flame", "flame kernel")
    rows = [
        "| | ours | local ipykernel | best other peer |",
        "|---|---|---|---|",
    ]
    for metric, figures in results["metrics"].items():
        if metric in ("round_trips", "ping", "idle_cpu", "cell_cpu_there", "own_memory"):
            continue
        known = {name: Figure(name, f["values"]) for name, f in figures.items() if f["values"]}
        kernel = "ipykernel" in known
        mine = known.get("flame kernel" if kernel else "remote flame") or known.get(ours[0])
        if mine is None:
            continue
        what, unit, _ = METRICS[metric]
        factor = FACTOR[unit]
        peers_ = {n: f for n, f in known.items() if n in ("stock flame", "rpyc", "execnet", "ipyparallel")}
        if kernel:
            peers_ = {}
        best = min(peers_.values(), key=lambda f: f.median, default=None)
        local = known.get("ipykernel")
        rows.append(
            f"| {what} | {mine.median * factor:.3g} {unit} | "
            + (f"{local.median * factor:.3g} {unit} ({mine.median / local.median:.2f} ×)" if local else "–")
            + " | "
            + (f"{best.median * factor:.3g} {unit} ({best.peer}, {mine.median / best.median:.2f} ×)" if best else "–")
            + " |"
        )
    rows.append("")
    rows.append(f"Medians; all of a row took turns in one run, {results['date']}, {results['machine']}.")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--metric", action="append", choices=[*METRICS, "round_trips"], help="only this; repeatable")
    parser.add_argument("--peer", action="append", choices=[kind.name for kind in PEERS], help="only this; repeatable")
    parser.add_argument("--quick", action="store_true", help="less work and fewer repeats: under three minutes")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.add_argument("--readme", action="store_true", help="put the short table into README.md")
    options = parser.parse_args()
    results = run(options.metric or list(METRICS), options.peer or [], options.quick)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.readme:
        readme = ROOT / "README.md"
        text = readme.read_text()
        before, _, rest = text.partition(BEGIN)
        _, found, after = rest.partition(END)
        if not found:
            print(f"README.md has no place for it: {BEGIN} … {END}", file=sys.stderr)
            return 1
        readme.write_text(f"{before}{BEGIN}\n{readme_table(results)}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
