"""``python -m tests.benchmarks.way``: which files of ours one cell passes on its way out and back, and how many calls.

A Remote Flame kernel and a stock server are watched (``sys.setprofile``, every thread): the kernel from its start, the
far side from a cell on. A file counts if a function of it is called; calls are counted over many cells, so what goes on
beside them hardly shows. ``--of FOLDER`` looks at another checkout of this project.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CELLS = 50
CELL = "print('a')"
# Counts calls of our functions by file, on the threads that it is set for.
PROBE = """
import json, sys, threading
class Probe:
    def __init__(self):
        self.calls = {}
    def __call__(self, frame, event, arg):
        if event == "call":
            name = frame.f_code.co_filename
            if "flame_agent_" in name or "/flame_kernel/" in name:
                self.calls[name] = self.calls.get(name, 0) + 1
"""
KERNEL = (
    PROBE
    + """
import os, signal
_probe = Probe()
def _written(number, frame):
    calls, _probe.calls = dict(_probe.calls), {}
    with open(os.environ["WAY_FILE"] + ".new", "w") as file:
        json.dump(calls, file)
    os.rename(os.environ["WAY_FILE"] + ".new", os.environ["WAY_FILE"])
signal.signal(signal.SIGUSR1, _written)
threading.setprofile(_probe)
sys.setprofile(_probe)
from flame_kernel.__main__ import main
main()
"""
)
THERE = (
    PROBE
    + """
if not hasattr(sys, "way_probe"):
    sys.way_probe = Probe()
threading.setprofile(sys.way_probe)
threading.setprofile_all_threads(sys.way_probe)
"""
)
TAKE = "import json, sys\ncalls, sys.way_probe.calls = dict(sys.way_probe.calls), {}\nprint(json.dumps(calls))"


def taken(file: Path, pid: int) -> dict[str, int]:
    """What the kernel has called since the last time."""
    file.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    while not file.exists():
        time.sleep(0.01)
    found: dict[str, int] = json.loads(file.read_text())
    return found


def walk(place: str, folder: Path) -> list[dict[str, int]]:
    """Calls by file for ``CELLS`` cells: of the kernel, of the server's process, and of the child if there is one."""
    from farside import FlameServer, pythons, stopped
    from jupyter_client.manager import KernelManager

    import flame

    python = next(one for one in pythons() if one.version >= (3, 12))
    file = folder / "calls"
    with (
        stopped(FlameServer(python)) as server,
        flame.connect(server.location, place="process", shell="mini") as beside,
    ):
        os.environ.update(FLAME_TARGET=server.location, FLAME_PLACE=place, FLAME_SHELL="mini", WAY_FILE=str(file))
        manager = KernelManager(kernel_name="flame")
        spec: Any = manager.kernel_spec
        spec.argv = [sys.executable, "-c", KERNEL, "-f", "{connection_file}"]
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        said: list[str] = []

        def run(code: str) -> str:
            said.clear()
            reply = client.execute_interactive(code, timeout=60, output_hook=hear)
            assert reply["content"]["status"] == "ok", reply
            return "".join(said)

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])

        def there() -> dict[str, int]:
            printed: list[str] = []
            beside.cell(TAKE, lambda event: printed.append(event["content"].get("text", ""))).result(60)
            found: dict[str, int] = json.loads("".join(printed))
            return found

        try:
            run(THERE)
            beside.cell(THERE, lambda event: None).result(60)
            for _ in range(5):
                run(CELL)
            pid = manager.provisioner.pid  # type: ignore[union-attr]
            for what in (lambda: taken(file, pid), there, lambda: run(TAKE)):
                what()
            for _ in range(CELLS):
                run(CELL)
            here = taken(file, pid)
            child = json.loads(run(TAKE)) if place == "child" else {}
            return [here, there(), child]
        finally:
            client.stop_channels()
            manager.shutdown_kernel()


def short(name: str) -> str:
    """A file's name within the package."""
    if "flame_kernel/" in name:
        return name.rpartition("flame_kernel/")[2]
    return "agent/" + name.strip("<>").partition("flame_agent_")[2].partition("/")[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", type=Path, default=ROOT, metavar="FOLDER")
    parser.add_argument("--all", action="store_true", help="name each file")
    chosen = parser.parse_args()
    sys.path[:0] = [
        str(chosen.of.resolve()),
        str(chosen.of.resolve() / "tests" / "support"),
        str(ROOT / "tests" / "support"),
    ]
    os.environ["PYTHONPATH"] = str(chosen.of.resolve())
    for place in ("process", "child"):
        with tempfile.TemporaryDirectory() as folder:
            found = walk(place, Path(folder))
        files = {
            (side, short(name)): calls
            for side, one in enumerate(found)
            for name, calls in one.items()
            if calls >= CELLS
        }
        names = {name for _, name in files}
        sides = [len({name for side, name in files if side == number}) for number in range(3)]
        calls = [sum(calls for (side, _), calls in files.items() if side == number) / CELLS for number in range(3)]
        print(f"{place}: {len(names)} files (kernel {sides[0]}, server {sides[1]}, child {sides[2]});", end=" ")
        print(f"calls for a cell: kernel {calls[0]:.0f}, server {calls[1]:.0f}, child {calls[2]:.0f}")
        for (side, name), count in sorted(files.items()) if chosen.all else ():
            print(f"  {('kernel', 'server', 'child')[side]:<7} {count / CELLS:6.1f}  {name}")


if __name__ == "__main__":
    main()
