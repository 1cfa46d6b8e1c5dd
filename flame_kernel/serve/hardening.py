"""A Pyro daemon that silent clients cannot stop: RUNS IN THE SERVER, in Python 3.6 or newer, with Pyro4 and no more.

Stock Pyro accepts a connection and then waits for its first message: in the accept loop for TLS and where its threads
are used up, so one client that says nothing stops all others, for ever; else in a thread of the pool, of which there
are forty.  ``harden`` changes one running daemon, and only how connections begin:

- a new connection waits in a lobby, which costs no thread, until its client has said something
- then a thread of the pool has what is left of SECONDS for the handshake, TLS included; after that it is cut
- where the pool is full, the connection waits a moment for a thread, and is then told so without holding up others

What happens on a connection that is established is Pyro's own code, unchanged.
"""

import collections
import contextlib
import selectors
import socket
import threading
import time

from Pyro4 import socketutil
from Pyro4.configuration import config
from Pyro4.socketserver.threadpool import NoFreeWorkersError
from Pyro4.socketserver.threadpoolserver import ClientConnectionJob, SocketServer_Threadpool

SECONDS = 3.0  # from a connection's beginning to the end of its handshake
PATIENCE = 0.5  # seconds that a connection waits for a thread of the pool
LOBBY = 500  # connections whose clients have said nothing yet; beyond that the oldest is closed
DENIALS = 8  # threads at once that tell a client of the full pool; beyond that it is closed without a word

_TICK = 0.05  # seconds between two looks for a free thread, while somebody waits for one


class Hardening:
    """A hardened daemon, until ``undo``. Raises ValueError for a daemon that has no thread pool."""

    def __init__(self, daemon, seconds=SECONDS):
        server = daemon.transportServer
        if not isinstance(server, SocketServer_Threadpool):
            raise ValueError(
                "only a daemon of SERVERTYPE thread can be hardened; set Pyro4.config.SERVERTYPE = 'thread'"
            )
        self._daemon = daemon
        self._server = server
        self._seconds = seconds
        self._context = getattr(server.sock, "context", None)  # of TLS
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._arrived = collections.deque()  # (socket, address, deadline), from the accept loop
        self._silent = collections.OrderedDict()  # socket -> (address, deadline), in order of arrival
        self._queue = collections.deque()  # (job, when it is told that the pool is full)
        self._shaking = {}  # job -> deadline
        self._lock = threading.Lock()
        self._denials = threading.BoundedSemaphore(DENIALS)
        self._over = False
        self._thread = threading.Thread(target=self._run, name="flame-lobby")
        self._thread.daemon = True
        self._thread.start()
        server.events = self._events

    def undo(self):
        """The daemon accepts connections as before; those in the lobby are closed."""
        if self._server.__dict__.get("events") == self._events:
            del self._server.events
        with self._lock:
            self._over = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        if self._thread is not threading.current_thread():
            self._thread.join()

    # -- in the accept loop: nothing here waits for a client

    def _events(self, sockets):
        """In place of the server's own: called by its loop, or by the loop of the app that it is part of."""
        server = self._server
        if server._selector is not None and not server._selector.select(config.POLLTIMEOUT):
            return
        with self._lock:
            if self._over:  # the next round is the server's own
                return
            try:
                # Not that of a TLS socket, which would shake hands here.
                connection, address = socket.socket.accept(server.sock)
            except socket.timeout:
                return
            if server.shutting_down:
                connection.close()
                return
            self._arrived.append((connection, address, time.monotonic() + self._seconds))
        with contextlib.suppress(BlockingIOError):
            self._wake.send(b"x")

    # -- the lobby's thread

    def _run(self):
        self._wake.setblocking(False)
        try:
            while not self._over and self._server.sock is not None:
                timeout = _TICK if self._queue or self._shaking else 0.5
                for key, _ in self._selector.select(timeout):
                    if key.fileobj is self._woken:
                        self._woken.recv(4096)
                    else:
                        self._spoke(key.fileobj)
                self._take_in()
                self._cut_late()
                self._serve_queue()
        finally:
            self._clear()

    def _take_in(self):
        while self._arrived:
            connection, address, deadline = self._arrived.popleft()
            self._silent[connection] = (address, deadline)
            self._selector.register(connection, selectors.EVENT_READ)
        while len(self._silent) > LOBBY:
            self._leave(next(iter(self._silent))).close()

    def _leave(self, connection):
        self._selector.unregister(connection)
        del self._silent[connection]
        return connection

    def _spoke(self, connection):
        """Its client has sent something, or has gone: a thread of the pool finds out which."""
        address, deadline = self._silent[connection]
        job = _Job(self._leave(connection), address, self._daemon, self._context, self._shaken)
        with self._lock:
            self._shaking[job] = deadline
        self._queue.append((job, time.monotonic() + PATIENCE))
        self._serve_queue()

    def _serve_queue(self):
        now = time.monotonic()
        while self._queue:
            job, patience = self._queue[0]
            try:
                self._server.pool.process(job)
            except NoFreeWorkersError:
                if now < patience:
                    return
                self._deny(job)
            except Exception:  # the pool is closed: the daemon ends
                job.end()
            self._queue.popleft()

    def _deny(self, job):
        if not self._denials.acquire(False):
            job.end()
            return

        def tell():
            try:
                job.deny()
            finally:
                self._denials.release()

        threading.Thread(target=tell, name="flame-lobby-full", daemon=True).start()

    def _cut_late(self):
        now = time.monotonic()
        while self._silent and next(iter(self._silent.values()))[1] < now:
            self._leave(next(iter(self._silent))).close()
        with self._lock:  # a job that is through with its handshake has left before, and is not cut
            for job, deadline in self._shaking.items():
                if deadline < now:
                    job.cut()

    def _shaken(self, job):
        """Called by the job when its handshake is over, well or not."""
        with self._lock:
            self._shaking.pop(job, None)

    def _clear(self):
        for connection in list(self._silent):
            self._leave(connection).close()
        for connection, _, _ in self._arrived:
            connection.close()
        for job, _ in self._queue:
            job.end()
        self._selector.close()
        self._woken.close()
        self._wake.close()


class _Job(ClientConnectionJob):
    """One connection: Pyro's own job, with TLS before it, and a handshake that can be cut."""

    def __init__(self, connection, address, daemon, context, shaken):
        super().__init__(connection, address, daemon)
        self._raw = connection
        self._context = context
        self._on_shaken = shaken

    def handleConnection(self):
        try:
            return self._secure() and super().handleConnection()
        finally:
            self._on_shaken(self)

    def _secure(self):
        """TLS, where the daemon has it; False where the client does not speak it."""
        try:
            if self._context is not None:
                # The handshake comes after the assignment: it must be possible to cut it.
                self._raw = self._context.wrap_socket(self._raw, server_side=True, do_handshake_on_connect=False)
                self.csock = socketutil.SocketConnection(self._raw)
                self._raw.do_handshake()
            self._raw.settimeout(config.COMMTIMEOUT or None)
        except (OSError, ValueError):
            self.csock.close()
            return False
        return True

    def cut(self):
        """From another thread: whatever this job waits for from its client ends now."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._raw, socket.SHUT_RDWR)

    def deny(self):
        """Tell the client that there is no thread for it."""
        try:
            self._raw.settimeout(1.0)
            if self._secure():
                self.denyConnection("no free workers, increase server threadpool size")
        except Exception:  # it went away, or sent nonsense: it was to be sent away
            pass
        finally:
            self.end()

    def end(self):
        """Close the connection without a word."""
        self._on_shaken(self)
        self.csock.close()


def harden(daemon, seconds=SECONDS):
    """Change ``daemon``, running or not, so that clients which say nothing cannot stop it; a Hardening to undo it."""
    return Hardening(daemon, seconds)
