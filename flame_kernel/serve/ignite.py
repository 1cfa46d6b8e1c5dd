"""Starts Flame inside a running Python process, given by its process id, and removes it again.

The process is made to run a few lines that start a thread.  The thread fetches the rest from a socket of ours: the
text of ``ignition.py``, Pyro4 if the process has none, and the key.

If both sides run the same Python 3.14 or newer, ``sys.remote_exec`` injects the lines: the main thread of the process
runs them between two of its own instructions, but not while it waits in a system call (PEP 768).  If that does not work
in time, or is not available, ``hypno`` injects them: it stops a thread as a debugger does, and makes it load a small
library.  That would crash a process that is not Python, so the process is checked first.  The library waits for the
interpreter while it holds the lock of the system's loader.  So the process hangs if it loads a library itself in just
those milliseconds; this is another reason to try ``sys.remote_exec`` first.

No secret is in an argument, the environment, or a file that others can read. All errors are IgniteError.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import pwd
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
from ..errors import TargetError
from . import hardening
from .plan import MAX_MESSAGE, THREADS

# Seconds: for a process to do what it is asked; that it must have been running, so that its Python is initialized; for
# its main thread to run a script, unless it waits in a call.
PATIENCE = 10.0
AWAKE_AFTER = 1.0
COMES_WITHIN = 1.0

_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")

_LENGTH = struct.Struct(">Q")
_NEEDED = (b"PyGILState_Ensure", b"PyRun_SimpleStringFlags")

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
from flame_kernel.serve.ignite import asleep
try:
    thread = pid if force else asleep(pid)
    hypno.inject_py(thread, lines, permissions=0o600)
except Exception as error:
    sys.exit("%s: %s" % (type(error).__name__, error))
"""

# Linux: the number of the system call futex, by machine, and its operation for waiting on a lock of the C library.
_FUTEX = {"x86_64": 202, "aarch64": 98}
_WAIT, _OPERATION = 0, 0x7F
# Seconds: after which a thread without any change counts as asleep; to find such a thread.
_STILL = 0.01
_FOUND_WITHIN = 3.0


class IgniteError(TargetError):
    """Flame cannot be started in a process, or not removed; the text is one sentence with the reason."""


@dataclass(frozen=True)
class Ignited:
    """A process with Flame: its location, Python version, program name, and whether we supplied Pyro4."""

    port: int
    python: str
    program: str
    brought: bool


def ignite(pid: int, key: str, patience: float = PATIENCE, force: bool = False) -> Ignited:
    """Start Flame in process ``pid``, on loopback, with ``key``; with ``force`` even if all its threads compute."""
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
            raise IgniteError(f"process {pid} began, and did not end it: {str(error) or 'it went away'}") from error


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
                raise IgniteError(_not_permitted(pid)) from error
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
    line = said.strip().splitlines()[-1:] or ["it ended without a word"]
    if line[0].startswith("IgniteError: "):
        return line[0].partition(": ")[2]
    if "PermissionError" in said or "EPERM" in said or "permitted" in said:
        return _not_permitted(pid)
    if "undefined symbol" in said or "ModuleNotFoundError" in said:
        return f"process {pid} cannot be used: {line[0]}"
    return f"hypno cannot get into process {pid}: {line[0]}"


def _not_permitted(pid: int) -> str:
    scope = _text(_PTRACE_SCOPE).strip()
    if scope in ("1", "2", "3"):
        cure = (
            "it cannot be changed without a restart" if scope == "3" else "as root: sysctl kernel.yama.ptrace_scope=0"
        )
        return f"not allowed to attach to process {pid} (kernel.yama.ptrace_scope is {scope}; {cure})"
    return f"not allowed to attach to process {pid}; a container needs the capability SYS_PTRACE"


# -- finding a safe moment ---------------------------------------------------------------------------------------------


def asleep(pid: int) -> int:
    """The id of a thread of ``pid`` that sleeps in a system call: there it is safe to make it run something else.

    A thread that computes may hold a lock, such as that of the C library's memory allocator; then the whole process
    would hang or crash.  Raises IgniteError if all threads compute.
    """
    try:
        Path(f"/proc/{pid}/syscall").read_text()
    except PermissionError:
        raise IgniteError(_not_permitted(pid)) from None
    except OSError:
        pass  # the process is ending, or the system has no such file: then no thread is found asleep
    deadline = time.monotonic() + _FOUND_WITHIN
    while time.monotonic() < deadline:
        before = {thread: _sleep(pid, thread) for thread in _threads(pid)}
        time.sleep(_STILL)
        for thread, since in before.items():
            if since and _sleep(pid, thread) == since:
                return thread
    raise IgniteError(
        f"process {pid} computes in all of its threads, and cannot be stopped safely; try again, or say --force"
    )


def _threads(pid: int) -> list[int]:
    """The ids of the threads of a process, the main thread first."""
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return []


def _sleep(pid: int, thread: int) -> tuple[str, str] | None:
    """A value that changes with every sleep of a thread; None if it runs, or waits for a lock of the C library."""
    folder = f"/proc/{pid}/task/{thread}"
    called = _text(f"{folder}/syscall").split()
    if not called or not called[0].isdigit():
        return None  # the thread is running
    if int(called[0]) == _FUTEX.get(platform.machine()) and int(called[2], 16) & _OPERATION == _WAIT:
        return None
    switches = [line for line in _text(f"{folder}/status").splitlines() if "ctxt_switches" in line]
    return " ".join(called), " ".join(switches)


# -- checking the process first ----------------------------------------------------------------------------------------


def check(pid: int) -> None:
    """Raise IgniteError if Flame cannot be started in a process. A process that is not Python is never touched."""
    if not sys.platform.startswith("linux"):
        raise IgniteError(
            "jupyter flame ignite works on Linux only so far; start Flame in the app: Pyro4.utils.flame.start(daemon)"
        )
    status = dict(line.partition(":")[::2] for line in _text(f"/proc/{pid}/status").splitlines())
    if not status or pid <= 0:
        raise IgniteError(f"there is no process {pid}")
    if int(status["Tgid"]) != pid:
        raise IgniteError(f"{pid} is a thread of process {int(status['Tgid'])}; name that")
    uid = int(status["Uid"].split()[1])
    if uid != os.geteuid():
        raise IgniteError(f"process {pid} belongs to {_user(uid)}; run this as that user")
    state = status["State"].split()[0]
    if state in "ZX":
        raise IgniteError(f"process {pid} has ended")
    tracer = int(status.get("TracerPid", "0"))
    if tracer:
        raise IgniteError(f"process {pid} is under a debugger, process {tracer}; end that first")
    if state in "Tt":
        raise IgniteError(f"process {pid} is stopped; let it go on first: kill -CONT {pid}")
    if state == "D":
        raise IgniteError(f"process {pid} is blocked in the system (state D) and cannot be reached; try again later")
    try:
        elsewhere = os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        program = Path(f"/proc/{pid}/exe")
        name = os.readlink(program)
    except OSError as error:
        raise IgniteError(_not_permitted(pid)) from error
    if elsewhere:
        raise IgniteError(
            f"process {pid} has a file system of its own (a container); run jupyter flame ignite in there"
        )
    _check_program(pid, program, name)
    young = AWAKE_AFTER - _age(pid)
    if young > 0:
        time.sleep(young)


def _check_program(pid: int, program: Path, name: str) -> None:
    if _kind(program) != _kind(Path("/proc/self/exe")):
        raise IgniteError(f"process {pid} ({name}) is of another architecture than the Python that runs this")
    maps = _text(f"/proc/{pid}/maps")
    libraries = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if ".so" in line and "python" in line}
    found = set(_exports(program))
    for library in libraries:
        if os.path.basename(library).startswith("libpython"):
            found |= set(_exports(Path(f"/proc/{pid}/root{library}")))
    if not set(_NEEDED) <= found:
        if libraries or "python" in os.path.basename(name):
            raise IgniteError(
                f"process {pid} ({name}) is a Python that does not export its functions (static, or stripped)"
            )
        raise IgniteError(f"process {pid} ({name}) is not a CPython")


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _age(pid: int) -> float:
    """Seconds since the process was started."""
    ticks = int(_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])
    return float(_text("/proc/uptime").split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def _kind(program: Path) -> bytes:
    """Class, byte order and machine of an ELF file."""
    try:
        with program.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise IgniteError(f"cannot read {program}: {error.strerror}") from error
    return head[4:6] + head[18:20] if head[:4] == b"\x7fELF" else b""


def _exports(program: Path) -> Iterator[bytes]:
    """The names that an ELF file exports: the defined ones in its table of dynamic symbols."""
    data = program.read_bytes()
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    start, size, count = (
        struct.unpack_from(order + "Q", data, 40)[0] if wide else struct.unpack_from(order + "I", data, 32)[0],
        *struct.unpack_from(order + "HH", data, 58 if wide else 46),
    )
    # type, offset, size, link, entry size of each section
    form, picked = ("IIQQQQIIQQ", (1, 4, 5, 6, 9)) if wide else ("IIIIIIIIII", (1, 4, 5, 6, 9))
    sections = []
    for index in range(count):
        fields = struct.unpack_from(order + form, data, start + index * size)
        sections.append([fields[one] for one in picked])
    for kind, offset, length, link, entry in sections:
        if kind != 11:  # SHT_DYNSYM
            continue
        names = data[sections[link][1] : sections[link][1] + sections[link][2]]
        for at in range(offset, offset + length, entry):
            name = struct.unpack_from(order + "I", data, at)[0]
            section = struct.unpack_from(order + "H", data, at + (6 if wide else 14))[0]
            if section:
                yield names[name : names.index(b"\0", name)]
