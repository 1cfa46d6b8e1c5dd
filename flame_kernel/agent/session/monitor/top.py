"""What a process on the far side uses: CPU, memory, threads, open files, subprocesses; like the program ``top``.

The figures come from /proc, psutil or Windows, not from the process itself, so they also work for a child that is
stuck.
"""

import os
import socket
import sys
import threading
import time

from ... import windows
from . import gpus

# Seconds over which CPU use is measured.
SPAN = 0.25
# How many threads, files and subprocesses are listed; the total number of each is always given.
MOST_THREADS, MOST_FILES, MOST_CHILDREN = 15, 30, 15


def top(pid):
    """The content of a top_reply; takes ``SPAN`` seconds. What cannot be found out is left out.

    ``pid``, ``host``, ``cpus``, ``load`` (over 1, 5, 15 minutes), ``cpu`` (percent of one CPU), ``memory`` (bytes),
    ``machine_memory`` ([used, total]), ``age`` (seconds), ``threads`` ([{id, name, cpu}, …], those that use CPU;
    ``busy_count`` in all), ``thread_count``, ``files`` (["7 /path", …], ``file_count`` in all), ``others`` ({"socket":
    count, …}), ``children`` ([{pid, name, cpu, memory}, …], ``child_count`` in all),
    ``gpus`` (see there).
    """
    reply = {"status": "ok", "pid": pid, "host": socket.gethostname(), "cpus": os.cpu_count()}
    try:
        reply["load"] = [round(figure, 2) for figure in os.getloadavg()]
    except (OSError, AttributeError):
        pass
    if sys.platform.startswith("linux"):
        _from_proc(pid, reply)
    else:
        _from_psutil(pid, reply)
    found = gpus.gpus({pid}.union(one["pid"] for one in reply.get("children") or ()))
    return dict(reply, gpus=found) if found else reply


def _from_proc(pid, reply):
    tick, page = float(os.sysconf("SC_CLK_TCK")), os.sysconf("SC_PAGE_SIZE")
    before, children_before = _threads(pid), _children(pid)
    began = time.monotonic()
    time.sleep(SPAN)
    after, children, span = _threads(pid), _children(pid), time.monotonic() - began
    if not after:
        reply.update(status="error", ename="ProcessLookupError", evalue="the process %d has ended" % pid)
        return

    def percent(now, then):
        return round(100 * max(0, now - then) / tick / span, 1)

    names = _thread_names() if pid == os.getpid() else {}
    threads = [
        {"id": task, "name": names.get(task, name), "cpu": percent(used, before.get(task, (used,))[0])}
        for task, (used, name) in after.items()
    ]
    threads.sort(key=lambda one: (-one["cpu"], one["id"]))
    busy = [one for one in threads if one["cpu"]]
    reply["threads"], reply["busy_count"], reply["thread_count"] = busy[:MOST_THREADS], len(busy), len(threads)
    reply["cpu"] = round(sum(one["cpu"] for one in threads), 1)
    below = []
    for child, (used, name, pages) in children.items():
        cpu = percent(used, children_before.get(child, (used,))[0])
        below.append({"pid": child, "name": name, "cpu": cpu, "memory": pages * page})
    below.sort(key=lambda one: (-one["cpu"], -one["memory"], one["pid"]))
    reply["children"], reply["child_count"] = below[:MOST_CHILDREN], len(below)
    _rest_from_proc(pid, reply, tick, page)


def _rest_from_proc(pid, reply, tick, page):
    try:
        stat = _stat("/proc/%d/stat" % pid)
        reply["memory"] = int(stat[21]) * page
        with open("/proc/uptime") as f:
            reply["age"] = round(float(f.read().split()[0]) - int(stat[19]) / tick, 1)
        with open("/proc/meminfo") as f:
            info = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in f}
        reply["machine_memory"] = [info["MemTotal"] - info.get("MemAvailable", info["MemFree"]), info["MemTotal"]]
    except (OSError, KeyError, ValueError, IndexError):
        pass
    files, others = [], {}
    try:
        for number in sorted(map(int, os.listdir("/proc/%d/fd" % pid))):
            try:
                path = os.readlink("/proc/%d/fd/%d" % (pid, number))
            except OSError:
                continue  # closed meanwhile
            if path.startswith("/"):
                files.append("%d %s" % (number, path))
            else:
                kind = path.partition(":")[0]
                others[kind] = others.get(kind, 0) + 1
    except OSError:
        return
    reply.update(files=files[:MOST_FILES], file_count=len(files), others=others)


def _stat(path):
    """The fields after the name; the name itself is field -1."""
    with open(path) as f:
        head, _, rest = f.read().rpartition(")")
    return rest.split() + [head.partition("(")[2]]


def _threads(pid):
    """``{id: (CPU ticks, name)}`` of a process's threads."""
    found = {}
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            try:
                fields = _stat("/proc/%d/task/%s/stat" % (pid, task))
                found[int(task)] = int(fields[11]) + int(fields[12]), fields[-1]
            except (OSError, ValueError, IndexError):
                pass  # ended meanwhile
    except OSError:
        pass
    return found


def _children(pid):
    """``{pid: (CPU ticks, name, pages)}`` of all descendants of a process; the pages are those in memory."""
    every = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = _stat("/proc/%s/stat" % name)
                every[int(name)] = int(fields[1]), (int(fields[11]) + int(fields[12]), fields[-1], int(fields[21]))
            except (OSError, ValueError, IndexError):
                pass  # ended meanwhile
    found, above = {}, {pid}
    while above:
        above = {child for child, (parent, _) in every.items() if parent in above and child not in found}
        found.update((child, every[child][1]) for child in above)
    return found


def _thread_names():
    """Python's names for this process's threads, by the system's thread ids (Python 3.8 and newer)."""
    return {getattr(thread, "native_id", None): thread.name for thread in threading.enumerate()}


def _from_psutil(pid, reply):
    try:
        import psutil
    except ImportError:
        if os.name == "nt":
            _from_windows(pid, reply)
            return
        reply.update(
            status="error",
            ename="ModuleNotFoundError",
            evalue=("showing what a process uses needs psutil on this system: %flame pip install psutil"),
        )
        return
    try:
        process = psutil.Process(pid)
        below = process.children(recursive=True)
        for one in [process] + below:
            one.cpu_percent()
        time.sleep(SPAN)
        memory = psutil.virtual_memory()
        reply.update(
            cpu=process.cpu_percent(),
            memory=process.memory_info().rss,
            machine_memory=[memory.total - memory.available, memory.total],
            age=round(time.time() - process.create_time(), 1),
            thread_count=process.num_threads(),
            threads=[],
            child_count=len(below),
            children=[
                {"pid": one.pid, "name": one.name(), "cpu": one.cpu_percent(), "memory": one.memory_info().rss}
                for one in below[:MOST_CHILDREN]
            ],
        )
        files = ["%s %s" % (one.fd, one.path) for one in process.open_files()]
        reply.update(files=files[:MOST_FILES], file_count=len(files))
    except psutil.Error as e:
        reply.setdefault("memory", None)
        if reply.get("cpu") is None:
            reply.update(status="error", ename=type(e).__name__, evalue=str(e))


def _from_windows(pid, reply):
    begun = time.monotonic()
    before = {one: windows.times(one) for one in [pid] + windows.below(pid)}
    time.sleep(SPAN)
    every, span = windows.processes(), time.monotonic() - begun
    if windows.times(pid) is None or pid not in every:
        reply.update(status="error", ename="ProcessLookupError", evalue="the process %d has ended" % pid)
        return

    def percent(one):
        now, then = windows.times(one), before.get(one)
        return round(100 * (now[1] - then[1]) / span, 1) if now and then else 0.0

    below = [
        {"pid": one, "name": every[one][1], "cpu": percent(one), "memory": windows.memory(one)}
        for one in windows.below(pid)
        if one in every
    ]
    below.sort(key=lambda one: (-one["cpu"], -one["memory"], one["pid"]))
    total, available = windows.machine_memory()
    reply.update(
        cpu=percent(pid),
        memory=windows.memory(pid),
        machine_memory=[total - available, total],
        age=round(windows.age(pid) or 0.0, 1),
        thread_count=every[pid][2],
        threads=[],
        child_count=len(below),
        children=below[:MOST_CHILDREN],
    )
