"""A session in a child process of the server: a fresh interpreter with the same agent, cells on its main thread.

The parent keeps the event log, so nothing that was said is lost when the child dies, and a parked poll costs the child
nothing. Between the two runs a socket pair with frames: 8 bytes of length, then a message of ``wire``. To the child go
requests (``submit``, ``answer``, ``interrupt``, ``close``), from it come batches of events.

An interrupt is SIGINT to the child's process group, sent by the server: it arrives when the child is deep in C as well,
and its subprocesses have it too, as with Ctrl-C in a terminal.
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading

from . import scratch, wire

_LENGTH = struct.Struct(">Q")

# What the new interpreter runs before it knows anything: the loader and the agent's text come through the socket.
# And nothing of it comes from the current folder, where a json.py may lie: cells have it on their path later.
BOOT = """\
import sys
sys.path[:1] = [folder for folder in sys.path[:1] if folder]
import socket
s = socket.socket(fileno=int(sys.argv[1]))
def read(n):
    parts = []
    while n:
        part = s.recv(n)
        if not part:
            sys.exit(0)
        parts.append(part)
        n -= len(part)
    return b"".join(parts)
space = {}
exec(read(int.from_bytes(read(8), "big")).decode(), space)
space["boot"](read(int.from_bytes(read(8), "big")).decode()).child.main(s)
"""

# Variables that a cell has no business with: keys of the server and of its clients.
SECRET_ENVIRONMENT = ("PYRO_HMAC_KEY", "FLAME_KEY", "FLAME_KEY_FILE")

# Bytes that cells may print ahead of what the server has taken; all else waits there.
AHEAD = 2 << 20
# Seconds that a session which is ended while it starts has to be there first.
START_GRACE = 0.8
# Seconds that a process has to end when it is asked: one that still starts, on a busy machine, needs the most.
ASKED_GRACE = 2.5
# Seconds that exit handlers may take when the server has gone away.
EXIT_GRACE = 3.0

# Seconds between signals to a main thread that has not noticed.
STRIKE_AGAIN = 0.1

_children = set()  # process ids of living children, of this version of the agent


def pids():
    """The processes in which sessions live: no interrupt of a cell shall reach them."""
    return set(_children)


def send_frame(sock, data):
    sock.sendall(_LENGTH.pack(len(data)) + data)


def read_frame(sock):
    """The next frame, or None at the end of the stream."""
    head = _read(sock, _LENGTH.size)
    return None if head is None else _read(sock, _LENGTH.unpack(head)[0])


def _read(sock, size):
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        try:
            n = sock.recv_into(view[at:])
        except OSError:
            return None
        if not n:
            return None
        at += n
    return data


# -- in the server ---------------------------------------------------------------------------------------------------


class ChildCore:
    """Stands in the server for the Core that lives in a child; the same interface.

    bundle     the agent's own text: ``(loader, JSON text for it)``
    """

    def __init__(self, session_id, log, shell, bundle):
        self.session_id = session_id
        self.place = "child"
        self.described = None
        self._log = log
        self._shell = shell
        self._bundle = bundle
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._unsent = None  # frames for a process that has not been given its text yet
        self._running = {}  # id -> request that has no reply yet
        self._process = None
        self._closed = False

    def __repr__(self):
        return "<ChildCore %r pid %s>" % (self.session_id, self._process.pid if self._process else None)

    @property
    def pid(self):
        return self._process.pid if self._process is not None else 0

    def start(self):
        """Start the process; ``ready`` is its first event. Raises RuntimeError with the reason where it cannot."""
        if not sys.executable:
            raise RuntimeError("its sys.executable is empty, so it cannot start a child: use place = process")
        if os.name != "posix":
            raise RuntimeError("child sessions need a POSIX server: use place = process")
        ours, theirs = [_high(one) for one in socket.socketpair()]
        crash_r, crash_w = [_high_number(number) for number in os.pipe()]
        environment = {k: v for k, v in os.environ.items() if k not in SECRET_ENVIRONMENT}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOT, str(theirs.fileno()), str(crash_w)],
                pass_fds=(theirs.fileno(), crash_w),
                stdin=subprocess.DEVNULL,
                stdout=_inherited(1),
                stderr=_inherited(2),
                start_new_session=True,
                env=environment,
            )
        except BaseException:
            ours.close()
            os.close(crash_r)
            raise
        finally:
            theirs.close()
            os.close(crash_w)
        _children.add(self._process.pid)
        self.described = None
        self._socket = ours
        self._unsent = []
        reader = threading.Thread(target=self._relay, args=(self._process, ours, crash_r), name="flame-relay")
        reader.daemon = True
        self._reader = reader
        reader.start()

    @property
    def is_dead(self):
        """Whether its process has ended, and the next request will start another."""
        return self._process is None

    def _bring_up(self, sock, folder):
        """Give a new process its text: on its own thread, because it takes as long as an interpreter takes to start."""
        try:
            for part in self._bundle:
                send_frame(sock, part.encode())
            send_frame(sock, wire.encode({"session": self.session_id, "shell": self._shell, "scratch": folder}))
            with self._send_lock:
                for frame in self._unsent:
                    send_frame(sock, frame)
                self._unsent = None
        except OSError:
            pass  # it has ended already, as the relay will find

    def _relay(self, process, sock, crash_r):
        """The child's events into the log; when it ends, why."""
        folder = scratch.choose()
        self._bring_up(sock, folder)
        while True:
            frame = read_frame(sock)
            if frame is None:
                break
            message, buffers = wire.decode(frame)
            for event in wire.decode_events(message["events"], buffers):
                if event["type"].endswith("_reply"):
                    with self._lock:
                        self._running.pop(event["request"], None)
                elif event["type"] == "ready":
                    self.described = event["content"]
                event.pop("number", None)
                if "buffers" in event:
                    event["buffers"] = [bytes(b) for b in event["buffers"]]
                self._log.append(event)
            self._log.keep()
            self._log.wait_for_room()
        try:
            status = process.wait(10)
        except subprocess.TimeoutExpired:  # the socket is closed, the process is not: something else kept it
            _signal_group(process.pid, signal.SIGKILL)
            status = process.wait()
        _signal_group(process.pid, signal.SIGKILL)  # what it left behind in its group
        _children.discard(process.pid)
        scratch.remove(folder)
        sock.close()
        os.set_blocking(crash_r, False)
        try:
            text = os.read(crash_r, 1 << 16).decode("utf-8", "replace")
        except OSError:
            text = ""
        os.close(crash_r)
        if not self._closed:
            self._died(process.pid, status, text)

    def _died(self, pid, status, text):
        with self._lock:
            lost, self._running = self._running, {}
            self._process = None
        why = "the session's process %d ended with %s" % (pid, _in_words(status))
        self._log.append({"type": "died", "request": None, "content": {"pid": pid, "status": status, "reason": why}})
        for request_id, kind in lost.items():
            error = {"ename": "SessionDied", "evalue": why + "; its names are gone, the next cell starts a fresh one"}
            shown = [error["ename"] + ": " + error["evalue"]] + text.splitlines()
            if kind == "execute":
                self._log.append({"type": "error", "request": request_id, "content": dict(error, traceback=shown)})
            reply = dict(error, status="error", traceback=shown, user_expressions={}, payload=[])
            self._log.append({"type": kind + "_reply", "request": request_id, "content": reply})

    def _send(self, message, buffers=()):
        frame = wire.encode(message, buffers)
        with self._send_lock:
            if self._process is None:
                raise OSError("no process")
            if self._unsent is not None:
                self._unsent.append(frame)
            else:
                send_frame(self._socket, frame)

    def submit(self, request):
        with self._start_lock:
            while not self._closed:
                with self._lock:  # a process that ends from here on answers this request too
                    if self._process is not None:
                        self._running[request["id"]] = request["kind"]
                        break
                self.start()
        try:
            buffers = request.pop("buffers", ())
            self._send({"op": "submit", "request": request}, buffers)
        except OSError:
            pass  # it is just dying

    def answer(self, input_id, value):
        try:
            self._send({"op": "answer", "input_id": input_id, "value": value})
        except OSError:  # it has ended, and what asked with it
            return False
        return True

    def interrupt(self, request_id=None):
        with self._lock:
            cells = [i for i, kind in self._running.items() if kind in ("execute", "object")]
            cells = cells or [i for i, kind in self._running.items() if kind == "comm"]
            several = len(cells) > 1 or "object" in self._running.values()
            process = self._process
        if process is None or not cells or (request_id is not None and request_id not in cells):
            return "idle"
        starts = self.described is None  # a signal would end it
        if starts or (request_id is not None and several):  # or stop them all
            request_id = request_id or cells[0]
            try:
                self._send({"op": "interrupt", "request": request_id})
            except OSError:
                return "idle"
            return "signalled"
        _signal_group(process.pid, signal.SIGINT)
        return "signalled"

    def close(self):
        """End the process: it is asked, then told (SIGTERM), then killed, with all of its group."""
        self._closed = True
        process = self._process
        if process is None:
            return
        try:
            self._send({"op": "close"})
        except OSError:
            pass
        for sign, patience in ((None, ASKED_GRACE), (signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0)):
            if sign is not None:
                _signal_group(process.pid, sign)
            self._reader.join(patience)
            if not self._reader.is_alive():
                return


def _high_number(number):
    """The descriptor, moved above those of stdin, stdout and stderr, of which a server may have closed some."""
    if number > 2:
        return number
    import fcntl

    high = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(number)
    return high


def _high(sock):
    """The same for a socket."""
    number = sock.detach()
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, _high_number(number))


def _inherited(number):
    """What a child gets as its stdout or stderr: the server's, or nothing where the server has none (what has taken its
    number is not for children)."""
    try:
        return None if os.get_inheritable(number) else subprocess.DEVNULL
    except OSError:
        return subprocess.DEVNULL


def _signal_group(pid, sign):
    try:
        os.killpg(pid, sign)
    except OSError:
        pass  # it is gone


def _in_words(status):
    if status >= 0:
        return "exit status %d" % status
    try:
        return "signal %s" % signal.Signals(-status).name
    except ValueError:
        return "signal %d" % -status


# -- in the child ----------------------------------------------------------------------------------------------------


def main(sock):
    """The child's life: never returns."""
    from . import capture, core, events

    options = wire.decode(read_frame(sock))[0]
    scratch.use(options["scratch"])
    _enable_faulthandler(int(sys.argv[2]))
    sys.argv[:] = [""]
    log = events.EventLog(bound=AHEAD)
    me = core.Core(options["session"], "child", log, options["shell"])
    me.interrupt_only = None  # the request that the next SIGINT is for; None: for all
    me.start_on_main()
    _take_descriptors(me, capture)
    signal.signal(signal.SIGINT, _interrupt_handler(me))
    sender = threading.Thread(target=_ship, args=(sock, log), name="flame-sender")
    receiver = threading.Thread(target=_receive, args=(sock, me, log, sender), name="flame-receiver")
    for thread in (sender, receiver):
        thread.daemon = True
        thread.pydev_do_not_trace = thread.is_pydev_daemon_thread = True
        thread.start()
    while True:  # close ends the process; a lane that ended for another reason has another one in its place
        me.run_on_main()


def _enable_faulthandler(fd):
    """A crash writes its stack where the server finds it."""
    try:
        import faulthandler

        faulthandler.enable(fd)
    except (ImportError, OSError, ValueError):
        pass


def _take_descriptors(me, capture):
    me.capture = capture.Capture(me.emit)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        os.dup2(me.capture.pipe(name), fd)


def _interrupt_handler(me):
    def handle(signum, frame):
        only, me.interrupt_only = me.interrupt_only, None
        lanes = list(me.lanes.values())  # other threads make and end them
        # The main thread's own lane last: its interrupt is raised here and now.
        for lane in sorted(lanes, key=lambda lane: lane.name, reverse=True):
            if lane.request is not None and only in (None, lane.request["id"]):
                lane.interrupt()

    return handle


def _interrupt_one(me, request_id):
    """Stop one request, on the thread of whichever lane it has, or before it has one."""
    for lane in list(me.lanes.values()):
        if lane.cancel(request_id):
            return
        running = lane.request
        if running is None or running["id"] != request_id:
            continue
        if lane.name:
            me.interrupt(request_id)
        else:
            lane.interrupt_children()
            me.interrupt_only = request_id
            _strike(me, request_id)


def _strike(me, request_id):
    """SIGINT to the main thread until its handler has run: one that comes just before a call blocks does not end it."""
    if me.interrupt_only == request_id:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        again = threading.Timer(STRIKE_AGAIN, _strike, (me, request_id))
        again.daemon = True
        again.start()


def _ship(sock, log):
    ack = 0
    while True:
        batch = log.poll(ack, wait=None)
        if not batch:
            return
        plain, buffers = wire.encode_events(batch)
        try:
            send_frame(sock, wire.encode({"events": plain}, buffers))
        except OSError:
            _end_process(1)  # the server is gone
        ack = batch[-1]["number"]


def _receive(sock, me, log, sender):
    while True:
        frame = read_frame(sock)
        if frame is None:
            me.wait_started(START_GRACE)
            _end_process(1)
        message, buffers = wire.decode(frame)
        if message["op"] == "submit":
            me.submit(dict(message["request"], buffers=[bytes(b) for b in buffers]))
        elif message["op"] == "answer":
            me.answer(message["input_id"], message["value"])
        elif message["op"] == "interrupt":
            _interrupt_one(me, message["request"])
        elif message["op"] == "close":
            me.wait_started(START_GRACE)
            log.close()
            sender.join(0.5)
            _end_process(0)


def _end_process(status):
    """The session is over: subprocesses of its group go with it."""
    import atexit

    signal.signal(signal.SIGTERM, signal.SIG_IGN) if threading.current_thread() is threading.main_thread() else None
    if status:  # the server is gone: nobody else ends what hangs, or what cells have left behind in our group
        late = threading.Timer(EXIT_GRACE, _signal_group, (os.getpid(), signal.SIGKILL))
        late.daemon = True
        late.start()
    try:
        atexit._run_exitfuncs()
    except BaseException:  # they are the user's, and may raise anything, SystemExit too; the process ends all the same
        pass
    if status:
        _signal_group(os.getpid(), signal.SIGKILL)
    os._exit(status)
