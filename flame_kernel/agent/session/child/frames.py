"""How a child starts, and the frames in which it and its server talk over their socket: 8 bytes of length, then a
message of ``wire``."""

import marshal
import struct
import sys

from ...wire import launch
from ...wire import message as wire

_LENGTH = struct.Struct(">Q")
# Bytes of a frame up to which copying them is cheaper than a second call.
SMALL = 1 << 16
# Bytes that are asked for when a frame begins: most frames are shorter.
AT_ONCE = 1 << 13

# Before its first message, a child may be told to import what it will need.
WARM = b"warm"
# Or it is told to be a fork server.
FORKS = b"forks"

# The first code in the new interpreter: it reads the agent from the socket, in the form of ``agent_frames``. The folder
# where it starts is not on the import path yet, since a json.py may lie there; cells get it later: ``import_path``.
_READ = """\
def read(n):
    parts = []
    while n:
        part = s.recv(n)
        if not part:
            sys.exit(0)
        parts.append(part)
        n -= len(part)
    return b"".join(parts)
"""
_LOAD = (
    """\
def frame():
    return read(int.from_bytes(read(8), "big"))
space = {}
loader = frame().decode()
exec(loader, space)
text, version, codes = frame(), frame(), frame()
codes = marshal.loads(codes) if version == sys.version.encode() else None
space["boot"](text.decode(), loader, codes).%s(s, left)
"""
    % wire.CHILD
)
# BOOT is for a child that inherits a socket. BOOT_APART is for one that does not: the first line of its stdin says
# where to connect, see ``loopback``.
BOOT = (
    launch.LEAVE_FOLDER
    + """\
import marshal, socket
s = socket.socket(fileno=int(sys.argv[1]))
s.settimeout(None)
"""
    + _READ
    + _LOAD
)
BOOT_APART = (
    launch.LEAVE_FOLDER
    + """\
import marshal, socket
port, shown, wanted = sys.stdin.readline().split()
s = socket.create_connection(("127.0.0.1", int(port)))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s.sendall(bytes.fromhex(shown))
"""
    + _READ
    + """\
if read(len(wanted) // 2) != bytes.fromhex(wanted):
    sys.exit(1)
del port, shown, wanted
sys.argv.insert(1, "")
"""
    + _LOAD
)


def agent_frames(loader, text, codes):
    """The agent for another process on this machine, in the form that ``BOOT`` reads: its text, and the code that this
    same Python has compiled, which saves most of a child's start-up time."""
    return loader.encode(), text.encode(), sys.version.encode(), marshal.dumps(codes)


def send_frame(sock, data):
    head = _LENGTH.pack(len(data))
    for part in (head + data,) if len(data) < SMALL else (head, data):
        sock.sendall(part)


class Frames:
    """Reads the frames that come over a socket; a small one with a single call."""

    def __init__(self, sock):
        self._socket = sock
        self._came = b""  # the beginning of the next frame, or several frames

    def read(self):
        """The next frame; None at the end of the stream."""
        came = self._came
        try:
            while len(came) < _LENGTH.size:
                part = self._socket.recv(AT_ONCE)
                if not part:
                    return None
                came = came + part if came else part
            end = _LENGTH.size + _LENGTH.unpack_from(came)[0]
            if end > len(came):
                self._came = b""
                return self._rest(came, end)
        except OSError:
            return None
        self._came = came[end:]
        return came[_LENGTH.size : end]

    def _rest(self, came, end):
        """A frame of which only the beginning has come."""
        data = bytearray(end - _LENGTH.size)
        view, at = memoryview(data), len(came) - _LENGTH.size
        view[:at] = came[_LENGTH.size :]
        while at < len(view):
            n = self._socket.recv_into(view[at:])
            if not n:
                return None
            at += n
        return data
