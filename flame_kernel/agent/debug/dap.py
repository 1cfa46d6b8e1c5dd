"""Speaks the Debug Adapter Protocol (DAP) with debugpy in this process. https://microsoft.github.io/debug-adapter-protocol

debugpy's tracer (pydevd) speaks it over a socket. We listen on loopback only until the tracer has connected, and both
sides identify themselves by a secret that is used once. So no other user of the machine can connect.

Only threads that ask for it are traced: an app's own threads neither stop nor become slower.
"""

import binascii
import builtins
import importlib.util
import json
import os
import socket
import sys
import threading

from .. import threads

# In seconds: for the tracer to connect and identify itself, and for its answer to a request of our own.
CONNECT_PATIENCE = 10.0
ANSWER_PATIENCE = 10.0
_HEADER = b"Content-Length:"
# This environment variable keeps debugpy from warning on stderr that frozen modules cannot be stepped into.
NO_WARNING = "PYDEVD_DISABLE_FILE_VALIDATION"
# The tracer ends when no thread is left that it knows and that is not a daemon or has this attribute.
KEEPS_ALIVE = "__pydevd_main_thread"


class NoDebugger(Exception):
    """Debugging is not possible here; the text says why and what to do."""


class Ended(Exception):
    """The tracer no longer answers."""


def missing():
    """Why this Python cannot be debugged, in words; empty if it can."""
    try:
        if importlib.util.find_spec("debugpy") is not None:
            return ""
    except (ImportError, ValueError):
        pass
    words = "the debugger needs debugpy on %s (Python %d.%d): pip install debugpy there; "
    words += "without internet there: %%flame pip install debugpy"
    return words % ((socket.gethostname(),) + sys.version_info[:2])


class Tracer:
    """debugpy's tracer in this process, and the connection to it.

    on_event    called with each DAP event, on the reader's thread
    on_end      called on that thread when the connection has closed
    """

    def __init__(self, on_event, on_end):
        self._on_event = on_event
        self._on_end = on_end
        self._lock = threading.Lock()
        self._seq = 0
        self._waiting = {}  # seq -> (command, function to call with the response)
        self._closing = False
        self._mark = object()  # an attribute value that marks traced threads
        api, pydevd = _load()
        self._api = api
        self._pydevd = pydevd
        if _active() is not None:
            raise NoDebugger("process %d is being debugged by another debugger: end that one first" % os.getpid())
        found = _Found()
        try:
            self._socket = self._connect()
        except BaseException:  # raised again, whatever it is; no tracer is left without a listener
            pydevd.stoptrace()
            raise
        finally:
            found.put_back()
        self._reader = threads.start("dap", self._read)

    def _connect(self):
        """Have the tracer connect to us; returns the connection, once it is proved to be the tracer's."""
        ours, theirs = [binascii.hexlify(os.urandom(32)).decode("ascii") for _ in range(2)]
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(5)
            listener.settimeout(CONNECT_PATIENCE)
            self._pydevd.settrace(
                host="127.0.0.1",
                port=listener.getsockname()[1],
                suspend=False,
                trace_only_current_thread=True,
                patch_multiprocessing=False,
                wait_for_ready_to_run=False,
                notify_stdin=False,
                access_token=ours,
                client_access_token=theirs,
                dont_trace_start_patterns=(os.path.dirname(os.path.abspath(self._api.__file__)),),
            )
            _start_monitoring()
            _active().disable_tracing()  # tracing of this thread, which is ours
            tracers = _address()
            while True:
                connection, address = listener.accept()
                if tracers is not None and address != tracers:
                    connection.close()  # from someone else on this machine; close it at once without an answer
                    continue
                connection.settimeout(CONNECT_PATIENCE)
                if self._is_tracer(connection, ours, theirs):
                    connection.settimeout(None)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return connection
                connection.close()  # from someone else on this machine who was quicker

    def _is_tracer(self, connection, ours, theirs):
        request = {"command": "pydevdAuthorize", "arguments": {"debugServerAccessToken": ours}}
        try:
            connection.sendall(_framed(dict(request, type="request", seq=self._next())))
            self._stream = connection.makefile("rb")
            while True:
                message = _message(self._stream)
                if message is None:
                    return False
                if message.get("command") == request["command"]:
                    return (message.get("body") or {}).get("clientAccessToken") == theirs
        except (OSError, ValueError):
            return False

    def _next(self):
        with self._lock:
            self._seq += 1
            return self._seq

    # -- requests ----------------------------------------------------------------------------------------------------

    def send(self, command, arguments, on_response):
        """Send a request; ``on_response`` is called with the response on the reader's thread. Raises Ended."""
        seq = self._next()
        with self._lock:
            self._waiting[seq] = (command, on_response)
        data = _framed({"type": "request", "seq": seq, "command": command, "arguments": arguments})
        try:
            self._socket.sendall(data)
        except OSError:
            self._waiting.pop(seq, None)
            raise Ended("the debugger has ended")

    def ask(self, command, arguments, patience=ANSWER_PATIENCE):
        """Send a request and return its response. Raises Ended if none comes in time."""
        answered, box = threading.Event(), []

        def on_response(response):
            box.append(response)
            answered.set()

        self.send(command, arguments, on_response)
        if not answered.wait(patience) or box[0] is None:
            raise Ended("the debugger does not answer %s" % command)
        return box[0]

    @property
    def evaluates(self):
        """Whether the front end is evaluating code in a stopped thread."""
        with self._lock:
            return any(command in ("evaluate", "setExpression", "setVariable") for command, _ in self._waiting.values())

    def _read(self):
        try:
            while True:
                message = _message(self._stream)
                if message is None:
                    break
                if message.get("type") == "event":
                    self._on_event(message)
                elif message.get("type") == "response":
                    with self._lock:
                        _, on_response = self._waiting.pop(message.get("request_seq"), (None, None))
                    if on_response is not None:
                        on_response(message)
        except (OSError, ValueError):
            pass
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for _, on_response in waiting.values():
            on_response(None)
        if not self._closing:
            self._on_end()

    # -- threads -----------------------------------------------------------------------------------------------------

    def trace(self):
        """Trace the calling thread from its next call on. Ends a step that led out of the thread's last cell."""
        tracer, thread = _active(), threading.current_thread()
        if tracer is None:
            return
        if hasattr(thread, "additional_info"):
            from _pydevd_bundle import pydevd_api, pydevd_constants

            pydevd_api.PyDevdAPI().request_resume_thread(pydevd_constants.get_thread_id(thread))
        if sys.gettrace() is None or not self.traces(thread):
            thread._flame_traced = self._mark
            tracer.enable_tracing()

    def traces(self, thread):
        """Whether ``thread`` has asked to be traced."""
        return getattr(thread, "_flame_traced", None) is self._mark

    def leave(self):
        """Stop tracing the calling thread until it asks again, because it returns to code that is not the user's."""
        tracer, thread = _active(), threading.current_thread()
        if not self.traces(thread):
            return
        del thread._flame_traced
        if tracer is not None:
            tracer.disable_tracing()
        frame = sys._getframe(1)
        while frame is not None:  # a stop has given all frames a trace function, even the outermost
            trace = frame.f_trace
            if "pydevd" in "%s %s" % (type(trace).__module__, getattr(trace, "__module__", "")):
                frame.f_trace = None
            frame = frame.f_back

    def trace_frames(self, frame):
        """Trace the calling thread now, in ``frame`` and its callers."""
        self.trace()
        _active().set_trace_for_frame_and_parents(threading.get_ident(), frame)

    def stop_in(self, frame):
        """``breakpoint()``: stop the calling thread at the next line of ``frame``."""
        self._pydevd.settrace(
            suspend=True,
            trace_only_current_thread=True,
            patch_multiprocessing=False,
            notify_stdin=False,
            stop_at_frame=frame,
        )

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self):
        """Let stopped threads continue, trace nothing any more, and restore the process as it was."""
        self._closing = True
        found = _Found()
        try:
            self._pydevd.stoptrace()
        finally:
            found.put_back()
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            if self._reader is not threading.current_thread():
                self._reader.join(2.0)
            self._stream.close()
            self._socket.close()


class _Found:
    """What debugpy changes in the process when it is imported, so that it can be put back."""

    def __init__(self):
        self._found = [
            (owner, name, getattr(owner, name, self))
            for owner, names in (
                (builtins, ("__import__", "breakpoint", "execfile", "runfile")),
                (sys, ("breakpointhook", "__breakpointhook__", "settrace")),
            )
            for name in names
        ]
        self._environ = {name: os.environ.get(name) for name in ("PYDEVD_USE_FRAME_EVAL", NO_WARNING)}

    def put_back(self):
        for owner, name, value in self._found:
            if value is not self:
                setattr(owner, name, value)
            elif hasattr(owner, name):
                delattr(owner, name)
        for name, value in self._environ.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def untrace():
    """Stop tracing the calling thread, because its tracer has ended."""
    thread = threading.current_thread()
    if hasattr(thread, "_flame_traced"):
        del thread._flame_traced
        sys.settrace(None)


def _load():
    """debugpy's own interface and its tracer."""
    reason = missing()
    if reason:
        raise NoDebugger(reason)
    found = _Found()
    os.environ[NO_WARNING] = "1"
    try:
        from debugpy.server import api  # noqa: I001  this one makes the other importable

        import pydevd
    except Exception as e:  # whatever a broken installation raises; its text is reported
        raise NoDebugger("debugpy there cannot be imported: %s: %s" % (type(e).__name__, e))
    finally:
        found.put_back()
    return api, pydevd


def _start_monitoring():
    """Start monitoring: since Python 3.12 sys.monitoring gives events of all threads, and marked ones are ignored."""
    from _pydevd_bundle import pydevd_constants

    if getattr(pydevd_constants, "PYDEVD_USE_SYS_MONITORING", False):
        from _pydevd_sys_monitoring import pydevd_sys_monitoring

        pydevd_sys_monitoring.start_monitoring(all_threads=True)


def _active():
    """The tracer that is active in this process, or None."""
    constants = sys.modules.get("_pydevd_bundle.pydevd_constants")
    return None if constants is None else constants.get_global_debugger()


def _address():
    """The address of the tracer's end of its connection; None if this debugpy does not tell."""
    try:
        return _active().writer.sock.getsockname()
    except (AttributeError, OSError):
        return None


def _framed(message):
    data = json.dumps(message).encode("utf-8")
    return _HEADER + b" %d\r\n\r\n" % len(data) + data


def _message(stream):
    """The next message of a stream; None at its end."""
    size = None
    while True:
        line = stream.readline()
        if not line:
            return None
        if line.startswith(_HEADER):
            size = int(line[len(_HEADER) :])
        elif not line.strip() and size is not None:
            break
    data = stream.read(size)
    return json.loads(data.decode("utf-8")) if len(data) == size else None
