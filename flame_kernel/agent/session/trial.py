"""Tries a cell: it runs in a forked copy of the process, and the copy is thrown away with all that has changed in it.

The copy has this process's memory, but only one of its threads, the one that runs the cell. Locks that other threads
held stay locked in it, so the copy is killed after ``seconds``. Its sockets are replaced, because two processes on one
connection would break it for both. Changes of files, and what other processes are told, are real.
"""

import asyncio
import marshal
import os
import signal
import socket
import stat
import struct
import sys
import threading
import time
import warnings

from .. import pipes
from ..output import streams
from .changes import Names
from .child.exit_reason import MEANINGS

# Seconds that a copy has to end after a SIGINT, before it is killed.
GRACE = 2.0
# A copy whose process has died kills itself this many seconds after its time is up.
ORPHAN = 5
_HEAD = struct.Struct("!I")
# Most bytes of one event; what is shown is limited elsewhere.
_MOST = 1 << 30


def refusal():
    """Why a cell cannot be tried here, in a sentence; empty if it can."""
    if not hasattr(os, "fork"):
        return "a cell cannot be tried here: this system cannot copy a process (it has no fork)"
    for name in ("gevent", "eventlet"):
        if _is_patched(name):
            return (
                "this process is patched by %s, whose loop does not live in a forked copy: a cell cannot be tried"
                % name
            )
    return ""


def _is_patched(name):
    patcher = sys.modules.get(name + (".monkey" if name == "gevent" else ".patcher"))
    try:
        return bool(patcher) and bool(
            patcher.is_module_patched("socket") if name == "gevent" else patcher.is_monkey_patched("socket")
        )
    except Exception:  # an odd version of it; then it is not known to be patched
        return False


async def run(host, cell, request):
    """Try ``request`` in a copy of this process; returns the content of its execute_reply."""
    why = refusal()
    if why:
        return host.refused_reply(request, "CannotTry", why)
    seconds = float(request["trial"]["seconds"])
    host.before_fork()
    threads = threading.active_count() - 1
    r, w = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of a fork while there are threads; see above
        pid = _fork()
    if pid == 0:
        _Copy(host, cell, request, w, seconds).run()  # does not come back
    os.close(w)
    trial = _Trial(host, cell, request, pid, r)
    try:
        return await trial.follow(seconds, threads)
    finally:
        trial.end()
        os.close(r)


def _fork():
    """The system's own fork: not that of a library which has replaced it, nor of our hooks."""
    import posix

    return posix.fork()


class _Trial:
    """The copy, seen from the process: its events come through a pipe."""

    def __init__(self, host, cell, request, pid, r):
        self._host = host
        self._cell = cell
        self._request = request
        self._pid = pid
        self._r = r
        self._data = bytearray()
        self._status = None
        self._reply = None
        os.set_blocking(r, False)
        pipes.enlarge(r)

    async def follow(self, seconds, threads):
        """Show what the copy shows; returns the content of the reply."""
        deadline = time.monotonic() + seconds
        stopped = late = False
        try:
            while self._read():
                left = deadline - time.monotonic()
                if left <= 0:
                    late = True
                    break
                await _readable(self._r, left)
        except (KeyboardInterrupt, asyncio.CancelledError):
            stopped = True
        if stopped or late:
            self._stop()
        if late:
            self._tell("Not done after %g s, so the copy was ended." % seconds)
            if threads:
                self._tell(
                    " It has one thread of this process's %d: what the others held locked stays locked in it, and what"
                    " they should do is not done." % (threads + 1)
                )
            self._tell(" --timeout S gives it more time.\n")
        if self._reply is not None and not self._reply.get("trial_failed"):
            return self._reply
        if stopped or late:
            return self._host.interrupted_reply(self._request)
        self.end()
        return self._host.refused_reply(
            self._request, "TrialDied", "the copy ended %s; this process did not" % self._how()
        )

    def _tell(self, text):
        self._host.tell(self._request["id"], text)

    def _read(self):
        """Take what has come; returns whether more may come."""
        while True:
            try:
                data = os.read(self._r, 1 << 20)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._data += data
            while len(self._data) >= _HEAD.size:
                size = _HEAD.unpack_from(self._data)[0]
                if len(self._data) < _HEAD.size + size:
                    break
                event = marshal.loads(bytes(self._data[_HEAD.size : _HEAD.size + size]))
                del self._data[: _HEAD.size + size]
                if event["type"] == "end":
                    self._reply = event["reply"]
                    return False
                self._host.pass_on(event)

    def _stop(self):
        """Interrupt the copy, so that it shows where it was, and give it a moment."""
        self._kill(signal.SIGINT)
        deadline = time.monotonic() + GRACE
        while self._read() and time.monotonic() < deadline:
            pipes.ready([self._r], max(0.0, deadline - time.monotonic()))

    def end(self):
        """End the copy and all that it has started. Idempotent."""
        if self._pid is None:
            return
        self._kill(signal.SIGKILL)
        pid, self._pid = self._pid, None
        try:
            self._status = os.waitpid(pid, 0)[1]
        except ChildProcessError:
            pass  # other code of the process waits for all children, and got the status of this one

    def _kill(self, number):
        for kill in (os.killpg, os.kill):
            try:
                kill(self._pid, number)
            except OSError:
                pass  # it has ended, or has no group of its own yet

    def _how(self):
        if self._status is None:
            return "without a word"
        if os.WIFSIGNALED(self._status):
            number = os.WTERMSIG(self._status)
            name = signal.Signals(number).name if number in set(signal.Signals) else "signal %d" % number
            return "by %s%s" % (name, ": " + MEANINGS[name] if name in MEANINGS else "")
        return "with exit status %d" % os.WEXITSTATUS(self._status)


async def _readable(number, seconds):
    """Wait until a descriptor can be read, at most so long."""
    loop = asyncio.get_event_loop()
    ready = loop.create_future()

    def set_ready():
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(number, set_ready)
    timer = loop.call_later(seconds, set_ready)
    try:
        await ready
    finally:
        timer.cancel()
        loop.remove_reader(number)


class _Copy:
    """The copy, seen from within. There this object is the session's ``log``, so all events go into the pipe."""

    def __init__(self, host, cell, request, w, seconds):
        self._host = host
        self._cell = cell
        self._request = request
        self._w = w
        self._seconds = seconds
        self._lock = threading.Lock()

    def run(self):
        """Run the cell, tell what it has changed, and end this process."""
        status = 1
        try:
            self._prepare()
            reply, text = self._tried()
            if text:
                self.write(self._request["id"], "stdout", text)
            self._send({"type": "end", "reply": reply})
            status = 0
        except BaseException as e:  # whatever it is, this process ends here, and its parent tells what is known
            try:
                self._send({"type": "end", "reply": {"trial_failed": repr(e)}})
            except BaseException:  # the pipe is gone
                pass
        finally:
            os._exit(status)

    def _prepare(self):
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self._seconds + ORPHAN)
        _cut_sockets()
        host = self._host
        host.becomes_copy(self)
        self._cell.allow_stdin = False
        # The loop's descriptors are shared with the process: changing them here would change them there.
        asyncio.set_event_loop(None)

    def _tried(self):
        host, request = self._host, self._request
        names = Names(request["code"], host.namespace.__dict__, getattr(host.shell, "hidden", ()))
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            reply = loop.run_until_complete(host.run_code(self._cell, request))
        except (KeyboardInterrupt, asyncio.CancelledError):
            reply = host.interrupted_reply(request)
        streams.flush_all()
        lines, more = names.differences()
        return reply, _told(lines, more)

    # -- what the session writes its events to -----------------------------------------------------------------------

    def append(self, event):
        self._send(event)

    def write(self, request_id, name, text):
        self._send({"type": "stream", "request": request_id, "content": {"name": name, "text": text}})

    def wait_for_room(self):
        pass  # the pipe is what makes this process wait

    def hand_over(self, in_any_case):
        pass

    def _send(self, event):
        data = marshal.dumps(event)
        if len(data) > _MOST:
            return
        with self._lock:
            data = memoryview(_HEAD.pack(len(data)) + data)
            while data:
                data = data[os.write(self._w, data) :]


def _told(lines, more):
    if not lines:
        text = "Thrown away. It would have changed none of the names that it mentions.\n"
    else:
        text = "Thrown away. It would have changed:\n" + "".join("  %s\n" % line for line in lines)
    return text + ("  (what is deeper or more than 5000 values was not compared)\n" if more else "")


def _cut_sockets():
    """Replace all sockets of this process by sockets without a peer: what the copy writes must not mix with what the
    process itself sends on the same connections."""
    for number in _descriptors():
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                one, other = socket.socketpair()
                other.close()
                os.dup2(one.fileno(), number)
                one.close()
        except OSError:
            pass  # closed already


def _descriptors():
    for path in ("/proc/self/fd", "/dev/fd"):
        try:
            return [int(name) for name in os.listdir(path) if int(name) > 2]
        except OSError:
            pass
    return list(range(3, 1024))
