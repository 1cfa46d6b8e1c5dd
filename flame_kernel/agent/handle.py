"""The agent's whole interface: ``handle``, called through Flame's ``invokeModule``; and the registry of sessions.

Large values cross the connection of a call of ``carry`` (see ``bulk``), files that of ``take_files``; on a multiplex
server files go by ``call_files``, each call with a number that is good once, in a conversation that ``files`` begins.
Messages that are too large for the server go by ``part`` and ``rest``, see ``large_messages``.

A request is a message of ``wire``: ``{"op", "n", …}``; the answer echoes ``n`` and has ``result``, or ``error`` with a
code and a sentence. Every op is short, but a parked ``poll`` or ``watch``: on a multiplex server one call stops all
others, so there they do not park.

    hello     session?                          who and where this server is; a ticket for one act on this connection;
                                                ``newest``: the number of the newest event of the session
    checkup                                     what a client's doctor wants to know
    open      session, ticket, place, shell, client, client_id?, notebook?, attach?, linger?, journal?, when_full?
                                                make or take up a session, and be its owner
    submit    session, epoch, request           begin a request; one whose id is known already is not begun again
    poll      session, epoch, ack, wait, gap, limit?, after?
                                                the events after ``after``, or else ``ack``: those up to that are
                                                not needed any more
    interrupt session, epoch, request?, id?, gently?
                                                stop a cell; the same ``id`` again does nothing; ``gently``: whatever
                                                was said before, so that its names are kept
    answer    session, epoch, input_id, value   the user's line
    detach    session, epoch, ack?              its owner leaves, and has what is up to ``ack``; it lives on
    close     session, epoch                    its owner ends it
    kill      session, life                     anybody else ends the very one that ``sessions`` has told of
    sessions                                    what lives here
    files     session, epoch                    begin a conversation about files by calls: {"talk": its name}
    call_files session, epoch, talk, number     ``call_files``, where the server has no thread for one more connection
    ask       session, ticket, client, client_id ask its owner to let go: {"asked": id}
    asked     session, id                       {"state": "waiting" | "granted" | "refused"}
    consent   session, epoch, id, allow         the owner's answer: {"done": whether it still waited}
    watch     session, after, wait, limit?      {"events", "newest", "skipped"}: see, and touch nothing
    cells     session                           the cells of which the journal has something, oldest first
    replay    session, request, after, limit?   {"events", "done"}: output of a cell that its owner was sent before

An act of an owner counts in its epoch alone, and only with an ``n`` that is higher than those before, of the caller
that opened it; what has no owner yet shows the ticket of the ``hello`` before it on its connection (``numbers``).  Else
the code is ``stale`` or ``taken_over``: it is an old message, sent again.

``open``  ``attach`` is absent or ``take``: take up a session, make it if there is none; ``must``: never make one (code
``no_session``); ``force``: take it from a client that is there, too.  Without force that is refused (``in_use``; the
error has ``client`` and ``since`` as well), unless that client has consented, has been away for 10 s, or is the same
``client_id``.  A client that sends no client_id takes it always.  The answer has ``acknowledged`` (where the one
before stopped reading: with an Inbox that begins there, what was missed comes first), ``newest``, ``running`` (cells
under way or queued: request, code, started) and ``inputs`` (contents of ``input_request``, with ``request``, that the
one before has read and nobody has answered).  What is wished for linger, journal and when_full holds from then on.

``ask``  a ``takeover_request`` event {"id", "client"} is put to the owner; it is granted at once if there is none, or
when it goes away.  Granted, the next ``open`` of that client_id succeeds.  The former owner gets ``taken_over``.

``watch``  the events' ``number`` is their position, which counts those that were dropped as well: good for the next
``after`` and not to be mixed with the numbers of ``poll``.  ``after`` None begins with the cell that runs, or now.
``newest`` is the newest position; ``skipped`` events were forgotten before this watcher came to them.

``replay``  the numbers are those under which ``poll`` sent them; ``after`` is the last one had, 0 to begin.  What the
owner has not been sent yet comes by ``poll`` and not here.  ``cells`` tells by ``complete`` whether all is kept.

``poll``  output that was dropped has a ``stream`` event of its cell in its place, on stderr:
``[N bytes of output dropped here: REASON]``.
"""

import os
import socket
import sys
import threading
import time

from . import own, sockets, threads
from .remote import bulk, files
from .session import checkup, child_frames, large_messages, places
from .session import session as live
from .session.session import Refusal
from .wire import message as wire
from .wire.machine import machine

# Seconds that a poll may be parked.
LONGEST_WAIT = 60.0
# Seconds between two rounds of the reaper, at most.
REAP_EVERY = 60.0
# Sessions of which it is remembered why they have ended.
ENDED_REMEMBERED = 64
# What ``replay`` gives of a cell: not the comms, whose state has gone on.
OUTPUT = ("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output")

_sessions = {}
_ended = {}  # name -> (when, why)
_lock = threading.Lock()
_boot_id = []
_reaper = []
_bundle = []
_packing = threading.Lock()


def bundle():
    """This agent for a child: its text as it was pushed, and what was compiled of it; packed for the first one."""
    package = sys.modules[own.PACKAGE]
    with _packing:
        if not _bundle:
            _bundle.append(child_frames.agent_frames(package.LOADER, package.BUNDLE, package.CODES))
            package.CODES.clear()
    return _bundle[0]


def handle(data):
    """Answer one request of a client; bytes in, bytes out, never an exception."""
    return large_messages.fitting(_answer_to(data))


def _answer_to(data):
    n = None
    sockets.tune()
    try:
        request, buffers = wire.decode(data)
        n = request.get("n")
        if buffers:
            request.setdefault("request", {})["buffers"] = [bytes(b) for b in buffers]
        op = _OPS.get(request.get("op"))
        if op is None:
            raise Refusal("unknown_op", "this agent knows no op %r" % (request.get("op"),))
        result = op(request)
        result, buffers = result if isinstance(result, tuple) else (result, ())
        return wire.encode({"n": n, "result": result}, buffers)
    except Refusal as e:
        return wire.encode({"n": n, "error": dict(e.more, code=e.code, message=str(e))})
    except wire.WireError as e:
        return wire.encode({"n": n, "error": {"code": "bad_request", "message": str(e)}})
    except KeyError as e:
        return wire.encode({"n": n, "error": {"code": "bad_request", "message": "the request has no %s" % e}})
    except Exception as e:  # a client waits for an answer, whatever went wrong; the text is told
        message = "%s: %s" % (type(e).__name__, e)
        return wire.encode({"n": n, "error": {"code": "failed", "message": message}})


def carry(data):
    """Called through Flame with a request of ``bulk``: carry a large value over the connection of this very call."""
    return _bytes_of(_carry, data, _daemon(sys._getframe(1)))


def take_files(data):
    """Called through Flame by a session's owner, with a ``nonce``: see ``files.take``."""
    return _bytes_of(_take_files, data, _daemon(sys._getframe(1)))


def call_files(data):
    """Called through Flame by a session's owner with ``talk``, ``number`` and the frames of requests: the frames of
    answers, see ``files.call``. A message that is sent again is refused, and so is one of an earlier owner."""
    return large_messages.fitting(_bytes_of(_call_files, data, None))


def part(data):
    """Called through Flame with one more part of a request; the last one is answered as the whole would be."""
    return _bytes_of(_part, data, None)


def rest(data):
    """Called through Flame for the bytes from ``at`` on of an answer that was ``large``."""
    return _bytes_of(lambda request, buffers, daemon: [large_messages.give(request["at"])], data, None)


def _daemon(caller):
    """Pyro's daemon, which has the HMAC key: our caller is Flame's ``invokeModule``, a method of its object."""
    return caller.f_locals["self"]._pyroDaemon


def _bytes_of(function, data, daemon):
    """What a function of these says; errors as bytes too, for an exception does not tell the client which call it
    answers. Nothing follows what a connection has carried."""
    try:
        request, buffers = wire.decode(data)
        found = function(request, buffers, daemon)
        return found or b"" if found is None or type(found) is bytes else wire.encode({"result": {}}, found)
    except Refusal as e:
        return wire.encode({"error": {"code": e.code, "message": str(e)}})
    except KeyError as e:
        return wire.encode({"error": {"code": "bad_request", "message": "the request has no %s" % e}})
    except Exception as e:  # whatever is wrong with the request
        return wire.encode({"error": {"code": "failed", "message": "%s: %s" % (type(e).__name__, e)}})


def _carry(request, buffers, daemon):
    bulk.take(request, daemon, _acting(request, carries=True).core.carry)


def _take_files(request, buffers, daemon):
    _acting(request, carries=True)
    files.take(bytes.fromhex(request["nonce"]), daemon)


def _part(request, buffers, daemon):
    whole = large_messages.take(request, buffers[0])
    return whole and {wire.HANDLE: handle, wire.CALL_FILES: call_files}[request["of"]](whole)


def _call_files(request, buffers, daemon):
    (asked,) = buffers
    session = _session(request)
    session.check(request["epoch"])
    session.go_on(request["talk"], request["number"])
    return [files.call(asked, request["talk"], request["number"])]


def _hello(request):
    return {
        "protocol": wire.PROTOCOL,
        "boot": _boot(),
        "machine": machine(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": list(sys.version_info[:3]),
        "servertype": _pyro_config("SERVERTYPE", "thread"),
        "bare": is_bare_flameserver(),
        "max_message": large_messages.most(),
        "main": getattr(sys.modules.get("__main__"), "__file__", None) or "",
    }


def _greet(request):
    hello = dict(_hello(request), ticket=sockets.ticket())
    session = _sessions.get(request.get("session"))
    if session is not None:
        hello["newest"] = session.log.newest
    return hello


def is_bare_flameserver():
    """Whether this process is Pyro's own flame server: there is no app to be inside of."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return "Pyro4.utils.flameserver" in sys.modules or getattr(spec, "name", None) == "Pyro4.utils.flameserver"


def _open(request):
    _show_ticket(request)
    hello = _hello(request)
    session_id = request["session"]
    place = request.get("place") or "auto"
    if place == "auto":
        place = "child" if hello["bare"] else "process"
    if place not in places.PLACES:
        raise Refusal("bad_place", "place is one of auto, process, child, main; not %r" % (place,))
    attach = request.get("attach")
    if attach not in (None, "take", "must", "force"):
        raise Refusal("bad_request", "attach is one of take, must, force; not %r" % (attach,))
    with _lock:
        session = _sessions.get(session_id)
        fresh = session is None
        if fresh:
            if attach == "must":
                raise _no_session(session_id)
            try:
                session = live.Session(session_id, place, request.get("shell") or "auto", request, bundle)
            except (RuntimeError, OSError) as e:
                raise Refusal("cannot_start", "the session cannot start there: %s" % e)
        epoch = session.attach(
            request.get("client") or "",
            request.get("client_id"),
            request.get("notebook") or "",
            attach == "force",
            request.get("n"),
        )
        if fresh:
            _sessions[session_id] = session
        else:
            session.set(request)
    _reap_soon()
    log = session.log.state()  # before what it says of itself: one of the two tells who takes it up
    return dict(
        hello,
        epoch=epoch,
        fresh=fresh,
        place=session.place.name,
        newest=log["newest"],
        acknowledged=log["acknowledged"],
        running=log["running"],
        inputs=log["inputs"],
        ready=session.core.described,
    )


def _submit(request):
    return {"new": _acting(request).submit(request["request"])}


def _poll(request):
    session = _session(request)
    connection = sockets.current()
    session.heard(request["epoch"], connection)
    batch = session.log.poll(
        request["ack"],
        _wait(request),
        request.get("gap", 0.0),
        request.get("limit", 1 << 20),
        lambda: sockets.is_over(connection),
        request.get("after"),
    )
    plain, buffers = wire.encode_events(batch)
    return {"events": plain}, buffers


def _watch(request):
    log, connection = _session(request).log, sockets.current()
    batch, newest, skipped = log.watch(
        request.get("after"), request.get("limit", 1 << 20), _wait(request), lambda: sockets.is_over(connection)
    )
    plain, buffers = wire.encode_events(batch)
    return {"events": plain, "newest": newest, "skipped": skipped}, buffers


def _replay(request):
    log = _session(request).log
    batch, done = log.replay(request["request"], OUTPUT, request.get("after") or 0, request.get("limit", 1 << 20))
    plain, buffers = wire.encode_events(batch)
    return {"events": plain, "done": done}, buffers


def _cells(request):
    return _session(request).log.state()["cells"]


def _interrupt(request):
    gently = bool(request.get("gently"))
    return {"done": _acting(request).interrupt(request.get("request"), request.get("id"), gently)}


def _answer(request):
    return {"taken": _acting(request).answer(request["input_id"], request["value"])}


def _ask(request):
    _show_ticket(request)
    return {"asked": _session(request).ask(request.get("client") or "", request["client_id"])}


def _asked(request):
    return {"state": _session(request).asked(request["id"])}


def _consent(request):
    session = _acting(request)
    return {"done": session.consent(request["id"], bool(request["allow"]))}


def _detach(request):
    session = _session(request)
    if request["epoch"] != session.epoch:
        return {"detached": False}
    return {"detached": _acting(request).detach(request["epoch"], request.get("ack") or 0)}


def _close(request):
    if request["session"] not in _sessions:
        return {"closed": False}
    return _end(_acting(request))


def _kill(request):
    life, session = request["life"], _sessions.get(request["session"])
    return {"closed": False} if session is None or session.life != life else _end(session)


def _end(session):
    with _lock:
        if _sessions.get(session.session_id) is not session:
            return {"closed": False}
        del _sessions[session.session_id]
        _note_end(session, "it was closed by a client")
    # In a thread of its own: a cell that does not end at once must not hold the caller, or a multiplex server.
    ending = threads.start("close", session.close)
    if not _is_multiplex():
        ending.join(5.0)
    _reap_soon()
    return {"closed": True}


def _list(request):
    with _lock:
        living = list(_sessions.values())
    return [session.described() for session in living]


def _files(request):
    return {"talk": _acting(request).begin_talk()}


def _checkup(request):
    return checkup.report()


_OPS = {
    "hello": _greet,
    "checkup": _checkup,
    "open": _open,
    "submit": _submit,
    "poll": _poll,
    "interrupt": _interrupt,
    "answer": _answer,
    "detach": _detach,
    "close": _close,
    "kill": _kill,
    "sessions": _list,
    "files": _files,
    "call_files": lambda request: ({}, _call_files(request, request["request"]["buffers"], None)),
    "ask": _ask,
    "asked": _asked,
    "consent": _consent,
    "watch": _watch,
    "cells": _cells,
    "replay": _replay,
}


def _session(request):
    session = _sessions.get(request["session"])
    if session is None:
        raise _no_session(request["session"])
    return session


def _acting(request, carries=False):
    """The session, for what only its owner may do, and for each call of its owner's once."""
    session = _session(request)
    session.act(request["epoch"], request.get("n"), carries)
    return session


def _show_ticket(request):
    if not sockets.take_ticket(request.get("ticket")):
        raise Refusal(
            "stale", "this is no call that was asked for on this connection; say hello first, and use its ticket"
        )


def _no_session(name):
    when, why = _ended.get(name, (None, ""))
    if when is not None:
        why = ": %s, %d s ago" % (why, time.monotonic() - when)
    return Refusal("no_session", "there is no session %s on this server%s" % (name, why))


def _note_end(session, why):
    """Under the lock: what to say to those who look for it."""
    _ended.pop(session.session_id, None)
    _ended[session.session_id] = time.monotonic(), why
    while len(_ended) > ENDED_REMEMBERED:
        del _ended[next(iter(_ended))]


def _wait(request):
    return 0.0 if _is_multiplex() else min(float(request.get("wait", 0)), LONGEST_WAIT)


def _boot():
    """Tells one life of the server from the next."""
    with _lock:
        if not _boot_id:
            _boot_id.append(os.urandom(8).hex())
    return _boot_id[0]


def _is_multiplex():
    return _pyro_config("SERVERTYPE", "thread") == "multiplex"


def _pyro_config(name, default):
    module = sys.modules.get("Pyro4.configuration")
    return getattr(getattr(module, "config", None), name, default)


# -- sessions that nobody comes back to ------------------------------------------------------------------------------


def _reap_soon():
    """Have the reaper look now: sessions have come, gone, or changed. It is a thread while there are sessions."""
    with _lock:
        if _reaper:
            _reaper[0].set()
        elif _sessions:
            wake = threading.Event()
            _reaper.append(wake)
            threads.start("reaper", _reap, wake)


def _reap(wake):
    """End the sessions whose client has not been seen for their linger time; until there is none."""
    while True:
        with _lock:
            gone = [session for session in _sessions.values() if session.idle_left <= 0]
            for session in gone:
                del _sessions[session.session_id]
                _note_end(session, "it was ended after %g s without a client" % session.linger)
            if not _sessions:
                del _reaper[:]
            soonest = min([session.idle_left for session in _sessions.values()] or [0])
        for session in gone:
            session.close()
        if not _reaper or _reaper[0] is not wake:
            return
        wake.wait(min(max(soonest, 0.01), REAP_EVERY))
        wake.clear()
