"""Runs on Windows' Python, as a client: a kernel with a server of its own, and the library. Prints what it has found
as one line of JSON.

    python windows_client.py kernel
    python windows_client.py library LOCATION KEY
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(tempfile.mkdtemp())
os.chdir(FOLDER)
for one in ("DATA", "CONFIG", "RUNTIME"):
    os.environ[f"JUPYTER_{one}_DIR"] = str(FOLDER / one)
os.environ["IPYTHONDIR"] = str(FOLDER / "ipython")


class Front:
    """A front end with a kernel; ``run`` executes a cell and returns its texts by message type, with the status."""

    def __init__(self) -> None:
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name="flame")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code: str, stop_at: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        waits = bool(stop_at)

        def take(message: dict[str, Any]) -> None:
            nonlocal waits
            content = message["content"]
            kind = content.get("name") or message["msg_type"]
            text = content.get("text") or content.get("data", {}).get("text/plain") or content.get("ename") or ""
            found[kind] = found.get(kind, "") + text
            if waits and stop_at in found.get("stdout", ""):
                waits = False
                self.manager.interrupt_kernel()

        reply = self.client.execute_interactive(code, timeout=90, output_hook=take)
        return {**found, "status": reply["content"]["status"]}

    def complete(self, code: str) -> list[str]:
        found: list[str] = self.client.complete(code, reply=True, timeout=60)["content"]["matches"]
        return found


def ends(pid: int) -> bool:
    """Whether a process has ended, or does within a minute."""
    import psutil

    try:
        psutil.Process(pid).wait(60)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def kernel() -> dict[str, Any]:
    import subprocess

    installed = subprocess.run(
        [sys.executable, "-m", "flame_kernel", "install", "--user"], capture_output=True, text=True, check=False
    )
    found: dict[str, Any] = {"install": [installed.returncode, installed.stdout + installed.stderr]}
    front = Front()
    (FOLDER / "a.txt").write_bytes(b"text\n")
    found["cell"] = front.run("import os, sys\nprint(sys.platform, os.getppid())\n6 * 7")
    found["program"] = front.run("import subprocess\nsubprocess.run('echo from a program', shell=True)")
    found["status"] = front.run("%flame status")
    found["error"] = front.run("1 / 0")
    found["stopped"] = front.run("import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.05)", "begun")
    found["after"] = front.run("'still ' + 'here'")
    found["local"] = front.run("%%local\nimport sys\nprint('here', sys.platform)")
    found["put"] = front.run(f"%flame put {FOLDER / 'a.txt'} {FOLDER / 'b.txt'}")
    found["put there"] = (FOLDER / "b.txt").read_bytes().decode()
    found["tab"] = front.complete("os.getpp")
    server = int(found["cell"]["stdout"].split()[1])
    left = front.run("import subprocess, sys\nleft = subprocess.Popen([sys.executable, '-c', 'input()'], "
                     "stdin=subprocess.PIPE)\nprint(left.pid)")  # fmt: skip
    front.manager.shutdown_kernel()
    front.client.stop_channels()
    found["ended"] = [ends(server), ends(int(left["stdout"]))]

    killed = Front()
    server = int(killed.run("import os\nprint(os.getppid())")["stdout"])
    killed.manager.provisioner.process.kill()  # type: ignore[union-attr]
    found["ended with a killed kernel"] = ends(server)
    killed.client.stop_channels()
    return found


def library(location: str, key: str) -> dict[str, Any]:
    import flame

    def told(function: Any, *arguments: Any) -> str:
        try:
            return repr(function(*arguments))
        except flame.FlameError as error:
            return f"FlameError: {error}"

    found: dict[str, Any] = {}
    (FOLDER / "tree").mkdir()
    (FOLDER / "tree" / "one.txt").write_bytes(b"1\r\n")
    with flame.connect(location, key=key) as pi:
        found["where"] = pi.evaluate("__import__('sys').platform")
        found["callback"] = pi.run(lambda function: function(2), lambda number: number + 1)
        try:
            pi.evaluate("1 / 0")
        except ZeroDivisionError as error:
            found["error"] = str(error)
        found["bytes"] = len(pi.evaluate("b'x' * 3000000"))
        pi.put(str(FOLDER / "tree"), "tree")
        found["there"] = pi.evaluate("open('tree/one.txt', 'rb').read()").decode()
        pi.get("tree", str(FOLDER / "back"))
        found["back"] = (FOLDER / "back" / "one.txt").read_bytes().decode()
        pi.execute("open('a:b', 'w').close(); open('nul', 'w').close()")
        for name in ("a:b", "nul"):
            found[f"get {name}"] = told(pi.get, name, str(FOLDER))
        for name in ("CON", "x?", "C:\\nosuch\\x"):
            found[f"get to {name}"] = told(pi.get, "tree/one.txt", name)
        (FOLDER / "local_module.py").write_text("def f():\n    return 'sent'\n")
        sys.path.insert(0, str(FOLDER))
        pi.sendmodule("local_module")
        found["module"] = pi.modules.local_module.f()
        with pi.forward(1) as forward:
            found["forward"] = forward.url
    with flame.connect(place="process") as own:
        found["own"] = own.evaluate("__import__('sys').platform")
    return found


if __name__ == "__main__":
    begun = time.monotonic()
    told = {"kernel": kernel, "library": library}[sys.argv[1]](*sys.argv[2:])
    told["seconds"] = time.monotonic() - begun
    print("found " + json.dumps(told), flush=True)
