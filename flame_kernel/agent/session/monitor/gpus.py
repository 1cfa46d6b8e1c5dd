"""The load and memory of this machine's NVIDIA GPUs, and this process's part: from the driver's library (NVML), called
by ctypes, else from the program nvidia-smi. Nothing is installed; a machine with neither has no GPUs for us.
"""

import csv
import ctypes
import os
import shutil
import subprocess
import sys

LIBRARIES = ("nvml.dll",) if os.name == "nt" else ("libnvidia-ml.so.1", "libnvidia-ml.so")
# The most GPUs that are listed, and the most processes of one.
MOST, MOST_PROCESSES = 64, 1024
# Seconds that nvidia-smi may take.
PATIENCE = 3.0
# The most characters of an allocator's summary.
SUMMARY = 4000
_UNKNOWN = (1 << 64) - 1  # the driver does not tell
_NAMES = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")

_library = []


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Use(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("instance", ctypes.c_uint),
        ("compute", ctypes.c_uint),
    ]


class _Share(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("at", ctypes.c_ulonglong),
        ("sm", ctypes.c_uint),
        ("memory", ctypes.c_uint),
        ("encoder", ctypes.c_uint),
        ("decoder", ctypes.c_uint),
    ]


class _Failed(Exception):
    pass


def gpus(pids, quick=False):
    """``[{name, total, used, mine}, …]``, in bytes, with ``busy`` and ``mine_busy`` in percent where that is known;
    ``mine`` is what the processes ``pids`` use. ``quick``: do not run nvidia-smi."""
    try:
        return _from_library(pids)
    except (_Failed, OSError, AttributeError):  # there is none, or it does not work, or it is older than that
        pass
    return [] if quick else _from_program(pids)


def _from_library(pids):
    library = _opened()

    def call(name, *arguments):
        if getattr(library, name)(*arguments):
            raise _Failed(name)

    call("nvmlInit_v2")
    try:
        count = ctypes.c_uint()
        call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return [_device(call, number, pids) for number in range(min(count.value, MOST))]
    finally:
        library.nvmlShutdown()


def _opened():
    if not _library:
        for name in LIBRARIES:
            try:
                _library.append(ctypes.CDLL(name))
                break
            except OSError:
                continue
        else:
            raise _Failed("no library")
    return _library[0]


def _device(call, number, pids):
    device, name, memory, use = ctypes.c_void_p(), ctypes.create_string_buffer(96), _Memory(), _Use()
    call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(number), ctypes.byref(device))
    call("nvmlDeviceGetName", device, name, ctypes.c_uint(96))
    call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
    found = {"name": name.value.decode("utf-8", "replace"), "total": memory.total, "used": memory.used}
    used = {}
    for kind in _NAMES:
        for process in _processes(call, kind, device):
            if process.pid in pids and process.used != _UNKNOWN:
                used[process.pid] = max(used.get(process.pid, 0), process.used)
    found["mine"] = sum(used.values())
    try:
        call("nvmlDeviceGetUtilizationRates", device, ctypes.byref(use))
        found["busy"] = use.gpu
        found["mine_busy"] = _busy(call, device, pids)
    except (_Failed, AttributeError):  # parts of a GPU, and old ones, do not tell
        pass
    return found


def _processes(call, kind, device):
    """The processes that have memory on a device; none if the driver does not tell."""
    count, found = ctypes.c_uint(MOST_PROCESSES), (_Process * MOST_PROCESSES)()
    for version in ("_v3", "_v2"):
        try:
            call(kind + version, device, ctypes.byref(count), found)
            return found[: count.value]
        except (_Failed, AttributeError):
            continue
    return []


def _busy(call, device, pids):
    """The latest share of the device's time that the processes had, in percent."""
    count, found = ctypes.c_uint(MOST_PROCESSES), (_Share * MOST_PROCESSES)()
    try:
        call("nvmlDeviceGetProcessUtilization", device, found, ctypes.byref(count), ctypes.c_ulonglong(0))
    except _Failed:  # nobody has used it lately
        return 0
    latest = {}
    for one in found[: count.value]:
        if one.pid in pids and one.at >= latest.get(one.pid, (0, 0))[0]:
            latest[one.pid] = one.at, one.sm
    return min(100, sum(share for _, share in latest.values()))


# -- the program


def _from_program(pids):
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        rows = _asked(program, "--query-gpu=uuid,name,memory.total,memory.used,utilization.gpu")
        shares = _asked(program, "--query-compute-apps=gpu_uuid,pid,used_memory")
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    found = []
    for row in rows[:MOST]:
        if len(row) != 5 or _bytes(row[2]) is None:
            continue
        mine = [
            _bytes(share[2]) or 0 for share in shares if len(share) == 3 and share[0] == row[0] and _mine(share, pids)
        ]
        one = {"name": row[1], "total": _bytes(row[2]), "used": _bytes(row[3]) or 0, "mine": sum(mine)}
        if row[4].isdigit():
            one["busy"] = int(row[4])
        found.append(one)
    return found


def _asked(program, query):
    words = [program, query, "--format=csv,noheader,nounits"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE, check=True)
    lines = done.stdout.decode("utf-8").splitlines()
    return [[word.strip() for word in row] for row in csv.reader(lines)]


def _mine(share, pids):
    return share[1].isdigit() and int(share[1]) in pids


def _bytes(text):
    return int(text) << 20 if text.isdigit() else None


# -- out of memory


def out_of_memory(reply):
    """What to tell the user if a cell has failed because a GPU has no memory left; None for other cells."""
    if "OutOfMemoryError" not in (reply.get("ename") or ""):
        return None
    words = []
    for number, one in enumerate(gpus({os.getpid()}, quick=True)):
        words.append(
            "GPU %d %s: %d of %d MiB used, %d MiB by this process\n"
            % ((number, one["name"]) + tuple(one[name] >> 20 for name in ("used", "total", "mine")))
        )
    try:
        torch = sys.modules.get("torch")
        if torch is not None:
            words.append(torch.cuda.memory_summary(abbreviated=True)[:SUMMARY] + "\n")
        elif "cupy" in sys.modules:
            pool = sys.modules["cupy"].get_default_memory_pool()
            words.append("cupy's pool: %d of %d MiB used\n" % (pool.used_bytes() >> 20, pool.total_bytes() >> 20))
    except Exception:  # the library's own trouble; the error itself was shown
        pass
    return "".join(words) or None
