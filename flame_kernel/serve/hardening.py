"""A Pyro daemon that those without its key cannot stop or fill: RUNS IN THE SERVER, in Python 3.6 or newer, with Pyro4.

Stock Pyro accepts a connection and then waits for its first message, in one of the pool's forty threads or in its only
loop; it takes as many bytes as that message claims to have, and looks at the key when they are all there.
So whoever can connect can stop the server by saying nothing, and fill its memory by saying much.  ``harden`` changes
one running daemon, and only how connections begin:

- a new connection waits in a lobby, on one thread for all, until its first message is there, TLS included
- that message has FIRST bytes at most; a longer one is refused as soon as its header says so, and nothing is kept of it
- all of that has SECONDS, however it drips; then the connection is closed
- the lobby looks at the key: only who has it comes to a thread of the pool, or into the loop of a multiplex server
- where the pool is full, the connection waits a moment for a thread, and is then told so

What happens on a connection from its handshake on is Pyro's own code, unchanged.
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
except ImportError:  # a Python without it, whose daemons have no TLS

    class SSLWantReadError(OSError):
        """Never raised."""

    class SSLWantWriteError(OSError):
        """Never raised."""


FIRST = 64 * 1024  # bytes of a first message, besides its header
SECONDS = 3.0  # from a connection's beginning until its first message is there
PATIENCE = 0.5  # seconds that a connection waits for a thread of the pool
LOBBY = 256  # connections that have not shown the key yet; beyond that the oldest of whoever has most is closed
SHARE = 4  # one in so many descriptors that the process may have is for them, if that is less

_TICK = 0.05  # seconds between two updates for a free thread, while somebody waits for one
_CROWDED = (errno.EMFILE, errno.ENFILE)
_WAITS = (BlockingIOError, InterruptedError, SSLWantReadError, SSLWantWriteError)


class Hardening:
    """A hardened daemon, until ``undo``. Raises ValueError for a daemon whose server is none of Pyro's two."""

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
        self._context = getattr(server.sock, "context", None)  # of TLS
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = _wake_up_call()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._arrived = collections.deque()  # (socket, address, deadline), from the accept loop
        self._guests = collections.OrderedDict()  # socket -> _Guest, in order of arrival
        self._most = _lobby()
        self._crowded = False  # there is no descriptor left for one more
        self._lock = threading.Lock()
        self.is_over = False
        self._thread = threading.Thread(target=self._run, name="flame-lobby")
        self._thread.daemon = True
        self._thread.pydev_do_not_trace = self._thread.is_pydev_daemon_thread = True
        self._thread.start()
        self._way.begin()

    def undo(self):
        """The daemon accepts connections as before; those in the lobby are closed."""
        self._way.end()
        with self._lock:
            self.is_over = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        if self._thread is not threading.current_thread():
            self._thread.join()

    # -- in the accept loop: nothing here waits for a client

    def accept(self):
        """Take a connection into the lobby. Called by the server's loop, or by that of the app that it is part of."""
        server = self._server
        with self._lock:
            if self.is_over:  # the next round is the server's own
                return
            try:
                # Not that of a TLS socket, which would shake hands here.
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
            time.sleep(_TICK)  # or the loop would try again at once, and for nothing

    # -- the lobby's thread

    def _run(self):
        try:
            while not self.is_over and self._server.sock is not None:
                for key, _ in self._selector.select(_TICK if self._way.queue else 0.5):
                    if key.fileobj is self._woken:
                        _drain(self._woken)
                    else:
                        self._hear(self._guests[key.fileobj])
                self._take_in()
                self._cut_late()
                self._way.serve()
        finally:
            self._clear()

    def _take_in(self):
        while self._arrived:
            connection, address, deadline = self._arrived.popleft()
            try:
                guest = _Guest(connection, address, deadline, self._context)
                self._selector.register(guest.sock, selectors.EVENT_READ)
            except (OSError, ValueError):  # it went away already
                connection.close()
                continue
            self._guests[guest.sock] = guest
            while len(self._guests) > self._most:
                self._close_one()
        if self._crowded:
            self._crowded = False
            for _ in range(len(self._guests) // 2):
                self._close_one()

    def _close_one(self):
        """Make room: whoever has most connections here loses the oldest, so one host does not crowd out the others."""
        counts = collections.Counter(guest.host for guest in self._guests.values())
        host = max(counts, key=counts.get)
        self._leave(next(guest for guest in self._guests.values() if guest.host == host)).close()

    def _leave(self, guest):
        self._selector.unregister(guest.sock)
        del self._guests[guest.sock]
        return guest

    def _hear(self, guest):
        """Something has come of a guest, or it has gone."""
        try:
            whole = guest.hear()
        except (OSError, ValueError, EOFError):
            self._leave(guest).close()
            return
        if not whole:
            if guest.events != self._selector.get_key(guest.sock).events:
                self._selector.modify(guest.sock, guest.events)
            return
        self._leave(guest)
        try:
            # Its form, its size and its signature; it is read once more where it is believed.
            message.Message.recv(guest.first(), [message.MSG_CONNECT], hmac_key=self._daemon._pyroHmacKey)
        except Exception:  # whatever Pyro makes of nonsense
            guest.refuse(self._daemon)
        else:
            self._way.come(guest)

    def _cut_late(self):
        now = time.monotonic()
        while self._guests:
            guest = next(iter(self._guests.values()))
            if guest.deadline >= now:
                return
            self._leave(guest).close()

    def _clear(self):
        for guest in list(self._guests.values()):
            self._leave(guest).close()
        for connection, _, _ in self._arrived:
            connection.close()
        for guest, _ in self._way.queue:
            guest.close()
        self._selector.close()
        self._woken.close()
        self._wake.close()


class _Guest:
    """A connection in the lobby, which has a first message to bring."""

    def __init__(self, connection, address, deadline, context):
        self.address = address
        self.host = address[0] if isinstance(address, tuple) else ""
        self.deadline = deadline
        self.events = selectors.EVENT_READ  # what it waits for
        connection.setblocking(False)
        self._greets = context is not None  # TLS is still being agreed on
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.sock = connection
        self._data = bytearray()
        self._size = message.Message.header_size  # of what is waited for

    def hear(self):
        """Take what there is; whether the first message is there, or so much of it that it is none."""
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
        """The bytes that are said to follow the header; 0 where it is refused already."""
        try:
            header = message.Message.from_header(bytes(self._data))
        except Exception:  # no Pyro, or none of this version
            return 0
        size = header.data_size + header.annotations_size
        return size if header.data_size >= 0 and size <= FIRST else 0

    def first(self):
        """The first message, to be read as from a connection."""
        return _Written(bytes(self._data))

    def refuse(self, daemon, reason=None):
        """Answer as Pyro would, and close."""
        answer = self.first()
        try:
            daemon._handshake(answer, reason)
            self.sock.send(answer.sent)
        except Exception:  # it went away, or the app's own daemon fails in it: it was to be sent away
            pass
        self.close()

    def connection(self):
        """The connection from here on, which begins with the first message."""
        self.sock.settimeout(config.COMMTIMEOUT or SECONDS)  # for the answer to it
        return _Connection(self.sock, bytes(self._data))

    def close(self):
        """End it, without a word."""
        self.sock.close()


class _Written:
    """In place of a connection: what was read of one, and what is to be sent."""

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
        """Pyro closes some connections; the lobby closes all."""


class _Connection(socketutil.SocketConnection):
    """A connection of which the first message has been read."""

    def __init__(self, sock, first):
        super().__init__(sock)
        self._first = first

    def recv(self, size):
        if not self._first:
            return super().recv(size)
        piece, self._first = self._first[:size], self._first[size:]
        return piece if len(piece) == size else piece + super().recv(size - len(piece))

    def established(self):
        """The handshake is over."""
        self.sock.settimeout(config.COMMTIMEOUT or None)


class _Pool:
    """How those who have the key come to a thread of the pool."""

    def __init__(self, hardening, daemon):
        self._hardening = hardening
        self._daemon = daemon
        self._server = daemon.transportServer
        self.queue = collections.deque()  # (guest, when it is told that the pool is full)

    def begin(self):
        self._server.events = self._events

    def end(self):
        if self._server.__dict__.get("events") == self._events:
            del self._server.events

    def _events(self, sockets):
        """In place of the server's own."""
        server = self._server
        if self._hardening.is_over:  # somebody has kept this function, as a session on the main thread does
            type(server).events(server, sockets)
        elif server._selector is None or server._selector.select(config.POLLTIMEOUT):
            self._hardening.accept()

    def come(self, guest):
        if len(self.queue) >= LOBBY:
            guest.close()
            return
        self.queue.append((guest, time.monotonic() + PATIENCE))

    def serve(self):
        while self.queue:
            guest, patience = self.queue[0]
            job = _Job(guest, self._daemon)
            try:
                self._server.pool.process(job)
            except NoFreeWorkersError:
                job.give_back()
                if time.monotonic() < patience:
                    return
                guest.refuse(self._daemon, "no free workers, increase server threadpool size")
            except Exception:  # the pool is closed: the daemon ends
                job.give_back()
                guest.close()
            self.queue.popleft()


class _Job(ClientConnectionJob):
    """One connection: Pyro's own job."""

    def __init__(self, guest, daemon):
        self._guest = guest
        self.csock = None  # made when there is a thread
        self.caddr = guest.address
        self.daemon = daemon

    def give_back(self):
        """There is no thread for it."""
        self._guest = None

    def handleConnection(self):
        guest, self._guest = self._guest, None
        try:
            self.csock = guest.connection()
        except OSError:
            guest.close()
            return False
        done = super().handleConnection()
        if done:
            self.csock.established()
        return done


class _Loop:
    """How those who have the key come into the loop of a multiplex server."""

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
        with contextlib.suppress(KeyError, ValueError, RuntimeError, OSError):  # the server is closed
            server.selector.unregister(self._woken)
        while self._come:
            self._come.popleft().close()
        self._woken.close()
        self._wake.close()

    def _accept(self, sock):
        """In place of the server's own; the connection comes by ``_handle``."""
        try:
            if sock is not None:
                self._hardening.accept()
        except OSError as e:
            if e.errno in socketutil.ERRNO_BADF or e.errno in socketutil.ERRNO_ENOTSOCK:
                raise errors.ConnectionClosedError("server socket closed") from None

    def come(self, guest):
        """Called by the lobby's thread."""
        self._come.append(guest)
        with contextlib.suppress(OSError):  # it is full, so the loop is awake; or the hardening is undone just now
            self._wake.send(b"x")

    def serve(self):
        """The loop serves itself."""

    def _handle(self, connection):
        """In place of the server's own: one of its events may be that somebody has come."""
        if connection is not self._woken:
            return self._theirs(connection)
        _drain(self._woken)
        while self._come:
            guest = self._come.popleft()
            try:
                made = guest.connection()
                if self._daemon._handshake(made):
                    made.established()
                    self._server.selector.register(made, selectors.EVENT_READ, self._server)
                    continue
            except Exception:  # it went away, or the app's own daemon fails in it: the loop goes on
                pass
            guest.close()
        return True


def _lobby():
    try:
        import resource  # not on every system

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError, ValueError):
        return LOBBY
    return LOBBY if most < 0 else max(1, min(LOBBY, most // SHARE))


def _wake_up_call():
    """Two ends of a connection of our own, neither of which waits."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


def _drain(end):
    with contextlib.suppress(BlockingIOError):
        end.recv(4096)


def harden(daemon, seconds=SECONDS):
    """Change ``daemon``, running or not, so that those without its key cannot stop or fill it; ``undo`` ends that."""
    return Hardening(daemon, seconds)
