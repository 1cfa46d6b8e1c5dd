"""Requests that run no cell, such as completion: they are answered on other threads, also while a cell runs.

An editor's questions have a thread of their own: the first one imports jedi, which takes seconds on a busy machine, and
no other request should wait for that.
"""

import collections
import os
import threading

from .. import threads
from ..output import streams
from ..remote import modules, packages
from .monitor.usage import Usage

# The kinds of requests that an editor makes; then all kinds.
QUESTIONS = ("complete", "inspect")
KINDS = QUESTIONS + ("usage", "comm_info", "comm_announce", "open_lane", "close_lane", "cwd")
KINDS += modules.KINDS + packages.KINDS
# Seconds that a request waits for a shell that is still starting.
START_PATIENCE = 10.0
# Seconds to wait for a thread to end.
END_PATIENCE = 2.0


class Side:
    """The side requests of one session; ``host`` is the session core, ``append`` writes an event."""

    def __init__(self, host, append):
        self._host = host
        self._append = append
        self._usage = Usage()
        self._editor = _Line("editor", self._answer)
        self._others = _Line("side", self._answer)

    def submit(self, request):
        """Start a request; returns at once. Its ``<kind>_reply`` is an event."""
        if request["kind"] == "open_lane":  # its sender waits for this, and it is quick
            self._answer(request)
        else:
            (self._editor if request["kind"] in QUESTIONS else self._others).put(request)

    def close(self):
        """End the threads; requests that they have not begun are not answered."""
        self._editor.close()
        self._others.close()

    def _answer(self, request):
        before = streams.current()
        streams.set_current(streams.Cell(request["id"], self._host))
        try:
            reply = self._reply(request)
        finally:
            streams.set_current(before)
        self._append(request["kind"] + "_reply", request["id"], reply)

    def _reply(self, request):
        try:
            if request["kind"] == "usage":
                return self._usage.reply()
            if request["kind"] == "cwd":
                return {"status": "ok", "cwd": os.getcwd()}
            if request["kind"] == "open_lane":
                self._host.lane(request["lane"])
                return {"status": "ok"}
            if request["kind"] in modules.KINDS:
                return self._host.modules.reply(request)
            if request["kind"] in packages.KINDS:
                return packages.reply(request, self._host.place.owns_process)
            if not self._host.wait_started(START_PATIENCE):
                raise RuntimeError("the session is still starting")
            return self._reply_of_shell(request)
        except BaseException as e:  # a property of the user's may raise anything; the front end waits for an answer
            return {"status": "error", "ename": type(e).__name__, "evalue": str(e), "traceback": []}

    def _reply_of_shell(self, request):
        """The reply to a request that needs the shell or something that comes with it."""
        host, kind = self._host, request["kind"]
        if kind in QUESTIONS:
            host.user_begins()
        if kind == "complete":
            return host.shell.complete(request["code"], request["cursor_pos"])
        if kind == "inspect":
            omit = tuple(request.get("omit_sections") or ())
            return host.shell.inspect(request["code"], request["cursor_pos"], request.get("detail_level", 0), omit)
        if kind == "comm_info":
            return host.comms.info()
        if kind == "comm_announce":
            return host.comms.announce()
        if kind == "close_lane":
            lane = host.lanes.get(request["lane"])
            if lane is not None and lane.name:
                lane.close()
                lane.join(END_PATIENCE)
            return {"status": "ok"}
        raise ValueError("unknown request kind %r" % kind)


class _Line:
    """Handles requests one after another with ``work``, on a thread that exists only while there are some."""

    def __init__(self, name, work):
        self._name = name
        self._work = work
        self._lock = threading.Lock()
        self._waiting = collections.deque()
        self._thread = None
        self._closed = False

    def put(self, request):
        with self._lock:
            if self._closed:
                return
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threads.start(self._name, self._run)

    def _run(self):
        while True:
            with self._lock:
                if not self._waiting or self._closed:
                    self._thread = None
                    return
                request = self._waiting.popleft()
            self._work(request)

    def close(self):
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(END_PATIENCE)
