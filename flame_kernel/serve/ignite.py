"""Starts Flame inside a running Python process, given by its process id, and removes it again.

The process is made to run a few lines that start a thread.  The thread fetches the rest from a socket of ours: the
text of ``ignition.py``, Pyro4 if the process has none, and the key.

If both sides run the same Python 3.14 or newer, ``sys.remote_exec`` injects the lines: the main thread of the process
runs them between two of its own instructions, but not while it waits in a system call (PEP 768).  If that does not work
in time, or is not available, ``hypno`` injects them: it stops a thread as a debugger does, and makes it load a small
library.  That would crash a process that is not Python, so the process is checked first.  The library waits for the
interpreter while it holds the lock of the system's loader.  So the process hangs if it loads a library itself in just
those milliseconds; this is another reason to try ``sys.remote_exec`` first.

``other_process.py`` checks the process.  No secret is in an argument, the environment, or a file that others can read.
All errors are IgniteError.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..connect.installation import pip_install
from ..connect.keys import keyless
from . import hardening
from .other_process import IgniteError, check, not_permitted
from .plan import MAX_MESSAGE, THREADS

# Seconds: for a process to do what it is asked; for its main thread to run a script, unless it waits in a call.
PATIENCE = 10.0
COMES_WITHIN = 1.0

_LENGTH = struct.Struct(">Q")

# The lines that the process runs, wherever it is just then. All else is done on a new thread, which may wait for locks.
_LINES = """\
def answer(path):
    import json, socket, struct, sys
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    def read(n):
        data = b""
        while len(data) < n:
            piece = s.recv(min(n - len(data), 1 << 20))
            if not piece:
                raise EOFError
            data += piece
        return data
    try:
        s.settimeout(60)
        s.connect(path)
        text, request = [read(struct.unpack(">Q", read(8))[0]).decode("utf-8") for _ in range(2)]
        if sys.version_info < (3, 6):
            answer = {"error": "is Python %d.%d; 3.6 is the oldest that can be used" % sys.version_info[:2]}
        else:
            space = {"__name__": "flame_ignition"}
            exec(compile(text, "<flame ignition>", "exec"), space)
            answer = space["handle"](json.loads(request))
        data = json.dumps(answer).encode("utf-8")
        s.sendall(struct.pack(">Q", len(data)) + data)
    except Exception:  # whatever it is: the app has no part in it, and who asked finds the socket closed
        pass
    finally:
        s.close()
def go(path):
    import threading
    options = {"daemon": True} if hasattr(threading, "main_thread") else {}  # else the thread that asks becomes known
    thread = threading.Thread(None, answer, "flame-ignition", (path,), **options)
    thread.start()
try:
    import _thread
except ImportError:
    import thread as _thread
_thread.start_new_thread(go, (PATH,))
"""

# Runs in a helper process, because it may have to wait for the other process and must not be killed meanwhile.
_HELPER = """\
import sys
pid, force, lines = int(sys.argv[1]), sys.argv[2] == "force", sys.stdin.read()
import hypno
from flame_kernel.serve.other_process import asleep
try:
    thread = pid if force else asleep(pid)
    hypno.inject_py(thread, lines, permissions=0o600)
except Exception as error:
    sys.exit("%s: %s" % (type(error).__name__, error))
"""


@dataclass(frozen=True)
class Ignited:
    """A process with Flame: its port on loopback, Python version, program name, and whether we supplied Pyro4."""

    port: int
    python: str
    program: str
    brought: bool


def ignite(pid: int, key: str, patience: float = PATIENCE, force: bool = False) -> Ignited:
    """Start Flame in process ``pid``, on loopback, with ``key``. ``patience`` is in seconds.

    With ``force`` it is tried even if all threads of the process compute, which may end it.
    """
    request = {
        "do": "ignite",
        "key": key,
        "modules": {name: list(one) for name, one in _pyro()},
        "hardening": Path(hardening.__file__).read_text("utf-8"),
        "settings": {"FLAME_ENABLED": True, "THREADPOOL_SIZE": THREADS, "MAX_MESSAGE_SIZE": MAX_MESSAGE},
    }
    answer = _ask(pid, request, patience, force)
    if "is" in answer:
        raise IgniteError(
            f"process {pid} is ignited already, at 127.0.0.1:{answer['is']}; take it out with jupyter flame extinguish "
            f"{pid}, or use it"
        )
    return Ignited(int(answer["port"]), str(answer["python"]), str(answer["program"]), bool(answer["brought"]))


def extinguish(pid: int, patience: float = PATIENCE, force: bool = False) -> list[str]:
    """Remove Flame from process ``pid``; return the names of threads and modules that running cells still use."""
    answer = _ask(pid, {"do": "extinguish"}, patience, force)
    return [*map(str, answer["threads"]), *map(str, answer["modules"])]


def _pyro() -> Iterator[tuple[str, tuple[bool, str]]]:
    """The source of Pyro4 and its dependencies: ``(name, (whether it is a package, text))``."""
    for root in ("Pyro4", "serpent"):
        spec = importlib.util.find_spec(root)
        if spec is None or spec.origin is None:
            raise IgniteError(f"{root} is not installed here")
        path = Path(spec.origin)
        if not spec.submodule_search_locations:
            yield root, (False, path.read_text("utf-8"))
            continue
        for file in sorted(path.parent.rglob("*.py")):
            words = [root, *file.relative_to(path.parent).with_suffix("").parts]
            package = words[-1] == "__init__"
            if "test" not in words:
                yield ".".join(words[:-1] if package else words), (package, file.read_text("utf-8"))


# -- sending a request to a process ------------------------------------------------------------------------------------


def _ask(pid: int, request: dict[str, Any], patience: float, force: bool) -> dict[str, Any]:
    check(pid)
    deadline = time.monotonic() + patience
    with (
        tempfile.TemporaryDirectory(prefix="flame-", ignore_cleanup_errors=True) as folder,  # of mode 0700
        socket.socket(socket.AF_UNIX) as listening,
        contextlib.ExitStack() as stack,
    ):
        path = os.path.join(folder, "s")
        listening.bind(path)
        listening.listen(1)
        lines = f"exec({_LINES.replace('PATH', repr(path))!r}, {{}})"
        helper = process = None
        reason = _by_script(pid, lines, stack)
        if reason is None:
            soon = min(COMES_WITHIN, patience / 2) if _has_hypno() else patience
            process = _accept(listening, pid, None, time.monotonic() + soon)
        elif not _has_hypno():
            by_itself = f"process {pid} cannot be asked by Python itself ({reason}); " if reason else ""
            raise IgniteError(f"{by_itself}this needs hypno: {pip_install('ignite')}")
        if process is None and _has_hypno():
            helper = _by_hypno(pid, lines, force)
            stack.callback(threading.Thread(target=_see_off, args=(helper,), name="flame-helper", daemon=True).start)
            process = _accept(listening, pid, helper, deadline)
        if process is None:
            raise IgniteError(_stuck(pid, helper))
        listening.close()  # if the lines run a second time, nothing answers them
        answer = _converse(process, pid, request, patience + PATIENCE)
    if "error" in answer:
        raise IgniteError(f"process {pid} {answer['error']}")
    return answer


def _converse(process: socket.socket, pid: int, request: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Send the process the code and the request; return its answer."""
    with process:
        process.settimeout(seconds)
        try:
            text = resources.files(__package__).joinpath("ignition.py").read_text("utf-8")
            for data in (text.encode(), json.dumps(request).encode()):
                process.sendall(_LENGTH.pack(len(data)) + data)
            return dict(json.loads(_read(process, _LENGTH.unpack(_read(process, _LENGTH.size))[0])))
        except (OSError, EOFError, ValueError) as error:
            raise IgniteError(
                f"process {pid} began the request but did not finish it: {str(error) or 'it went away'}"
            ) from error


def _see_off(helper: subprocess.Popen[str]) -> None:
    """Wait until the helper ends, which may be long after the command has given up."""
    helper.wait()
    assert helper.stderr is not None
    helper.stderr.close()


def _read(sock: socket.socket, size: int) -> bytes:
    if size > 1 << 20:
        raise ValueError("its answer makes no sense")
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _by_script(pid: int, lines: str, stack: contextlib.ExitStack) -> str | None:
    """Make the process run the lines by ``sys.remote_exec``.

    Returns None if it will run them, else the reason why not, which is empty if our Python has no ``remote_exec``.  The
    main thread may run the lines long after we have given up.  So the script stays, in a folder of its own; its first
    line removes both.
    """
    remote_exec = getattr(sys, "remote_exec", None)
    if remote_exec is None:
        return ""
    folder = Path(tempfile.mkdtemp(prefix="flame-"))
    script = folder / "lines.py"
    first = f"import os; os.unlink({str(script)!r}); os.rmdir({str(folder)!r})\n"
    script.write_text(first + lines, "utf-8")
    try:
        remote_exec(pid, str(script))
    except (OSError, RuntimeError, ValueError) as error:
        shutil.rmtree(folder, True)
        reason: BaseException | None = error  # Python's error may have an error of the system as its cause
        while reason is not None:
            if isinstance(reason, PermissionError):
                raise IgniteError(not_permitted(pid)) from error
            if isinstance(reason, ProcessLookupError):
                raise IgniteError(f"there is no process {pid}") from error
            reason = reason.__cause__ or reason.__context__
        return str(error) or type(error).__name__  # another version of Python, or remote execution is disabled there
    stack.callback(lambda: None if _is_there(pid) else shutil.rmtree(folder, True))
    return None


def _has_hypno() -> bool:
    return importlib.util.find_spec("hypno") is not None


def _by_hypno(pid: int, lines: str, force: bool) -> subprocess.Popen[str]:
    """Make the process run the lines by ``hypno``; return the helper process that does it."""
    helper = subprocess.Popen(
        [sys.executable, "-I", "-c", _HELPER, str(pid), "force" if force else ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=keyless(os.environ),
        start_new_session=True,  # so Ctrl-C does not reach it
    )
    assert helper.stdin is not None
    with contextlib.suppress(BrokenPipeError), helper.stdin:
        helper.stdin.write(lines)
    return helper


def _accept(
    listening: socket.socket, pid: int, helper: subprocess.Popen[str] | None, deadline: float
) -> socket.socket | None:
    """The socket on which the process connects to us; None if it does not in time."""
    listening.settimeout(0.05)
    while True:
        try:
            caller = listening.accept()[0]
        except TimeoutError:
            if helper is not None and helper.poll():
                assert helper.stderr is not None
                raise IgniteError(_failure(pid, helper.stderr.read())) from None
            if not _is_there(pid):
                raise IgniteError(f"process {pid} has ended meanwhile") from None
            if time.monotonic() > deadline:
                return None
            continue
        if struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] == pid:
            return caller
        caller.close()  # another process of our own user, by mistake: nobody else can enter the folder


def _is_there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}") or not os.path.exists("/proc/self")


def _stuck(pid: int, helper: subprocess.Popen[str] | None) -> str:
    if helper is None:
        return (
            f"process {pid} did not respond in time: its main thread waits in a call, or hangs; give it "
            f"longer with --timeout, or let it be stopped: {pip_install('ignite')}"
        )
    said = f"process {pid} did not respond in time: it holds its interpreter (a long call in C), or hangs"
    if helper.poll() is None:
        return f"{said}; helper process {helper.pid} lets go of it as soon as it can, do not kill it before"
    return f"{said}; try again, or give it longer with --timeout"


def _failure(pid: int, said: str) -> str:
    line = said.strip().splitlines()[-1:] or ["it ended without a message"]
    if line[0].startswith("IgniteError: "):
        return line[0].partition(": ")[2]
    if "PermissionError" in said or "EPERM" in said or "permitted" in said:
        return not_permitted(pid)
    if "undefined symbol" in said or "ModuleNotFoundError" in said:
        return f"process {pid} cannot be used: {line[0]}"
    return f"hypno cannot get into process {pid}: {line[0]}"
