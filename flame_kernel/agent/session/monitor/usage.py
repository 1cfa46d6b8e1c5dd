"""Facts about the process where cells run, and its CPU and memory for usage_request: from psutil if it is there, else
from the system."""

import os
import platform
import socket
import sys
import time

from ... import windows
from ...debug import dap
from ..child import exit_reason
from ..import_path import cwd
from . import gpus


def description(host, reason):
    """Facts about where cells run, for people and for the kernel's language_info."""
    return {
        "host": socket.gethostname(),
        "pid": host.pid,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": sys.platform,
        "executable": sys.executable or "",
        "cwd": cwd(),
        "place": host.place.name,
        "shell": host.shell.name,
        "ipython": getattr(sys.modules.get("IPython"), "__version__", "") if host.shell.name == "ipython" else "",
        "shell_reason": reason or "",
        "no_debugger": dap.missing(),
    }


class Usage:
    """Keeps what is needed to compute the next CPU figure."""

    def __init__(self):
        self._processes = {}
        self._last_cpu = (None, None)  # (clock, CPU seconds) at the last call without psutil

    def reply(self):
        """The content of a usage_reply in the form that ipykernel's front ends read; unknown figures are left out."""
        reply = {"hostname": socket.gethostname(), "pid": os.getpid(), "cpu_count": os.cpu_count()}
        try:
            import psutil
        except ImportError:
            self._from_proc(reply)
        else:
            self._from_psutil(psutil, reply)
        found = gpus.gpus({os.getpid()}.union(self._processes), quick=True)
        return dict(reply, gpus=found) if found else reply

    def _from_psutil(self, psutil, reply):
        me = psutil.Process()
        living = [me] + me.children(recursive=True)
        for process in living:
            self._processes.setdefault(process.pid, process)  # the same object: its CPU figure is since the last call
        for pid in set(self._processes) - {p.pid for p in living}:
            del self._processes[pid]
        cpu = memory = 0
        for process in list(self._processes.values()):
            try:
                cpu += process.cpu_percent()
                memory += process.memory_info().rss
            except psutil.Error:
                pass
        host_cpu = psutil.cpu_percent()
        if host_cpu:
            reply["host_cpu_percent"] = host_cpu
        reply["kernel_cpu"] = cpu
        reply["kernel_memory"] = memory
        reply["host_virtual_memory"] = dict(psutil.virtual_memory()._asdict())

    def _from_proc(self, reply):
        now, spent = time.monotonic(), sum(os.times()[:4])
        then, before = self._last_cpu
        self._last_cpu = (now, spent)
        reply["kernel_cpu"] = 0.0 if then is None or now <= then else round(100.0 * (spent - before) / (now - then), 1)
        if os.name == "nt":
            reply["kernel_memory"] = windows.memory(os.getpid())
            reply["host_virtual_memory"] = _host_memory(*windows.machine_memory())
            return
        try:
            with open("/proc/self/statm") as f:
                reply["kernel_memory"] = int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            info = {}
            with open("/proc/meminfo") as f:
                for line in f:
                    name, _, rest = line.partition(":")
                    info[name] = int(rest.split()[0]) * 1024
            total, available = info["MemTotal"], info.get("MemAvailable", info["MemFree"])
            reply["host_virtual_memory"] = dict(_host_memory(total, available), free=info["MemFree"])
        except (OSError, KeyError, ValueError, IndexError):
            reply["kernel_memory"] = exit_reason.own_peak()


def _host_memory(total, available):
    used = total - available
    return {
        "total": total,
        "available": available,
        "free": available,
        "used": used,
        "percent": round(100.0 * used / total, 1),
    }
