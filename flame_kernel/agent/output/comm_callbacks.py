"""Callbacks: deliver the front end's comm messages to the code that waits for them.

They run one at a time and in order: a slider's values and a button's click make no sense in another order.  Each runs
on its comm's home lane, in the asyncio loop: at once if the lane is idle, or between the steps of a cell that awaits.
If the cell there computes or sleeps, the message runs on the thread of the subshell through which the front end sent
it.  If the front end named no subshell, the message waits.

https://jupyter-client.readthedocs.io/en/stable/messaging.html#custom-messages
"""

import collections
import threading

from . import streams

# Seconds that a message waits for its home lane before its subshell's lane takes it.
PATIENCE = 0.05


class Callbacks:
    """The comm messages of one session; ``host`` is the session core."""

    def __init__(self, host):
        self._host = host
        self._lock = threading.Lock()
        self._waiting = collections.deque()
        self._running = None

    def submit(self, request):
        """Take a message from the front end; any thread. Its ``comm_reply`` follows the output of its callbacks."""
        comms = self._host.comms
        home, asked = ("", False) if comms is None else comms.home(request)
        request["home"] = home
        if asked:  # another callback may be waiting for this answer, so it cannot queue behind that
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
        """The lane of that name, or else the main lane for cells; None when the session is ending."""
        return self._host.lanes.get(name) or self._host.lanes.get("")

    def ended(self, request):
        """A message was handled or given up: let the next one run."""
        with self._lock:
            if self._running is request:
                self._running = None
        self.arrange()

    def _take(self, request, lane):
        """On a lane's thread: run ``request`` if it is next and no other lane has taken it."""
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
        # Its comms keep their home lane: code that awaits there is only woken by callbacks on its own loop.
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
        except BaseException:  # an interrupt, or anything that the user's comm target raises
            comms.show_error()
