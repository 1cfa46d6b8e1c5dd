"""The child's side of a session in a child process, once it has loaded the agent.

Cells run on the main thread. One thread sends events to the server; another receives the server's requests and answers
them, also while a cell runs.
"""

import collections
import functools
import gc
import io
import os
import signal
import socket
import sys
import threading
import time
import types

from ... import own, sockets, tempdirs, threads, windows
from ...log import log as events
from ...remote import bulk
from ...shell import ipython
from ...wire import chunks
from ...wire import message as wire
from .. import core, descriptors, import_path, places
from ..monitor import stacks
from . import fork_server, loopback, processes
from . import stacks as child_stacks
from .frames import FORKS, WARM, Frames, send_frame

try:  # signal.signal looks for a name of the handler that was there, which takes ten times as long
    from _signal import signal as _set_signal
except ImportError:
    _set_signal = signal.signal

# Most bytes of output that the server has not taken yet: a cell that prints more has to wait.
MOST_UNSENT = 2 << 20
# Seconds to finish starting, for a session that is ended while it starts.
START_GRACE = 0.8
# Seconds that exit handlers may take if the server has gone away or the session is ended; and how many of them we wait
# for threads that are no daemons.
EXIT_GRACE, ENDED_GRACE, THREADS_GRACE = 3.0, 2.5, 1.0
# Seconds that a cell may take to end when its session ends; after that, exit handlers run while it still runs.
LEAVE_GRACE = 0.7
# What a ``__del__`` method may use.
_USED = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type, str, int, float)
# Seconds between signals to a main thread that has not noticed them.
SIGNAL_AGAIN = 0.1


def main(sock, left=()):
    """Run the child; never returns. ``left``: the entries removed from the import path, see ``launch``."""
    frames = Frames(sock)
    first = _first_frame(frames)
    if first == FORKS:
        sock, frames = fork_server.serve(sock, frames, _go_on_without_server)
        first = _first_frame(frames)
    options = wire.decode(first)[0]
    tempdirs.use(options["scratch"])
    sock.set_inheritable(False)  # not through ``descriptors``: on Windows a socket has none
    given = sys.argv[2:]
    taker = descriptors.taken([given.pop(0)], [True])[0] if processes.POSIX else None
    crash, out_r, out_w, err_r, err_w = descriptors.taken(given, (False, True, False, True, False))
    if taker is None:
        _empty_stdin()
    if os.name == "nt":
        windows.crash_at_once()
    _enable_faulthandler(crash)
    _go_on_without_server(crash)
    sys.argv[:] = [""]
    log = events.EventLog(bound=MOST_UNSENT)
    me = core.Core(options["session"], places.Child(options["session"]), log, options["shell"])
    me.folder = import_path.Folder(left)
    me.interrupt_only = None  # the request that the next SIGINT is meant for; None: all
    me.start_on_main()
    _take_descriptors(me, {"stdout": (1, out_r, out_w), "stderr": (2, err_r, err_w)})
    handler = _interrupt_handler(me)
    me.take_interrupts = lambda: _set_signal(signal.SIGINT, handler)
    me.take_interrupts()
    me.interrupt_main = functools.partial(_interrupt_main, me)
    me.on_main = functools.partial(_on_main, me)
    me.for_main = collections.deque()  # functions that the next SIGINT makes the main thread call
    me.ends = threading.Lock()  # held when the session ends, until the main thread has come to its own end
    sender = threads.start("sender", _send_events, sock, log)
    if taker is not None:
        taker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, taker)
        taker.settimeout(None)  # gevent or a default timeout would make it non-blocking
    threads.start("receiver", _receive_to_the_end, frames, taker, me, log, sender)
    while not me.ends.locked():  # a lane that ended otherwise has been replaced
        me.run_on_main()
    me.ends.release()
    _finish(me)
    os._exit(0)


def _first_frame(frames):
    """The server's first message. A child that was started before a session asked for it ends if none does."""
    frame = frames.read()
    if frame == WARM:
        ipython.prepare()
        frame = frames.read()
    if frame is None:
        os._exit(0)
    return frame


def _enable_faulthandler(fd):
    """On a crash or on our signal, write all stacks where the server reads them; needs no interpreter."""
    try:
        import faulthandler

        faulthandler.enable(fd)
        faulthandler.register(child_stacks.DUMP_SIGNAL, fd)
    except (ImportError, AttributeError, OSError, ValueError, TypeError):
        pass


def _go_on_without_server(fd):
    """A process that was stopped (SIGSTOP) goes on when the server closes its end of this pipe, and ends. On Linux."""
    try:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGCONT)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    except (ImportError, AttributeError, OSError, TypeError):
        pass


def _empty_stdin():
    """Replace the stdin that told us the secret by an empty one."""
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)


def _take_descriptors(me, pipes):
    from ...output import capture  # imported here, because some systems lack fcntl

    me.capture = capture.Capture(me.emit)
    for name, (number, r, w) in pipes.items():
        me.capture.adopt(name, r, w)
        os.dup2(w, number)
        if os.name == "nt":
            windows.share_with_msvcrt(number)


def _interrupt_handler(me):
    def handle(signum, frame):
        if me.for_main:
            me.for_main.popleft()(frame)
            return
        only, me.interrupt_only = me.interrupt_only, None
        lanes = list(me.lanes.values())  # a copy: other threads add and remove lanes
        # The main thread's own lane comes last, because its interrupt is raised right here.
        for lane in sorted(lanes, key=lambda lane: lane.name, reverse=True):
            if lane.request is not None and only in (None, lane.request["id"]):
                lane.interrupt()

    return handle


def _on_main(me, function):
    me.for_main.append(function)
    threads.signal_main()


def _interrupt_one(me, request_id):
    """Stop one request, on its lane's thread or while it is queued."""
    for lane in list(me.lanes.values()):
        if lane.cancel(request_id):
            return
        running = lane.request
        if running is None or running["id"] != request_id:
            continue
        if lane.name:
            me.interrupt(request_id)
        elif os.name == "nt":  # no signal ends the wait for a process, so the interrupt must come before that ends
            _interrupt_main(me, running)
            lane.interrupts.interrupt_children()
        else:
            lane.interrupts.interrupt_children()
            _interrupt_main(me, running)


def _state_of(me, message):
    """The state of a cell after an interrupt: does it run, has it noticed, does it wait for the user, where is it."""
    seen = {"number": message["number"], "runs": False}
    for lane in list(me.lanes.values()):
        request = lane.request
        if request is not None and request["id"] == message["request"]:
            try:
                where = stacks.call(me, lane)
            except Exception:  # the cell runs meanwhile, so its frames may be gone
                where = "Python code"
            seen.update(runs=True, noticed=lane.interrupts.noticed == request["id"], asks=me.asks(lane), where=where)
    return seen


def _interrupt_main(me, request):
    me.interrupt_only = request["id"]
    _signal_until_handled(me, request["id"])


def _signal_until_handled(me, request_id):
    """Send SIGINT to the main thread until its handler has run: one just before a call blocks does not end the call."""
    if me.interrupt_only == request_id:
        threads.signal_main()
        threads.later(SIGNAL_AGAIN, "interrupt", _signal_until_handled, me, request_id)


def _send_events(sock, log):
    ack = 0
    while True:
        batch = log.poll(ack, wait=None)
        if not batch:
            return
        frame = _in_spite_of_cells(_encoded, batch)
        try:
            send_frame(sock, frame)
        except OSError:
            _end_process(1)  # the server is gone
        ack = batch[-1]["number"]


def _encoded(batch):
    plain, buffers = wire.encode_events(batch)
    return wire.encode({"events": plain}, buffers)


def _in_spite_of_cells(function, *args):
    """Call a function of ours; if it fails because a cell has broken what it needs, repair that and call it again."""
    try:
        return function(*args)
    except Exception:  # whatever the cell's own functions raise
        own.repair()
        return function(*args)


def _receive_to_the_end(*args):
    """The receiver's thread. Without it nobody could end this process, so the process ends if it fails."""
    try:
        _receive(*args)
    except BaseException:  # any error: a cell may have broken anything
        _end_without_python(0)
        _kill()


def _receive(frames, taker, me, log, sender):
    while True:
        frame = frames.read()
        if frame is None:
            me.wait_started(START_GRACE)
            _end_process(1)
        message, buffers = _in_spite_of_cells(wire.decode, frame)
        if message["op"] == "submit":
            request = dict(message["request"], buffers=[bytes(b) for b in buffers])
            if request.get("program") and taker is not None:
                request["descriptors"] = descriptors.received(taker, 3)
            me.submit(request)
        elif message["op"] == "answer":
            me.answer(message["input_id"], message["value"])
        elif message["op"] == "interrupt":
            _interrupt_one(me, message["request"])
        elif message["op"] == "look":
            log.append({"type": "looked", "request": None, "content": _state_of(me, message)})
        elif message["op"] == "carry":
            key = None if message["key"] is None else bytes.fromhex(message["key"])
            given = [_socket(fd) for fd in descriptors.received(taker, 3)] if taker is not None else [message["words"]]
            threads.start("carry", _carry, me, message["request"], key, given)
        elif message["op"] == "close":
            me.wait_started(START_GRACE)
            log.close()
            sender.join(0.5)
            _leave(me)


def _socket(number):
    """A socket for a descriptor, whatever its address family."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, number)
    sock.settimeout(bulk.PATIENCE)
    return sock


def _carry(me, request, key, given):
    """Send or receive a large value over the last of the sockets; the first one tells the server when it is done. In
    place of both there may be the words of a listener."""
    if isinstance(given[0], list):
        try:
            given = [loopback.join(given[0])]
        except OSError:  # the server has given up meanwhile
            return
        given[0].settimeout(bulk.PATIENCE)
    done, sock = given[0], given[-1]
    try:
        bulk.serve(me.objects, request, key, sock)
        if sock is not done:
            done.sendall(chunks.DONE)
    except Exception:  # a cut, or a value that is gone: the client asks what has arrived
        for one in given:  # closing is not enough: a process forked meanwhile may have copies
            sockets.shut(one)
    finally:
        for one in given:
            one.close()


def _leave(me):
    """End the session: its main thread stops the cell that runs, and ends the process as the user's program would."""
    threads.later(LEAVE_GRACE + ENDED_GRACE, "end", os._exit, 0)
    me.ends.acquire()
    lane = me.lanes.get("")
    running = lane.request
    lane.close()
    if running is not None:
        lane.interrupts.interrupt_children()
        _interrupt_main(me, running)
    if not me.ends.acquire(timeout=LEAVE_GRACE):  # it is in C code, or ignores the stop
        _end_process(0)


def _finish(me):
    """What an interpreter does at its end: wait for threads, run exit handlers, free the user's objects, and flush open
    files. All of that is user code, and may raise anything."""
    import atexit

    deadline = time.monotonic() + THREADS_GRACE
    for function in reversed(getattr(threading, "_threading_atexits", ())):  # of pools, which wait for their work
        _quietly(function)
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            _quietly(thread.join, max(0.0, deadline - time.monotonic()))
    _quietly(atexit._run_exitfuncs)
    _flush_files()
    names = vars(me.namespace)
    for name in reversed(list(names)):  # the newest objects first, so that what their methods use still exists
        if not isinstance(names.get(name), _USED):
            names.pop(name, None)
    _quietly(gc.collect)
    _quietly(names.clear)
    _flush_files()


def _flush_files():
    for kinds in ((io.TextIOWrapper,), (io.BufferedWriter, io.BufferedRandom)):
        for thing in gc.get_objects():
            if type(thing) in kinds:
                _quietly(thing.flush)


def _quietly(function, *args):
    try:
        function(*args)
    except BaseException:  # user code may raise anything, also SystemExit; the process ends anyway
        pass


def _end_process(status):
    """End this process, whatever the main thread does; if ``status`` is not 0, also the subprocesses in its group."""
    import atexit

    signal.signal(signal.SIGTERM, signal.SIG_IGN) if threading.current_thread() is threading.main_thread() else None
    if status:  # the server is gone: nobody else would end what hangs, or what cells have started in our group
        _end_without_python(2 * EXIT_GRACE)
        threads.later(EXIT_GRACE, "end", _kill)
    _quietly(atexit._run_exitfuncs)
    _flush_files()
    if status:
        _kill()
    os._exit(status)


def _end_without_python(seconds):
    """Let a thread in C end this process in ``seconds``: cells may have broken what our own threads need."""
    try:
        import faulthandler

        faulthandler.dump_traceback_later(seconds + 0.1, exit=True, file=os.open(os.devnull, os.O_WRONLY))
    except Exception:  # it is missing, or a cell has broken it: then our own threads must do it
        pass


def _kill():
    """Kill this process and its whole group."""
    tempdirs.remove_own()  # an earlier exit handler may hang, and threads may have written since
    if processes.POSIX:
        processes.signal_group(os.getpid(), signal.SIGKILL)
    os._exit(1)  # on Windows, what else it has started ends with the server's job object
