"""The core of a session, in the process where its cells run: the server or a child.

It has the namespace, the shell, the lanes and the output. The session's owner submits requests and reads its event log.
Other files of the agent call it ``host``.
"""

import itertools
import os
import sys
import threading
import types

from .. import threads
from ..debug.debugger import Debugger
from ..debug.tracing import lines_of
from ..hot import finder
from ..log import messages
from ..output import streams, sys_hooks, widgets
from ..output.capture import Capture, ForkedText
from ..output.comm_callbacks import Callbacks
from ..output.comms import Comms
from ..output.stdin import Prompts
from ..profile.memory import Memory
from ..remote import bulk, modules, objects, packages
from ..shell import class_source, ipython, mini, tracebacks
from . import program, program_pipes, side_requests, trial
from .lane import Lane
from .monitor import gpus, monitor, stacks, usage

HELPER = "~"  # begins the names of helper lanes, which serve objects while a cell runs
ONCE_MORE = 0.05  # seconds after which a dropped interrupt is sent again


class Core:
    """One session's cells.

    session_id  its name;  place  the Place;  log  the EventLog;  shell  "auto", "ipython" or "mini"
    protected_pids  returns the processes that an interrupt must not reach: the children of other sessions
    """

    def __init__(self, session_id, place, log, shell="auto", protected_pids=frozenset):
        self.session_id = session_id
        self.place = place
        self.pid = os.getpid()
        self.closed = False
        self.is_dead = False
        self.protected_pids = protected_pids
        self.redirects = {}  # what the session has assigned to sys.stdout, its methods, and the like
        self.take_interrupts = None  # in a child: installs our SIGINT handler, again if needed
        self.on_main = None  # in a child: has the main thread call a function with its current frame
        self.folder = None  # in a child: keeps the notebook's folder on the import path, see ``import_path``
        self.interrupt_main = None  # if cells run on a main thread: has it interrupt a request itself
        self.outer_lines = ()  # our callers on a thread not made for cells; see ``tracing.lines_of``
        self._call = None  # id of the object request that runs on the cells' lane
        self.latest = None  # the Cell that ran last: gets output that belongs to no known cell
        self.shell = None
        self._started = threading.Event()  # set when there is a shell
        self.described = None  # the content of the ``ready`` event, once that was sent
        self.lanes = {}
        self.samplers = {}  # profiles that are being taken, by the id of their request
        self.memory = Memory()
        self._log = log
        self._want = shell
        self.debug = Debugger(self, self._append)
        self._prompts = Prompts(self._append, self._settle, lambda: self.closed)
        self._lock = threading.Lock()
        self._side = side_requests.Side(self, self._append)
        self.capture = None
        self.forked = ForkedText(lambda name: self.place.descriptor_in_fork(self, name))
        self.comms = None
        self._callbacks = Callbacks(self)
        self._programs = program_pipes.Programs(log)
        self.modules = modules.Modules()
        self.hot = finder.Hot(self)
        self.objects = objects.Objects(self)
        self._batch = (None, "")  # batch of the last object request, and its lane
        self._helpers = itertools.count(1)
        self.namespace = self._make_namespace()
        packages.use(place.owns_process)
        sys_hooks.install()
        class_source.install()

    def __repr__(self):
        return "<Core %r %s>" % (self.session_id, self.place.name)

    def _make_namespace(self):
        name = self.place.namespace_name
        module = types.ModuleType(name, "The names of a Remote Flame session.")
        module.__dict__["__builtins__"] = sys.modules["builtins"]
        module.__dict__.pop("__loader__", None)
        self.place.remember_namespace(module)
        return module

    def start(self):
        """Start the lane for cells on a thread of its own; ``ready`` is the first event."""
        self.lanes[""] = Lane(self, "")

    def wait_started(self, seconds):
        """Wait for the shell; returns whether there is one. A child that ends earlier leaves a temporary folder."""
        return self._started.wait(seconds)

    def start_on_main(self):
        """Make the lane for a child's main thread. Call it before any request, which would otherwise make a thread."""
        self.lanes[""] = Lane(self, "", on_main=True)

    def run_on_main(self):
        """Run the lane for cells on the calling thread, a child's main thread, until the lane ends."""
        self.outer_lines = lines_of(sys._getframe(1))
        self.lanes[""].run()

    # -- for the lane ------------------------------------------------------------------------------------------------

    async def prepare(self, lane):
        """Called first on a lane's thread; on the first lane it starts the shell."""
        streams.set_current(streams.Cell(None, self))
        if lane.name:
            self._started.wait()  # its first cell may have come before there is a shell to run it
            return
        if self.shell is not None:
            return  # a new thread for a session that already has its shell
        self.comms = Comms(self)
        reason = None if self._want == "mini" else ipython.available()
        try:
            if self._want == "mini" or reason is not None:
                self.shell = mini.MiniShell(self)
            else:
                self.shell = ipython.IPythonShell(self)
        except Exception as e:  # whatever IPython raises: the mini shell takes over, and the user is told
            reason = "IPython does not start there: %s: %s" % (type(e).__name__, e)
            self.shell = mini.MiniShell(self)
        self.latest = streams.current()
        self._started.set()
        self.described = usage.description(self, reason)
        self._log.append({"type": "ready", "request": None, "content": self.described})

    async def perform(self, request):
        """Run one execute_request or object request; returns the content of its reply."""
        self.user_begins()
        if request["kind"] == "object":
            self._call = self._call if request.get("lane") else request["id"]
            return await self.objects.perform(request)
        allow_stdin, silent = request.get("allow_stdin", False), request.get("silent", False)
        cell = streams.Cell(request["id"], self, allow_stdin, silent, request.get("lane") or "", request.get("count"))
        streams.set_current(cell)
        sys_hooks.check()
        self.comms.begin()
        self.debug.begin()
        if self.take_interrupts is not None and not cell.lane:
            self.take_interrupts()  # pdb (after ``continue``) or a cell may have left a handler of its own
        self.latest = cell
        self.hot.before_cell(cell)
        if request.get("program"):
            return await program.run(self, cell, request, request.pop("descriptors"))
        if request.get("trial"):
            return await trial.run(self, cell, request)
        return await self.run_code(cell, request)

    async def run_code(self, cell, request):
        """Run the code of an execute_request in the shell; returns the content of its reply."""
        self.shell.shows_text_only(bool(request.get("text_only")))
        reply = await self.shell.run_cell(
            request["code"],
            silent=cell.silent,
            store_history=request.get("store_history", not cell.silent),
            cell_id=request.get("cell_id"),
            raw=request.get("raw"),
        )
        if reply["status"] == "ok" and request.get("user_expressions"):
            reply["user_expressions"] = self.shell.user_expressions(request["user_expressions"])
        if reply["status"] == "error" and not cell.silent:
            hint = widgets.missing(reply, self.shell.name) or gpus.out_of_memory(reply)
            if hint is not None:
                self.tell(request["id"], hint)
        return reply

    def user_begins(self):
        """Called when the user's code is about to run: from now on imports may come from the notebook's folder."""
        if self.folder is not None:
            self.folder.open()

    def interrupted_reply(self, request):
        """The reply of a cell whose interrupt its shell did not catch."""
        return self.refused_reply(request, "KeyboardInterrupt", "")

    def failed_reply(self, request, error):
        """The reply of a cell whose shell, or our own code, has failed."""
        return self._error_reply(request, tracebacks.content(error))

    def refused_reply(self, request, ename, why):
        """The reply of a cell that cannot run, or whose copy (see ``trial``) has ended; ``why`` is a sentence."""
        shown = "%s: %s" % (ename, why) if why else ename
        return self._error_reply(request, {"ename": ename, "evalue": why, "traceback": [shown]})

    def _error_reply(self, request, error):
        if request["kind"] == "object":
            return dict(error, status="error"), ()
        self._append("error", request["id"], dict(error))
        return dict(error, status="error", execution_count=self.shell.execution_count, user_expressions={}, payload=[])

    def finish(self, request, reply):
        """A cell has ended: write its reply into the log, after all its output."""
        self._settle()
        if request.get("program"):
            self._programs.settle(request["id"])
            for number in request.pop("descriptors", ()):  # it was stopped before it began
                os.close(number)
        if request["kind"] == "object":
            content, buffers = reply
            self._call = None if self._call == request["id"] else self._call
            self._append("object_reply", request["id"], content, buffers=buffers)
            self._end_spare_helper(request["lane"])
        else:
            self._append("execute_reply" if request["kind"] == "execute" else "comm_reply", request["id"], reply)

    def lane_ended(self, lane):
        """Called when a lane's thread is about to end."""
        if lane.abandoned:
            return
        with self._lock:
            following = self.place.next_lane(self, lane)
            if following is None:
                self.lanes.pop(lane.name, None)
            else:
                self.lanes[lane.name] = following

    # -- output ------------------------------------------------------------------------------------------------------

    def runs(self, request_id):
        """Whether a request runs now."""
        running = [(lane.request or {}).get("id") for lane in list(self.lanes.values())]
        return request_id is not None and request_id in running

    def publish(self, msg_type, content, metadata=None, buffers=None, clean=None):
        """Publish an event for the calling cell; ``clean`` converts content that JSON cannot represent."""
        cell = streams.current() or self.latest
        self._append(msg_type, None if cell is None else cell.request_id, content, metadata, buffers, clean)
        if os.getpid() == self.pid:
            self._log.wait_for_room()  # as for text: a loop may display as much as another prints
        elif msg_type == "error" and content["ename"] != "SystemExit":  # nobody reads a fork's copy of the log
            self.forked.write("stderr", "\n".join(content["traceback"]) + "\n")
        elif msg_type == "display_data" and "text/plain" in content["data"]:
            self.forked.write("stdout", str(content["data"]["text/plain"]) + "\n")

    def _append(self, msg_type, request_id, content, metadata=None, buffers=None, clean=None):
        event, left_out = messages.event(msg_type, request_id, content, metadata, buffers, clean)
        if left_out:
            self.tell(request_id, left_out)
        else:
            self._log.append(event)

    def append(self, msg_type, request_id, content, metadata=None, buffers=None):
        """Append an event of a request to the log."""
        self._append(msg_type, request_id, content, metadata, buffers)

    def write(self, cell, name, text):
        """Write text that code of ``cell`` has printed."""
        if os.getpid() != self.pid:
            self.forked.write(name, text)
        elif text:
            self._log.write(cell.request_id, name, text)

    def reply(self, request, content):
        """Reply to a request that does not run on a lane."""
        self._append(request["kind"] + "_reply", request["id"], content)

    def flush(self):
        """Send what was printed; in a child, wait until the server has it, as the child may end at any time."""
        self.flush_fork()
        if os.getpid() == self.pid:
            self.place.flush(self, streams.current())

    def hand_over(self, in_any_case):
        """Wait until what was printed has been sent, as long as the log allows; see ``EventLog.hand_over``."""
        self._log.hand_over(in_any_case)

    def becomes_copy(self, log):
        """Called in the forked copy in which a cell is tried (see ``trial``): its events go to ``log``."""
        self.pid, self._log, self._lock = os.getpid(), log, threading.Lock()

    def pass_on(self, event):
        """Log an event of such a copy, or text that it has printed."""
        if event["type"] == "stream":
            self._log.write(event["request"], event["content"]["name"], event["content"]["text"])
        else:
            self._log.append(event)

    def tell(self, request_id, text):
        """Show a message of ours in a cell's output."""
        self._log.append({"type": "stream", "request": request_id, "content": {"name": "stderr", "text": text}})

    def emit(self, name, text):
        """Show text that came through a descriptor: in the call that runs, or in the cell that ran last."""
        self._log.write(self._call or (self.latest and self.latest.request_id), name, text)

    def fileno(self, name):
        """A descriptor whose text appears in the session, for ``sys.stdout.fileno()``."""
        return self.place.descriptor(self, name)

    def need_capture(self):
        """The session's Capture, which reads pipes; made at the first call."""
        with self._lock:
            if self.capture is None:
                self.capture = Capture(self.emit)
        return self.capture

    def before_fork(self):
        """Called before the user's code forks this process: makes sure that the copy has descriptors for its output."""
        self.flush_fork()
        self.place.before_fork(self)

    def flush_fork(self):
        """In a forked copy: write what has been printed and not yet written."""
        if os.getpid() != self.pid:
            self.forked.flush()

    # -- input -------------------------------------------------------------------------------------------------------

    def input(self, prompt="", password=False):
        """Ask the user in the notebook; see ``Prompts.ask``."""
        return self._prompts.ask(prompt, password)

    def answer(self, input_id, value):
        """Pass the user's line to an input request; returns whether it was still waiting."""
        return self._prompts.answer(input_id, value)

    def asks(self, lane):
        """Whether a lane waits for the user: for an answer or at a breakpoint."""
        request = lane.request
        return request is not None and (self._prompts.asks(request["id"], lane.thread_id) or stacks.is_held(lane))

    def _settle(self):
        if self.capture is not None:
            self.capture.settle()

    # -- requests ----------------------------------------------------------------------------------------------------

    def submit(self, request):
        """Start a request ``{"kind", "id", …}``; returns at once, the reply is an event."""
        if request["kind"] in monitor.KINDS:
            monitor.begin(self, request)
        elif request["kind"] in side_requests.KINDS:
            self._side.submit(request)
        elif request["kind"] == "stdin":
            self._programs.feed(request)
        elif request["kind"] == "hot":
            self.hot.submit(request)
        elif request["kind"] == "execute":
            if request.get("program") and "descriptors" not in request:  # a child gets them from its server
                request["descriptors"] = self._programs.begin(request)
            self.lane(request.get("lane") or "").submit(request)
        elif request["kind"] == "debug":
            self.debug.submit(request)
        elif request["kind"] == "object":
            self._submit_object(request)
        elif request["kind"] == "comm":
            self._callbacks.submit(request)
        else:
            raise ValueError("unknown request kind %r" % request["kind"])

    def carry(self, request, key, sock):
        """Send or receive a large value over ``sock``; see ``bulk``."""
        bulk.serve(self.objects, request, key, sock)

    def lane(self, name):
        """The lane of that name; made if there is none."""
        with self._lock:
            lane = self.lanes.get(name)
            if lane is None or lane.abandoned:
                lane = self.lanes[name] = Lane(self, name)
        return lane

    def _submit_object(self, request):
        """Submit a request for an object. It never waits for a cell: while one runs, a helper lane takes the request.

        Requests of one ``batch`` go to the same lane, so they are done in order.
        """
        if "op" in request:
            self.user_begins()
            content, buffers = self.objects.at_once(request)
            self._call = None if self._call == request["id"] else self._call
            self._append("object_reply", request["id"], content, buffers=buffers)
            return
        with self._lock:
            lanes = [lane for name, lane in self.lanes.items() if name[:1] in ("", HELPER) and not lane.abandoned]
            idle = [lane for lane in lanes if lane.is_idle]
            batch = request.get("batch")
            before = self.lanes.get(self._batch[1]) if batch is not None and self._batch[0] == batch else None
            if before is not None and not before.abandoned:
                lane = before
            elif idle:
                lane = min(idle, key=lambda lane: len(lane.name))
            else:
                name = "%s%d" % (HELPER, next(self._helpers))
                lane = self.lanes[name] = Lane(self, name, debugged=False)
            self._batch = (batch, lane.name)
            request["lane"] = lane.name
            lane.submit(request)

    @property
    def loop(self):
        """The event loop of the lane for cells; None if there is none."""
        lane = self.lanes.get("")
        return None if lane is None or lane.abandoned else lane.loop

    def _end_spare_helper(self, name):
        """After a request for an object: end this helper lane if another one is idle too."""
        with self._lock:
            lane = self.lanes.get(name)
            if name[:1] != HELPER or lane is None or not lane.is_idle:
                return
            others = [other for other in self.lanes.values() if other.name[:1] == HELPER and other.is_idle]
            if others:
                del self.lanes[name]
                lane.close()

    def interrupt(self, request_id=None, gently=False):
        """Stop everything that runs, or only request ``request_id``. Returns what was done to the last one, see
        ``Interrupts``. ``gently`` changes nothing: all that is done here keeps the session's variables."""
        done = "idle"
        for lane in list(self.lanes.values()):
            running = lane.request
            if running is None or (request_id is not None and running["id"] != request_id):
                continue
            done = lane.interrupt()
            if done == "abandon":
                self._abandon(lane)
                done = "abandoned"
        if done == "idle" and request_id is not None and any(lane.cancel(request_id) for lane in self.lanes.values()):
            done = "cancelled"
        return done

    def dropped(self, cell):
        """Python has dropped a KeyboardInterrupt in a finalizer: send it again if it was ours; returns whether it
        was."""
        lane = self.lanes.get(cell.lane)
        if lane is None or lane.interrupts.noticed != cell.request_id:
            return False
        threads.later(ONCE_MORE, "interrupt", lane.interrupts.interrupt_again, cell.request_id)
        return True

    def _abandon(self, lane):
        where = stacks.call(self, lane)
        request = lane.abandon()
        if request is None:
            return
        with self._lock:
            if lane.name[:1] == HELPER:
                self.lanes.pop(lane.name, None)
            else:
                self.lanes[lane.name] = Lane(self, lane.name)
        words = "Abandoned in %s: its thread goes on until that call returns; the variables are kept.\n" % where
        self.tell(request["id"], words)
        if request["kind"] == "comm":
            self._append("comm_reply", request["id"], {"status": "error"})
        self._callbacks.ended(request)  # a comm callback is over; after other requests, waiting ones may run
        if request["kind"] == "comm":
            return
        error = {"ename": "KeyboardInterrupt", "evalue": "abandoned in %s" % where, "traceback": []}
        if request["kind"] == "object":
            self._append("object_reply", request["id"], dict(error, status="error"))
            return
        self._append("error", request["id"], dict(error, traceback=["KeyboardInterrupt: " + error["evalue"]]))
        reply = dict(error, status="error", execution_count=self.shell.execution_count, user_expressions={}, payload=[])
        self._append("execute_reply", request["id"], reply)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self):
        """End the session: lanes, helper threads, descriptors, variables. A thread in a call ends after that call."""
        lanes = list(self.lanes.values())
        for lane in lanes:
            lane.interrupt()
            lane.close()
        self.debug.close()
        self.memory.close()
        for lane in lanes:
            if lane.thread_id != threading.get_ident() and not lane.join(2.0):
                lane.abandon()
        # Count as the session's code: what a __del__ prints now is dropped, and must not reach the app's stdout.
        streams.set_current(streams.Cell(None, self))
        if self.comms is not None:
            self.comms.close()
        self._programs.close()
        self.modules.close()
        self.hot.end()
        if not self.closed:
            packages.leave()
        self.objects.close()
        if self.shell is not None:
            self.shell.close()
        self.place.forget_namespace(self.namespace)
        self.namespace.__dict__.clear()
        self.closed = True
        streams.set_current(None)
        self._started.set()
        self._side.close()
        if self.capture is not None:
            self.capture.close()
        class_source.uninstall()
        sys_hooks.uninstall()
