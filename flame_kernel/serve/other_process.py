"""What Linux tells of another process: whether Flame can be started in it, and a thread of it that sleeps."""

from __future__ import annotations

import os
import platform
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import TargetError

_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
# What a Python must export.
_NEEDED = (b"PyGILState_Ensure", b"PyRun_SimpleStringFlags")
# Seconds that a process must have been running, so that its Python is initialized.
AWAKE_AFTER = 1.0
# Linux: the number of the system call futex, by machine, and its operation for waiting on a lock of the C library.
_FUTEX = {"x86_64": 202, "aarch64": 98}
_WAIT, _OPERATION = 0, 0x7F
# Seconds: after which a thread without any change counts as asleep; to find such a thread.
_STILL = 0.01
_FOUND_WITHIN = 3.0


class IgniteError(TargetError):
    """Flame cannot be started in a process, or not removed; the text is one sentence with the reason."""


def check(pid: int) -> None:
    """Raise IgniteError if Flame cannot be started in a process. A process that is not Python is never touched."""
    if not sys.platform.startswith("linux"):
        raise IgniteError(
            "jupyter flame ignite works on Linux only so far; start Flame in the app: Pyro4.utils.flame.start(daemon)"
        )
    status = dict(line.partition(":")[::2] for line in _text(f"/proc/{pid}/status").splitlines())
    if not status or pid <= 0:
        raise IgniteError(f"there is no process {pid}")
    if int(status["Tgid"]) != pid:
        raise IgniteError(f"{pid} is a thread of process {int(status['Tgid'])}; name that")
    uid = int(status["Uid"].split()[1])
    if uid != os.geteuid():
        raise IgniteError(f"process {pid} belongs to {_user(uid)}; run this as that user")
    state = status["State"].split()[0]
    if state in "ZX":
        raise IgniteError(f"process {pid} has ended")
    tracer = int(status.get("TracerPid", "0"))
    if tracer:
        raise IgniteError(f"process {pid} is under a debugger, process {tracer}; end that first")
    if state in "Tt":
        raise IgniteError(f"process {pid} is stopped; let it go on first: kill -CONT {pid}")
    if state == "D":
        raise IgniteError(f"process {pid} is blocked in the system (state D) and cannot be reached; try again later")
    try:
        elsewhere = os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        program = Path(f"/proc/{pid}/exe")
        name = os.readlink(program)
    except OSError as error:
        raise IgniteError(not_permitted(pid)) from error
    if elsewhere:
        raise IgniteError(
            f"process {pid} has a file system of its own (a container); run jupyter flame ignite in there"
        )
    _check_program(pid, program, name)
    young = AWAKE_AFTER - _age(pid)
    if young > 0:
        time.sleep(young)


def _check_program(pid: int, program: Path, name: str) -> None:
    if _kind(program) != _kind(Path("/proc/self/exe")):
        raise IgniteError(f"process {pid} ({name}) is of another architecture than the Python that runs this")
    maps = _text(f"/proc/{pid}/maps")
    libraries = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if ".so" in line and "python" in line}
    found = set(_exports(program))
    for library in libraries:
        if os.path.basename(library).startswith("libpython"):
            found |= set(_exports(Path(f"/proc/{pid}/root{library}")))
    if not set(_NEEDED) <= found:
        if libraries or "python" in os.path.basename(name):
            raise IgniteError(
                f"process {pid} ({name}) is a Python that does not export its functions (static, or stripped)"
            )
        raise IgniteError(f"process {pid} ({name}) is not a CPython")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _user(uid: int) -> str:
    import pwd  # Windows has none, and comes no further than `check`

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _age(pid: int) -> float:
    """Seconds since the process was started."""
    ticks = int(_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])
    return float(_text("/proc/uptime").split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def _kind(program: Path) -> bytes:
    """Class, byte order and machine of an ELF file."""
    try:
        with program.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise IgniteError(f"cannot read {program}: {error.strerror}") from error
    return head[4:6] + head[18:20] if head[:4] == b"\x7fELF" else b""


def _exports(program: Path) -> Iterator[bytes]:
    """The names that an ELF file exports: the defined ones in its table of dynamic symbols."""
    data = program.read_bytes()
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    start, size, count = (
        struct.unpack_from(order + "Q", data, 40)[0] if wide else struct.unpack_from(order + "I", data, 32)[0],
        *struct.unpack_from(order + "HH", data, 58 if wide else 46),
    )
    # type, offset, size, link, entry size of each section
    form, picked = ("IIQQQQIIQQ", (1, 4, 5, 6, 9)) if wide else ("IIIIIIIIII", (1, 4, 5, 6, 9))
    sections = []
    for index in range(count):
        fields = struct.unpack_from(order + form, data, start + index * size)
        sections.append([fields[one] for one in picked])
    for kind, offset, length, link, entry in sections:
        if kind != 11:  # SHT_DYNSYM
            continue
        names = data[sections[link][1] : sections[link][1] + sections[link][2]]
        for at in range(offset, offset + length, entry):
            name = struct.unpack_from(order + "I", data, at)[0]
            section = struct.unpack_from(order + "H", data, at + (6 if wide else 14))[0]
            if section:
                yield names[name : names.index(b"\0", name)]


def not_permitted(pid: int) -> str:
    """A sentence for a process that the system does not let us enter."""
    scope = _text(_PTRACE_SCOPE).strip()
    if scope in ("1", "2", "3"):
        cure = (
            "it cannot be changed without a restart" if scope == "3" else "as root: sysctl kernel.yama.ptrace_scope=0"
        )
        return f"not allowed to attach to process {pid} (kernel.yama.ptrace_scope is {scope}; {cure})"
    return f"not allowed to attach to process {pid}; a container needs the capability SYS_PTRACE"


# -- finding a safe moment ---------------------------------------------------------------------------------------------


def asleep(pid: int) -> int:
    """The id of a thread of ``pid`` that sleeps in a system call: there it is safe to make it run something else.

    A thread that computes may hold a lock, such as that of the C library's memory allocator; then the whole process
    would hang or crash.  Raises IgniteError if all threads compute.
    """
    try:
        Path(f"/proc/{pid}/syscall").read_text()
    except PermissionError:
        raise IgniteError(not_permitted(pid)) from None
    except OSError:
        pass  # the process is ending, or the system has no such file: then no thread is found asleep
    deadline = time.monotonic() + _FOUND_WITHIN
    while time.monotonic() < deadline:
        before = {thread: _sleep(pid, thread) for thread in _threads(pid)}
        time.sleep(_STILL)
        for thread, since in before.items():
            if since and _sleep(pid, thread) == since:
                return thread
    raise IgniteError(
        f"process {pid} computes in all of its threads, and cannot be stopped safely; try again, or add --force"
    )


def _threads(pid: int) -> list[int]:
    """The ids of the threads of a process, the main thread first."""
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return []


def _sleep(pid: int, thread: int) -> tuple[str, str] | None:
    """A value that changes with every sleep of a thread; None if it runs, or waits for a lock of the C library."""
    folder = f"/proc/{pid}/task/{thread}"
    called = _text(f"{folder}/syscall").split()
    if not called or not called[0].isdigit():
        return None  # the thread is running
    if int(called[0]) == _FUTEX.get(platform.machine()) and int(called[2], 16) & _OPERATION == _WAIT:
        return None
    switches = [line for line in _text(f"{folder}/status").splitlines() if "ctxt_switches" in line]
    return " ".join(called), " ".join(switches)
