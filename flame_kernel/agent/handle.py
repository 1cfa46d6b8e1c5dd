"""The agent's whole interface: functions that clients call through Flame's ``invokeModule``.

``handle`` answers one request.  Large values travel over the connection of a call of ``carry`` (see ``bulk``), files
over that of ``take_files``, forwarded ports over that of ``forward`` (see ``forward.far_end``).  On a multiplex server
files travel in calls of ``call_files``, in a conversation that op ``files`` begins; each of these calls has a number
that is valid once.  Messages too large for the server are sent with ``part`` and fetched with ``rest``, see
``large_messages``.

A request is a message of ``wire``: ``{"op", "n", …}``.  The answer repeats ``n`` and has ``result``, or ``error`` with
a code and a sentence.  Every op returns soon, except a ``poll`` or ``watch`` that waits.  On a multiplex server one
call blocks all others, so there they do not wait.

    hello     session?                          who and where this server is; a ticket for one call on this connection;
                                                ``newest``: the number of the session's newest event
    checkup                                     facts for the client's ``doctor`` command
    open      session, ticket, place, shell, client, client_id?, notebook?, attach?, linger?, journal?, when_full?
                                                make a session or take one up, and become its owner
    submit    session, epoch, request           start a request; a request whose id is known is not started again
    do        session, epoch, request, ack, after, wait, limit, alone
                                                also give the events after ``after`` up to the reply, if that comes
                                                within ``wait`` seconds, else none; with ``alone`` only the reply, if
                                                nothing else came. ``poll`` gives them, too, until they are acknowledged
    read      session, epoch, ack               the events up to ``ack`` have come, and may be forgotten
    submits   session, epoch, request, more     several requests in one call, see ``_submits``
    portion   session, epoch, id, at            the next bytes of a request that is too large for the link, as a buffer:
                                                {"come": bytes}; the op itself then has ``gathered``, that id
    poll      session, epoch, ack, wait, gap, limit?, after?, most?, mark?, at?
                                                the events after ``after``, or after ``ack`` if there is none; events up
                                                to ``ack`` may be forgotten; with ``most`` bytes: see ``log/reading``
    interrupt session, epoch, request?, id?, gently?
                                                stop a cell; the same ``id`` again does nothing; ``gently``: only
                                                interrupt, whatever was sent before, so that the session keeps its
                                                variables
    answer    session, epoch, input_id, value   the line that the user typed
    detach    session, epoch, ack?              the owner leaves, having read up to ``ack``; the session lives on
    close     session, epoch                    the owner ends the session
    kill      session, life                     anyone ends the session, if ``life`` is what ``sessions`` has listed
    sessions                                    the sessions of this server; ``spare``: see ``child.spare.pid``
    files     session, epoch                    begin a conversation about files by calls: {"talk": its name}
    call_files session, epoch, talk, number, soon?  like ``call_files``, if the server has no thread for another
                                                connection; ``soon`` for small files: code ``slow`` if they take long
    ask       session, ticket, client, client_id ask the owner to give the session up: {"asked": id}
    asked     session, id                       {"state": "waiting" | "granted" | "refused"}
    consent   session, epoch, id, allow         the owner's answer: {"done": whether anyone still waited for it}
    watch     session, after, wait, limit?      {"events", "newest", "skipped"}: look on without changing anything
    cells     session                           the cells with events in the journal, oldest first
    replay    session, request, after, limit?   {"events", "done"}: a cell's output that its owner was already sent

A call that acts for the owner is valid only in its epoch, and only with an ``n`` higher than all before, from the
caller that opened the epoch.  A caller that owns nothing yet shows the ticket that ``hello`` gave it on the same
connection (``call_numbers``).  Anything else is an old message, sent again: the code is ``stale`` or ``taken_over``.

``open``  ``attach`` absent or ``take``: take the session up, or make it if there is none; ``must``: never make one
(code ``no_session``); ``force``: take it even from a client that is connected.  Without ``force``, taking it from
another client is refused (code ``in_use``; the error also has ``client`` and ``since``), unless that client has
consented, has been away for 10 s (3 s if its connection is closed), or has the same ``client_id``.  A client that
sends no client_id can always take it.
The answer has ``acknowledged`` (where the previous owner stopped reading: an Inbox that begins there first gets what
was missed), ``newest``, ``running`` (cells running or queued: request, code, started) and ``inputs`` (contents of each
``input_request``, with ``request``, that the previous owner has read and nobody has answered).  The values given for
linger, journal and when_full apply from then on.

``ask``  The owner gets a ``takeover_request`` event {"id", "client"}.  The request is granted at once if there is no
owner, or when the owner leaves.  Then the next ``open`` with that client_id succeeds, and the former owner gets
``taken_over``.

``watch``  The ``number`` of these events is their position, which also counts dropped events.  Use it for the next
``after``, and do not mix it with the numbers of ``poll``.  ``after`` None begins with the running cell, or now.
``newest`` is the newest position; ``skipped`` events were forgotten before this watcher could read them.

``replay``  The numbers are those that ``poll`` sent; ``after`` is the last one received, 0 at the beginning.  Events
that the owner has not been sent yet come by ``poll`` only.  ``complete`` in ``cells`` says whether all output is kept.

``poll``  Where output was dropped, there is a ``stream`` event of its cell on stderr:
``[N bytes of output dropped here: REASON]``.
"""

import os
import socket
import sys
import threading

from . import own, pyro, sockets, threads
from .log import claims, reading
from .remote import bulk, files
from .session import checkup, large_messages, places, registry
from .session import session as live
from .session.child import frames as child_frames
from .session.child import spare
from .session.session import Refusal
from .wire import message as wire
from .wire import seals
from .wire.machine import machine

# The longest that a poll may wait, in seconds.
LONGEST_WAIT = 60.0
# The longest that a request may hold a session's calls until its reply is there, in seconds.
LONGEST_DO = 0.05
# The longest that requests about files may hold a session's calls, in seconds.
FILES_WAIT = 0.5

_boot_id = []
_bundle = []
_packing = threading.Lock()


def bundle():
    """The agent for a child: its text as it was pushed, and its compiled code. Made once, for the first child."""
    package = sys.modules[own.PACKAGE]
    with _packing:
        if not _bundle:
            _bundle.append(child_frames.agent_frames(package.LOADER, package.BUNDLE, package.CODES))
            package.CODES.clear()
    return _bundle[0]


def handle(data):
    """Answer one request of a client: bytes in, bytes out; never raises."""
    return large_messages.fitting(_answer_to(data))


def _answer_to(data):
    n = None
    sockets.tune()
    try:
        request, buffers = wire.decode(data)
        n = request.get("n")
        if "gathered" in request:
            request, buffers = _gathered(request)
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
    except Exception as e:  # a client waits for an answer, whatever went wrong; the text is reported
        message = "%s: %s" % (type(e).__name__, e)
        return wire.encode({"n": n, "error": {"code": "failed", "message": message}})


def carry(data):
    """Called through Flame with a request of ``bulk``: carry a large value over the connection of this call."""
    return _bytes_of(_carry, data, _daemon(sys._getframe(1)))


def take_files(data):
    """Called through Flame by a session's owner, with ``nonce`` and ``hash``: transfer files, see ``files.take``."""
    return _bytes_of(_take_files, data, _daemon(sys._getframe(1)))


def forward(data):
    """Called through Flame by a session's owner: carry the streams of forwarded ports, see ``forward.far_end``."""
    return _bytes_of(_forward, data, _daemon(sys._getframe(1)))


def call_files(data):
    """Called through Flame by a session's owner with ``talk``, ``number`` and the frames of its requests; returns the
    frames of the answers, see ``files.call``. A repeated message is refused, and so is one of an earlier owner."""
    return large_messages.fitting(_bytes_of(_call_files, data, None))


def part(data):
    """Called through Flame with the next part of a request; the answer to the last part is the real answer."""
    return _bytes_of(_part, data, None)


def rest(data):
    """Called through Flame: the bytes from ``at`` on of an answer that was ``large``."""
    return _bytes_of(lambda request, buffers, daemon: [large_messages.give(request["at"])], data, None)


def _daemon(caller):
    """Pyro's daemon, which has the HMAC key. ``caller`` is the frame of Flame's ``invokeModule``, a method."""
    return caller.f_locals["self"]._pyroDaemon


def _bytes_of(function, data, daemon):
    """The answer of ``function`` as bytes. Errors are bytes too, because an exception would not tell the client which
    call it answers. Empty if the connection was used to carry something: nothing may follow that."""
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
    files.take(bytes.fromhex(request["nonce"]), request["hash"], daemon)


def _forward(request, buffers, daemon):
    _acting(request, carries=True).tunnels.take(request, daemon)


def _part(request, buffers, daemon):
    whole = large_messages.take(request, buffers[0])
    return whole and {wire.HANDLE: handle, wire.CALL_FILES: call_files}[request["of"]](whole)


def _call_files(request, buffers, daemon):
    (asked,) = buffers
    session = _session(request)
    session.check(request["epoch"])
    session.go_on(request["talk"], request["number"])
    return [files.call(asked, request["talk"], request["number"])]


def _call_files_aside(request):
    """Op ``call_files``, on the connection of a session's calls. With ``soon``, on a server with threads, it takes
    FILES_WAIT at most: a Stop uses that connection too, and a file on a mount whose host is gone may never open."""
    buffers = request["request"]["buffers"]
    if pyro.is_multiplex() or not request.get("soon"):
        return {}, _call_files(request, buffers, None)
    outcome = []

    def work():
        try:
            outcome.append(({}, _call_files(request, buffers, None)))
        except Exception as e:  # raised again where the client waits
            outcome.append(e)

    threads.start("files", work).join(FILES_WAIT)
    if not outcome:
        raise Refusal("slow", "files did not answer within %g s" % FILES_WAIT)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _hello(request):
    return {
        "protocol": wire.PROTOCOL,
        "boot": _boot(),
        "machine": machine(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": list(sys.version_info[:3]),
        "servertype": pyro.servertype(),
        "bare": pyro.is_bare_flameserver(),
        "max_message": large_messages.most(),
        "hashes": seals.speeds(),
        "main": getattr(sys.modules.get("__main__"), "__file__", None) or "",
    }


def _greet(request):
    hello = dict(_hello(request), ticket=sockets.ticket())
    session = registry.sessions.get(request.get("session"))
    if session is not None:
        hello["newest"] = session.log.newest
    return hello


def _open(request):
    _show_ticket(request)
    hello = _hello(request)
    session_id = request["session"]
    place = places.chosen(request.get("place") or "auto", hello["bare"])
    if place not in places.PLACES:
        raise Refusal("bad_place", "place is one of auto, process, child, main; not %r" % (place,))
    attach = request.get("attach")
    if attach not in (None, "take", "must", "force"):
        raise Refusal("bad_request", "attach is one of take, must, force; not %r" % (attach,))
    with registry.lock:
        session = registry.sessions.get(session_id)
        fresh = session is None
        if fresh:
            if attach == "must":
                raise registry.no_session(session_id)
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
            registry.sessions[session_id] = session
        else:
            session.set(request)
    registry.reap_soon()
    log = session.log.state()  # before ``described``: what happens in between is in one of the two
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
    session = _acting(request)
    new = session.submit(request["request"])
    if not new:  # it may have begun by ``do``, whose answer is lost
        claims.remind(session.log)
    return {"new": new}


def _do(request):
    session, one = _acting(request), request["request"]
    ack, after, limit = int(request["ack"]), int(request["after"]), int(request["limit"])
    new, batch = session.do(one, ack, after, min(_wait(request), LONGEST_DO), limit, bool(request.get("alone")))
    plain, buffers = wire.encode_events(batch)
    return {"new": new, "events": plain}, buffers


def _read(request):
    _acting(request).log.acknowledge(request["ack"])
    return {}


def _submits(request):
    """Several requests in one call, in order. ``more`` has those after the first, each with its number of buffers; the
    first request has the remaining buffers."""
    session, first = _acting(request), request["request"]
    buffers = first.pop("buffers", [])
    at = len(buffers) - sum(count for _, count in request["more"])
    if buffers[:at]:
        first["buffers"] = buffers[:at]
    new = [session.submit(first)]
    for one, count in request["more"]:
        if count:
            one["buffers"] = buffers[at : at + count]
            at += count
        new.append(session.submit(one))
    return {"new": any(new)}


def _portion(request):
    (data,) = request["request"]["buffers"]
    return {"come": _acting(request).portions.take(request["id"], request["at"], data)}


def _gathered(request):
    """The request that has come in portions; fields of this call, such as its number, replace those of the request."""
    session = _session(request)
    session.check(request["epoch"])
    message, buffers = session.portions.whole(request["gathered"])
    return dict(message, **request), buffers


def _poll(request):
    session = _session(request)
    session.heard(request["epoch"], sockets.current())
    return reading.poll(session.log, request, _wait(request))


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
    if request["session"] not in registry.sessions:
        return {"closed": False}
    return {"closed": registry.end(_acting(request))}


def _kill(request):
    life, session = request["life"], registry.sessions.get(request["session"])
    return {"closed": session is not None and session.life == life and registry.end(session)}


def _list(request):
    ready = spare.pid()
    return [dict(session.described(), spare=ready) for session in registry.living()]


def _files(request):
    return {"talk": _acting(request).begin_talk()}


def _checkup(request):
    return checkup.report()


_OPS = {
    "hello": _greet,
    "checkup": _checkup,
    "open": _open,
    "submit": _submit,
    "do": _do,
    "read": _read,
    "submits": _submits,
    "portion": _portion,
    "poll": _poll,
    "interrupt": _interrupt,
    "answer": _answer,
    "detach": _detach,
    "close": _close,
    "kill": _kill,
    "sessions": _list,
    "files": _files,
    "call_files": _call_files_aside,
    "ask": _ask,
    "asked": _asked,
    "consent": _consent,
    "watch": lambda request: reading.watch(_session(request).log, request, _wait(request)),
    "cells": _cells,
    "replay": lambda request: reading.replay(_session(request).log, request),
}


def _session(request):
    return registry.get(request["session"])


def _acting(request, carries=False):
    """The session, for calls that only its owner may make; raises Refusal for other callers and for repeated calls."""
    session = _session(request)
    session.act(request["epoch"], request.get("n"), carries)
    return session


def _show_ticket(request):
    if not sockets.take_ticket(request.get("ticket")):
        raise Refusal("stale", "the call has no valid ticket of this connection; say hello first")


def _wait(request):
    return 0.0 if pyro.is_multiplex() else min(float(request.get("wait", 0)), LONGEST_WAIT)


def _boot():
    """A random id of this run of the server."""
    with registry.lock:
        if not _boot_id:
            _boot_id.append(os.urandom(8).hex())
    return _boot_id[0]
