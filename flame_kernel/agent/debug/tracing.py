"""Tracing: runs debugpy's tracer in this process while a session's debugger is on, and chooses which threads to trace.

In a child all threads stop together at a breakpoint. In a server's process only the cell's threads do: the app's own
threads are not traced, so they continue and do not become slower.
"""

import importlib.util
import os
import sys
import threading
import weakref

from .. import own, threads
from ..output import streams
from ..patches import Layer
from . import dap

# Libraries that run and show cells, in addition to Python's own. Steps do not enter them, the stack does not show them,
# and errors that they catch stop nothing.
_BETWEEN = """
IPython traitlets ipykernel debugpy Pyro4 comm jedi parso pygments stack_data asttokens executing pure_eval decorator
backcall matplotlib_inline pexpect prompt_toolkit wcwidth
"""
BETWEEN = _BETWEEN.split()

_active = []  # the Tracing that uses the process's tracer, of this version of the agent
_active_lock = threading.Lock()


class Tracing:
    """The tracer of one session, and the threads that it traces.

    host        the session core
    everywhere  whether all threads of the process stop and continue together
    tracer      the dap.Tracer, or None if none is running
    """

    def __init__(self, host):
        self._host = host
        self.everywhere = host.place.stops_all_threads
        self.tracer = None
        self._cell_thread = None  # DAP's number of the thread of the lane for cells; the front end calls it 1
        self._was = {}  # what was changed in the process, to be put back
        self._left_alone = weakref.WeakSet()  # threads that were marked so that they are not traced
        self._keep_alive = weakref.WeakSet()  # threads that were marked so that they keep the tracer alive
        self._shown = None

    def __repr__(self):
        return "<Tracing %s %s>" % (self._host.session_id, "off" if self.tracer is None else "on")

    # -- start and end -----------------------------------------------------------------------------------------------

    def claim(self):
        """Reserve the process's tracer; one session can have it at a time. Raises NoDebugger with the reason."""
        reason = dap.missing()
        if reason:
            raise dap.NoDebugger(reason)
        with _active_lock:
            if _active and _active[0] is not self:
                raise dap.NoDebugger(
                    "the session %s in the same process is being debugged: one at a time; or use place = child"
                    % _active[0]._host.session_id
                )
            _active[:] = [self]

    def release(self):
        """Give up the reservation, if there is one."""
        with _active_lock:
            if _active and _active[0] is self:
                del _active[:]

    def start(self, on_event, on_end):
        """Start the tracer, after ``claim``; takes the arguments of dap.Tracer. If this raises, call ``stop`` too."""
        self._leave_threads_alone()
        self.tracer = dap.Tracer(on_event, on_end)
        self._host.shell.keep_empty_lines(True)
        self._was["hook"] = getattr(sys, "breakpointhook", None)
        sys.breakpointhook = self._breakpoint
        for lane in list(self._host.lanes.values()):
            if lane.debugged:
                lane.call(self.begin)
        if self._host.on_main is not None and self.running() is not None:
            self._host.on_main(self.tracer.trace_frames)

    def stop(self):
        """End the tracer, if it is running, and put back what was changed."""
        tracer, self.tracer = self.tracer, None
        if tracer is not None:
            tracer.close()
            self._host.shell.keep_empty_lines(False)
            hook = self._was.pop("hook", None)
            if sys.breakpointhook == self._breakpoint and hook is not None:
                sys.breakpointhook = hook
            for lane in list(self._host.lanes.values()):
                lane.call(self.begin)
        for layer in self._was.pop("start", ()):
            layer.remove()
        while self._left_alone:
            thread = self._left_alone.pop()
            del thread.pydev_do_not_trace, thread.is_pydev_daemon_thread
        while self._keep_alive:
            delattr(self._keep_alive.pop(), dap.KEEPS_ALIVE)
        self._cell_thread = None

    def _breakpoint(self, *args, **kwargs):
        """``sys.breakpointhook`` while the debugger is on."""
        tracer, hook = self.tracer, self._was.get("hook")
        cell = streams.current()
        if tracer is not None and cell is not None and cell.host is self._host and not args and not kwargs:
            tracer.stop_in(sys._getframe().f_back)
        elif hook is not None:
            hook(*args, **kwargs)

    # -- threads -----------------------------------------------------------------------------------------------------

    def begin(self):
        """Called on a lane's thread when it is about to run a cell."""
        tracer = self.tracer
        if hasattr(threading.current_thread(), "pydev_do_not_trace"):
            return  # debugpy's own thread
        if tracer is not None:
            tracer.trace()
        else:
            dap.untrace()

    def leave(self):
        """Called on a thread that returns to the app's code, which must neither stop nor become slower."""
        tracer = self.tracer
        if tracer is not None:
            tracer.leave()
        else:
            dap.untrace()

    def running(self):
        """The id of the running cell, or None; of the main lane's cell if subshells run cells too."""
        lanes = list(self._host.lanes.values())  # a copy: other threads add and remove lanes
        for lane in sorted(lanes, key=lambda lane: lane.name):
            request = lane.request
            if request is not None and request["kind"] == "execute":
                return request["id"]
        return None

    def misses_cell(self):
        """Whether the running cell is not traced, because it began before the debugger was on."""
        lane = self._host.lanes.get("")
        return lane is not None and lane.request is not None and not self.tracer.traces(_thread(lane.thread_id))

    def _leave_threads_alone(self):
        """Mark threads that continue while a cell is stopped: the agent's and the app's, including later ones."""
        cells = {lane.thread_id for lane in list(self._host.lanes.values()) if lane.debugged}
        for thread in threading.enumerate():
            if thread.ident in cells:
                setattr(thread, dap.KEEPS_ALIVE, True)
                self._keep_alive.add(thread)
            elif thread.name.startswith("flame-") or not self.everywhere:
                self._leave_alone(thread)
        if not self.everywhere:
            kinds = {threading.Thread, own.shared(threading).Thread}  # ours, and the app's
            self._was["start"] = [Layer(kind, "start", self._thread_start) for kind in kinds]

    def _leave_alone(self, thread):
        if not hasattr(thread, "pydev_do_not_trace"):
            threads.leave_alone(thread)
            self._left_alone.add(thread)

    def _thread_start(self, below):
        def start(thread):
            cell = streams.current()
            if cell is None or cell.host is not self._host:
                self._leave_alone(thread)
            return below(thread)

        return start

    # -- threads as the front end sees them --------------------------------------------------------------------------

    def attach(self, arguments):
        """Have the tracer begin; returns the response to the front end's attach request with these arguments."""
        arguments = dict(
            arguments,
            justMyCode=False,
            debugOptions=["DebugStdLib"],
            rules=_rules() + list(arguments.get("rules") or ()),
            subProcess=False,
            redirectOutput=False,
            stopAllThreadsOnSuspend=self.everywhere,
            steppingResumesAllThreads=self.everywhere,
        )
        response = self.tracer.ask("attach", arguments)
        if response.get("success"):
            self.tracer.ask("configurationDone", {})
            self._learn_threads()
        return response

    def _learn_threads(self):
        """Find out which of DAP's threads runs the cells."""
        lane = self._host.lanes.get("")
        thread = _thread(lane.thread_id) if lane is not None else None
        if thread is None:
            return
        name = thread.name
        try:
            thread.name = "flame cells of %s" % self._host.session_id  # for this question: the tracer tells only names
            for one in self.tracer.ask("threads", {})["body"]["threads"]:
                if one["name"] == thread.name:
                    self._cell_thread = one["id"]
        finally:
            thread.name = name

    def swapped(self, number):
        """Convert debugpy's thread number to the front end's and back: for the front end, cells run on thread 1."""
        pair = {self._cell_thread: 1, 1: self._cell_thread}
        return number if self._cell_thread is None else pair.get(number, number)

    def bundle(self, name, frame):
        """``{"status", "data", "metadata"}`` of a name in a stopped frame (``frame``: its DAP number); or an error."""
        self._shown = None
        look = "__import__('sys').modules[%r].show(%s)" % (__name__, name)
        response = self.tracer.ask("evaluate", {"expression": look, "frameId": frame, "context": "clipboard"})
        return self._shown or {"status": "error", "evalue": response.get("message")}

    def take(self, value):
        """Called in a stopped thread: keep, for ``bundle``, the forms in which a front end may show ``value``."""
        self._shown = dict(zip(("data", "metadata"), self._host.shell.bundle(value)), status="ok")


def show(value):
    """Evaluated in a stopped frame, for ``bundle``."""
    _active[0].take(value)


def _rules():
    """Code that steps do not enter: the agent, the standard library, and what runs cells. The longest path decides."""
    library = os.path.dirname(os.__file__)
    rules = [{"path": "<%s/**" % own.PACKAGE, "include": False}, {"path": library, "include": False}]
    rules += [{"path": os.path.join(library, one), "include": True} for one in ("site-packages", "dist-packages")]
    for name in BETWEEN:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        for folder in (spec.submodule_search_locations if spec is not None else None) or ():
            rules.append({"path": folder, "include": False})
    return rules


def lines_of(frame):
    """What ``line_of`` gives for ``frame`` and for each of its callers, none of which is the user's code."""
    found = []
    while frame is not None:
        found.append(line_of(frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return found


def line_of(path, line):
    """``(file name without its folder, line)``: equal for the same line, however the path is written."""
    return os.path.basename(path or ""), line


def _thread(ident):
    return next((one for one in threading.enumerate() if one.ident == ident), None)
