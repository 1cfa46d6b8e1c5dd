"""The client's functions and iterators that were passed to a call: code here can call them while that call runs.

Each use is an event ``callback_request`` of that request (``{"callback_id", "callback": which, "what": "call" or
"next"}``, with the arguments as buffers).  It waits for the client's answer, an ``object`` request with op
``callback``.
"""

import _thread
import os
import threading

from ..wire import values
from . import exceptions

# Arguments of up to this many bytes are sent by value; for larger ones the client gets stand-ins.
LIMIT = 1 << 20


class Over(RuntimeError):
    """The call to which a callback was passed has ended."""


class Callbacks:
    """The callbacks that one request has passed. Any thread of this process may use them while the request runs.

    objects     the session's Objects
    request_id  the request
    """

    def __init__(self, objects, host, request_id):
        self._objects = objects
        self._host = host
        self._request = request_id
        self._pid = os.getpid()
        self._is_over = False
        self._made = {}
        self.raised = {}  # id of an exception raised by the client's function -> (its number there, the exception)

    def __repr__(self):
        return "<Callbacks of %s>" % self._request

    def make(self, number, kind, name):
        """The object that represents the client's function or iterator here."""
        if number not in self._made:
            self._made[number] = (Iterator if kind == "iterator" else Function)(self, number, str(name)[:200])
        return self._made[number]

    def close(self):
        """The request has ended: allow no more callbacks."""
        self._is_over = True

    def ask(self, number, name, what, args, kwargs):
        """Call the client's function: returns what it returns, or raises what it raises."""
        if self._is_over or os.getpid() != self._pid:
            where = "in the process" if os.getpid() != self._pid else "while the call runs"
            raise Over("%s is on the client's side: it can be called only %s that it was given to" % (name, where))
        parts = self._encoded([args, kwargs])
        answer = self._objects.ask_client(self._request, {"callback": number, "what": what}, parts, self._gone)
        if answer is None or answer.get("status") == "over":
            raise Over("%s is on the client's side, which is not waiting for the call any more" % name)
        value = self._objects.answered(answer, self)
        if answer["status"] == "ok":
            return value
        error = exceptions.made(value, self._host.namespace.__dict__)
        if isinstance(answer.get("raised"), int):
            self.raised[id(error)] = (answer["raised"], error)
        raise error

    def _gone(self):
        return self._is_over

    def _encoded(self, value):
        told = self._objects.told
        reference = exceptions.held_once(self._objects.handed)
        try:
            return values.encode(value, reference, libraries=(), limit=LIMIT, classes=told.known, unsure=told.fixed)
        except values.TooLarge:
            args, kwargs = value
            args = tuple(map(exceptions.Held, args))
            return values.encode([args, {name: exceptions.Held(one) for name, one in kwargs.items()}], reference)


class Function:
    """A function of the client."""

    def __init__(self, callbacks, number, name):
        self._flame = (callbacks, number)
        self.__name__ = self.__qualname__ = name

    def __repr__(self):
        return "<function %s of the client>" % self.__name__

    def __call__(self, *args, **kwargs):
        callbacks, number = self._flame
        return callbacks.ask(number, self.__name__, "call", args, kwargs)

    def __reduce__(self):
        raise TypeError("%s is on the client's side, and stays there" % self.__name__)


class Iterator:
    """An iterator of the client. It fetches items in batches, which grow while the client delivers quickly."""

    def __init__(self, callbacks, number, name):
        self._flame = (callbacks, number, name)
        self._items = []
        self._end = None
        self._count = 1
        self._lock = threading.Lock()

    def __repr__(self):
        return "<%s of the client>" % self._flame[2]

    def __iter__(self):
        return self

    def __next__(self):
        callbacks, number, name = self._flame
        with self._lock:
            if not self._items and self._end is None:
                items, end, quick = callbacks.ask(number, name, "next", (self._count,), {})
                self._items, self._end = list(reversed(items)), end
                self._count = min(2 * self._count, 512) if quick else 1
            if self._items:
                return self._items.pop()
            end, self._end = self._end, True
        if end is True:
            raise StopIteration
        raise exceptions.made(end, {})

    def __reduce__(self):
        raise TypeError("%s is on the client's side, and stays there" % self._flame[2])


class Waiting:
    """The questions to the client that wait for answers.

    append  called with an event's type, its request, its content and buffers
    closed  called to learn whether the session has ended, so that nobody will answer
    """

    def __init__(self, append, closed):
        self._append = append
        self._closed = closed
        self._waiting = {}  # id -> [lock, the answer]
        self._count = 0
        self._lock = threading.Lock()

    def __repr__(self):
        return "<Waiting for %d answers>" % len(self._waiting)

    def ask(self, request_id, content, buffers, is_over):
        """Ask the client; returns its answer, a request, or None if there will be none."""
        answered = _thread.allocate_lock()
        answered.acquire()
        with self._lock:
            self._count += 1
            known = self._count
            self._waiting[known] = [answered, None]
        try:
            self._append("callback_request", request_id, dict(content, callback_id=known), None, buffers)
            while not answered.acquire(timeout=0.05):  # short, so that an asynchronous interrupt gets through
                if self._closed() or is_over():
                    return None
            return self._waiting[known][1]
        finally:
            self._waiting.pop(known, None)

    def answer(self, request):
        """Pass the client's answer to the question, if it still waits."""
        waiting = self._waiting.get(request.get("callback_id"))
        if waiting is not None and waiting[1] is None:
            waiting[1] = request
            waiting[0].release()
