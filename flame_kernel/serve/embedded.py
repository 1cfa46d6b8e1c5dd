"""A stock Flame server that we start if the user names none: a process on this machine that ends with us.

It runs Pyro's own `flameserver.main` with `hardening`.  The agent is loaded from the start, so it need not be pushed.
The server listens on loopback, on a port that the system chooses.  Every user of this machine could connect there, so
the server has a random key.  The key is passed over its stdin; it is in neither the arguments nor the environment,
which cells can see.

The server's stdin stays open as long as we live.  When it is closed, by `close` or because we were killed, the server
ends, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..agent.wire.launch import LEAVE_FOLDER, interpreter, passed
from ..connect.keys import keyless
from ..connect.target import Location, Secret, Target
from ..errors import FlameError

_START_SECONDS = 20.0  # importing Pyro4 from a slow disk takes long
_GRACE_SECONDS = 4.0  # how long the server may take to end by itself; its cells' exit handlers get 3
_READY = "flame server at "
_POSIX = hasattr(os, "killpg")

# Runs in the server. Until it is ready, stdout and stderr are one pipe that we read. Then both become our own stderr,
# because a full pipe that nobody reads would block whoever prints. The watched stdin moves to a descriptor that
# children of a cell do not inherit, and the server's own stdin becomes empty. What cells have started ends with the
# server: it is in its process group, or on Windows in a job that closes with it.
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
        os.killpg(me, signal.SIGKILL) if hasattr(os, "killpg") else os._exit(0)

def watch():
    while os.read(alive, 4096):
        pass
    late = threading.Timer(3, end_group)
    late.daemon = True
    late.start()
    os.kill(me, signal.SIGINT) if hasattr(os, "killpg") else daemon.shutdown()

def opened(word, flags):
    if os.name != "nt":
        return int(word)
    import msvcrt
    return msvcrt.open_osfhandle(int(word), flags)

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
with open(opened(sys.argv[2], os.O_RDONLY)) as file:
    loader, text = json.load(file)
exec(loader, space)
agent = space["boot"](text, loader)
print({_READY!r} + uri.location, flush=True)
log = opened(sys.argv[1], 0)
os.dup2(log, 1)
os.dup2(log, 2)
os.close(log)
job = agent.windows.Job(-1) if os.name == "nt" else None  # -1: this process
agent.session.child.spare.forbid()
if told["prestart"]:
    agent.session.child.prestart.begin(agent.handle.bundle, told["prestart"] != "mini")
del sys.argv[1:], piece, told, null, log, space, file, loader, text, agent, opened
try:
    daemon.requestLoop()
except KeyboardInterrupt:
    pass
hardened.undo()
daemon.close()
"""


class EmbeddedServer:
    """A running Flame server. The constructor returns when it accepts connections; `close` removes it completely.

    agent     source of the agent to load at the start: the text of its loader and of the rest; `bootstrap` makes them
    prestart  the shell of a child that is started at once, for the first session; "" if none is to be
    """

    def __init__(self, agent: tuple[str, str], prestart: str = "") -> None:
        self._key = secrets.token_hex(32)
        self._agent = agent
        self._prestart = prestart
        self._process = self._start()
        try:
            self.location = self._wait()
        except BaseException:  # raised again, whatever it is; the server does not stay
            self.close()
            raise

    def __repr__(self) -> str:
        state = "running" if self.is_running else "ended"
        return f"<EmbeddedServer {getattr(self, 'location', 'starting')} pid {self.pid} {state}>"

    @property
    def pid(self) -> int:
        """The server's process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """False after `close`, or if the server ended by itself, for example because a cell crashed it."""
        return self._process.returncode is None and self._process.poll() is None

    def target(self, wished: Target | None = None) -> Target:
        """The Target of this server, with the settings of ``wished`` except its location and credentials."""
        key = Secret(self._key.encode())
        return dataclasses.replace(wished or Target(), location=self.location, key=key, own=True)

    def close(self) -> None:
        """End the server and all processes that its cells started, and wait for that. May be called again.

        The server is asked to end, so that exit handlers run, and killed after 4 seconds.
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
        finally:  # an interrupt while we wait: kill it now
            if self._process.returncode is None:
                self._kill()
                self._process.wait()

    def _kill(self) -> None:
        """End the server and what it has started; it is our child and not yet waited for, so its pid is its own."""
        if _POSIX:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()  # its job ends the rest

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            log = os.dup(2)
        except OSError:  # as a service we may have no stderr
            log = os.open(os.devnull, os.O_WRONLY)
        try:
            with tempfile.TemporaryFile() as agent:  # larger than a pipe: a server that does not read would block us
                agent.write(json.dumps(self._agent).encode())
                agent.seek(0)
                words, how = passed([log, agent.fileno()])
                process = subprocess.Popen(
                    [*interpreter(sys.executable), "-c", _LAUNCHER, *words],
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=keyless(os.environ),
                    **how,
                    **_apart(),
                )
        except OSError as error:
            raise self._failure("cannot be run", str(error).encode()) from error
        finally:
            os.close(log)
        assert process.stdin is not None
        told = {"key": self._key, "hardening": Path(__file__).with_name("hardening.py").read_text("utf-8")}
        told["prestart"] = self._prestart
        with contextlib.suppress(BrokenPipeError):  # it has died, and `_wait` reports why
            process.stdin.write(json.dumps(told).encode() + b"\n")  # smaller than a pipe, so it cannot block
        return process

    def _wait(self) -> Location:
        """Wait until the server prints its location, and return that; FlameError with its output if it does not."""
        assert self._process.stdout is not None
        late: list[bool] = []

        def give_up() -> None:
            late.append(True)
            self._kill()  # which ends the reading

        timer = threading.Timer(_START_SECONDS, give_up)
        timer.daemon = True
        timer.start()
        printed = b""
        try:
            while piece := os.read(self._process.stdout.fileno(), 65536):
                printed += piece
                for line in printed.splitlines()[: printed.count(b"\n")]:
                    if line.startswith(_READY.encode()):
                        self._process.stdout.close()
                        return Location.parse(line[len(_READY) :].decode())
        finally:
            timer.cancel()
            timer.join()
        raise self._failure(f"did not start within {_START_SECONDS:g} s" if late else "ended while it started", printed)

    def _failure(self, what: str, printed: bytes) -> FlameError:
        said = printed[-4000:].decode("utf-8", "replace").strip() or "it printed nothing"
        return FlameError(
            f"the kernel's own flame server ({sys.executable}) {what}; check that Pyro4 works there: {said}"
        )


def _apart() -> dict[str, Any]:
    """How the server is started, so that Ctrl-C in our terminal does not reach it, and its group can be killed."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


class OwnServer:
    """The server for targets without a location: started when it is first needed, and again if it has ended.

    agent    called for the agent of a new `EmbeddedServer`
    started  called for a server that runs already, or None
    """

    def __init__(
        self, agent: Callable[[], tuple[str, str]], started: Callable[[], EmbeddedServer | None] = lambda: None
    ) -> None:
        self._agent = agent
        self._started = started
        self._server: EmbeddedServer | None = None

    def reach(self, target: Target) -> tuple[Target, Callable[[], bool]]:
        """The Target to connect to, and a function that tells whether its server can still be there."""
        if target.location is not None:
            return target, lambda: True
        server = self._server
        if server is None or not server.is_running:
            self.close()
            server = self._server = self._started() or EmbeddedServer(self._agent())
        return server.target(target), lambda: server.is_running

    def close(self) -> None:
        """End the server, if there is one."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
