"""An app that knows nothing of Flame: a worker thread, a main thread that waits for its stdin, and its own output.

Runs on every far-side Python. A line on stdin is an expression; its value comes back as ``answer number: JSON``.
"""

import ctypes  # now: libffi has a file open as of its first use
import io
import json
import os
import sys
import threading
import time
import traceback

counter = 0
lock = threading.Lock()


def work():
    """The app's own work, which goes on whatever happens."""
    global counter
    while True:
        with lock:
            counter += 1
        time.sleep(0.001)


def hold(path):
    """Keep the interpreter to itself, as C code does that never lets go of the GIL: from when somebody has opened this
    FIFO until he closes it."""
    lib = ctypes.PyDLL(None)
    # Looked up before: whoever holds the interpreter and looks up a name in C waits for a library that is being loaded,
    # and the one by which lines are put in waits for the interpreter.
    opens, reads, closes = lib.open, lib.read, lib.close
    fd = opens(path.encode(), os.O_RDONLY)
    reads(fd, ctypes.create_string_buffer(1), 1)
    closes(fd)


def pend(fifo):
    """What Python 3.14 does for ``sys.remote_exec``, by the same means: a script whose path comes by this FIFO is run
    by the main thread, when that is about to run Python next."""
    scripts = []

    def run(_):
        try:
            with open(scripts[-1], "rb") as file:
                source = file.read()
            exec(source, {})
        except BaseException:
            traceback.print_exc()
        return 0

    call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(run)
    while True:
        scripts.append(fifo.readline().strip())
        ctypes.pythonapi.Py_AddPendingCall(call, None)


def compute():
    """Use the processor, and no memory, until somebody else raises EOFError here."""
    try:
        all(True for _ in iter(int, 1))
    except EOFError:
        return "woken"


def state():
    """What a guest could leave behind."""
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "modules": sorted(name for name in list(sys.modules) if name.startswith(("Pyro4", "serpent", "flame"))),
        "meta_path": len(sys.meta_path),
        "stdout": type(sys.stdout).__name__,
        "main": sorted(name for name in globals() if not name.startswith("__")),
        "environ": sorted(os.environ),
        "files": sorted(os.listdir("/proc/self/fd")),
    }


fifos = [io.open(word, "r+b", 0) for word in sys.argv[1:] if word.startswith("/")]  # noqa: SIM115
for name, target in (("app worker", work), ("app waiter", threading.Event().wait), ("app pending", pend)):
    if name in sys.argv[1:]:
        thread = threading.Thread(target=target, name=name, args=fifos if target is pend else ())
        thread.daemon = True
        thread.start()
n = 0
line = answer = None
state()
sys.stdout.write("app pid: %d\n" % os.getpid())
sys.stdout.flush()
while True:
    line = sys.stdin.readline()
    if not line:
        break
    n += 1
    answer = json.dumps(eval(line))
    sys.stdout.write("answer %d: %s\n" % (n, answer))
    sys.stdout.flush()
