"""The pipes of a program: the client's stdin, and the program's stdout and stderr, byte for byte.

They belong to the server, so the last output of a child that dies can still be read.  Bytes that are not UTF-8 become
lone surrogates in the events, as with ``surrogateescape``.
"""

import codecs
import os
import queue
import signal
import threading
import time

from .. import threads
from ..pipes import ready, waiting

# How often to check whether all output has become events, in seconds.
LOOK = 0.001


class Programs:
    """The pipes of all programs of a session, by request."""

    def __init__(self, log):
        self._log = log
        self._running = {}
        self._left = []  # pipes of programs that have ended: other processes may still write to them

    def __repr__(self):
        return "<Programs %d running>" % len(self._running)

    def begin(self, request):
        """Make a program's pipes and return its descriptors; none for a request that is not a program."""
        if not request.get("program"):
            return []
        made = self._running[request["id"]] = Pipes(self._log, request["id"], request["program"])
        return made.theirs

    def knows(self, request_id):
        """Whether the request is a program that has not ended."""
        return request_id in self._running

    def feed(self, request):
        """Carry out a ``stdin`` request: see ``Pipes.feed``."""
        pipes = self._running.get(request["of"])
        if pipes is not None:
            pipes.feed(request)
        else:
            _reply(self._log, request, "over")

    def settle(self, request_id):
        """A request has ended; if it was a program, settle its pipes: see ``Pipes.settle``."""
        pipes = self._running.pop(request_id, None)
        if pipes is not None:
            pipes.settle()
            self._left.append(pipes)

    def settle_all(self):
        """The process of all these programs has ended: settle their pipes."""
        for pipes in list(self._running.values()):
            pipes.settle()

    def close(self):
        """Stop reading from all pipes. Idempotent."""
        for pipes in self._left + list(self._running.values()):
            pipes.close()
        self._running.clear()
        del self._left[:]


class Pipes:
    """stdin, stdout and stderr of the request ``request_id``; its output goes into ``log``.

    theirs  the descriptors for the program: stdout, stderr, and stdin if it gets the client's
    """

    def __init__(self, log, request_id, about):
        self._log = log
        self._request_id = request_id
        self._chunks = queue.Queue()
        self._readers = {}  # descriptor -> [stream name, decoder, number of bytes that have become events]
        self._reading = threading.Lock()  # held from reading bytes until they are counted
        self.theirs = []
        for name in ("stdout",) if about.get("one_output") else ("stdout", "stderr"):
            r, w = os.pipe()
            self._readers[r] = [name, codecs.getincrementaldecoder("utf-8")("surrogateescape"), 0]
            self.theirs.append(w)
        if about.get("one_output"):
            self.theirs.append(os.dup(self.theirs[0]))
        self._wake = os.pipe()
        self._reader = threads.start("program", self._read, self._wake[0])
        if about["stdin"]:
            r, w = os.pipe()
            self.theirs.append(r)
            threads.start("stdin", self._feed, w)

    def __repr__(self):
        return "<Pipes of %s, %d open>" % (self._request_id, len(self._readers))

    # -- stdin

    def feed(self, request):
        """Queue the data of a ``stdin`` request, or its ``end``. The reply comes when the data is written; its status
        is ``over`` if nobody reads any more."""
        self._chunks.put(request)

    def _feed(self, w):
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])  # an app may let SIGPIPE end the process
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
            found = ready([wake] + list(self._readers))
            if wake in found:
                break
            for number in found:
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
        """The program has ended: wait until everything it has written is in the log. Processes that it left behind may
        write on, but they get no more stdin."""
        self._chunks.put(None)
        with self._reading:
            wanted = {number: one[2] + waiting(number) for number, one in self._readers.items()}
        while any(self._come(number) < size for number, size in wanted.items()):
            time.sleep(LOOK)

    def _come(self, number):
        reader = self._readers.get(number)
        return float("inf") if reader is None else reader[2]

    def close(self):
        """Stop reading. Idempotent."""
        wake, self._wake = self._wake, None
        if wake is not None:
            self._chunks.put(None)
            os.close(wake[1])  # so that the reader thread ends
            if threading.current_thread() is not self._reader:
                self._reader.join(5)


def _reply(log, request, status):
    log.append({"type": "stdin_reply", "request": request["id"], "content": {"status": status}})


def _written(number, buffers):
    """Write all of ``buffers``: ``ok``, or ``over`` if nobody reads."""
    try:
        for data in buffers:
            view = memoryview(data)
            while view:
                view = view[os.write(number, view) :]
    except OSError:
        return "over"
    return "ok"
