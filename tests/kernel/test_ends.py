"""What becomes of what cells have begun and hold: at the end of a session, and when its user lets go of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels import Kernel
from places import kernel_at, ok

BEGUN = """
import atexit, concurrent.futures as futures, threading, time, multiprocessing.pool
folder = {folder!r}
def mark(name): open(folder + '/' + name, 'w').write(threading.current_thread().name)
def slowly(name): time.sleep(0.5); mark(name)
pool = futures.ThreadPoolExecutor(1)
f = [pool.submit(slowly, name) for name in ('pool', 'pool too')]
threading.Thread(target=slowly, args=('thread',)).start()
atexit.register(mark, 'exit')
class Dies:
    def __del__(self, mark=mark): mark('del')
dies = Dies(); dies.itself = dies
text, data = open(folder + '/text', 'w'), open(folder + '/data', 'wb')
text.write('kept'); data.write(b'kept')
"""
MARKS = {"pool", "pool too", "thread", "exit", "del", "text", "data"}


def _seen(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("place", ["child", "child-bare"])
@pytest.mark.parametrize("busy", [False, True])
def test_a_session_ends_as_a_program_does(place: str, busy: bool, tmp_path: Path) -> None:
    with kernel_at(place) as site:
        ok(site.kernel.execute(BEGUN.format(folder=str(tmp_path))))
        if busy:
            run = site.kernel.submit("print('busy', flush=True)\ntry: time.sleep(60)\nfinally: mark('finally')")
            site.kernel.wait_for_output(run, "busy")
        site.kernel.shutdown()
        seen = _seen(tmp_path)
    assert set(seen) == (MARKS | {"finally"} if busy else MARKS)
    assert seen["exit"] == seen["del"] == "MainThread"
    assert seen["text"] == seen["data"] == "kept"


@pytest.mark.parametrize(
    "how",
    [
        "print('never', flush=True)\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass",
        "atexit.register(time.sleep, 60)\nprint('never', flush=True)",
    ],
)
def test_what_does_not_end_holds_up_no_end(how: str) -> None:
    with kernel_at("child") as site:
        ok(site.kernel.execute("import atexit, time"))
        site.kernel.wait_for_output(site.kernel.submit(how), "never")
        site.kernel.shutdown()


ERROR = """
import gc, sys, weakref
class Thing:
    def fail(self): raise ValueError('held by its traceback')
thing = Thing(); w = weakref.ref(thing)
"""
LET_GO = {
    "deleted": "for name in ('last_value', 'last_traceback', 'last_type', 'last_exc'):\n"
    "    if hasattr(sys, name): delattr(sys, name)",
    "none": "sys.last_value = sys.last_traceback = sys.last_type = sys.last_exc = None",
}


@pytest.fixture(scope="module", params=["child", "process"])
def kernel(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    with kernel_at(request.param) as site:
        yield site.kernel


@pytest.mark.parametrize("how", LET_GO)
def test_what_an_error_holds_is_freed(kernel: Kernel, how: str) -> None:
    ok(kernel.execute(ERROR))
    assert kernel.execute("thing.fail()").error is not None
    assert ok(kernel.execute("del thing\n_ = gc.collect(); w() is None")).result == "False"
    assert "thing.fail()" in kernel.execute("%tb").traceback + kernel.execute("%tb").stdout
    ok(kernel.execute(LET_GO[how] + "\nget_ipython().InteractiveTB.tb = None"))
    assert ok(kernel.execute("_ = gc.collect(); w() is None")).result == "True"
    assert ok(kernel.execute("%tb")).error is None
