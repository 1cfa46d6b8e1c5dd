"""The process of a child: how it is started, spoken to and ended, with what POSIX has and without it.

With POSIX the two talk over a socket pair, over a second one they pass descriptors, and signals go to the child's
group. Without, as on Windows, the child connects on loopback and shows a secret that its stdin told it; a cell is
interrupted by a message, Ctrl-Break goes to the child's group, and a job object ends all that it has started.
"""

import array
import os
import signal
import socket
import subprocess
import sys
import time

from ... import sockets, windows
from ...wire import launch
from .. import descriptors
from . import exit_reason, loopback
from .frames import BOOT, BOOT_APART

# Whether a child has what POSIX has.
POSIX = hasattr(os, "killpg") and hasattr(os, "wait4") and hasattr(socket, "SCM_RIGHTS")
WINDOWS = os.name == "nt"
# Signals by the numbers that they have where they exist.
KILL = getattr(signal, "SIGKILL", 9)
# What is compared of this process's status, on Linux.
_STATUS = ("Umask", "Uid", "Gid", "Groups", "SigIgn", "NoNewPrivs", "Seccomp", "CapEff", "CapBnd", "Cpus_allowed:")
# Seconds between two looks whether a process has ended.
LOOK = 0.02


def conditions():
    """What a child gets from the server when it starts, as far as that may change meanwhile and can be read."""
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        folder = None
    limits, told = [], ()
    if POSIX:
        import resource

        limits = [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
        limits.append((os.getpriority(os.PRIO_PROCESS, 0), os.getuid(), os.geteuid(), os.getgid(), os.getegid()))
    if sys.platform == "linux":
        told = (
            tuple(line for line in _lines("/proc/self/status") if line.startswith(_STATUS)),
            _lines("/proc/self/cgroup"),
        )
    return folder, dict(os.environ), limits, told


def _lines(path):
    try:
        with open(path) as f:
            return f.readlines()
    except OSError:  # /proc is not mounted
        return []


def start():
    """A new child process. Raises OSError."""
    return PosixProcess() if POSIX else ApartProcess()


class PosixProcess:
    """A child with socket pairs and a process group.

    pid    its process id
    pipes  read ends, of its stacks, its stdout and its stderr; the child reads the last two itself, and what it has not
           read when it dies is read here
    """

    passes_descriptors = True
    has_agent = False  # the agent was sent already, see ``prestart``

    def __init__(self):
        ours, theirs = [descriptors.high_socket(one) for one in socket.socketpair()]
        # For passing descriptors, of connections and pipes that the child uses itself.
        giver, taker = [descriptors.high_socket(one) for one in socket.socketpair()]
        pipes = [[descriptors.high_number(number) for number in os.pipe()] for _ in range(3)]
        try:
            self.pid = self._begin([theirs.fileno(), taker.fileno()] + pipes[0][1:] + pipes[1] + pipes[2])
        except BaseException:  # raised again, whatever it is; what nobody will use is closed
            ours.close()
            giver.close()
            for r, _ in pipes:
                os.close(r)
            raise
        finally:
            theirs.close()
            taker.close()
            for _, w in pipes:
                os.close(w)
        self.pipes = [r for r, _ in pipes]
        self._socket, self._giver = ours, giver

    def __repr__(self):
        return "<%s %d>" % (type(self).__name__, self.pid)

    def _begin(self, given):
        """Start it with these descriptors; returns its process id."""
        self.popen = subprocess.Popen(
            launch.interpreter(sys.executable) + ["-c", BOOT] + [str(number) for number in given],
            pass_fds=given,
            stdin=subprocess.DEVNULL,
            stdout=descriptors.inherited(1),
            stderr=descriptors.inherited(2),
            start_new_session=True,
            env=launch.without_secrets(os.environ),
        )
        return self.popen.pid

    def connect(self):
        """The socket over which the two talk."""
        return self._socket

    def give(self, numbers):
        """Send descriptors; they belong to the message that is sent next."""
        packed = array.array("i", numbers)
        self._giver.sendmsg([b"d"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])

    def signal(self, sign):
        """Send a signal to the child's process group."""
        signal_group(self.pid, sign)

    def end_group(self):
        """End what the child has left in its group."""
        signal_group(self.pid, KILL)

    def reap(self, seconds):
        """See ``exit_reason.reap``."""
        return exit_reason.reap(self.popen, seconds)

    def close(self):
        """The process has ended: close what was for it."""
        self._socket.close()
        self._giver.close()


class ApartProcess:
    """A child without socket pairs and signals; with the same attributes and methods."""

    passes_descriptors = False
    has_agent = False

    def __init__(self):
        self._listener = loopback.SecretListener()
        pipes, self._job, self._socket = [], None, None
        try:
            pipes = [[descriptors.high_number(number) for number in os.pipe()] for _ in range(3)]
            words, how = launch.passed(pipes[0][1:] + pipes[1] + pipes[2])
            if WINDOWS:
                how["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
                if not windows.has_console():  # it would open a window
                    how["creationflags"] |= subprocess.CREATE_NO_WINDOW
            self.popen = subprocess.Popen(
                launch.interpreter(sys.executable) + ["-c", BOOT_APART] + words,
                stdin=subprocess.PIPE,
                stdout=descriptors.inherited(1),
                stderr=descriptors.inherited(2),
                env=launch.without_secrets(os.environ),
                **how,
            )
        except BaseException:  # raised again, whatever it is; what nobody will use is closed
            self._listener.close()
            for r, _ in pipes:
                os.close(r)
            raise
        finally:
            for _, w in pipes:
                os.close(w)
        self.pid = self.popen.pid
        self.pipes = [r for r, _ in pipes]
        if WINDOWS:
            self._job = windows.Job(int(self.popen._handle))
        try:
            with self.popen.stdin as told:
                told.write((" ".join(map(str, self._listener.words)) + "\n").encode())
        except OSError:
            pass  # the process has ended already; that is seen when it does not come

    def __repr__(self):
        return "<ApartProcess %d>" % self.pid

    def connect(self):
        """The socket over which the two talk, once the child has connected. Raises OSError."""
        if self._socket is None:
            self._socket = self._listener.accept(lambda: self.popen.poll() is None)
        return self._socket

    def signal(self, sign):
        """SIGTERM is sent as Ctrl-Break. SIGKILL ends the process, and so does SIGTERM where there is no console.
        SIGINT is not sent: the child is asked to interrupt its cell."""
        if sign == signal.SIGINT or self.popen.poll() is not None:
            return
        try:
            if sign == KILL:
                raise OSError("at once")
            self.popen.send_signal(signal.CTRL_BREAK_EVENT if WINDOWS else sign)
        except OSError:
            self.end_group()

    def end_group(self):
        """End the process, and on Windows all that it has started."""
        if self._job is not None:
            self._job.end()
        elif not WINDOWS and self.popen.poll() is None:
            os.kill(self.pid, KILL)

    def reap(self, seconds):
        """See ``exit_reason.reap``."""
        deadline = time.monotonic() + seconds
        while self.popen.poll() is None:
            if time.monotonic() > deadline:
                return None
            time.sleep(LOOK)
        return self.popen.returncode, None, None

    def close(self):
        """The process has ended: close what was for it."""
        self._listener.close()
        if self._socket is not None:
            sockets.shut(self._socket)
            self._socket.close()
        if self._job is not None:
            self._job.close()


def lives(pid):
    """Whether a process that is no child of this one still runs. On Linux."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def signal_group(pid, sign):
    """Send a signal to a process group."""
    try:
        os.killpg(pid, sign)
    except OSError:
        pass  # the process has ended
