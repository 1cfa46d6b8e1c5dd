"""A session as the server sees it: its event log, its client, and the core that runs its cells, here or in a child.

A session has one client at a time, its *owner*. An ``epoch`` tells one ownership from the next.
"""

import os
import threading
import time

from .. import sockets
from ..forward import far_end
from ..log import claims
from ..log import log as events
from ..wire.call_numbers import Numbers, parsed
from . import large_messages, places
from .repeated_requests import RepeatedRequests, trim

# How far the numbers of calls that carry large values may be out of order, since they start on several threads.
APART = 1000
# Bytes of output that are kept while nobody reads, unless the client asks otherwise, and the least that it may ask for.
# Then the bytes that are kept for ``replay``.
JOURNAL, LEAST_JOURNAL = 256 << 20, 1 << 16
HISTORY = 16 << 20
# Seconds without a client after which a session is ended, unless the client asks otherwise.
LINGER = 24 * 3600.0
# Seconds in which a client that lost its connection may come back before another client can take its place.
COMES_BACK = 3.0
# How many conversations about files are remembered, on a server where files travel in calls.
TALKS_REMEMBERED = 64
# How many requests to take a session over may wait for an answer.
MOST_ASKED = 32


class Refusal(Exception):
    """An op that cannot be done; ``code`` is for programs, the text for people, ``more`` is added to the error."""

    def __init__(self, code, message, **more):
        Exception.__init__(self, message)
        self.code = code
        self.more = more


class Session:
    """One session on this server: its core, its log, and its owner.

    place       "process", "child" or "main"
    options     from op ``open``: linger (seconds), journal (bytes), when_full ("drop" or "block")
    bundle      returns the agent's own text, for a child
    """

    def __init__(self, session_id, place, shell, options, bundle):
        self.place = places.PLACES[place](session_id)
        self.session_id = session_id
        self.life = os.urandom(8).hex()  # tells this session from earlier and later ones of the same name
        self.client = ""
        self.notebook = ""
        self.linger = LINGER
        self.started = time.time()
        # A random start: messages once sent to another session of this name must not be valid here.
        self.epoch = self._no_epoch = int.from_bytes(os.urandom(6), "big")
        self._talks = {}  # name of a conversation about files -> the number of its last call
        self._numbers = self._carried = None  # Numbers of the owner's calls, and of those that carry a large value
        self.log = events.EventLog(cap=JOURNAL, history=HISTORY)
        self.set(options)
        self._client_id = None
        self._since = None  # when the owner came, in seconds since the epoch
        self._line = None  # the connection of its latest poll
        self._line_over = None  # when that connection was found closed (monotonic clock)
        self._asked = {}  # id -> {"client_id", "state"}
        self._asked_count = 0
        self._begun = time.monotonic()
        self._repeated = RepeatedRequests()
        self.tunnels = far_end.Tunnels()
        self.portions = large_messages.Portions()
        self._lock = threading.Lock()
        self.core = self.place.make_core(self.log, shell, bundle)
        self.place.keep(self.log)
        try:
            self.core.start()
        except BaseException:  # raised again, whatever it is; the journal's file and thread do not stay
            self.log.close()
            self.log.forget()
            raise

    def __repr__(self):
        return "<Session %r %s %s, %r>" % (self.session_id, self.place.name, self.state, self.log)

    def set(self, options):
        """Apply the options that a client gives; others stay as they are. Raises Refusal for impossible values."""
        linger, cap, when_full = options.get("linger"), options.get("journal"), options.get("when_full")
        if linger is not None:
            self.linger = _number("linger", linger, 0, "seconds")
        if cap is not None:
            cap = int(_number("journal", cap, LEAST_JOURNAL, "bytes"))
        if when_full not in (None, "drop", "block"):
            raise Refusal("bad_request", "when_full is drop or block, not %r" % (when_full,))
        self.log.set_bounds(cap, when_full)

    # -- requests ----------------------------------------------------------------------------------------------------

    def act(self, epoch, call, carries=False):
        """Accept a call of the owner. Raises Refusal unless it belongs to this epoch and its number is new. A client
        repeats a request in a new call, so a used number means an old message that was sent again."""
        with self._lock:
            self.check(epoch)
            numbers = self._carried if carries else self._numbers
            if numbers is None or not numbers.use(call):
                raise Refusal("stale", "call %s is old, or not from the session's owner; nothing was done" % (call,))

    def submit(self, request):
        """Start ``request`` unless it is repeated; returns whether it was new."""
        with self._lock:
            if self._repeated.is_repeated(request["id"]):
                return False
            if request["kind"] == "execute":
                self.log.begin(request)
        self.core.submit(request)
        return True

    def do(self, request, ack, after, wait, limit, alone=False):
        """The same, and the events after number ``after`` up to the reply, if that comes within ``wait`` seconds.
        ``alone``: see ``claims``."""
        self.log.acknowledge(ack)
        claim = claims.begin(self.log, request["id"], alone)
        try:
            new = self.submit(request)
            return new, claims.take(self.log, claim, after, wait, limit) if new else []
        finally:
            if self.log.claim is claim:  # nothing was taken
                claims.remind(self.log)

    def interrupt(self, request_id, call_id=None, gently=False):
        """Stop a cell; returns what was done. A repeated call does nothing."""
        if call_id is None:
            return self.core.interrupt(request_id, gently)
        with self._lock:
            done = self._repeated.interrupt(call_id)
        if done is None:
            done = self.core.interrupt(request_id, gently)
            with self._lock:
                self._repeated.interrupted(call_id, done)
        return done

    def answer(self, input_id, value):
        """Pass on the user's line; returns whether something was waiting for it."""
        taken = self.core.answer(input_id, value)
        if taken:
            self.log.answered(input_id)
        return taken

    # -- files by calls ----------------------------------------------------------------------------------------------

    def begin_talk(self):
        """Begin a conversation about files; returns its random name."""
        talk = os.urandom(32).hex()
        with self._lock:
            self._talks[talk] = 0
            trim(self._talks, TALKS_REMEMBERED)
        return talk

    def go_on(self, talk, number):
        """Raise Refusal unless this is the next call of a conversation; each number is valid once."""
        with self._lock:
            last = self._talks.pop(talk, None)
            is_next = last is not None and number == last + 1
            if last is not None:
                self._talks[talk] = number if is_next else last
            if not is_next:
                raise Refusal("stale", "a call about files that is not the next one of its conversation; ignored")

    # -- its client --------------------------------------------------------------------------------------------------

    @property
    def attached(self):
        """Whether the owner is here. If it was killed, its closed connection shows that even while a poll waits."""
        if self.epoch == self._no_epoch or not self.log.attached:
            return False
        if not sockets.is_over(self._line):
            self._line_over = None
            return True
        self._line_over = self._line_over or time.monotonic()
        return time.monotonic() - self._line_over < COMES_BACK

    def heard(self, epoch, connection):
        """A poll has arrived. Raises Refusal (taken_over) unless it comes from the owner."""
        self.check(epoch)
        self._line = connection

    def attach(self, client, client_id, notebook, force, call):
        """Make a client the owner; returns the new epoch. Raises Refusal (in_use) if another client is here.

        ``call`` is this call's number: its caller is the one that may act in the epoch.
        """
        number = parsed(call)
        if number is None:
            raise Refusal("bad_request", "the number of a call is CALLER-COUNT, not %r" % (call,))
        with self._lock:
            may = client_id is None or client_id == self._client_id or self._is_granted(client_id)
            if self.attached and not (may or force):
                raise Refusal("in_use", self._in_use(), client=self.client, since=self._since)
            try:
                self.place.attached(self.core)
            except RuntimeError as e:
                raise Refusal("cannot_start", "the session %s cannot go on: %s" % (self.session_id, e))
            self.epoch += 1
            self._talks.clear()
            self.portions.clear()
            self._numbers, self._carried = Numbers(*number), Numbers(*number, apart=APART)
            self._asked = {n: ask for n, ask in self._asked.items() if ask["state"] == "granted"}
            for ask in self._asked.values():
                ask["state"] = "taken"
            self.client, self._client_id, self.notebook = client, client_id, notebook
            self._since = time.time()
            self._line = self._line_over = None
            self.log.attach()
            epoch = self.epoch
        self.tunnels.close()
        return epoch

    def _is_granted(self, client_id):
        return any(ask["client_id"] == client_id and ask["state"] == "granted" for ask in self._asked.values())

    def _in_use(self):
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self._since))
        return "the session %s is in use by %s, since %s" % (self.session_id, self.client or "another client", since)

    def check(self, epoch):
        """Raise Refusal (taken_over) unless ``epoch`` is the current one."""
        if epoch != self.epoch:
            raise Refusal("taken_over", "another client has taken up the session %s" % self.session_id)

    def detach(self, epoch, ack=0):
        """The owner leaves, having read the events up to ``ack``; returns whether it was the owner."""
        with self._lock:
            if epoch != self.epoch:
                return False
            self.epoch += 1
            self._client_id = None
            self.log.detach(ack)
            self.place.detached(self.core)
        self.tunnels.close()
        return True

    def ask(self, client, client_id):
        """A client asks to take the session over; returns an id for its request, the same one if it asks again."""
        with self._lock:
            for ask_id, ask in self._asked.items():
                if ask["client_id"] == client_id and ask["state"] == "waiting":
                    return ask_id
            if sum(ask["state"] == "waiting" for ask in self._asked.values()) >= MOST_ASKED:
                raise Refusal("too_many", "too many clients wait for the session %s" % self.session_id)
            self._asked_count += 1
            ask_id = "%d" % self._asked_count
            here = self.attached and client_id != self._client_id
            self._asked[ask_id] = {"client_id": client_id, "state": "waiting" if here else "granted"}
            trim(self._asked, 2 * MOST_ASKED)
        if here:
            content = {"id": ask_id, "client": client}
            self.log.append({"type": "takeover_request", "request": None, "content": content})
        return ask_id

    def asked(self, ask_id):
        """The state of a takeover request: ``waiting``, ``granted`` or ``refused``; granted if the owner has left."""
        with self._lock:
            ask = self._asked.get(ask_id)
            if ask is None:
                return "refused"
            if ask["state"] == "waiting" and not self.attached:
                ask["state"] = "granted"
            return "granted" if ask["state"] == "taken" else ask["state"]

    def consent(self, ask_id, allow):
        """The owner's answer to a takeover_request; returns whether that was still waiting."""
        with self._lock:
            ask = self._asked.get(ask_id)
            if ask is None or ask["state"] != "waiting":
                return False
            ask["state"] = "granted" if allow else "refused"
            return True

    # -- its state ---------------------------------------------------------------------------------------------------

    @property
    def state(self):
        if self.core.is_dead:
            return "dead"
        if self.log.state()["running"]:
            return "busy"
        return "starting" if self.core.described is None else "idle"

    @property
    def idle_left(self):
        """Seconds until the session is ended if its client stays away."""
        return self.linger - self.log.seconds_alone

    def described(self):
        """The session's entry in the answer of op ``sessions``."""
        log = self.log.state()
        runs = log["running"][0] if log["running"] else None
        return {
            "session": self.session_id,
            "life": self.life,
            "place": self.place.name,
            "client": self.client,
            "notebook": self.notebook,
            "pid": self.core.pid,
            "started": self.started,
            "age": time.monotonic() - self._begun,
            "state": self.state,
            "code": runs["code"].lstrip().partition("\n")[0] if runs else "",
            "running_for": max(0.0, time.time() - runs["started"]) if runs and runs["started"] else None,
            "waiting": log["waiting"],
            "attached": self.attached,
            "alone": self.log.seconds_alone,
            "idle_left": max(0.0, self.idle_left),
        }

    def close(self):
        """End the session and everything that it runs."""
        self.tunnels.close()
        self.log.close()
        self.core.close()
        self.log.forget()


def _number(name, value, least, unit):
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value < 1e15:
        raise Refusal("bad_request", "%s is a number of %s, at least %d; not %r" % (name, unit, least, value))
    return value
