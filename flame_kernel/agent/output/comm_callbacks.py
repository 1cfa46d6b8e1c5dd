"""Callbacks: the front end's messages for comms are delivered to the code that waits for them.

They run one at a time and in their order: a slider's values and a button's click mean nothing in another order.  Each
runs on the lane where its comm is at home, in the asyncio loop: at once if the lane is idle, or between the steps of a
cell that awaits.  If a cell there computes or sleeps, the message runs on the thread of the subshell by which the front
end has sent it.  If the front end named no subshell, the message waits.

https://jupyter-client.readthedocs.io/en/stable/messaging.html#custom-messages
"""

import collections
import threading

from . import streams

# Seconds that a message waits for its own lane, before that of its subshell takes it.
PATIENCE = 0.05


class Callbacks:
    """The comm messages of one session; ``host`` is the session core."""

    def __init__(self, host):
        self._host = host
        self._lock = threading.Lock()
        self._waiting = collections.deque()
        self._running = None

    def submit(self, request):
        """Take a message of the front end; any thread. Its ``comm_reply`` comes behind the output of its callbacks."""
        comms = self._host.comms
        home, asked = ("", False) if comms is None else comms.home(request)
        request["home"] = home
        if asked:  # who waits for it may be a callback itself, so it waits for none
            lane = self._lane(home)
            if lane is not None:
                lane.call(lambda: self._run(request, lane))
            return
        with self._lock:
            self._waiting.append(request)
        self.arrange()

    def arrange(self):
        """Offer the next message to the lanes that may take it."""
        with self._lock:
            if self._running is not None or not self._waiting:
                return
            request = self._waiting[0]
        home = self._lane(request["home"])
        if home is None:
            return
        home.call(lambda: self._take(request, home))
        own = request.get("lane") or home.name
        if own != home.name:
            other = self._host.lane(own)
            other.call(lambda: other.loop.call_later(PATIENCE, self._take, request, other))

    def _lane(self, name):
        """The lane of that name, or the one for cells; None when the session is ending."""
        return self._host.lanes.get(name) or self._host.lanes.get("")

    def ended(self, request):
        """A message has been handled, or is given up: the next one may run."""
        with self._lock:
            if self._running is request:
                self._running = None
        self.arrange()

    def _take(self, request, lane):
        """On a lane's thread: run ``request`` if it is the next, and no lane has it yet."""
        with self._lock:
            if self._running is not None or not self._waiting or self._waiting[0] is not request:
                return
            self._running = self._waiting.popleft()
        try:
            self._run(request, lane)
        finally:
            self.ended(request)

    def _run(self, request, lane):
        host = self._host
        before = streams.current()
        # Its comms stay at home where they are: code that awaits there is woken by callbacks on its own loop only.
        streams.set_current(streams.Cell(request["id"], host, lane=request["home"]))
        try:
            lane.run_callback(request, lambda: self._deliver(request))
        finally:
            streams.set_current(before)
            if not lane.abandoned:
                host.finish(request, {"status": "ok"})

    def _deliver(self, request):
        comms = self._host.comms
        if comms is None:
            return
        try:
            comms.receive(request)
        except BaseException:  # an interrupt, or what a target of the user's may raise
            comms.show_error()
