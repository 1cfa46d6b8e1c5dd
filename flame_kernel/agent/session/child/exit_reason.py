"""Why a child has ended, as far as the system tells: its status, its memory, and whether it ran out of memory.

The system does not say why it sent SIGKILL. We name the OOM killer only if the system's count of its kills has risen
since a second before the cell began, and a limit of CPU time if the child had one and has used it up.
"""

import os
import signal
import sys
import time

from ...wire.units import size_in_words

# What a signal means, in words for users.
MEANINGS = {
    "SIGSEGV": "invalid memory access in C code",
    "SIGBUS": "invalid memory access in C code, or a mapped file became shorter",
    "SIGABRT": "C code found an error and aborted",
    "SIGFPE": "division by zero in C code",
    "SIGILL": "C code that this processor cannot run",
    "SIGXCPU": "it used up its limit of CPU time",
    "SIGTERM": "somebody asked it to end",
    "SIGKILL": "somebody or something killed it",
}

# The exit statuses of Windows that say how a process died: their names, and what they mean.
ON_WINDOWS = {
    0xC0000005: ("access violation", "invalid memory access in C code"),
    0xC000001D: ("illegal instruction", "C code that this processor cannot run"),
    0xC0000017: ("no memory", "Windows could give it no more memory"),
    0xC0000094: ("integer division by zero", "division by zero in C code"),
    0xC00000FD: ("stack overflow", "a recursion in C code was too deep"),
    0xC000013A: ("Ctrl-Break", "somebody asked it to end"),
    0xC0000374: ("heap corruption", "C code wrote where it must not"),
    0xC0000409: ("fast fail", "C code found an error and aborted"),
}

# Counts that are younger than this many seconds are not read again: they take the system a quarter of a millisecond,
# which is half of what a server does for a short cell.
YOUNG = 1.0

# A process killed after at least this part of its limit of CPU time counts as killed for that: the time counted in the
# end may be less than the one on which the system acted.
NEAR = 0.8


class OomKills:
    """Counts the processes that the system has killed for lack of memory since this object was made."""

    _latest = None  # the one that was made last, for all sessions of this process

    def __init__(self):
        self._made = time.monotonic()
        self._before = oom_kills()

    @classmethod
    def recent(cls):
        """One that is at most YOUNG seconds old."""
        latest = cls._latest
        if latest is None or not 0 <= time.monotonic() - latest._made < YOUNG:
            latest = OomKills._latest = OomKills()
        return latest

    def __repr__(self):
        return "<OomKills %r>" % (self._before,)

    def verdict(self):
        """Whether the OOM killer has killed anything since then, in words."""
        now = oom_kills()
        OomKills._latest = None  # the next cell does not count this one
        risen = ["%s by %d" % (n, now[n] - self._before[n]) for n in now if now[n] > self._before.get(n, now[n])]
        if risen:
            return "probably the OOM killer, as the count of processes killed for want of memory rose in %s" % (
                " and in ".join(risen)
            )
        return "no sign of the OOM killer" if now else "whether it was the OOM killer cannot be seen here"


def oom_kills():
    """``{where: count}`` for this machine and for this process's control group; unreadable counts are left out."""
    found = {}
    for where, path, name in [("the machine", "/proc/vmstat", "oom_kill")] + [
        ("the server's control group", path, "oom_kill") for path in _cgroup_files()
    ]:
        try:
            with open(path) as f:
                for line in f:
                    key, _, count = line.partition(" ")
                    if key == name:
                        found[where] = int(count)
        except (OSError, ValueError):
            pass
    return found


def _cgroup_files():
    """The files of cgroup version 2 and 1 that have a line ``oom_kill N``."""
    try:
        with open("/proc/self/cgroup") as f:
            lines = [line.rstrip("\n").split(":", 2) for line in f]
    except (OSError, ValueError):
        return []
    files = []
    for _, controllers, path in lines:
        if not controllers:
            files.append("/sys/fs/cgroup%s/memory.events" % path)
        elif "memory" in controllers.split(","):
            files.append("/sys/fs/cgroup/memory%s/memory.oom_control" % path)
    return files


def reap(process, seconds):
    """Wait for a Popen to end: ``(status, peak memory, limit)``, or None if it still runs after ``seconds``.

    The status is negative for a signal. It is None if the app has consumed it, because it waits for all children itself
    or ignores SIGCHLD. The memory is in bytes, None if unknown. The limit is that of its CPU time in seconds, if it has
    used that up (see NEAR); otherwise None.
    """
    deadline, pause = time.monotonic() + seconds, 0.0005
    limit = _cpu_limit(process.pid)
    while True:
        try:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
        except ChildProcessError:
            process.returncode = 0
            return None, None, None
        if pid:
            process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            is_over = limit is not None and used.ru_utime + used.ru_stime >= NEAR * limit
            return process.returncode, peak, limit if is_over else None
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _cpu_limit(pid):
    """The seconds of CPU time at which the system kills a process; None if there is no limit, or it is not told."""
    try:
        import resource

        limit = resource.prlimit(pid, resource.RLIMIT_CPU)[1]
    except (ImportError, AttributeError, OSError):  # only Linux tells it of another process
        return None
    return None if limit == resource.RLIM_INFINITY else limit


def own_peak():
    """The peak memory of this process in bytes. A child's figure is never lower than this, however little it used."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_words(pid, status, stop, memory, peak, floor, limit=None):
    """Why the process ended, as a sentence without a full stop.

    stop    the signal by which a Stop has ended it, or None
    memory  the OomKills made when its latest cell began
    peak    bytes; a figure up to ``floor`` may be the server's own
    limit   see ``reap``
    """
    name, details = signal_name(status), []
    on_windows = _on_windows(status, stop) if os.name == "nt" else None
    if on_windows is not None:
        what, details = on_windows
    elif status is None:
        what = "ended; only the server's app got its exit status"
    elif name is None:
        what = "ended itself with exit status %d" % status
    elif stop is not None and -status == stop:
        what = "was ended by Stop with %s" % name
    else:
        what = "ended with signal %s" % name
        details = [MEANINGS[name]] if name in MEANINGS else []
        if name == "SIGKILL" and limit is not None:
            details = ["it used up its limit of %d s of CPU time" % limit]
        elif name == "SIGKILL":
            details.append(memory.verdict())
    if peak is not None:
        details.append(("peak memory " if peak > floor else "memory below ") + size_in_words(max(peak, floor)))
    return "the session's process %d %s" % (pid, what) + (" (%s)" % ", ".join(details) if details else "")


def _on_windows(status, stop):
    """``(how the process ended, details)`` where its exit status or a Stop says that on Windows; else None."""
    if stop is not None:
        return "was ended by Stop with %s" % ("Ctrl-Break" if stop == signal.SIGTERM else "TerminateProcess"), []
    if status == 3:
        return "ended itself with exit status 3", ["so does abort() in C code"]
    if status not in ON_WINDOWS:
        return None
    name, meaning = ON_WINDOWS[status]
    return "ended with %s (0x%08X)" % (name, status), [meaning]


def not_begun(executable):
    """What else to tell about a process that ended before its session began."""
    return (
        " before its session began: sys.executable there is %s, which must be the Python of the server, "
        "what it said is on the server's stderr, and place = process needs no second Python" % executable
    )


def signal_name(status):
    """The name of the signal in a status; None if there is none."""
    if status is None or status >= 0:
        return None
    try:
        return signal.Signals(-status).name
    except ValueError:
        return "number %d" % -status
