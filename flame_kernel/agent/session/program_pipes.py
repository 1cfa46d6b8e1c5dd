"""The pipes of a program: what a client's stdin brings, and its stdout and stderr, byte for byte.

They are the server's, so the last words of a child that dies are still in them. Bytes that are no UTF-8 are lone
surrogates in the events, as ``surrogateescape`` has it.
"""

import codecs
import fcntl
import os
import queue
import select
import signal
import struct
import termios
import threading
import time

from .. import threads

# Seconds between looks whether what was written has become events.
LOOK = 0.001


class Programs:
    """The pipes of all programs of a session, by their requests."""

    def __init__(self, log):
        self._log = log
        self._running = {}
        self._left = []  # of those that are over: processes may write to them

    def __repr__(self):
        return "<Programs %d running>" % len(self._running)

    def begin(self, request):
        """Pipes for a request that is a program: the descriptors for who runs it; none for any other request."""
        if not request.get("program"):
            return []
        made = self._running[request["id"]] = Pipes(self._log, request["id"], request["program"]["stdin"])
        return made.theirs

    def knows(self, request_id):
        """Whether that is a program that is not over."""
        return request_id in self._running

    def feed(self, request):
        """Carry out a ``stdin`` request: see ``Pipes.feed``."""
        pipes = self._running.get(request["of"])
        if pipes is not None:
            pipes.feed(request)
        else:
            _reply(self._log, request, "over")

    def settle(self, request_id):
        """A program is over, if it was one: see ``Pipes.settle``."""
        pipes = self._running.pop(request_id, None)
        if pipes is not None:
            pipes.settle()
            self._left.append(pipes)

    def settle_all(self):
        """The process of all of them has ended."""
        for pipes in list(self._running.values()):
            pipes.settle()

    def close(self):
        """Nothing is read any more. Again is no error."""
        for pipes in self._left + list(self._running.values()):
            pipes.close()
        self._running.clear()
        del self._left[:]


class Pipes:
    """stdin, stdout and stderr of the request ``request_id``; its output goes into ``log``.

    theirs  the descriptors for who runs it: stdout, stderr, and stdin where it has one of the client's
    """

    def __init__(self, log, request_id, stdin):
        self._log = log
        self._request_id = request_id
        self._chunks = queue.Queue()
        self._readers = {}  # descriptor -> [stream name, decoder, bytes that have become events]
        self._reading = threading.Lock()  # held from reading bytes until they are counted
        self.theirs = []
        for name in ("stdout", "stderr"):
            r, w = os.pipe()
            self._readers[r] = [name, codecs.getincrementaldecoder("utf-8")("surrogateescape"), 0]
            self.theirs.append(w)
        self._wake = os.pipe()
        self._reader = threads.start("program", self._read, self._wake[0])
        if stdin:
            r, w = os.pipe()
            self.theirs.append(r)
            threads.start("stdin", self._feed, w)

    def __repr__(self):
        return "<Pipes of %s, %d open>" % (self._request_id, len(self._readers))

    # -- stdin

    def feed(self, request):
        """What a ``stdin`` request brings, or with ``end`` nothing more; its reply comes when the program can have it.
        Where nobody reads any more the reply's status is ``over``."""
        self._chunks.put(request)

    def _feed(self, w):
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])  # an app may let it end the process
        status = "ok"
        while True:
            request = self._chunks.get()
            if status == "ok" and request is not None and not request.get("end"):
                status = _written(w, request["buffers"])
            elif w is not None:
                os.close(w)
                w, status = None, "over"
            if request is None:
                return
            _reply(self._log, request, status)

    # -- stdout and stderr

    def _read(self, wake):
        while self._readers:
            ready = select.select([wake] + list(self._readers), [], [])[0]
            if wake in ready:
                break
            for number in ready:
                with self._reading:
                    self._take(number)
        for number in list(self._readers):
            self._forget(number)
        os.close(wake)

    def _take(self, number):
        name, decoder, _ = self._readers[number]
        data = os.read(number, 1 << 16)
        text = decoder.decode(data, final=not data)
        if text:
            self._log.write(self._request_id, name, text)
        if data:
            self._readers[number][2] += len(data)
        else:
            self._forget(number)

    def _forget(self, number):
        self._readers.pop(number)
        os.close(number)

    def settle(self):
        """The program is over: wait until what it has written so far is in the log. Processes that it has left behind
        may write on; nothing reads stdin for them any more."""
        self._chunks.put(None)
        with self._reading:
            wanted = {number: one[2] + _waiting(number) for number, one in self._readers.items()}
        while any(self._come(number) < size for number, size in wanted.items()):
            time.sleep(LOOK)

    def _come(self, number):
        reader = self._readers.get(number)
        return float("inf") if reader is None else reader[2]

    def close(self):
        """Nothing is read any more. Again is no error."""
        wake, self._wake = self._wake, None
        if wake is not None:
            self._chunks.put(None)
            os.close(wake[1])  # the reader finds its end
            if threading.current_thread() is not self._reader:
                self._reader.join(5)


def _reply(log, request, status):
    log.append({"type": "stdin_reply", "request": request["id"], "content": {"status": status}})


def _written(number, buffers):
    """Write all of ``buffers``; ``over`` where nobody reads."""
    try:
        for data in buffers:
            view = memoryview(data)
            while view:
                view = view[os.write(number, view) :]
    except OSError:
        return "over"
    return "ok"


def _waiting(number):
    """Bytes that wait in a pipe."""
    try:
        return struct.unpack("i", fcntl.ioctl(number, termios.FIONREAD, b"\0\0\0\0"))[0]
    except OSError:
        return 0
