"""gevent in cells: its locks, threads and sleep in place of Python's. The session's own threads stay threads."""

from __future__ import annotations

import pytest
from places import kernel_at, ok

GREENLETS = """
import gevent
def g(n):
    gevent.sleep(0.01); print("g", n)
gevent.joinall([gevent.spawn(g, n) for n in range(3)])
"""


@pytest.mark.parametrize("place", ["child", "process"])
def test_a_cell_patches_all(place: str) -> None:
    with kernel_at(place) as site:
        k = site.kernel
        ok(k.execute("import time, threading\nfrom gevent import monkey; monkey.patch_all()"))
        assert "time" in k.complete("tim")["matches"]  # was the last answer of the session
        assert ok(k.execute("for i in range(3): print(i); time.sleep(0.01)")).stdout == "0\n1\n2\n"
        assert sorted(ok(k.execute(GREENLETS)).stdout.split()) == ["0", "1", "2", "g", "g", "g"]
        assert ok(k.execute("input('?')", answers=("yes",))).result == "'yes'"
        code = "import asyncio, subprocess, sys\nawait asyncio.sleep(0.01)\n"
        code += "subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout"
        assert ok(k.execute(code)).result == r"'42\n'"
        assert k.complete("threading.Th")["matches"]
        for code in ("time.sleep(600)", "gevent.sleep(600)", "gevent.spawn(gevent.sleep, 600).join()"):
            run = k.submit(f"print('begun')\n{code}")
            k.wait_for_output(run, "begun")
            k.interrupt()
            k.wait(run)
            assert run.error is not None
            assert run.error["ename"] == "KeyboardInterrupt"
        assert ok(k.execute("40 + 2")).result == "42"


def test_what_an_empty_context_prints_is_the_cells() -> None:
    with kernel_at("process") as site:
        run = ok(site.kernel.execute("import contextvars\ncontextvars.Context().run(print, 'here')"))
        assert run.stdout == "here\n"
        raw = "import greenlet\ngreenlet.greenlet(lambda: print('there')).switch()"
        assert ok(site.kernel.execute(raw)).stdout == "there\n"
