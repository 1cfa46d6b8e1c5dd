"""What a user does on any far side, a function for each: cells, streams, values, a module, Tab, Stop, files.

    with flame.connect(…) as pi:
        walk(pi, tmp_path)

``ROWS`` are those of the table "what works where" in notebooks/REFERENCE.md (``what_works`` writes it).
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from farside import wait_until

from flame_kernel.errors import FlameError, SessionGone
from flame_kernel.remote.remote import Remote

Step = Callable[[Remote, Path], None]


def printed(pi: Remote, code: str) -> tuple[str, str]:
    """What a cell writes to stdout and to stderr."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        pi.execute(code)
    return out.getvalue(), err.getvalue()


class Begun:
    """A cell that has printed ``begun``; ``text`` is all that it has written."""

    def __init__(self, pi: Remote, code: str) -> None:
        self._pi = pi
        self.events: list[dict[str, Any]] = []
        self._begun = threading.Event()
        self.reply = pi.cell(code, self._take, allow_stdin=True)
        assert self._begun.wait(30), self.text

    def _take(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if "begun" in self.text or event["type"] == "input_request":
            self._begun.set()

    @property
    def text(self) -> str:
        return "".join(event["content"].get("text", "") for event in self.events if event["type"] == "stream")

    def stop(self) -> None:
        self._pi.interrupt(self.reply.request_id)  # type: ignore[attr-defined]

    def ended(self) -> str:
        """The name of its error."""
        reply = self.reply.result(30)
        assert reply["status"] == "error", self.text
        return str(reply["ename"])


def cells(pi: Remote, folder: Path) -> None:
    assert printed(pi, "import os, sys, time\nprint('\xe9 there')\nprint('too', file=sys.stderr)") == (
        "\xe9 there\n",
        "too\n",
    )
    with pytest.raises(FlameError, match="division"):
        pi.execute("1 / 0")
    assert printed(pi, "import asyncio\nawait asyncio.sleep(0.01)\nprint('awaited')") == ("awaited\n", "")


def asks(pi: Remote, folder: Path) -> None:
    cell = Begun(pi, "print('got', input('who? '))")
    (number,) = [event["content"]["input_id"] for event in cell.events if event["type"] == "input_request"]
    pi.session.answer(number, "me")
    assert cell.reply.result(30)["status"] == "ok"
    assert "got me" in cell.text


def values(pi: Remote, folder: Path) -> None:
    pi["x"] = {"a": [1, b"x" * 2_000_000]}
    assert len(pi["x"]["a"][1]) == 2_000_000
    assert pi.modules.os.getpid() == pi.evaluate("__import__('os').getpid()")
    assert pi.run(lambda n: n + 1, 41) == 42
    pi.sendmodule("sent_there", "X = '\xe9'\n")
    assert pi.evaluate("__import__('sent_there').X") == "\xe9"


def files(pi: Remote, folder: Path) -> None:
    """A file there and back; under a name that is no UTF-8, and with its mode, where that is possible."""
    posix = pi.evaluate("__import__('os').name") == "posix"
    name = os.fsdecode(os.fsencode(folder) + b"/there-\xff") if posix else "C:\\there.txt"
    (folder / "a").write_text("one")
    (folder / "a").chmod(0o640)
    pi.put(folder / "a", name)
    if posix:
        assert os.stat(name).st_mode & 0o777 == 0o640
    pi.get(name, folder / "b")
    assert (folder / "b").read_text() == "one"
    pi.modules.os.remove(name)


def tab(pi: Remote, folder: Path) -> None:
    pi.execute("import sys")
    reply = pi.session.complete(uuid.uuid4().hex, "sys.execu", 9).result(30)
    assert "executable" in str(reply["matches"])


def subprocesses(pi: Remote, folder: Path) -> None:
    assert pi.evaluate("__import__('subprocess').call('exit 3', shell=True)") == 3
    pi.execute("import subprocess, sys")
    code = "subprocess.run([sys.executable, '-c', 'print(5)'], stdout=sys.stdout);"
    assert [text.strip() for text in printed(pi, code)] == ["5", ""]


def descriptors(pi: Remote, folder: Path) -> None:
    assert printed(pi, "import os\nos.write(1, b'raw\\n');")[0].strip() == "raw"


def stop_computing(pi: Remote, folder: Path) -> None:
    cell = Begun(pi, "print('begun', flush=True)\nwhile True: pass")
    cell.stop()
    assert cell.ended() == "KeyboardInterrupt"
    assert pi.evaluate("6 * 7") == 42


def stop_awaiting(pi: Remote, folder: Path) -> None:
    cell = Begun(pi, "import asyncio\nprint('begun', flush=True)\nawait asyncio.sleep(600)")
    cell.stop()
    assert cell.ended() in ("KeyboardInterrupt", "CancelledError")


def _with_subprocess(pi: Remote) -> Begun:
    code = "import subprocess, sys\nsleeps = 'import time; print(\"begun\", flush=True); time.sleep(600)'\n"
    cell = Begun(pi, code + "subprocess.run([sys.executable, '-c', sleeps], stdout=sys.stdout);")
    cell.stop()
    return cell


def stop_subprocess(pi: Remote, folder: Path) -> None:
    # Before Python 3.9 ``subprocess.run`` may then send a signal to a process that has just ended.
    assert _with_subprocess(pi).ended() in ("KeyboardInterrupt", "ProcessLookupError")


def stop_blocked(pi: Remote, folder: Path) -> None:
    cell = Begun(pi, "import time\nprint('begun', flush=True)\ntime.sleep(600)")
    cell.stop()
    assert cell.ended() == "KeyboardInterrupt"


def looks(pi: Remote, folder: Path) -> None:
    cell = Begun(pi, "import time\nprint('begun', flush=True)\nfor _ in range(100): time.sleep(0.01)")
    assert "line 3" in pi.where()
    assert "memory" in pi.top()
    assert cell.reply.result(30)["status"] == "ok"


def crash(pi: Remote, folder: Path) -> None:
    pid = pi.evaluate("__import__('os').getpid()")
    with pytest.raises(SessionGone, match="exit status 7"):
        pi.execute("import os; os._exit(7)")
    assert pi.evaluate("__import__('os').getpid()") != pid


# The rows of the table: what they are called there.
ROWS: dict[str, Step] = {
    "cells: output, errors, `await`": cells,
    "`input()`": asks,
    "values, functions, modules": values,
    "files": files,
    "Tab": tab,
    "output of a subprocess that is given `sys.stdout`": subprocesses,
    "output of C code, `os.write(1, …)`": descriptors,
    "Stop of a cell that computes": stop_computing,
    "Stop of a cell that awaits": stop_awaiting,
    "Stop of a subprocess that the cell waits for": stop_subprocess,
    "Stop of a call that blocks, such as `time.sleep(600)`": stop_blocked,
    "`where`, `top` while a cell runs": looks,
    "a crash ends the session, not the server": crash,
}


def walk(pi: Remote, folder: Path | None) -> None:
    """The short way, for far sides that have no column: ``folder`` is one of both sides; None where no files can be."""
    for step in (cells, values, tab):
        step(pi, folder or Path())
    assert pi.evaluate("__import__('subprocess').call('exit 3', shell=True)") == 3
    cell = Begun(pi, "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)")
    cell.stop()
    assert cell.ended() == "KeyboardInterrupt"
    assert pi.evaluate("6 * 7") == 42
    if folder is not None:
        files(pi, folder)


# -- what does not work, and what is said then -----------------------------------------------------------------------


def not_descriptors(pi: Remote, folder: Path) -> None:
    assert printed(pi, "import os\nos.write(1, b'raw\\n');") == ("", "")


def says_so(pi: Remote, code: str, said: str) -> None:
    """A Stop that cannot work tells that; a second one abandons the cell."""
    cell = Begun(pi, code)
    cell.stop()
    wait_until(lambda: "A second Stop abandons it" in cell.text, "what a second Stop does", 30)
    assert said in cell.text
    cell.stop()
    assert cell.ended() == "KeyboardInterrupt"
    assert pi.evaluate("6 * 7") == 42


def not_stop_blocked(pi: Remote, folder: Path) -> None:
    says_so(pi, "import time\nprint('begun', flush=True)\ntime.sleep(5)", "time.sleep, line 3")


def not_stop_computing(pi: Remote, folder: Path) -> None:
    code = "import time\nend = time.time() + 6\nprint('begun', flush=True)\nwhile time.time() < end: pass"
    says_so(pi, code, "cannot stop code in a thread; with place = child")


def stop_subprocess_alone(pi: Remote, folder: Path) -> None:
    assert _with_subprocess(pi).reply.result(30)["status"] == "ok"


def ends_app(pi: Remote, folder: Path) -> None:
    """The same where the client cannot look at the server's process: it waits for one to come back."""
    pi.cell("import os; os._exit(7)", lambda event: None)
    wait_until(lambda: pi.session.trouble is not None, "the outage", 30)
    assert "lost" in str(pi.session.trouble)


def ends_all(pi: Remote, folder: Path) -> None:
    with pytest.raises(SessionGone, match="the server ended"):
        pi.execute("import os; os._exit(7)")
