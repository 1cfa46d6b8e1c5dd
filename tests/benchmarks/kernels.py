"""Kernels as peers: seen by a front end, through jupyter_client, from the request to the idle status."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from .measure import timed
from .peers import MANY, MIB, Peer, _FlameServer


class LocalKernel(Peer):
    """ipykernel on this machine: what a remote kernel is held against."""

    name = "ipykernel"
    needs = ("ipykernel",)
    kernel_name = "python3"
    env: Mapping[str, str] = MappingProxyType({})

    def start(self) -> None:
        self._folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self._manager, self._client = self._launch()
        self._stack.callback(self._end, self._manager, self._client)
        self._run("import time")  # the first cell pays for imports

    def _environ(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYRO_", "FLAME_"))}
        return clean | {"IPYTHONDIR": self._folder, "JPY_SESSION_NAME": "benchmark"} | dict(self.env)

    def _manager_of(self) -> KernelManager:
        return KernelManager(kernel_name=self.kernel_name)

    def _launch(self) -> tuple[Any, Any]:
        manager = self._manager_of()
        manager.start_kernel(env=self._environ(), cwd=self._folder)
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        return manager, client

    def _end(self, manager: Any, client: Any) -> None:
        client.stop_channels()
        manager.shutdown_kernel(now=False)
        manager.cleanup_resources()

    def pids(self) -> tuple[int, int]:
        """The kernel's process, and the one in which its cells run."""
        there: list[str] = []
        self._run("import os; print(os.getpid())", lambda kind, content: there.append(content.get("text", "")))
        pid = int("".join(there))
        kernel = self._manager.provisioner.process.pid
        return (kernel, pid)

    def _run(self, code: str, on_output: Callable[[str, Any], None] = lambda kind, content: None) -> int:
        """Run a cell until reply and idle have come; how many messages iopub brought."""
        client = self._client
        msg_id = client.execute(code)
        count = 0
        while True:
            message = client.get_iopub_msg(timeout=300)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            count += 1
            kind, content = message["msg_type"], message["content"]
            if kind in ("stream", "error"):
                on_output(kind, content)
            elif kind == "status" and content["execution_state"] == "idle":
                break
        reply = client.get_shell_msg(timeout=60)
        while reply["parent_header"].get("msg_id") != msg_id:
            reply = client.get_shell_msg(timeout=60)
        return count

    def cell(self) -> float:
        return timed(lambda: self._run("pass"), MANY)

    def print_cell(self) -> float:
        return timed(lambda: self._run("print('a')"), MANY)

    def kernel_start(self) -> float:
        """From nothing to the first answer on shell, and iopub heard."""
        began = time.perf_counter()
        manager, client = self._launch()
        seconds = time.perf_counter() - began
        self._end(manager, client)
        return seconds

    def first_cell(self) -> float:
        """From nothing to the idle status of the first cell, whatever comes before it."""
        began = time.perf_counter()
        manager = self._manager_of()
        manager.start_kernel(env=self._environ(), cwd=self._folder)
        client = manager.blocking_client()
        client.start_channels()
        try:
            msg_id = client.execute("1")
            while (reply := client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != msg_id:
                pass
            seconds = time.perf_counter() - began
            assert reply["content"]["status"] == "ok"
        finally:
            self._end(manager, client)
        return seconds

    def _cell_cpu(self, which: int) -> float:
        pids = self._pids
        before = _cpu(pids[which])
        for _ in range(MANY):
            self._run("pass")
        time.sleep(0.3)  # what follows a cell is its cost, too
        return (_cpu(pids[which]) - before) / MANY

    def cell_cpu_here(self) -> float:
        return self._cell_cpu(0)

    @functools.cached_property
    def _pids(self) -> tuple[int, int]:
        return self.pids()

    def own_memory(self) -> float:
        """MiB that no other process shares, in the one where cells run."""
        return _own(self._pids[1]) / MIB

    def first_output(self) -> float:
        arrived: list[float] = []
        began = time.perf_counter()
        self._run(
            "import time\nprint('a'); time.sleep(0.3); print('b')",
            lambda kind, content: arrived.append(time.perf_counter()),
        )
        return arrived[0] - began

    def _printing(self, count: int, flush: bool) -> float:
        lines = [0]

        def on_output(kind: str, content: Any) -> None:
            lines[0] += content.get("text", "").count("\n")

        began = time.perf_counter()
        self._run(f"for i in range({count}): print(i, flush={flush})", on_output)
        assert lines[0] == count, f"{lines[0]} lines of {count}"
        return time.perf_counter() - began

    def lines(self) -> float:
        return self._printing(10_000 if self.quick else 100_000, False)

    def lines_flushed(self) -> float:
        # The rate is what counts: a peer that needs a minute for 100,000 is shown 5,000, and its time scaled.
        wanted, count = (10_000, 2000) if self.quick else (100_000, 5000)
        return self._printing(count, True) * wanted / count

    def text(self) -> float:
        """64 MiB in one print."""
        size = self.sizes["blob"]
        seen = [0]

        def on_output(kind: str, content: Any) -> None:
            seen[0] += len(content.get("text", ""))

        began = time.perf_counter()
        self._run(f"print('x' * {size})", on_output)
        assert seen[0] == size + 1, f"{seen[0]} characters of {size + 1}"
        return time.perf_counter() - began

    def interrupt(self) -> float:
        client = self._client
        msg_id = client.execute("print('go')\nwhile True: pass")
        began = None
        while True:
            message = client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            if message["msg_type"] == "stream" and began is None:
                began = time.perf_counter()
                self._manager.interrupt_kernel()
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                client.get_shell_msg(timeout=60)
                assert began is not None
                return time.perf_counter() - began

    def idle_cpu(self) -> float:
        """Percent of a core that the kernel and the far side use while nothing happens, over five seconds."""
        processes = [psutil.Process(pid) for pid in self.pids()]
        time.sleep(1.5)  # what follows a cell is not idleness
        before = sum(sum(p.cpu_times()[:2]) for p in processes)
        time.sleep(5)
        return (sum(sum(p.cpu_times()[:2]) for p in processes) - before) / 5 * 100


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process has used, all threads; more exact than the ticks of its ``stat``."""
    used = 0
    for name in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{name}/schedstat") as file:
            used += int(file.read().split()[0])
    return used / 1e9


def _own(pid: int) -> int:
    """Bytes that a process does not share."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))


class BareKernel(Peer):
    """A kernel on ipykernel's base that does nothing: what is left of a cell when nothing is done in it."""

    name = "bare kernel"
    needs = ("ipykernel",)

    def start(self) -> None:
        self._kernel = self._stack.enter_context(_BareProcess(self.quick))

    def cell(self) -> float:
        return self._kernel.cell()

    def text(self) -> float:
        return self._kernel.text()


class _BareProcess(LocalKernel):
    name = "bare process"

    def _manager_of(self) -> KernelManager:
        manager = KernelManager()
        argv = [sys.executable, "-m", "tests.benchmarks.bare", "-f", "{connection_file}"]
        manager._kernel_spec = KernelSpec(argv=argv, language="python", display_name="bare")
        return manager

    def _environ(self) -> dict[str, str]:
        return super()._environ() | {"PYTHONPATH": str(Path(__file__).parents[2])}


class OurKernel(LocalKernel):
    """The Remote Flame kernel on its own loopback server, in a child with IPython."""

    name = "flame kernel"
    needs = ()
    kernel_name = "flame"
    env = MappingProxyType({"FLAME_PLACE": "child"})

    def lines_flushed(self) -> float:
        return self._printing(10_000 if self.quick else 100_000, True)

    def cell_cpu_there(self) -> float:
        return self._cell_cpu(1)


class OurKernelInProcess(OurKernel):
    name = "flame kernel (process)"
    env = MappingProxyType({"FLAME_PLACE": "process"})


class OurKernelMini(OurKernel):
    name = "flame kernel (mini)"
    env = MappingProxyType({"FLAME_PLACE": "process", "FLAME_SHELL": "mini"})


class OurKernelMiniChild(OurKernel):
    name = "flame kernel (child, mini)"
    env = MappingProxyType({"FLAME_PLACE": "child", "FLAME_SHELL": "mini"})


class StockServerKernel(OurKernel):
    """The kernel on a stock server of its own, which has a key and knows the agent already."""

    name = "flame kernel (stock server)"

    def start(self) -> None:
        key = secrets.token_hex(32)
        self._server = _FlameServer(self._stack, {"PYRO_HMAC_KEY": key})
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        path = os.path.join(folder, "key")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(key)
        self.env = {"FLAME_TARGET": self._server.location, "FLAME_KEY_FILE": path}
        super().start()


def peak_memory(peer: Peer, work: Callable[[], Any]) -> tuple[float, float] | None:
    """MiB that both sides' resident memory rose by at its peak, while ``work`` was done; None where it is not known."""
    pids = peer.pids()
    if pids is None:
        return None
    before = []
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")  # the peak starts anew
        before.append(_status(pid, "VmRSS"))
    work()
    rose = [(_status(pid, "VmHWM") - was) / MIB for pid, was in zip(pids, before, strict=True)]
    return rose[0], rose[1]


def _status(pid: int, name: str) -> int:
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0
