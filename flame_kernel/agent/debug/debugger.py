"""The debugger of a session: answers the front end's debug requests where cells run.

Requests that debugpy knows go to debugpy (see ``dap``).  Those that Jupyter adds to the protocol are answered here:
``debugInfo``, ``dumpCell``, ``inspectVariables``, ``richInspectVariables``, ``copyToGlobals``, ``modules``.  A response
is a ``debug_reply`` event, a debugger event a ``debug_event``.

https://jupyter-client.readthedocs.io/en/stable/messaging.html#debug-request

``tracing`` owns the tracer and decides which threads it traces.
"""

import atexit
import linecache
import os
import queue
import re
import shutil
import stat
import sys
import threading

from .. import threads
from ..output import streams
from ..shell import compiler
from ..wire.units import size_in_words
from . import dap, tracing, variables

# Largest file that is shown as source, in bytes.
MOST_SOURCE = 16 << 20
# Seconds that a request waits for a shell that is still starting.
START_PATIENCE = 10.0
# Names that the shell has added to the user's variables.
_HIDDEN = """
__name__ __doc__ __package__ __loader__ __spec__ __annotations__ __builtins__ __builtin__ __display__ get_ipython
debugpy exit quit open display In Out _ih _oh _dh _ __ ___
"""
HIDDEN = frozenset(_HIDDEN.split())
_HISTORY = re.compile(r"_i{1,3}\Z|_i?\d+\Z")  # inputs and outputs of cells, by number


class Debugger:
    """Answers the debug requests of one session.

    host     the session core
    append   ``append(type, request id, content)`` adds an event to its log
    """

    def __init__(self, host, append):
        self._host = host
        self._append = append
        self._lock = threading.Lock()
        self._requests = None
        self._thread = None
        self._request_id = None  # of the latest debug request
        self._tracing = tracing.Tracing(host)
        self._folder = None
        self._breakpoints = {}  # path -> the breakpoints as they were set
        self._stopped = set()  # DAP's thread numbers
        self._variables = variables.Variables()

    # -- any thread --------------------------------------------------------------------------------------------------

    def submit(self, request):
        """Handle a debug_request: ``{"id", "message": the DAP request}``. The reply is an event."""
        with self._lock:
            if self._thread is None:
                self._requests = queue.Queue()
                self._thread = threads.start("debug", self._serve)
        self._requests.put(request)

    def begin(self):
        """Called on a lane's thread when it is about to run a cell."""
        if self._thread is not None:  # otherwise nobody has debugged here, and nothing is traced
            self._tracing.begin()

    def leave(self):
        """Called on a thread that returns to the app's code, which must neither stop nor become slower."""
        self._tracing.leave()

    def resume(self):
        """A cell is being interrupted: if it is stopped at a breakpoint, let it continue, so that the interrupt is
        raised there.

        If the front end is evaluating an expression there, that is interrupted first.
        """
        tracer = self._tracer
        if tracer is not None and self._stopped and not tracer.evaluates:
            threads.start("interrupt", self._resume, tracer)

    @property
    def is_stopped(self):
        """Whether a cell is stopped at a breakpoint or by a pause."""
        return bool(self._stopped)

    def _resume(self, tracer):
        try:
            tracer.send("continue", {"threadId": "*"}, lambda response: None)
        except dap.Ended:
            return
        self._on_event({"type": "event", "event": "continued", "body": {"threadId": 1, "allThreadsContinued": True}})

    def close(self):
        """The session ends: let everything that is stopped continue."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._requests.put(None)
            if thread is not threading.current_thread():
                thread.join(2.0)
        self._stop()

    # -- the debugger's own thread -----------------------------------------------------------------------------------

    def _serve(self):
        streams.set_current(streams.Cell(None, self._host))
        while True:
            request = self._requests.get()
            if request is None:
                return
            message = request.get("message") or {}
            self._request_id = request["id"]
            try:
                if not self._host.wait_started(START_PATIENCE):
                    raise dap.NoDebugger("the session is still starting")
                reply = self._handle(request["id"], message)
            except (dap.NoDebugger, dap.Ended) as e:
                reply = _failure(message, str(e))
            except BaseException as e:  # a repr of the user's may raise anything; the front end waits for an answer
                reply = _failure(message, "%s: %s" % (type(e).__name__, e))
            if reply is not None:
                self._append("debug_reply", request["id"], reply)

    def _handle(self, request_id, message):
        """The response to a request; None if it comes later."""
        command, arguments = message.get("command"), message.get("arguments") or {}
        if not isinstance(command, str) or not isinstance(arguments, dict):
            return _failure(message, "not a request of the Debug Adapter Protocol")
        mine = getattr(self, "_on_" + command, None)
        if mine is not None:
            done = mine(message, arguments)
            if done is not None:
                return done if done.get("type") == "response" else _response(message, done)
        if self._tracer is None:
            return _failure(message, "the debugger is not started")
        self._forward(request_id, message, arguments)
        return None

    def _forward(self, request_id, message, arguments):
        if "threadId" in arguments:
            arguments = dict(arguments, threadId=self._tracing.swapped(arguments["threadId"]))

        def answer(response):
            if response is None:
                response = _failure(message, "the debugger has ended")
            elif message["command"] == "stackTrace" and response.get("success"):
                frames = response["body"]["stackFrames"]
                for outside in reversed(self._host.outer_lines):  # debugpy leaves some of them out
                    if frames and outside == tracing.line_of(
                        (frames[-1].get("source") or {}).get("path"), frames[-1]["line"]
                    ):
                        frames.pop()
                response["body"]["totalFrames"] = len(frames)
            elif message["command"] == "threads" and response.get("success"):
                body = response["body"]
                known = [dict(one, id=self._tracing.swapped(one["id"])) for one in body["threads"]]
                everywhere = self._tracing.everywhere
                body["threads"] = [one for one in known if everywhere or one["id"] in (1, *self._stopped)]
            elif str(response.get("message")).endswith("KeyboardInterrupt\n"):
                response = _failure(message, "KeyboardInterrupt: the evaluation was interrupted")
            self._append("debug_reply", request_id, _as_answer(message, response))

        self._tracer.send(message["command"], arguments, answer)

    @property
    def _tracer(self):
        return self._tracing.tracer

    # -- start and end -----------------------------------------------------------------------------------------------

    def _on_initialize(self, message, arguments):
        if self._tracer is None:
            self._tracing.claim()
            try:
                self._make_folder()
                self._tracing.start(self._on_event, self._on_end)
            except BaseException:  # raised again, whatever it is; nothing is left half started
                self._stop()
                raise

    def _stop(self):
        self._tracing.stop()
        self._breakpoints.clear()
        self._stopped.clear()
        self._remove_folder()
        self._tracing.release()

    def _on_attach(self, message, arguments):
        return None if self._tracer is None else _as_answer(message, self._tracing.attach(arguments))

    def _on_configurationDone(self, message, arguments):  # noqa: N802  the protocol's name, as below
        return {} if self._tracer is not None else None

    def _on_disconnect(self, message, arguments):
        if self._tracer is not None:
            try:
                self._tracer.ask("disconnect", {"terminateDebuggee": False})
            except dap.Ended:
                pass
        self._stop()
        return {}

    def _on_pause(self, message, arguments):
        if self._tracer is not None and self._tracing.misses_cell():
            # It is not safe to switch on tracing from another thread.
            return _failure(
                message, "the running cell began before the debugger was on: only later cells can be stopped"
            )
        return None

    def _on_continue(self, message, arguments):
        """Answer here, because debugpy answers only when something continues: never if nothing is stopped."""
        if self._tracer is None:
            return None
        self._tracer.send("continue", {"threadId": "*"}, lambda response: None)
        return {"allThreadsContinued": True}

    def _on_setExceptionBreakpoints(self, message, arguments):  # noqa: N802
        """The shell catches each error of a cell, so an error counts as uncaught when it leaves the user's code."""
        if self._tracer is None:
            return None
        filters = list(arguments.get("filters") or ())
        if "uncaught" in filters and "userUnhandled" not in filters:
            filters.append("userUnhandled")
        options = [
            dict(one, breakMode="userUnhandled") if one.get("breakMode") == "unhandled" else one
            for one in arguments.get("exceptionOptions") or ()
        ]
        arguments = dict(arguments, filters=filters, exceptionOptions=options)
        response = self._tracer.ask("setExceptionBreakpoints", arguments)
        return _as_answer(message, response)

    def _on_terminate(self, message, arguments):
        """End the stopped cell, but not the process, which may be an app's."""
        if self._tracing.everywhere:
            threads.signal_main()
        else:
            self._host.interrupt()
        return {}

    # -- from the tracer ---------------------------------------------------------------------------------------------

    def _on_event(self, message):
        """Called on the reader's thread."""
        kind, body = message.get("event"), dict(message.get("body") or {})
        if kind == "thread" and not self._tracing.everywhere:
            return  # the notebook does not care about the app's own threads
        if "threadId" in body:
            body["threadId"] = self._tracing.swapped(body["threadId"])
        if kind == "stopped":
            self._stopped.add(body["threadId"])
        elif kind == "continued":
            if body.get("allThreadsContinued"):
                self._stopped.clear()
            else:
                self._stopped.discard(body.get("threadId"))
        about_cell = kind in ("stopped", "continued", "output")
        request_id = (self._tracing.running() if about_cell else None) or self._request_id
        self._append("debug_event", request_id, dict(message, body=body))

    def _on_end(self):
        """Called on the reader's thread when the tracer has ended without being asked to."""
        self._append("debug_event", self._request_id, {"type": "event", "event": "terminated", "body": {}})
        self._requests.put({"id": "", "message": {"command": "disconnect"}})

    # -- requests that Jupyter adds ----------------------------------------------------------------------------------

    def _on_debugInfo(self, message, arguments):  # noqa: N802
        shell = self._host.shell
        return {
            "isStarted": self._tracer is not None,
            "hashMethod": "Murmur2",
            "hashSeed": compiler.SEED,
            "tmpFilePrefix": shell.cell_folder + os.sep,
            "tmpFileSuffix": ".py",
            "breakpoints": [{"source": path, "breakpoints": found} for path, found in self._breakpoints.items()],
            "stoppedThreads": sorted(self._stopped),
            "richRendering": True,
            "exceptionPaths": ["Python Exceptions"],
            "copyToGlobals": True,
        }

    def _on_dumpCell(self, message, arguments):  # noqa: N802
        if self._tracer is None:
            return None
        path = self._host.shell.cell_file(arguments["code"])
        if os.path.dirname(path) == self._folder:
            with open(path, "w", encoding="utf-8") as file:
                file.write(arguments["code"])
        return {"sourcePath": path}

    def _make_folder(self):
        """Make the folder where debugpy finds the text of cells; only the user can read it."""
        folder = self._host.shell.cell_folder
        try:
            os.mkdir(folder, 0o700)
            self._folder = folder
            atexit.register(self._remove_folder)
        except FileExistsError:
            found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode) or not _is_ours(found):
                raise dap.NoDebugger(
                    "%s can be written to by others: remove it there; the debugger keeps the text of cells in it"
                    % folder
                )
            self._folder = folder
        except OSError as e:
            raise dap.NoDebugger("the debugger cannot keep the text of cells there: %s" % e)

    def _remove_folder(self):
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, True)
            atexit.unregister(self._remove_folder)

    def _on_setBreakpoints(self, message, arguments):  # noqa: N802
        if self._tracer is None:
            return None
        path = arguments["source"]["path"]
        response = self._tracer.ask("setBreakpoints", arguments)
        if response.get("success"):
            # The lines may differ from those asked for; conditions etc. are as in the request.
            made = response["body"]["breakpoints"]
            kept = [dict(one, line=found.get("line")) for one, found in zip(arguments.get("breakpoints") or (), made)]
            self._breakpoints[path] = kept
            if not kept:
                del self._breakpoints[path]
        return _as_answer(message, response)

    def _on_source(self, message, arguments):
        path = (arguments.get("source") or {}).get("path") or ""
        try:
            with open(path, "rb") as file:
                text = file.read(MOST_SOURCE + 1)
            if len(text) > MOST_SOURCE:
                return _failure(message, "%s is longer than %s" % (path, size_in_words(MOST_SOURCE)))
            return {"content": text.decode("utf-8", "replace")}
        except OSError:
            lines = linecache.getlines(path)  # also has cells and modules that the client sent
        return {"content": "".join(lines)} if lines else _failure(message, "source unavailable")

    def _on_modules(self, message, arguments):
        found = []
        for number, module in enumerate(list(sys.modules.values())):
            path = getattr(getattr(module, "__spec__", None), "origin", None)
            if isinstance(path, str) and path.endswith(".py"):
                found.append({"id": number, "name": getattr(module, "__name__", ""), "path": path})
        start = arguments.get("startModule") or 0
        count = arguments.get("moduleCount") or len(found)
        return {"modules": found[start : start + count], "totalModules": len(found)}

    def _on_inspectVariables(self, message, arguments):  # noqa: N802
        names = {name: value for name, value in variables.items_of(self._host.namespace.__dict__) if _is_users(name)}
        return {"variables": self._variables.top(names)}

    def _on_variables(self, message, arguments):
        found = self._variables.children(arguments.get("variablesReference"))
        if found is None and self._tracer is not None:
            response = self._tracer.ask("variables", arguments)
            if response.get("success"):
                body = response["body"]
                body["variables"] = [one for one in body["variables"] if _is_users(one["name"])]
            return _as_answer(message, response)
        return {"variables": found or []}

    def _on_richInspectVariables(self, message, arguments):  # noqa: N802
        name, frame = arguments.get("variableName"), arguments.get("frameId")
        bundle = {"data": {}, "metadata": {}}
        if not isinstance(name, str) or not name.isidentifier():
            if name not in ("special variables", "function variables", "class variables"):
                return _failure(message, "%s is not a name" % (name,), bundle)
            return bundle
        if not self._stopped or frame is None:
            shown = self._host.shell.user_expressions({name: name})[name]
        else:
            shown = self._tracing.bundle(name, frame)
        if shown.get("status") != "ok":
            return _failure(message, "%s cannot be shown: %s" % (name, shown.get("evalue")), bundle)
        metadata = {mime: one for mime, one in shown["metadata"].items() if mime in shown["data"]}
        return {"data": shown["data"], "metadata": metadata}

    def _on_copyToGlobals(self, message, arguments):  # noqa: N802
        source, target = arguments.get("srcVariableName"), arguments.get("dstVariableName")
        if not all(isinstance(name, str) and name.isidentifier() for name in (source, target)):
            return _failure(message, "srcVariableName and dstVariableName must be valid identifiers")
        if self._tracer is None:
            return None
        change = {"expression": "globals()[%r]" % target, "value": source, "frameId": arguments.get("srcFrameId")}
        return _as_answer(message, self._tracer.ask("setExpression", change))


def _is_users(name):
    return name not in HIDDEN and not _HISTORY.match(name)


def _response(message, body):
    return {
        "type": "response",
        "request_seq": message.get("seq", 0),
        "success": True,
        "command": message.get("command", ""),
        "body": body,
    }


def _as_answer(message, response):
    """debugpy's response to our own request, as the response to the front end's."""
    return dict(response, request_seq=message.get("seq", 0), command=message.get("command", ""))


def _failure(message, reason, body=None):
    return dict(_response(message, body or {}), success=False, message=reason)


def _is_ours(found):
    """Whether nobody else can write to a folder with these facts; on Windows its parent, a folder of ours, says so."""
    return not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
