"""Protects a Pyro daemon from clients without its key: RUNS IN THE SERVER, in Python 3.6 or newer, with Pyro4.

Stock Pyro accepts a connection and then waits for its first message, in one of the pool's forty threads or in its only
loop.  It reads as many bytes as that message claims to have, and checks the key only then.  So anyone who can connect
can block the server by sending nothing, and fill its memory by sending much.  ``harden`` changes one running daemon,
and only how connections begin:

- a new connection waits on one thread, with all the others, until TLS is agreed on and its first message received
- that message may have FIRST bytes; a longer one is refused as soon as its header says so, and is not stored
- all this must be done within SECONDS, also if bytes come slowly; then the connection is closed
- that thread checks the key: only a client that has it gets a thread of the pool, or enters a multiplex server's loop
- if the pool is full, the connection waits up to PATIENCE for a thread, and is then refused with that reason

From the handshake on, a connection is handled by Pyro's own code, unchanged.
"""

import collections
import contextlib
import errno
import selectors
import socket
import threading
import time

from Pyro4 import errors, message, socketutil
from Pyro4.configuration import config
from Pyro4.socketserver.multiplexserver import SocketServer_Multiplex
from Pyro4.socketserver.threadpool import NoFreeWorkersError
from Pyro4.socketserver.threadpoolserver import ClientConnectionJob, SocketServer_Threadpool

try:
    from ssl import SSLWantReadError, SSLWantWriteError
except ImportError:  # a Python built without ssl; its daemons have no TLS

    class SSLWantReadError(OSError):
        """Never raised."""

    class SSLWantWriteError(OSError):
        """Never raised."""


FIRST = 64 * 1024  # most bytes of a first message, without its header
SECONDS = 3.0  # from accepting a connection until its first message must be complete
PATIENCE = 0.5  # seconds that a connection waits for a thread of the pool
MOST_WAITING = 256  # most connections without a checked key; beyond that, one of the host with most of them is closed
SHARE = 4  # they may use at most 1/SHARE of the process's file descriptors

_TICK = 0.05  # seconds between two checks for a free thread while a connection waits for one
_CROWDED = (errno.EMFILE, errno.ENFILE)
_WAITS = (BlockingIOError, InterruptedError, SSLWantReadError, SSLWantWriteError)


class Hardening:
    """A hardened daemon, until ``undo``. Raises ValueError if the daemon's server is neither of Pyro's two kinds."""

    def __init__(self, daemon, seconds=SECONDS):
        server = daemon.transportServer
        if isinstance(server, SocketServer_Threadpool):
            self._way = _Pool(self, daemon)
        elif isinstance(server, SocketServer_Multiplex):
            self._way = _Loop(self, daemon)
        else:
            raise ValueError("only a daemon of SERVERTYPE thread or multiplex can be hardened")
        self._daemon = daemon
        self._server = server
        self._seconds = seconds
        self._context = getattr(server.sock, "context", None)  # the TLS context, if any
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = _wake_up_call()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._arrived = collections.deque()  # (socket, address, deadline), from the accept loop
        self._handshakes = collections.OrderedDict()  # socket -> _Handshake, in order of arrival
        self._most = _most_waiting()
        self._crowded = False  # there is no free descriptor for another connection
        self._lock = threading.Lock()
        self.is_over = False
        self._thread = threading.Thread(target=self._run, name="flame-handshakes")
        self._thread.daemon = True
        self._thread.pydev_do_not_trace = self._thread.is_pydev_daemon_thread = True
        self._thread.start()
        self._way.begin()

    def undo(self):
        """Let the daemon accept connections as before; close those whose first message is not complete."""
        self._way.end()
        with self._lock:
            self.is_over = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        if self._thread is not threading.current_thread():
            self._thread.join()

    # -- in the accept loop: nothing here may wait for a client

    def accept(self):
        """Accept a connection; our thread awaits its first message. Called by the server's loop, or by the app's."""
        server = self._server
        with self._lock:
            if self.is_over:  # the server's own code accepts it in the next round
                return
            try:
                # Not the accept() of a TLS socket, which would do the handshake here and block.
                connection, address = socket.socket.accept(server.sock)
            except socket.timeout:
                return
            except OSError as e:
                if e.errno not in _CROWDED:
                    raise
                self._crowded = True
            else:
                if server.shutting_down:
                    connection.close()
                    return
                self._arrived.append((connection, address, time.monotonic() + self._seconds))
        with contextlib.suppress(BlockingIOError):
            self._wake.send(b"x")
        if self._crowded:
            time.sleep(_TICK)  # otherwise the loop would try again at once, without success

    # -- our thread, which awaits first messages

    def _run(self):
        try:
            while not self.is_over and self._server.sock is not None:
                for key, _ in self._selector.select(_TICK if self._way.queue else 0.5):
                    if key.fileobj is self._woken:
                        _drain(self._woken)
                    else:
                        self._hear(self._handshakes[key.fileobj])
                self._take_in()
                self._cut_late()
                self._way.serve()
        finally:
            self._clear()

    def _take_in(self):
        while self._arrived:
            connection, address, deadline = self._arrived.popleft()
            try:
                handshake = _Handshake(connection, address, deadline, self._context)
                self._selector.register(handshake.sock, selectors.EVENT_READ)
            except (OSError, ValueError):  # the client has closed it already
                connection.close()
                continue
            self._handshakes[handshake.sock] = handshake
            while len(self._handshakes) > self._most:
                self._close_one()
        if self._crowded:
            self._crowded = False
            for _ in range(len(self._handshakes) // 2):
                self._close_one()

    def _close_one(self):
        """Close the oldest connection of the host that has most of them here, so that no host can take all places."""
        counts = collections.Counter(handshake.host for handshake in self._handshakes.values())
        host = max(counts, key=counts.get)
        self._leave(next(handshake for handshake in self._handshakes.values() if handshake.host == host)).close()

    def _leave(self, handshake):
        self._selector.unregister(handshake.sock)
        del self._handshakes[handshake.sock]
        return handshake

    def _hear(self, handshake):
        """Called when a handshake has sent something or closed its connection."""
        try:
            whole = handshake.hear()
        except (OSError, ValueError, EOFError):
            self._leave(handshake).close()
            return
        if not whole:
            if handshake.events != self._selector.get_key(handshake.sock).events:
                self._selector.modify(handshake.sock, handshake.events)
            return
        self._leave(handshake)
        try:
            # Checks form, size and signature; Pyro reads the message again afterwards.
            message.Message.recv(handshake.first(), [message.MSG_CONNECT], hmac_key=self._daemon._pyroHmacKey)
        except Exception:  # Pyro raises anything for malformed data
            handshake.refuse(self._daemon)
        else:
            self._way.come(handshake)

    def _cut_late(self):
        now = time.monotonic()
        while self._handshakes:
            handshake = next(iter(self._handshakes.values()))
            if handshake.deadline >= now:
                return
            self._leave(handshake).close()

    def _clear(self):
        for handshake in list(self._handshakes.values()):
            self._leave(handshake).close()
        for connection, _, _ in self._arrived:
            connection.close()
        for handshake, _ in self._way.queue:
            handshake.close()
        self._selector.close()
        self._woken.close()
        self._wake.close()


class _Handshake:
    """A connection whose first message is not complete yet."""

    def __init__(self, connection, address, deadline, context):
        self.address = address
        self.host = address[0] if isinstance(address, tuple) else ""
        self.deadline = deadline
        self.events = selectors.EVENT_READ  # what to wait for on the socket
        connection.setblocking(False)
        self._greets = context is not None  # the TLS handshake is not complete
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.sock = connection
        self._data = bytearray()
        self._size = message.Message.header_size  # bytes to wait for: the header, then the whole message

    def hear(self):
        """Read what has come. True if the first message is complete, or already known to be invalid."""
        try:
            if self._greets:
                self.sock.do_handshake()
                self._greets = False
            while len(self._data) < self._size:
                piece = self.sock.recv(self._size - len(self._data))
                if not piece:
                    raise EOFError
                self._data += piece
                if len(self._data) == message.Message.header_size:
                    self._size += self._claimed()
        except _WAITS as e:
            self.events = selectors.EVENT_WRITE if isinstance(e, SSLWantWriteError) else selectors.EVENT_READ
            return False
        return True

    def _claimed(self):
        """How many bytes follow, as the header says; 0 if the header is invalid."""
        try:
            header = message.Message.from_header(bytes(self._data))
        except Exception:  # not Pyro, or another version of it
            return 0
        size = header.data_size + header.annotations_size
        return size if header.data_size >= 0 and size <= FIRST else 0

    def first(self):
        """An object to read the first message from, as from a connection."""
        return _Written(bytes(self._data))

    def refuse(self, daemon, reason=None):
        """Send the refusal that Pyro would send, and close."""
        answer = self.first()
        try:
            daemon._handshake(answer, reason)
            self.sock.send(answer.sent)
        except Exception:  # the client is gone, or the app's own daemon fails; it is closed anyway
            pass
        self.close()

    def connection(self):
        """The connection for Pyro, which reads the first message from it first."""
        self.sock.settimeout(config.COMMTIMEOUT or SECONDS)  # for sending the answer
        return _Connection(self.sock, bytes(self._data))

    def close(self):
        """Close the connection without an answer."""
        self.sock.close()


class _Written:
    """Stands for a connection: gives the bytes already read, and collects the bytes to send."""

    def __init__(self, data):
        self._data = data
        self.sent = b""

    def recv(self, size):
        if not 0 <= size <= len(self._data):
            raise errors.MessageTooLargeError("a first message has %d bytes at most" % FIRST)
        piece, self._data = self._data[:size], self._data[size:]
        return piece

    def send(self, data):
        self.sent += data

    def close(self):
        """Does nothing: Pyro closes only some connections here, so our thread closes all of them."""


class _Connection(socketutil.SocketConnection):
    """A connection whose first message has been read already."""

    def __init__(self, sock, first):
        super().__init__(sock)
        self._first = first

    def recv(self, size):
        if not self._first:
            return super().recv(size)
        piece, self._first = self._first[:size], self._first[size:]
        return piece if len(piece) == size else piece + super().recv(size - len(piece))

    def established(self):
        """Called when the handshake is complete."""
        self.sock.settimeout(config.COMMTIMEOUT or None)


class _Pool:
    """Passes connections with the key to the threads of the pool."""

    def __init__(self, hardening, daemon):
        self._hardening = hardening
        self._daemon = daemon
        self._server = daemon.transportServer
        self.queue = collections.deque()  # (handshake, when to refuse it because the pool is full)

    def begin(self):
        self._server.events = self._events

    def end(self):
        if self._server.__dict__.get("events") == self._events:
            del self._server.events

    def _events(self, sockets):
        """Replaces the server's ``events``."""
        server = self._server
        if self._hardening.is_over:  # a caller kept this function, as a session on the main thread does
            type(server).events(server, sockets)
        elif server._selector is None or server._selector.select(config.POLLTIMEOUT):
            self._hardening.accept()

    def come(self, handshake):
        if len(self.queue) >= MOST_WAITING:
            handshake.close()
            return
        self.queue.append((handshake, time.monotonic() + PATIENCE))

    def serve(self):
        while self.queue:
            handshake, patience = self.queue[0]
            job = _Job(handshake, self._daemon)
            try:
                self._server.pool.process(job)
            except NoFreeWorkersError:
                job.give_back()
                if time.monotonic() < patience:
                    return
                handshake.refuse(self._daemon, "no free workers, increase server threadpool size")
            except Exception:  # the pool is closed because the daemon is ending
                job.give_back()
                handshake.close()
            self.queue.popleft()


class _Job(ClientConnectionJob):
    """Pyro's job for one connection, which is made only when a thread runs the job."""

    def __init__(self, handshake, daemon):
        self._guest = handshake
        self.csock = None  # made when a thread runs the job
        self.caddr = handshake.address
        self.daemon = daemon

    def give_back(self):
        """Called when no thread is free: forget the handshake, which stays in the queue."""
        self._guest = None

    def handleConnection(self):
        handshake, self._guest = self._guest, None
        try:
            self.csock = handshake.connection()
        except OSError:
            handshake.close()
            return False
        done = super().handleConnection()
        if done:
            self.csock.established()
        return done


class _Loop:
    """Passes connections with the key to the loop of a multiplex server."""

    def __init__(self, hardening, daemon):
        self._hardening = hardening
        self._daemon = daemon
        self._server = daemon.transportServer
        self.queue = ()
        self._come = collections.deque()
        self._wake, self._woken = _wake_up_call()

    def begin(self):
        server = self._server
        self._theirs = server.handleRequest
        server._handleConnection = self._accept
        server.handleRequest = self._handle
        server.selector.register(self._woken, selectors.EVENT_READ, server)

    def end(self):
        server = self._server
        for name in ("_handleConnection", "handleRequest"):
            server.__dict__.pop(name, None)
        with contextlib.suppress(KeyError, ValueError, RuntimeError, OSError):  # the server is closed already
            server.selector.unregister(self._woken)
        while self._come:
            self._come.popleft().close()
        self._woken.close()
        self._wake.close()

    def _accept(self, sock):
        """Replaces the server's ``_handleConnection``; the connection is added later, by ``_handle``."""
        try:
            if sock is not None:
                self._hardening.accept()
        except OSError as e:
            if e.errno in socketutil.ERRNO_BADF or e.errno in socketutil.ERRNO_ENOTSOCK:
                raise errors.ConnectionClosedError("server socket closed") from None

    def come(self, handshake):
        """Hand over a connection. Called on our thread."""
        self._come.append(handshake)
        with contextlib.suppress(OSError):  # it is full, so the loop will wake; or undo() runs just now
            self._wake.send(b"x")

    def serve(self):
        """Does nothing: the server's loop does the work."""

    def _handle(self, connection):
        """Replaces the server's ``handleRequest``; also adds connections that our thread handed over."""
        if connection is not self._woken:
            return self._theirs(connection)
        _drain(self._woken)
        while self._come:
            handshake = self._come.popleft()
            try:
                made = handshake.connection()
                if self._daemon._handshake(made):
                    made.established()
                    self._server.selector.register(made, selectors.EVENT_READ, self._server)
                    continue
            except Exception:  # the client is gone, or the app's own daemon fails: the loop must go on
                pass
            handshake.close()
        return True


def _most_waiting():
    try:
        import resource  # not available on every system

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError, ValueError):
        return MOST_WAITING
    return MOST_WAITING if most < 0 else max(1, min(MOST_WAITING, most // SHARE))


def _wake_up_call():
    """Both ends of a socket pair of our own, non-blocking."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


def _drain(end):
    with contextlib.suppress(BlockingIOError):
        end.recv(4096)


def harden(daemon, seconds=SECONDS):
    """Protect ``daemon``, running or not, from clients without its key; ``undo`` of the result ends that."""
    return Hardening(daemon, seconds)
