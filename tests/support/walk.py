"""What a user does on any far side, once through: cells, streams, values, a module, Tab, a subprocess, Stop, files.

with flame.connect(…) as pi:
    walk(pi, tmp_path)
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import uuid
from pathlib import Path

from flame_kernel.remote.remote import Remote

LOOP = "print('begun', flush=True)\nwhile True: time.sleep(0.01)"


def printed(pi: Remote, code: str) -> tuple[str, str]:
    """What a cell writes to stdout and to stderr."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        pi.execute(code)
    return out.getvalue(), err.getvalue()


def walk(pi: Remote, folder: Path | None, *, stop: bool = True) -> None:
    """``folder`` is one of both sides; None where that side can write no files."""
    assert printed(pi, "import sys, time\nprint('\xe9 there')\nprint('too', file=sys.stderr)") == (
        "\xe9 there\n",
        "too\n",
    )
    assert printed(pi, "import asyncio\nawait asyncio.sleep(0.01)\nprint('awaited')") == ("awaited\n", "")
    pi["x"] = b"x" * 2_000_000
    assert len(pi["x"]) == 2_000_000
    pi.sendmodule("sent_there", "X = '\xe9'\n")
    assert pi.evaluate("__import__('sent_there').X") == "\xe9"
    assert pi.run(lambda n: n + 1, 41) == 42
    reply = pi.session.complete(uuid.uuid4().hex, "sys.execu", 9).result(20)
    assert "executable" in str(reply["matches"])
    assert pi.evaluate("__import__('subprocess').call('exit 3', shell=True)") == 3
    if stop:
        stopped(pi)
    if folder is not None:
        files(pi, folder)


def stopped(pi: Remote) -> None:
    """A cell that would run for ever is ended by a Stop."""
    begun = threading.Event()
    cell = pi.cell(LOOP, lambda event: begun.set() if event["content"].get("text") == "begun\n" else None)
    assert begun.wait(20)
    pi.interrupt(cell.request_id)  # type: ignore[attr-defined]
    assert cell.result(20)["ename"] == "KeyboardInterrupt"
    assert pi.evaluate("6 * 7") == 42


def files(pi: Remote, folder: Path) -> None:
    """A file there and back, under a name that is no UTF-8; its mode comes along."""
    name = os.fsdecode(os.fsencode(folder) + b"/there-\xff")
    (folder / "a").write_text("one")
    (folder / "a").chmod(0o640)
    pi.put(folder / "a", name)
    assert os.stat(name).st_mode & 0o777 == 0o640
    pi.get(name, folder / "b")
    assert (folder / "b").read_text() == "one"
    os.remove(name)
