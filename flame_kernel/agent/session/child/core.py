"""A session in a child process of the server: a fresh interpreter with the same agent; cells run on its main thread.

The server keeps the event log, so nothing is lost when the child dies, and a waiting poll does not burden the child.
The server sends it requests (``submit``, ``answer``, ``interrupt``, ``close``), and it sends batches of events, see
``frames``.

This file is the server's side; ``main.py`` is the child's.

For an interrupt the server sends SIGINT to the child's process group, as Ctrl-C in a terminal does. It also arrives
while the child runs C code, and its subprocesses receive it too. On Windows it asks the child; see ``processes``.
"""

import collections
import errno
import itertools
import os
import signal
import socket
import sys
import threading
import time

from ... import sockets, tempdirs, threads
from ...processes import own_python
from ...remote import bulk
from ...shell import compiler
from ...wire import message as wire
from .. import descriptors, program_pipes
from ..interrupt import outcome
from ..monitor import monitor, top
from . import exit_reason, fork_server, loopback, prestart, processes, spare, stops
from . import stacks as child_stacks
from .frames import Frames, send_frame

# Seconds that a process has to end when asked: its exit handlers run, and a pool's work is finished. On a busy machine,
# one that is still starting needs them all.
ASKED_GRACE = 4.0
# How many cells keep their text, to show where a child is that does not answer; and the longest text that is kept.
TEXTS, LONG_TEXT = 200, 100_000
# Seconds that a child has to say where its code is; after that we read its stacks without its help.
WHERE_PATIENCE = 1.5

# Errors which mean that a path is not a program that can be started.
NO_PROGRAM = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP, errno.EPERM)

# Kinds of requests that are answered without the child.
HERE = ("top", "audit")
# Kinds of requests that run the user's code and can be stopped.
CELLS = ("execute", "object")

_children = set()  # process ids of living children, of this version of the agent


def pids():
    """The processes in which sessions live; an interrupt of another session's cell must not reach them."""
    return _children | prestart.pids() | fork_server.pids()


def refusal():
    """Why this server cannot have a child, in a clause with the next step; empty if it can."""
    if not own_python():
        why = "it is a frozen app" if sys.executable else "its sys.executable is empty"
        return why + ", so it cannot start a child: use place = process"
    if processes.WINDOWS and sys.version_info < (3, 7):
        return "a child on Windows needs Python 3.7: use place = process"
    return ""


class ChildCore:
    """Used in the server in place of the Core, which runs in a child; has the same interface.

    bundle     returns the agent itself, as ``agent_frames`` makes it
    """

    def __init__(self, session_id, place, log, shell, bundle):
        self.session_id = session_id
        self.place = place
        self.described = None
        self._log = log
        self._shell = shell
        self._bundle = bundle
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._dump_lock = threading.Lock()  # the pipe that brings stacks may have only one reader
        self._unsent = None  # frames for a process that has not got its first messages yet; None: send directly
        self._texts = collections.deque(maxlen=TEXTS)  # of the latest cells
        self._running = {}  # id -> [kind, the cell's code] of requests without a reply
        self._programs = program_pipes.Programs(log)
        self._asked = {}  # number -> [semaphore, the child's answer]
        self._numbers = itertools.count(1)
        self._process = None
        self._closed = False

    def __repr__(self):
        return "<ChildCore %r pid %s>" % (self.session_id, self._process.pid if self._process else None)

    @property
    def pid(self):
        return self._process.pid if self._process is not None else 0

    def start(self):
        """Start the process; ``ready`` is its first event. Raises RuntimeError with the reason if it cannot."""
        if refusal():
            raise RuntimeError(refusal())
        try:
            self._process = self._new_process()
        except OSError as e:
            if e.errno in NO_PROGRAM:
                why = "its sys.executable, %s, is not a program that can be started (%s)" % (sys.executable, e.strerror)
                raise RuntimeError(why + ": use place = process")
            raise
        _children.add(self._process.pid)
        self.described = None
        self._socket = None
        self._unsent = []
        self._stops = stops.Stops(self)
        self._memory, self._floor = exit_reason.OomKills.recent(), exit_reason.own_peak()
        self._pipes = self._process.pipes
        self._reader = threads.start("relay", self._relay, self._process)

    def _new_process(self):
        warm = self._shell != "mini"
        return spare.take(self._bundle, warm, len(_children)) or processes.start()

    def _is_busy(self):
        return bool(self._running)

    @property
    def is_dead(self):
        """Whether its process has ended, so that the next request will start another."""
        return self._process is None

    def _bring_up(self, process, sock, folder):
        """Send a new process its first messages. On a thread of its own, because an interpreter takes long to start."""
        try:
            for part in () if process.has_agent else self._bundle():
                send_frame(sock, part)
            send_frame(sock, wire.encode({"session": self.session_id, "shell": self._shell, "scratch": folder}))
            with self._send_lock:
                for frame in self._unsent:
                    send_frame(sock, frame)
                self._socket, self._unsent = sock, None
        except OSError:
            pass  # the process has ended already; the relay will see that

    def _relay(self, process):
        """Pass the child's events to the log; when the child ends, log why."""
        folder = tempdirs.choose()
        try:
            sock = process.connect()
        except OSError:  # it has ended before
            sock = None
        else:
            self._bring_up(process, sock, folder)
        frames = Frames(sock)
        while sock is not None:
            frame = frames.read()
            if frame is None:
                break
            try:
                message, buffers = wire.decode(frame)
                batch = wire.decode_events(message["events"], buffers, keep=True)
            except wire.WireError as e:  # the child writes no such thing, but a cell may have changed it
                self.tell(None, "[output left out: %s]\n" % e)
                continue
            self._log.take_in(event for event in batch if self._is_for_log(event))
            self._log.wait_for_room()
        ended = process.reap(10)
        if ended is None:  # it has closed the socket but still runs
            process.signal(processes.KILL)
            ended = process.reap(float("inf"))
        process.end_group()
        _children.discard(process.pid)
        spare.child_ended()
        for left in (folder, *compiler.folders(self.session_id, process.pid)):  # the latter come from a debugger
            tempdirs.remove(left)
        process.close()
        self._programs.settle_all()
        with self._dump_lock:
            pipes, self._pipes = self._pipes, []
            unread = [child_stacks.rest_of(pipe) for pipe in pipes]
        if not self._closed:
            self._died(process.pid, ended, unread)
        self._programs.close()

    def _is_for_log(self, event):
        """Act on an event of the child; returns whether it goes into the log."""
        kind, request_id = event["type"], event["request"]
        if kind == "looked":
            asked = self._asked.get(event["content"]["number"])
            if asked is not None:
                asked[1] = event["content"]
                asked[0].release()
            return False
        if kind.endswith("_reply"):
            with self._lock:
                known = self._running.pop(request_id, None)
            if kind in ("where_reply", "profile_reply") and known is None:
                return False  # it was already answered from here, without the child
            self._programs.settle(request_id)
            if self._stops.ended(request_id):
                self.tell(request_id, outcome(event["content"]))
        elif kind == "ready":
            self.described = event["content"]
            spare.keep(self._bundle, self._shell != "mini", self._is_busy, lambda: _children)
        event.pop("number", None)
        if "buffers" in event:
            event["buffers"] = [bytes(b) for b in event["buffers"]]
        return True

    def _died(self, pid, ended, unread):
        """Log why the child died, in its cells. ``unread``: stacks of the crash, rest of its stdout and stderr."""
        with self._lock:
            lost, self._running = self._running, {}
            self._process = None
        status, peak, limit = ended
        why = exit_reason.in_words(pid, status, self._stops.sent, self._memory, peak, self._floor, limit)
        if self.described is None and status is not None and status >= 0:
            why += exit_reason.not_begun(sys.executable)
        request_id = next((i for i, (kind, _) in lost.items() if kind in CELLS), None)
        for name, text in zip(("stdout", "stderr"), unread[1:]):
            if text:
                self._log.append({"type": "stream", "request": request_id, "content": {"name": name, "text": text}})
        self._log.append({"type": "died", "request": None, "content": {"pid": pid, "status": status, "reason": why}})
        for request_id, (kind, _) in lost.items():
            self._tell_the_end(request_id, kind, status, why, unread[0])

    def _tell_the_end(self, request_id, kind, status, why, dump):
        """Reply to a request that the process has not answered, with ``why`` and the stacks of the crash. If the
        request runs as a program, the end of the process is the end of the program."""
        error = {"ename": "SessionDied", "evalue": why + "; its variables are lost; the next cell starts a new one"}
        shown = [error["ename"] + ": " + error["evalue"]] + child_stacks.of_the_user(dump)
        more = {}
        if self._programs.knows(request_id) and status is not None:
            shown = [why] + child_stacks.without_ours(dump)
            more["exit_status"] = status if status >= 0 else 128 - status
        if kind == "execute" and (not more or status < 0):
            self._log.append({"type": "error", "request": request_id, "content": dict(error, traceback=shown)})
        reply = dict(error, status="error", traceback=shown, user_expressions={}, payload=[], **more)
        self._log.append({"type": kind + "_reply", "request": request_id, "content": reply})

    def _send(self, message, buffers=(), descriptors=()):
        frame = wire.encode(message, buffers)
        with self._send_lock:
            if self._process is None:
                raise OSError("no process")
            if descriptors:
                self._process.give(descriptors)
            if self._unsent is not None:
                self._unsent.append(frame)
            else:
                send_frame(self._socket, frame)

    def submit(self, request):
        kind = request["kind"]
        if kind in monitor.KINDS and (self._process is None or kind in HERE):
            self._answer_here(request)
            return
        if kind == "stdin" and processes.POSIX:
            self._programs.feed(request)
            return
        given = self._pipes_for(request)
        with self._start_lock:
            while not self._closed:
                with self._lock:  # if the process ends after this, the request still gets a reply
                    if self._process is not None:
                        self._running[request["id"]] = [kind, request.get("code") or ""]
                        break
                self.start()
        if kind == "execute":
            text = request.get("raw") or request["code"]
            self._texts.append(text if len(text) <= LONG_TEXT else "")
            self._memory = exit_reason.OomKills.recent()
        try:
            buffers = request.pop("buffers", ())
            self._send({"op": "submit", "request": request}, buffers, given)
        except OSError:
            pass  # the process is just ending
        for number in given:  # the child has copies
            os.close(number)
        if kind in ("where", "profile"):
            threads.start(kind, self._look_without_answer, request)

    def _pipes_for(self, request):
        """The descriptors of a program's pipes, to be passed; where none can be, the child makes them itself."""
        return self._programs.begin(request) if processes.POSIX else ()

    def answer(self, input_id, value):
        try:
            self._send({"op": "answer", "input_id": input_id, "value": value})
        except OSError:  # the process has ended, and the code that asked with it
            return False
        return True

    def carry(self, request, key, sock):
        """Have the child send or receive a large value over ``sock``; see ``bulk``. OSError if the child ends."""
        message = {"op": "carry", "request": request, "key": None if key is None else key.hex()}
        if not processes.POSIX:
            self._carry_apart(request, message, sock)
            return
        done, theirs = [descriptors.high_socket(one) for one in socket.socketpair()]
        try:
            given = [theirs.fileno()]
            if not hasattr(sock, "pending"):  # a TLS connection can only be read by this process
                given.append(sock.fileno())
            with theirs:
                self._send(message, descriptors=given)
            if len(given) > 1:
                sockets.fill(done, memoryview(bytearray(1)))
            else:
                bulk.hand_on(request, sock, done)
        finally:
            sockets.shut(done)
            done.close()

    def _carry_apart(self, request, message, sock):
        """The same where no descriptor can be passed: over another connection on loopback."""
        listener, process = loopback.SecretListener(), self._process
        try:
            self._send(dict(message, words=listener.words))
            done = listener.accept(lambda: process is self._process)
        finally:
            listener.close()
        try:
            bulk.hand_on(request, sock, done)
        finally:
            sockets.shut(done)
            done.close()

    # -- where its code is --------------------------------------------------------------------------------------------

    def _answer_here(self, request):
        """Answer in place of the child, if there is none or its help is not needed."""
        if self._process is None and request["kind"] != "audit":
            words = "the session has no process now; the next cell starts a new one"
            reply = {"status": "error", "ename": "SessionDied", "evalue": words, "traceback": []}
            self._log.append({"type": request["kind"] + "_reply", "request": request["id"], "content": reply})
            return

        kind = request["kind"]
        work = {"top": lambda: top.top(self.pid), "audit": lambda: monitor.audit(request)}[kind]

        def answer():
            content = monitor.safely(work)
            self._log.append({"type": kind + "_reply", "request": request["id"], "content": content})

        threads.start(kind, answer)

    def _look_without_answer(self, request):
        """Answer for a child that does not answer in time. A profile of one cell takes as long as the cell."""
        request_id = request["id"]
        if request["kind"] == "profile":
            if not request.get("request"):
                self._profile_from_parent(request_id, request["seconds"])
        elif not self._has_answered(request_id, WHERE_PATIENCE):
            self._answer_for_child(request_id, "where", monitor.safely(self._where))

    def _has_answered(self, request_id, seconds):
        """Wait for the child's answer."""
        deadline = time.monotonic() + seconds
        while request_id in self._running:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _answer_for_child(self, request_id, kind, content):
        with self._lock:
            if self._running.pop(request_id, None) is None:
                return
        self._log.append({"type": kind + "_reply", "request": request_id, "content": content})

    def _profile_from_parent(self, request_id, seconds):
        """Take the profile of a child whose interpreter is stuck, by stacks that it writes without the interpreter."""
        held = self.check(request_id, WHERE_PATIENCE) is None
        if not held and self._has_answered(request_id, seconds + WHERE_PATIENCE):
            return
        taken = child_stacks.Profile(self.pid, self._stacks)
        content = monitor.safely(lambda: taken.take(seconds if held else 1.0, lambda: request_id in self._running))
        self._answer_for_child(request_id, "profile", content)

    def _where(self):
        found, note = self._stacks()
        return {"status": "ok", "pid": self.pid, "place": self.place.name, "stacks": found, "left_out": 0, "note": note}

    def _stacks(self):
        """The child's stacks, which it writes without its interpreter; and in words why that was needed."""
        with self._lock:
            code = next((code for kind, code in self._running.values() if kind == "execute"), "")
        with self._dump_lock:
            pipes = self._pipes
            text = child_stacks.dump(self.pid, pipes[0]) if pipes else ""
        why = child_stacks.state(self.pid) or (
            "its interpreter does not answer: that call lets no other Python code run, or the machine is very busy"
        )
        if self.described is None:
            why = "it is starting"
        return child_stacks.read_stacks(text, code, list(self._texts)), why

    # -- stopping a cell ---------------------------------------------------------------------------------------------

    def interrupt(self, request_id=None, gently=False):
        """Stop a cell; returns what was done. Each Stop may be one step stronger than the last, see ``stops``."""
        with self._lock:
            cells = [i for i, (kind, _) in self._running.items() if kind in CELLS]
            cells = cells or [i for i, (kind, _) in self._running.items() if kind == "comm"]
        if self._process is None or not cells or (request_id is not None and request_id not in cells):
            return "idle"
        return self._stops.stop(request_id or cells[0], gently, alone=request_id is None)

    def send_interrupt(self, request_id, alone):
        """Interrupt a cell: by a signal to the whole group, unless that would end the child or stop another cell.

        ``alone``: all cells shall be stopped.  Returns whether the signal was sent.
        """
        with self._lock:
            kinds = [kind for kind, _ in self._running.values() if kind in CELLS]
        if not processes.POSIX or self.described is None or (not alone and (len(kinds) > 1 or "object" in kinds)):
            self.ask_to_interrupt(request_id)
            return False
        self.send_signal(signal.SIGINT)
        return True

    def ask_to_interrupt(self, request_id):
        """Ask the child to interrupt one request itself, by signals until its thread has noticed."""
        try:
            self._send({"op": "interrupt", "request": request_id})
        except OSError:
            pass

    def send_signal(self, sign):
        process = self._process
        if process is not None:
            process.signal(sign)

    def is_running(self, request_id):
        return request_id in self._running

    def tell(self, request_id, text):
        """Show a message of ours in a cell's output."""
        self._log.append({"type": "stream", "request": request_id, "content": {"name": "stderr", "text": text}})

    def check(self, request_id, seconds):
        """Ask the child about a cell: ``{"runs", "noticed", "asks", "where"}``; None if it does not answer in time."""
        number = next(self._numbers)
        asked = self._asked[number] = [threading.Semaphore(0), None]
        try:
            self._send({"op": "look", "request": request_id, "number": number})
            asked[0].acquire(timeout=seconds)
        except OSError:
            pass
        del self._asked[number]
        return asked[1]

    def stuck_in(self, request_id):
        """Where a cell is stuck and why its child does not answer, both in words."""
        found, why = self._stacks()
        return child_stacks.call(found) or "a call", why

    def close(self):
        """End the process and its group: ask first, then SIGTERM, then SIGKILL."""
        self._closed = True
        process = self._process
        if process is None:
            return
        try:
            self._send({"op": "close"})
        except OSError:
            pass
        for sign, patience in ((None, ASKED_GRACE), (signal.SIGTERM, 1.0), (processes.KILL, 1.0)):
            if sign is not None:
                process.signal(sign)
            self._reader.join(patience)
            if not self._reader.is_alive():
                return
