"""Code that a Stop ends, code that it does not, and how to press Stop."""

from __future__ import annotations

import time

from kernels import Kernel

# What blocks, and the name of the call that a person shall read when it cannot be stopped from outside.
BLOCKING = {
    "sleep": ("import time\nprint('go')\ntime.sleep(100)", "time.sleep, line 3"),
    "lock": ("import threading\nl = threading.Lock(); l.acquire(); print('go')\nl.acquire()", "l.acquire, line 3"),
    "socket": ("import socket\na, b = socket.socketpair(); print('go')\na.recv(1)", "a.recv, line 3"),
    "event": ("import threading\nprint('go')\nthreading.Event().wait()", "threading.Event().wait, line 3"),
    "queue": ("import queue\nq = queue.Queue(); print('go')\nq.get()", "q.get, line 3"),
    "select": (
        "import select, socket\na, b = socket.socketpair(); print('go')\nselect.select([a], [], [])",
        "select.select, line 3",
    ),
    "read": ("import os\nr, w = os.pipe(); print('go')\nos.read(r, 1)", "os.read, line 3"),
    "join": (
        "import threading\nt = threading.Thread(target=threading.Event().wait, daemon=True); t.start(); print('go')\n"
        "t.join()",
        "t.join, line 3",
    ),
}


# What can be stopped in a process as well.
STOPPABLE = {
    "loop": "print('go')\nwhile True: pass",
    "small sleeps": "import time\nprint('go')\nwhile True: time.sleep(0.01)",
    "subprocess": "import subprocess\nprint('go')\nsubprocess.run(['sleep', '100'])",
    "command": "print('go')\n!sleep 100",
    "await": "import asyncio\nprint('go')\nawait asyncio.sleep(100)",
    "loop in await": "import asyncio\nprint('go')\nasync def f():\n    while True: pass\nawait f()",
    "except Exception": "print('go')\nwhile True:\n    try:\n        while True: pass\n    except Exception: pass",
    "flood": "print('go')\nwhile True: print('x' * 200)",
    # Python drops what is raised in a finalizer: those that the collector runs in the middle of anything, too.
    "finalizer": "import time\nclass Slow:\n    def __del__(self):\n        print('go', flush=True)\n"
    "        until = time.monotonic() + 0.5\n        while time.monotonic() < until: pass\nSlow()\nwhile True: pass",
    "with": "import contextlib\nwith contextlib.suppress(ValueError):\n    print('go')\n    while True: pass",
}


def stop(k: Kernel, code: str) -> tuple[dict[str, object], float]:
    """Run a cell until it prints ``go``, stop it: its reply, and the seconds that took."""
    run = k.submit(code)
    k.wait_for_output(run, "go")
    began = time.monotonic()
    k.interrupt()
    k.wait(run)
    assert run.reply is not None
    return run.reply, time.monotonic() - began
