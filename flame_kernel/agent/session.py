"""The agent's whole interface: ``handle``, called through Flame's ``invokeModule``; and the registry of sessions.

A request is a message of ``wire``: ``{"op", "n", …}``; the answer echoes ``n`` and has ``result``, or ``error`` with a
code and a sentence. Every op is short, but a parked ``poll``: on a multiplex server one call stops all others.

    hello                                       who and where this server is
    open      session, place, shell, client     make or take up a session
    submit    session, request                  begin a request; one whose id is known already is not begun again
    poll      session, epoch, ack, wait, gap    the events after ``ack``
    interrupt session, request?                 stop a cell
    answer    session, input_id, value          the user's line
    close     session                           end it
    sessions                                    what lives here
"""

import os
import socket
import sys
import threading
import time

from . import child, core, events, wire

# Requests remembered by a session, so that one repeated after a lost answer does not run twice.
REMEMBERED = 4096
# Seconds without a client after which a session is ended, unless its client asked for other.
LINGER = 24 * 3600.0

_sessions = {}
_lock = threading.Lock()
_boot_id = []
_reaper = []


class Refusal(Exception):
    """An op that cannot be done; ``code`` for programs, the text for people."""

    def __init__(self, code, message):
        Exception.__init__(self, message)
        self.code = code


class Session:
    """One session as the server knows it: its event log, and the core that runs its cells, here or in a child."""

    def __init__(self, session_id, place, shell, client, linger):
        self.session_id = session_id
        self.place = place
        self.client = client
        self.linger = linger
        self.started = time.time()
        self.epoch = 0
        self.log = events.EventLog()
        self._seen = {}
        self._lock = threading.Lock()
        if place == "child":
            self.core = child.ChildCore(session_id, self.log, shell, bundle())
        else:
            self.core = core.Core(session_id, place, self.log, shell, child.pids)
        self.core.start()

    def submit(self, request):
        """Begin ``request`` unless its id is known; whether it was new."""
        with self._lock:
            if request["id"] in self._seen:
                return False
            self._seen[request["id"]] = True
            while len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
        self.core.submit(request)
        return True

    def expired(self):
        return time.monotonic() - self.log.last_contact > self.linger

    def close(self):
        self.log.close()
        self.core.close()


def bundle():
    """The text of this agent as it was pushed: ``(loader, JSON text)``; a child is given the same."""
    package = sys.modules[__name__.rpartition(".")[0]]
    return package.LOADER, package.BUNDLE


def handle(data):
    """Answer one request of a client; bytes in, bytes out, never an exception."""
    n = None
    try:
        request, buffers = wire.decode(data)
        n = request.get("n")
        if buffers:
            request["request"]["buffers"] = [bytes(b) for b in buffers]
        op = _OPS.get(request.get("op"))
        if op is None:
            raise Refusal("unknown_op", "this agent knows no op %r" % (request.get("op"),))
        result = op(request)
        result, buffers = result if isinstance(result, tuple) else (result, ())
        return wire.encode({"n": n, "result": result}, buffers)
    except Refusal as e:
        return wire.encode({"n": n, "error": {"code": e.code, "message": str(e)}})
    except wire.WireError as e:
        return wire.encode({"n": n, "error": {"code": "bad_request", "message": str(e)}})
    except Exception as e:
        message = "%s: %s" % (type(e).__name__, e)
        return wire.encode({"n": n, "error": {"code": "failed", "message": message}})


def _hello(request):
    _tune_socket()
    return {
        "protocol": wire.PROTOCOL,
        "boot": _boot(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": list(sys.version_info[:3]),
        "servertype": _pyro_config("SERVERTYPE", "thread"),
        "bare": is_bare_flameserver(),
        "main": getattr(sys.modules.get("__main__"), "__file__", None) or "",
    }


def is_bare_flameserver():
    """Whether this process is Pyro's own flame server: there is no app to be inside of."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return "Pyro4.utils.flameserver" in sys.modules or getattr(spec, "name", None) == "Pyro4.utils.flameserver"


def _open(request):
    hello = _hello(request)
    session_id = request["session"]
    place = request.get("place") or "auto"
    if place == "auto":
        place = "child" if hello["bare"] else "process"
    if place not in ("process", "child"):
        raise Refusal("bad_place", "place is one of auto, process, child; not %r" % (place,))
    with _lock:
        session = _sessions.get(session_id)
        fresh = session is None
        if fresh:
            try:
                shell, client = request.get("shell") or "auto", request.get("client", "")
                session = Session(session_id, place, shell, client, request.get("linger", LINGER))
            except (RuntimeError, OSError) as e:
                raise Refusal("cannot_start", "the session cannot start there: %s" % e)
            _sessions[session_id] = session
            _start_reaper()
        session.epoch += 1
        epoch = session.epoch
    newest = session.log.newest  # before what it says of itself: one of the two tells who takes it up
    return dict(hello, epoch=epoch, fresh=fresh, place=session.place, newest=newest, ready=session.core.described)


def _submit(request):
    return {"new": _session(request).submit(request["request"])}


def _poll(request):
    session = _session(request)
    if request["epoch"] != session.epoch:
        raise Refusal("taken_over", "another client has taken up the session %s" % session.session_id)
    wait = 0.0 if _pyro_config("SERVERTYPE", "thread") == "multiplex" else min(float(request.get("wait", 0)), 60.0)
    batch = session.log.poll(request["ack"], wait, request.get("gap", 0.0), request.get("limit", 1 << 20))
    plain, buffers = wire.encode_events(batch)
    return {"events": plain}, buffers


def _interrupt(request):
    return {"done": _session(request).core.interrupt(request.get("request"))}


def _answer(request):
    return {"taken": _session(request).core.answer(request["input_id"], request["value"])}


def _close(request):
    with _lock:
        session = _sessions.pop(request["session"], None)
        last = not _sessions
    if session is None:
        return {"closed": False}
    # In a thread of its own: a cell that does not end at once must not hold the caller, or a multiplex server.
    ending = threading.Thread(target=session.close, name="flame-close")
    ending.daemon = True
    ending.start()
    if _pyro_config("SERVERTYPE", "thread") != "multiplex":
        ending.join(5.0)
    if last:
        _stop_reaper()
    return {"closed": True}


def _list(request):
    with _lock:
        living = list(_sessions.values())
    now = time.time()
    return [
        {
            "session": s.session_id,
            "place": s.place,
            "client": s.client,
            "pid": s.core.pid,
            "age": now - s.started,
            "waiting": s.log.waiting,
        }
        for s in living
    ]


_OPS = {
    "hello": _hello,
    "open": _open,
    "submit": _submit,
    "poll": _poll,
    "interrupt": _interrupt,
    "answer": _answer,
    "close": _close,
    "sessions": _list,
}


def _session(request):
    session = _sessions.get(request["session"])
    if session is None:
        raise Refusal("no_session", "there is no session %s on this server" % request["session"])
    return session


def _boot():
    """Tells one life of the server from the next."""
    with _lock:
        if not _boot_id:
            _boot_id.append(os.urandom(8).hex())
    return _boot_id[0]


def _pyro_config(name, default):
    module = sys.modules.get("Pyro4.configuration")
    return getattr(getattr(module, "config", None), name, default)


def _tune_socket():
    """NODELAY, and keepalive so that a client that vanished frees its thread in minutes, not in two hours."""
    context = getattr(sys.modules.get("Pyro4.core"), "current_context", None)
    connection = getattr(context, "client", None)
    sock = getattr(connection, "sock", None)
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    except OSError:
        pass  # the connection is just closing


def _start_reaper():
    """A thread, while there are sessions, that ends those whose client has not been seen for their linger time."""
    if _reaper:
        return
    stop = threading.Event()

    def reap():
        while not stop.wait(60.0):
            with _lock:
                gone = [_sessions.pop(s.session_id) for s in list(_sessions.values()) if s.expired()]
                if not _sessions:
                    del _reaper[:]
                    stop.set()
            for session in gone:
                session.close()

    thread = threading.Thread(target=reap, name="flame-reaper")
    thread.daemon = True
    _reaper.append(stop)
    thread.start()


def _stop_reaper():
    with _lock:
        if not _sessions:
            for stop in _reaper:
                stop.set()
            del _reaper[:]
