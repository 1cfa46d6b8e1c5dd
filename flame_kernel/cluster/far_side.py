"""Runs in a session on each host: tells facts about the host, probes the network, and starts dask's processes.

It is sent as source, and runs on Python 3.6 and later with only the standard library. ``watch`` prints what happens to
processes, one JSON object a line:

    {"name", "number", "addresses": [...]}          a process of dask has started
    {"name", "number", "status": int, "log": text}  it has ended
"""

import atexit
import collections
import contextlib
import json
import logging
import os
import platform
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from typing import Any

# Seconds that a probe may take; and that a process of dask gets to end when it is asked to.
PROBE, GRACE = 2.0, 5.0
# How many lines of a process's output are kept, and how many of the last ones are sent when it ends.
KEPT, TOLD = 1000, 100

_BEGIN = "import json,sys; given = json.loads(sys.stdin.readline()); exec(given['program']); main(given)"


def facts(packages: Any) -> Any:
    """This host's Python, number of processors, and versions of ``packages``; None for one that is not installed."""
    return {
        "python": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "executable": sys.executable,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "host": platform.node(),
        "packages": {name: _version(name) for name in packages},
    }


def _version(name: Any) -> Any:
    try:
        import importlib.metadata

        return importlib.metadata.version(name)
    except Exception:  # it is not installed, or Python is older than 3.8
        return None


# -- probes of the network


class Probes:
    """Listeners that send a secret word to whoever connects, until they are closed."""

    def __init__(self) -> None:
        self._open: Any = []

    def open(self, addresses: Any) -> Any:
        """Listen at those of ``addresses`` that this machine has; returns ``[[address, port, word], ...]``."""
        found = []
        for address in addresses:
            sock = socket.socket(_family(address), socket.SOCK_STREAM)
            try:
                sock.bind((address, 0))
                sock.listen(64)
            except OSError:  # this machine does not have that address
                sock.close()
                continue
            word = os.urandom(8).hex()
            self._open.append(sock)
            threading.Thread(target=self._answer, args=(sock, word.encode("ascii")), daemon=True).start()
            found.append([address, sock.getsockname()[1], word])
        return found

    def _answer(self, sock: Any, word: Any) -> None:
        while True:
            try:
                asking, _ = sock.accept()
                with contextlib.closing(asking):
                    asking.settimeout(PROBE)
                    asking.sendall(word)
            except OSError:
                if sock.fileno() < 0:
                    return

    def close(self) -> None:
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        del self._open[:]


doors = Probes()


def open_probes(addresses: Any) -> Any:
    return doors.open(addresses)


def close_probes() -> None:
    doors.close()


def own_addresses(towards: Any) -> Any:
    """Loopback, and the addresses that this machine would use to talk to these hosts. Nothing is sent."""
    found = []
    for host in towards:
        try:
            family, kind, _, _, where = socket.getaddrinfo(host, 9, 0, socket.SOCK_DGRAM)[0]
            with contextlib.closing(socket.socket(family, kind)) as sock:
                sock.connect(where)
                found.append(sock.getsockname()[0])
        except (OSError, UnicodeError):  # no such host, or no route to it
            pass
    return list(collections.OrderedDict.fromkeys(["127.0.0.1", *found]))


def reached(places: Any) -> Any:
    """For each ``[address, port, word]``: whether a listener with that word can be reached from here."""
    found = [False] * len(places)

    def ask(number: Any, address: Any, port: Any, word: Any) -> None:
        try:
            with contextlib.closing(socket.create_connection((address, port), PROBE)) as sock:
                sock.settimeout(PROBE)
                said = b""
                while len(said) < len(word):
                    data = sock.recv(64)
                    if not data:
                        return
                    said += data
                found[number] = said == word.encode("ascii")
        except OSError:
            pass

    asking = [threading.Thread(target=ask, args=(n, *one), daemon=True) for n, one in enumerate(places)]
    for one in asking:
        one.start()
    for one in asking:
        one.join(2 * PROBE)
    return found


def free_ports(count: Any) -> Any:
    """Ports that are free on the loopback interface now."""
    socks = [socket.socket() for _ in range(count)]
    try:
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]
    finally:
        for sock in socks:
            sock.close()


def _family(address: Any) -> Any:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# -- a client of dask


def bind_client(names: Any, name: Any, address: Any, tls: Any, python: Any) -> str:
    """Bind ``name`` to a client of the scheduler at ``address``; returns why that cannot be, or nothing.

    ``tls`` has arguments of dask's Security, or is None; ``python`` is the minor version of the workers.
    """
    if list(sys.version_info[:2]) != python:
        return "Python is %d.%d there, and %d.%d in the workers" % (*sys.version_info[:2], *python)
    try:
        from distributed import Client
        from distributed.security import Security
    except ImportError:
        return 'dask.distributed is not installed there; %flame pip install "dask[distributed]" installs it'
    before = names.get(name)
    if before is not None and not hasattr(before, "made_by_flame"):
        return "%s is a variable there; give the client another name: --as NAME" % name
    try:
        made: Any = Client(address, security=None if tls is None else Security(**tls))
    except Exception as e:  # the sentence is all that is needed of it
        return "%s: %s" % (type(e).__name__, e)
    made.made_by_flame = True
    names[name] = made
    return ""


def end_client(names: Any, name: Any) -> None:
    """Close that client, and remove its name."""
    made = names.get(name)
    if hasattr(made, "made_by_flame"):
        del names[name]
        logger = logging.getLogger("distributed.client")
        logger.disabled = True  # else it logs a traceback if the scheduler was gone before
        try:
            made.close()
        finally:
            logger.disabled = False


# -- processes of dask

_running: Any = {}
_changes: Any = queue.Queue()


class Process:
    """A process of dask. It ends when its stdin is closed, so it does not outlive our process."""

    def __init__(self, name: Any, number: Any, given: Any) -> None:
        self.name, self.number = name, number
        self.folder = os.path.join(tempfile.gettempdir(), "flame_dask_" + os.urandom(8).hex())
        self.lines: Any = collections.deque(maxlen=KEPT)
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, "dask", str(name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        given = dict(given, path=list(map(str, sys.path)), folder=self.folder)
        with contextlib.suppress(OSError):  # it has ended already; ``_wait`` reports that
            self.popen.stdin.write(json.dumps(given).encode("ascii") + b"\n")  # type: ignore[union-attr]
            self.popen.stdin.flush()  # type: ignore[union-attr]
        self._logging = self._start(self._keep_log)
        self._start(self._wait)

    def __repr__(self) -> str:
        return "<Process %s pid %d>" % (self.name, self.popen.pid)

    def _start(self, work: Any) -> Any:
        thread = threading.Thread(target=work, name="flame-dask", daemon=True)
        thread.start()
        return thread

    def _keep_log(self) -> None:
        for line in self.popen.stderr:  # type: ignore[union-attr]
            self.lines.append(line.decode("utf-8", "replace"))

    def _wait(self) -> None:
        line = self.popen.stdout.readline()  # type: ignore[union-attr]
        with contextlib.suppress(ValueError, KeyError):
            _changes.put(
                {"name": self.name, "number": self.number, "addresses": json.loads(line.decode())["addresses"]}
            )
        status = self.popen.wait()
        self._kill()  # and what it has started
        self._logging.join(1.0)
        for stream in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        shutil.rmtree(self.folder, ignore_errors=True)
        if _running.get(self.name) is self:
            del _running[self.name]
        log = "".join(list(self.lines)[-TOLD:])
        _changes.put({"name": self.name, "number": self.number, "status": status, "log": log[-16000:]})

    def stop(self) -> None:
        """Ask it to end, and kill it later if it has not; returns at once."""
        with contextlib.suppress(OSError):
            self.popen.stdin.close()  # type: ignore[union-attr]
        timer = threading.Timer(GRACE + 1, self._kill)
        timer.daemon = True
        timer.start()

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.popen.pid, signal.SIGKILL)


def start(name: Any, number: Any, given: Any) -> None:
    """Start a process of dask; an earlier one of the same name is stopped."""
    before = _running.get(name)
    if before is not None:
        before.stop()
    _running[name] = Process(name, number, given)


def stop(name: Any) -> None:
    """Stop the process of this name, if there is one."""
    one = _running.get(name)
    if one is not None:
        one.stop()


def log_of(name: Any) -> Any:
    """The last lines of a process's output."""
    one = _running.get(name)
    return "" if one is None else "".join(list(one.lines))


def watch() -> None:
    """Print what happens to processes, until ``finish`` is called."""
    while True:
        try:
            change = _changes.get(timeout=1.0)  # an interrupt is raised between two waits
        except queue.Empty:
            continue
        if change is None:
            return
        print(json.dumps(change), flush=True)


@atexit.register
def finish() -> None:
    """Stop all processes and listeners."""
    doors.close()
    for one in list(_running.values()):
        one.stop()
    _changes.put(None)
