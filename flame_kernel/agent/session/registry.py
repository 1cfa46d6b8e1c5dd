"""The sessions of this server, by name. A client ends one; the reaper ends those to which no client returns.

This is the agent's one table that outlives a session; whoever changes it holds ``lock``.
"""

import threading
import time

from .. import pyro, threads
from .session import Refusal

# The longest time between two rounds of the reaper, in seconds.
REAP_EVERY = 60.0
# For how many ended sessions we remember why they ended.
ENDED_REMEMBERED = 64

sessions = {}
lock = threading.Lock()
_ended = {}  # name -> (when, why)
_reaper = []


def get(name):
    """The session of that name; raises Refusal."""
    session = sessions.get(name)
    if session is None:
        raise no_session(name)
    return session


def living():
    """All sessions, as a list."""
    with lock:
        return list(sessions.values())


def no_session(name):
    """The Refusal for a name that no session has; it says why the last one ended."""
    when, why = _ended.get(name, (None, ""))
    if when is not None:
        why = ": %s, %d s ago" % (why, time.monotonic() - when)
    return Refusal("no_session", "there is no session %s on this server%s" % (name, why))


def end(session):
    """End a session because a client says so; False if it had ended already."""
    with lock:
        if sessions.get(session.session_id) is not session:
            return False
        _remove(session, "it was closed by a client")
    # On a thread of its own: a cell that does not end at once must not hold up the caller or a multiplex server.
    ending = threads.start("close", session.close)
    if not pyro.is_multiplex():
        ending.join(5.0)
    reap_soon()
    return True


def _remove(session, why):
    """Take a session out, and remember why it ended. Call it under the lock."""
    del sessions[session.session_id]
    _ended.pop(session.session_id, None)
    _ended[session.session_id] = time.monotonic(), why
    while len(_ended) > ENDED_REMEMBERED:
        del _ended[next(iter(_ended))]


def reap_soon():
    """Have the reaper look now: sessions were opened, ended or changed. Its thread lives while there are sessions."""
    with lock:
        if _reaper:
            _reaper[0].set()
        elif sessions:
            wake = threading.Event()
            _reaper.append(wake)
            threads.start("reaper", _reap, wake)


def _reap(wake):
    """End sessions whose client has been away longer than their linger time; returns when no session is left."""
    while True:
        with lock:
            gone = [session for session in sessions.values() if session.idle_left <= 0]
            for session in gone:
                _remove(session, "it was ended after %g s without a client" % session.linger)
            if not sessions:
                del _reaper[:]
            soonest = min([session.idle_left for session in sessions.values()] or [0])
        for session in gone:
            session.close()
        if not _reaper or _reaper[0] is not wake:
            return
        wake.wait(min(max(soonest, 0.01), REAP_EVERY))
        wake.clear()
