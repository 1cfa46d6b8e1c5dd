"""A session as the server knows it: its event log, the core that runs its cells, here or in a child, and its client.

One client has a session at a time: its *owner*. An ``epoch`` tells one ownership from the next.
"""

import os
import threading
import time

from .. import sockets
from ..log import log as events
from ..wire import numbers
from . import places

# Requests that a session remembers: one that is repeated because its answer was lost does not run twice.
REMEMBERED = 4096
# By how much the number of a call that carries a large value may lie behind another's: they begin on several threads.
APART = 1000
# Bytes of output that are kept while nobody reads, unless the client wants another number; the least that it may want.
# And bytes that are kept for ``replay``.
JOURNAL, LEAST_JOURNAL = 256 << 20, 1 << 16
HISTORY = 16 << 20
# Seconds without a client after which a session is ended, unless the client wants another number.
LINGER = 24 * 3600.0
# Seconds in which a client whose connection has ended may come back before another one may have its place.
COMES_BACK = 3.0
# Conversations about files that are remembered, where they go by calls.
TALKS_REMEMBERED = 64
# Requests to take a session over that wait for an answer.
MOST_ASKED = 32


class Refusal(Exception):
    """An op that cannot be done; ``code`` for programs, the text for people; ``more`` goes beside them."""

    def __init__(self, code, message, **more):
        Exception.__init__(self, message)
        self.code = code
        self.more = more


class Session:
    """
    place       "process", "child" or "main"
    options     of ``open``: linger (seconds), journal (bytes), when_full ("drop" or "block")
    bundle      gives the agent's own text, for a child
    """

    def __init__(self, session_id, place, shell, options, bundle):
        self.place = places.PLACES[place](session_id)
        self.session_id = session_id
        self.life = os.urandom(8).hex()  # tells it from others that had, or will have, its name
        self.client = ""
        self.notebook = ""
        self.linger = LINGER
        self.started = time.time()
        # Begins anywhere: what was once sent to another session of this name is for none of this one's owners.
        self.epoch = self._no_epoch = int.from_bytes(os.urandom(6), "big")
        self._talks = {}  # conversation about files -> the number of its last call
        self._numbers = self._carried = None  # Numbers of the owner's acts, and of those that carry a large value
        self.log = events.EventLog(cap=JOURNAL, history=HISTORY)
        self.set(options)
        self._client_id = None
        self._since = None  # of the owner: seconds since the epoch
        self._line = None  # the connection of its latest poll
        self._line_over = None  # monotonic, when that was found to be closed
        self._asked = {}  # id -> {"client_id", "state"}
        self._asked_count = 0
        self._begun = time.monotonic()
        self._seen = {}
        self._interrupts = {}  # id of the call -> what was done
        self._lock = threading.Lock()
        self.core = self.place.make_core(self.log, shell, bundle)
        self.place.keep(self.log)
        try:
            self.core.start()
        except BaseException:  # goes on, whatever it is; the journal's file and thread do not stay
            self.log.close()
            self.log.forget()
            raise

    def __repr__(self):
        return "<Session %r %s %s, %r>" % (self.session_id, self.place.name, self.state, self.log)

    def set(self, options):
        """Take up what a client wishes; what it does not name stays. Raises Refusal for what cannot be."""
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
        """Count an act of the owner. Raises Refusal unless it belongs to this epoch and its number comes for the first
        time; a request that a client repeats comes in a new call, so another one is an old message sent again."""
        with self._lock:
            self.check(epoch)
            numbers = self._carried if carries else self._numbers
            if numbers is None or not numbers.use(call):
                raise Refusal("stale", "call %s is no new one of the session's owner; nothing was done" % (call,))

    def submit(self, request):
        """Begin ``request`` unless its id is known; whether it was new."""
        with self._lock:
            if request["id"] in self._seen:
                return False
            self._seen[request["id"]] = True
            _trim(self._seen, REMEMBERED)
            if request["kind"] == "execute":
                self.log.begin(request)
        self.core.submit(request)
        return True

    def interrupt(self, request_id, call_id=None, gently=False):
        """Stop a cell; what was done. The same call again does nothing: a second Stop would abandon the cell."""
        if call_id is None:
            return self.core.interrupt(request_id, gently)
        with self._lock:
            if call_id in self._interrupts:
                return self._interrupts[call_id]
            self._interrupts[call_id] = "idle"
            _trim(self._interrupts, REMEMBERED)
        done = self._interrupts[call_id] = self.core.interrupt(request_id, gently)
        return done

    def answer(self, input_id, value):
        """The user's line; whether something waits for it."""
        taken = self.core.answer(input_id, value)
        if taken:
            self.log.answered(input_id)
        return taken

    # -- files by calls ----------------------------------------------------------------------------------------------

    def begin_talk(self):
        """A conversation about files: the random name of it."""
        talk = os.urandom(32).hex()
        with self._lock:
            self._talks[talk] = 0
            _trim(self._talks, TALKS_REMEMBERED)
        return talk

    def go_on(self, talk, number):
        """Raise Refusal unless this is the next call of a conversation: each number is good for one."""
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
        """Whether its owner is here. One that was killed is found out by its connection, while its poll still waits."""
        if self.epoch == self._no_epoch or not self.log.attached:
            return False
        if not sockets.is_over(self._line):
            self._line_over = None
            return True
        self._line_over = self._line_over or time.monotonic()
        return time.monotonic() - self._line_over < COMES_BACK

    def heard(self, epoch, connection):
        """A poll has come. Raises Refusal (taken_over) unless it is the owner's."""
        self.check(epoch)
        self._line = connection

    def attach(self, client, client_id, notebook, force, call):
        """Make a client the owner; the new epoch. Raises Refusal (in_use) where another one is here.

        ``call`` is the number of this call: its caller is who acts in the epoch.
        """
        number = numbers.parsed(call)
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
            self._numbers, self._carried = numbers.Numbers(*number), numbers.Numbers(*number, apart=APART)
            self._asked = {n: ask for n, ask in self._asked.items() if ask["state"] == "granted"}
            for ask in self._asked.values():
                ask["state"] = "taken"
            self.client, self._client_id, self.notebook = client, client_id, notebook
            self._since = time.time()
            self._line = self._line_over = None
            self.log.attach()
            return self.epoch

    def _is_granted(self, client_id):
        return any(ask["client_id"] == client_id and ask["state"] == "granted" for ask in self._asked.values())

    def _in_use(self):
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self._since))
        return "the session %s is in use by %s, since %s" % (self.session_id, self.client or "another client", since)

    def check(self, epoch):
        """Raise Refusal (taken_over) unless ``epoch`` is the present one."""
        if epoch != self.epoch:
            raise Refusal("taken_over", "another client has taken up the session %s" % self.session_id)

    def detach(self, epoch, ack=0):
        """The owner leaves, and has the events up to ``ack``; whether it was that."""
        with self._lock:
            if epoch != self.epoch:
                return False
            self.epoch += 1
            self._client_id = None
            self.log.detach(ack)
            self.place.detached(self.core)
            return True

    def ask(self, client, client_id):
        """A client wishes to take the session over: an id for its request. Asked again, it is the same one."""
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
            _trim(self._asked, 2 * MOST_ASKED)
        if here:
            content = {"id": ask_id, "client": client}
            self.log.append({"type": "takeover_request", "request": None, "content": content})
        return ask_id

    def asked(self, ask_id):
        """``waiting``, ``granted`` or ``refused``; nobody can refuse any more who has gone."""
        with self._lock:
            ask = self._asked.get(ask_id)
            if ask is None:
                return "refused"
            if ask["state"] == "waiting" and not self.attached:
                ask["state"] = "granted"
            return "granted" if ask["state"] == "taken" else ask["state"]

    def consent(self, ask_id, allow):
        """The owner's answer to a takeover_request; whether it still waited."""
        with self._lock:
            ask = self._asked.get(ask_id)
            if ask is None or ask["state"] != "waiting":
                return False
            ask["state"] = "granted" if allow else "refused"
            return True

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def state(self):
        if self.core.is_dead:
            return "dead"
        if self.log.state()["running"]:
            return "busy"
        return "starting" if self.core.described is None else "idle"

    @property
    def idle_left(self):
        """Seconds until it is ended, if its client stays away."""
        return self.linger - self.log.seconds_alone

    def described(self):
        """One line of op ``sessions``."""
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
        """End it, with all that it runs; nothing is left."""
        self.log.close()
        self.core.close()
        self.log.forget()


def _trim(table, most):
    while len(table) > most:
        del table[next(iter(table))]


def _number(name, value, least, unit):
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value < 1e15:
        raise Refusal("bad_request", "%s is a number of %s, at least %d; not %r" % (name, unit, least, value))
    return value
