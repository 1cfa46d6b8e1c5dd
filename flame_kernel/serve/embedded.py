"""A stock Flame server of our own, for those who name none: a process on this machine that ends with us.

It is Pyro's own `flameserver.main`, with `hardening`, and with the agent, which need not be pushed then.  It listens on
loopback, on a port of the system's choice, and every user of this machine could connect there: so it has a random key,
which goes in over its stdin and stands neither in its arguments nor in the environment that cells see.

Its stdin stays open as long as we live.  Where that ends, by `close` or because we were killed, the server ends too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..agent.wire.launch import LEAVE_FOLDER, interpreter
from ..connect.keys import keyless
from ..connect.target import Location, Secret, Target
from ..errors import FlameError

_START_SECONDS = 20.0  # importing Pyro4 from a slow disk
_GRACE_SECONDS = 4.0  # how long the server may take to end by itself: it gives its cells' exit handlers 3
_READY = "flame server at "

# Runs in the server. Until it is ready, stdout and stderr are one pipe that we read; then both become our own stderr,
# for a pipe that nobody reads would stop whoever prints. The watch on stdin moves to a descriptor that no child of a
# cell inherits, and the server's own stdin is empty.
_LAUNCHER = f"""
{LEAVE_FOLDER}
import atexit, json, os, signal, threading, types

alive = os.dup(0)
null = os.open(os.devnull, os.O_RDONLY)
os.dup2(null, 0)
os.close(null)
told = b""
while not told.endswith(b"\\n"):
    piece = os.read(alive, 65536)
    if not piece:
        sys.exit(1)
    told += piece
told = json.loads(told.decode())

me = os.getpid()
def end_group():
    if os.getpid() == me:  # not in a fork that leaves by sys.exit
        sys.stdout.flush()
        os.killpg(me, signal.SIGKILL)

def watch():
    while os.read(alive, 4096):
        pass
    late = threading.Timer(3, end_group)
    late.daemon = True
    late.start()
    os.kill(me, signal.SIGINT)

from Pyro4.configuration import config
config.reset(useenvironment=False)
config.FLAME_ENABLED = True
from Pyro4.utils import flameserver
daemon, uri = flameserver.main(["-q", "-H", "127.0.0.1", "-p", "0"], returnWithoutLooping=True)
daemon._pyroHmacKey = told["key"].encode()
hardening = types.ModuleType("flame_hardening")
exec(compile(told["hardening"], "<hardening>", "exec"), hardening.__dict__)
hardened = hardening.harden(daemon)
atexit.register(end_group)  # registered first, hence run last: what cells started and left behind
threading.Thread(target=watch, name="flame-watch", daemon=True).start()
space = {{}}
with open(int(sys.argv[2])) as file:
    loader, text = json.load(file)
exec(loader, space)
space["boot"](text, loader)
print({_READY!r} + uri.location, flush=True)
log = int(sys.argv[1])
os.dup2(log, 1)
os.dup2(log, 2)
os.close(log)
del sys.argv[1:], piece, told, null, log, space, file, loader, text
try:
    daemon.requestLoop()
except KeyboardInterrupt:
    pass
hardened.undo()
daemon.close()
"""


class EmbeddedServer:
    """A running Flame server; made when it is ready to take connections. `close` it, and nothing of it is left.

    agent   the agent that is in it from the beginning: what its loader and the rest of it say, as `bootstrap` has them
    """

    def __init__(self, agent: tuple[str, str]) -> None:
        self._key = secrets.token_hex(32)
        self._agent = agent
        self._process = self._start()
        try:
            self.location = self._wait()
        except BaseException:  # goes on, whatever it is; the server does not stay
            self.close()
            raise

    def __repr__(self) -> str:
        state = "running" if self.is_running else "ended"
        return f"<EmbeddedServer {getattr(self, 'location', 'starting')} pid {self.pid} {state}>"

    @property
    def pid(self) -> int:
        """The process id of the server, its own process group."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """False after `close`, and when the server ended by itself, as when a cell crashed it."""
        return self._process.returncode is None and self._process.poll() is None

    def target(self, wished: Target | None = None) -> Target:
        """The Target of this server, with all that is ``wished`` of a session but where it is and how to get in."""
        key = Secret(self._key.encode())
        return dataclasses.replace(wished or Target(), location=self.location, key=key, own=True)

    def close(self) -> None:
        """End the server and whatever cells started in it, and wait for that; again is no error.

        It is asked first, so that exit handlers run, and killed after 4 seconds.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        try:
            if self._process.returncode is None:
                self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:  # an interrupt while we wait means: now
            if self._process.returncode is None:
                # It is ours and not yet waited for, so its number is nobody else's.
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            log = os.dup(2)
        except OSError:  # a service without stderr
            log = os.open(os.devnull, os.O_WRONLY)
        try:
            with tempfile.TemporaryFile() as agent:  # more than a pipe holds: one that does not read would stop us
                agent.write(json.dumps(self._agent).encode())
                agent.seek(0)
                process = subprocess.Popen(
                    [*interpreter(sys.executable), "-c", _LAUNCHER, str(log), str(agent.fileno())],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=keyless(os.environ),
                    pass_fds=(log, agent.fileno()),
                    start_new_session=True,  # Ctrl-C in our terminal is for us; and its group can be ended as one
                )
        except OSError as error:
            raise self._failure("cannot be run", str(error).encode()) from error
        finally:
            os.close(log)
        assert process.stdin is not None
        told = {"key": self._key, "hardening": Path(__file__).with_name("hardening.py").read_text("utf-8")}
        with contextlib.suppress(BrokenPipeError):  # it has died, and `_wait` reports of what
            process.stdin.write(json.dumps(told).encode() + b"\n")  # less than a pipe holds
        return process

    def _wait(self) -> Location:
        """The server's location, as soon as it prints it; FlameError with what else it printed, when it does not."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + _START_SECONDS
        printed = b""
        pipe = self._process.stdout.fileno()
        poll = select.poll()  # not select(), which fails on descriptors above 1023
        poll.register(pipe, select.POLLIN)
        while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            piece = os.read(pipe, 65536)
            if not piece:
                raise self._failure("ended while it started", printed)
            printed += piece
            for line in printed.split(b"\n")[:-1]:
                if line.startswith(_READY.encode()):
                    self._process.stdout.close()
                    return Location.parse(line[len(_READY) :].decode())
        raise self._failure(f"did not start within {_START_SECONDS:g} s", printed)

    def _failure(self, what: str, printed: bytes) -> FlameError:
        said = printed[-4000:].decode("utf-8", "replace").strip() or "it printed nothing"
        return FlameError(
            f"the kernel's own flame server ({sys.executable}) {what}; check that Pyro4 works there: {said}"
        )
