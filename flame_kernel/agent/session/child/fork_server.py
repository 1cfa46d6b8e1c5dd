"""A fork server, as multiprocessing's: a process that has the agent loaded and forks itself for sessions in children,
in a tenth of the time that an interpreter takes to start. Linux only: elsewhere a fork that starts no other program is
not safe.

It is kept ready for the next child, see ``spare``. Where that is not wanted, it is started for the fifth child that
lives at the same time, and ends with the last one that it has forked. It has no threads, and forks only while what it
got from the server when it started still is what a new child would get.

This file has both ends of it. `start` and ``ForkServer`` are the server's; `serve` is its own.
"""

import gc
import os
import random
import socket
import sys
import threading
import time
import types

from ... import pyro
from ...wire import message as wire
from .. import descriptors
from . import exit_reason, processes
from .frames import FORKS, WARM, Frames, send_frame

# Whether there can be one: with other Pythons than CPython it has not been tried. It counts its threads in /proc.
POSSIBLE = (
    sys.platform == "linux"
    and sys.implementation.name == "cpython"
    and processes.POSIX
    and os.path.isdir("/proc/self/task")
)
# So many children are started without it where none is kept: it takes as long to start as one of them, and is a process
# more.
FEW = 4
# Seconds for its answer: when it starts, since it may import IPython on a busy machine; and when it forks.
PATIENCE, SOON = 30.0, 5.0
# The longest pause between two looks whether a child has ended, in seconds.
LOOK = 0.05
# Its answer that it can fork, and modules with numbers or loops that forks would have in common: then it cannot.
READY, UNFIT = wire.encode({}), {"numpy", "torch", "gevent", "eventlet"}
# How many descriptors a child gets: those of PosixProcess, stdout and stderr.
GIVEN = 9

_lock = threading.Lock()
_present = []  # the ForkServer
_refused = []  # why there is none on this server
_pids = set()


def start(bundle, warm, others):
    """A child that was forked, or None: an interpreter is to be started. ``warm``: it needs IPython; ``others``: how
    many children live."""
    if not POSSIBLE or _refused or pyro.is_multiplex() or (others < FEW and not _present):
        return None
    with _lock:
        try:
            under = processes.conditions()
            if _present and not _present[0].suits(under, warm):
                _present.pop().retire()
            if not _present and others < FEW:
                return None
            if not _present:
                _present.append(ForkServer(bundle, under, warm))
            return ForkedProcess(_present[0])
        except OSError as e:
            if not _present or not _present[0].is_lost:  # it would refuse again
                _refused.append(str(e))
            while _present:
                _present.pop().retire()
            return None


def make(bundle, warm):
    """Have one ready, which stays until ``drop``; returns whether there is one. ``warm``: with IPython."""
    if not POSSIBLE or _refused:
        return False
    under = processes.conditions()
    try:
        made = ForkServer(bundle, under, warm)  # without the lock: a child that comes meanwhile does not wait for it
    except OSError as e:
        _refused.append(str(e))
        return False
    with _lock:
        if _present and _present[0].suits(under, warm):
            made.retire()
        else:
            while _present:
                _present.pop().retire()
            _present.append(made)
        _present[0].is_kept = True
    return True


def ready(keep=False):
    """The process id of the one that can fork now; None if there is none. ``keep``: it stays until ``drop``."""
    with _lock:
        if not (_present and _present[0].suits(processes.conditions(), False)):
            return None
        _present[0].is_kept = _present[0].is_kept or keep
        return _present[0].pid


def drop():
    """Keep none any more: the one that is there ends with its last child."""
    with _lock:
        while _present:
            _present.pop().retire()


def pids():
    """The process ids of those that live, in a set."""
    return set(_pids)


class ForkServer:
    """A fork server, as this process sees it. Raises OSError if it does not start.

    under    the conditions in which it was started
    is_warm  it has imported IPython
    is_lost  it has not answered: it was killed, or stopped
    is_kept  it stays when its last child has ended
    """

    def __init__(self, bundle, under, warm):
        self.under = under
        self.is_warm = warm
        self.is_kept = False
        self._lock = threading.Lock()
        self._children = 0
        self.is_lost = False
        self._process = processes.PosixProcess()
        _pids.add(self._process.pid)
        self._socket = self._process.connect()
        self._frames = Frames(self._socket)
        try:
            self._socket.settimeout(PATIENCE)
            for part in bundle():
                send_frame(self._socket, part)
            if warm:
                send_frame(self._socket, WARM)
            self._ask_in_turn(FORKS)
            self._socket.settimeout(SOON)
        except BaseException:  # raised again, whatever it is; the process does not stay
            self._end()
            raise

    def __repr__(self):
        return "<ForkServer %d, %d children>" % (self._process.pid, self._children)

    @property
    def pid(self):
        return self._process.pid

    def suits(self, under, warm):
        """Whether a child may come from it now. ``warm``: it needs IPython."""
        fits = self.under == under and (self.is_warm or not warm)
        return fits and not self.is_lost and self._process.popen.poll() is None

    def fork(self, numbers):
        """The process id of a new child, which gets these descriptors. Raises OSError."""
        with self._lock:
            self._process.give(numbers)
            answer = self._ask_in_turn(wire.encode({"op": "fork"}))
            self._children += 1
        return answer["pid"]

    def ended(self, pid):
        """``[status, peak memory, limit]`` of a child, see ``exit_reason.reap``; None if it still runs. OSError."""
        with self._lock:
            return self._ask_in_turn(wire.encode({"op": "reap", "pid": pid}))["ended"]

    def _ask_in_turn(self, frame):
        answer = None
        if not self.is_lost:
            try:
                send_frame(self._socket, frame)
                answer = self._frames.read()
            except OSError:
                pass
        if answer is None:
            self.is_lost = True  # what it answers later would be taken for another answer
            self._process.signal(processes.KILL)
            raise OSError("the fork server does not answer")
        answer = wire.decode(answer)[0]
        if "error" in answer:
            raise OSError(answer["error"])
        return answer

    def left(self):
        """A child has ended, and nobody asks about it any more."""
        with self._lock:
            self._children -= 1
        with _lock:
            self._end_if_idle()

    def retire(self):
        """It forks no more, and ends with its last child. Call it with the module's lock."""
        self._end_if_idle()

    def _end_if_idle(self):
        if self._children > 0 or (self.is_kept and self in _present):
            return
        if self in _present:
            _present.remove(self)
        self._end()

    def _end(self):
        self._process.signal(processes.KILL)
        self._process.reap(float("inf"))
        self._process.close()
        for pipe in self._process.pipes:
            os.close(pipe)
        _pids.discard(self._process.pid)


class ForkedProcess(processes.PosixProcess):
    """A child of the fork server; with the same attributes and methods. Raises OSError."""

    has_agent = True

    def __init__(self, server):
        self._server = server
        processes.PosixProcess.__init__(self)

    def _begin(self, given):
        standard = [descriptors.opened(number) for number in (1, 2)]
        try:
            return self._server.fork(given + standard)
        finally:
            for number in standard:
                os.close(number)

    def reap(self, seconds):
        deadline, pause = time.monotonic() + seconds, 0.0005
        while True:
            try:
                ended = self._server.ended(self.pid)
            except OSError:  # the fork server was killed, and with it the status is lost
                ended = None if processes.lives(self.pid) else (None, None, None)
            if ended is not None:
                return tuple(ended)
            if time.monotonic() > deadline:
                return None
            time.sleep(pause)
            pause = min(2 * pause, LOOK)

    def close(self):
        processes.PosixProcess.close(self)
        self._server.left()


def serve(sock, frames, go_on_without_server):
    """In the fork server: fork a child for each request until the server is gone. Returns in a child, with its socket
    and the frames that come over it."""
    numbers = [int(word) for word in sys.argv[2:]]
    for number in [sock.fileno()] + numbers[:2]:
        os.set_inheritable(number, False)
    for number in numbers[2:]:  # a child gets its own
        os.close(number)
    taker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, numbers[0])
    taker.settimeout(None)
    go_on_without_server(numbers[1])
    gc.collect()
    if hasattr(gc, "freeze"):  # a collection would write to all objects, and so copy their memory
        gc.freeze()
    send_frame(sock, _readiness())
    while True:
        frame = frames.read()
        if frame is None:
            os._exit(0)
        message = wire.decode(frame)[0]
        if message["op"] == "reap":
            ended = exit_reason.reap(types.SimpleNamespace(pid=message["pid"]), -1)
            send_frame(sock, wire.encode({"ended": ended}))
            continue
        given = descriptors.received(taker, GIVEN)
        answer = _readiness()
        if answer == READY:
            try:
                pid = os.fork()
            except OSError as e:
                answer = wire.encode({"error": str(e)})
            else:
                if not pid:
                    sock.close()
                    taker.close()
                    os.close(numbers[1])
                    return _begin(given)
                answer = wire.encode({"pid": pid})
        for number in given:
            os.close(number)
        send_frame(sock, answer)


def _readiness():
    """Whether a fork would be as good as a new process: what Python imports when it starts may have begun threads."""
    count = len(os.listdir("/proc/self/task"))
    loaded = sorted(UNFIT.intersection(sys.modules))
    if count == 1 and not loaded:
        return READY
    return wire.encode({"error": "threads: %d, modules: %s" % (count, ", ".join(loaded))})


def _begin(given):
    """In a child: as if an interpreter had been started with these descriptors."""
    os.setsid()
    for number in (2, 1):
        one = given.pop()
        os.dup2(one, number)
        os.close(one)
    random.seed()  # before Python 3.7 a fork goes on with the numbers of the process that it was forked from
    sys.argv[1:] = [str(number) for number in given]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, given[0])
    sock.settimeout(None)
    return sock, Frames(sock)
