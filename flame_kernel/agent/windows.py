"""What Windows tells of processes, memory and pipes, by ctypes: what psutil, /proc and select tell elsewhere.

Nothing here is called on another system. Processes that have ended, or that we may not look into, are left out.
"""

import ctypes
import time

_QUERY, _TERMINATE = 0x1000, 0x0001  # PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_TERMINATE
_SNAP_PROCESSES = 0x2
_1601 = 11644473600.0  # seconds from the beginning of Windows' clock to the epoch


class _Entry(ctypes.Structure):  # PROCESSENTRY32W
    _fields_ = [
        ("size", ctypes.c_ulong),
        ("usage", ctypes.c_ulong),
        ("pid", ctypes.c_ulong),
        ("heap", ctypes.c_size_t),
        ("module", ctypes.c_ulong),
        ("threads", ctypes.c_ulong),
        ("parent", ctypes.c_ulong),
        ("priority", ctypes.c_long),
        ("flags", ctypes.c_ulong),
        ("name", ctypes.c_wchar * 260),
    ]


class _Counters(ctypes.Structure):  # PROCESS_MEMORY_COUNTERS
    _fields_ = [
        ("size", ctypes.c_ulong),
        ("faults", ctypes.c_ulong),
        ("peak", ctypes.c_size_t),
        ("working_set", ctypes.c_size_t),
        ("rest", ctypes.c_size_t * 6),
    ]


class _Memory(ctypes.Structure):  # MEMORYSTATUSEX
    _fields_ = [
        ("size", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("total", ctypes.c_ulonglong),
        ("available", ctypes.c_ulonglong),
        ("rest", ctypes.c_ulonglong * 5),
    ]


class _Limits(ctypes.Structure):  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION
    _fields_ = [
        ("process_time", ctypes.c_longlong),
        ("job_time", ctypes.c_longlong),
        ("flags", ctypes.c_ulong),
        ("least", ctypes.c_size_t),
        ("most", ctypes.c_size_t),
        ("active", ctypes.c_ulong),
        ("affinity", ctypes.c_size_t),
        ("priority", ctypes.c_ulong),
        ("scheduling", ctypes.c_ulong),
        ("counters", ctypes.c_ulonglong * 6),
        ("memory", ctypes.c_size_t * 4),
    ]


_EXTENDED_LIMITS, _KILL_ON_CLOSE = 9, 0x2000  # JobObjectExtendedLimitInformation, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE


def _kernel():
    """kernel32, loaded for us alone: other code and we can declare its functions without affecting each other."""
    found = ctypes.WinDLL("kernel32")
    for name in ("CreateToolhelp32Snapshot", "OpenProcess", "CreateJobObjectW"):
        getattr(found, name).restype = ctypes.c_void_p
    return found


def peek(number):
    """How many bytes wait in the pipe with descriptor ``number``; None at its end."""
    import msvcrt

    count = ctypes.c_ulong()
    handle = ctypes.c_void_p(msvcrt.get_osfhandle(number))
    return count.value if _kernel().PeekNamedPipe(handle, None, 0, None, ctypes.byref(count), None) else None


def processes():
    """``{pid: (the pid of its parent, its name, its number of threads)}`` of all processes."""
    kernel, found = _kernel(), {}
    snapshot = ctypes.c_void_p(kernel.CreateToolhelp32Snapshot(_SNAP_PROCESSES, 0))
    entry = _Entry()
    entry.size = ctypes.sizeof(entry)
    more = kernel.Process32FirstW(snapshot, ctypes.byref(entry))
    while more:
        found[entry.pid] = entry.parent, entry.name, entry.threads
        more = kernel.Process32NextW(snapshot, ctypes.byref(entry))
    kernel.CloseHandle(snapshot)
    return found


def below(pid):
    """The descendants of a process, parents first. The pid of a parent that has ended may belong to a younger process
    now, so only a process that is younger than its parent counts."""
    every = processes()
    born = {one: (times(one) or (0.0, 0.0))[0] for one in every}
    found, todo = [], [pid]
    while todo:
        above = todo.pop(0)
        new = [
            one
            for one, (parent, _, _) in every.items()
            if parent == above and one not in found and one != pid and born[one] >= born.get(above, 0.0)
        ]
        found += new
        todo += new
    return found


def terminate(pid):
    """End a process and its descendants at once."""
    kernel = _kernel()
    for one in [pid] + below(pid):
        handle = ctypes.c_void_p(kernel.OpenProcess(_TERMINATE, False, one))
        if handle:
            kernel.TerminateProcess(handle, 1)
            kernel.CloseHandle(handle)


class Job:
    """A job object with one process and all that it starts. They end when it is closed, so also when we die.

    handle  of the process
    """

    def __init__(self, handle):
        kernel, limits = _kernel(), _Limits()
        limits.flags = _KILL_ON_CLOSE
        self._job = ctypes.c_void_p(kernel.CreateJobObjectW(None, None))
        kernel.SetInformationJobObject(self._job, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits))
        self._process = ctypes.c_void_p(handle)
        self._holds = bool(kernel.AssignProcessToJobObject(self._job, self._process))

    def __repr__(self):
        return "<Job %s>" % self._job.value

    def end(self):
        """End all of them at once."""
        if self._job is None:
            return
        if self._holds:
            _kernel().TerminateJobObject(self._job, 1)
        else:  # it is in another job, which lets it into none of ours (before Windows 8)
            terminate(_kernel().GetProcessId(self._process))

    def close(self):
        """Give the job up; what is left in it ends."""
        job, self._job = self._job, None
        if job is not None:
            _kernel().CloseHandle(job)


def crash_at_once():
    """A crash of this process, or of one that it starts, ends it without a window in which somebody has to answer."""
    _kernel().SetErrorMode(0x8003)  # SEM_FAILCRITICALERRORS, SEM_NOGPFAULTERRORBOX, SEM_NOOPENFILEERRORBOX
    try:
        ctypes.CDLL("ucrtbase")._set_abort_behavior(0, 3)  # _WRITE_ABORT_MSG, _CALL_REPORTFAULT
    except (OSError, AttributeError):
        pass  # a Python with another C library


def share_with_msvcrt(number):
    """C code of some compilers (MinGW) prints by msvcrt.dll, which has descriptors of its own, from before: give it
    ours of that ``number``."""
    import msvcrt
    import os

    try:
        library = ctypes.CDLL("msvcrt")
        handle = msvcrt.get_osfhandle(os.dup(number))  # msvcrt.dll's from now on
        library._dup2(library._open_osfhandle(ctypes.c_void_p(handle), os.O_BINARY), number)
    except (OSError, AttributeError):
        pass  # a Windows without it


def has_console():
    """Whether this process has a console, which the processes that it starts share."""
    return bool(_kernel().GetConsoleCP())


def times(pid):
    """``(when it was started, in seconds since the epoch; the CPU seconds it has used)``; None if it is gone."""
    kernel = _kernel()
    handle = ctypes.c_void_p(kernel.OpenProcess(_QUERY, False, pid))
    if not handle:
        return None
    made, ended, system, user = (ctypes.c_ulonglong() for _ in range(4))
    known = kernel.GetProcessTimes(handle, *map(ctypes.byref, (made, ended, system, user)))
    kernel.CloseHandle(handle)
    return (made.value / 1e7 - _1601, (system.value + user.value) / 1e7) if known else None


def memory(pid):
    """The bytes of memory that a process has; 0 if it is gone."""
    kernel = _kernel()
    counters = _Counters()
    counters.size = ctypes.sizeof(counters)
    handle = ctypes.c_void_p(kernel.OpenProcess(_QUERY, False, pid))
    if handle:
        kernel.K32GetProcessMemoryInfo(handle, ctypes.byref(counters), counters.size)
        kernel.CloseHandle(handle)
    return counters.working_set


def machine_memory():
    """``(bytes in all, bytes available)``."""
    status = _Memory()
    status.size = ctypes.sizeof(status)
    _kernel().GlobalMemoryStatusEx(ctypes.byref(status))
    return status.total, status.available


def age(pid):
    """Seconds since a process was started; None if it is gone."""
    found = times(pid)
    return None if found is None else time.time() - found[0]
