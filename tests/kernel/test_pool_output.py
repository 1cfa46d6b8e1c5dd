"""What pools, futures and threads that wait for work print is shown by the cell that handed the work over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernels import Kernel
from places import PLACES, Site, kernel_at, ok, uncoloured


@pytest.fixture(scope="module", params=PLACES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with kernel_at(request.param) as site:
        yield site
        site.kernel.execute("end()")


@pytest.fixture(scope="module")
def kernel(site: Site) -> Kernel:
    """All that works on other threads is made, and first used, by this cell."""
    ok(site.kernel.execute(MADE))
    return site.kernel


MADE = """
import asyncio, concurrent.futures as futures, logging.handlers, multiprocessing.pool, queue, threading, time
class Mine(futures.ThreadPoolExecutor):
    def submit(self, function, *args, **kwargs):
        return super().submit(function, *args, **kwargs)
pool, mine, threads = futures.ThreadPoolExecutor(1), Mine(1), multiprocessing.pool.ThreadPool(1)
for f in (pool.submit(print, 'first'), mine.submit(print, 'first'), threads.apply_async(print, ('first',))):
    getattr(f, 'result', getattr(f, 'get', None))()
items, done = queue.Queue(), queue.Queue()
def work():
    for item in iter(items.get, None):
        print(item); done.put(item)
worker = threading.Thread(target=work); worker.start()
items.put('first'); done.get()
logger, records = logging.getLogger('flame.pool'), queue.Queue()
logger.addHandler(logging.handlers.QueueHandler(records)); logger.propagate = False
listener = logging.handlers.QueueListener(records, logging.StreamHandler()); listener.start()
logger.warning('first'); records.join()
waiting = futures.Future()
def end():
    pool.shutdown(); mine.shutdown(); threads.terminate(); threads.join()
    items.put(None); worker.join(); listener.stop()
"""

WORK = {
    "pool": "pool.submit(print, 'mine').result()",
    "a pool's map": "list(pool.map(print, ['mine']))",
    "its context": "import contextvars\npool.submit(contextvars.copy_context().run, print, 'mine').result()",
    "a pool of one's own": "mine.submit(print, 'mine').result()",
    "multiprocessing": "threads.map(print, ['mine'])",
    "multiprocessing, later": "threads.apply_async(print, ('mine',)).get(); list(threads.imap(str, [1]))",
    "multiprocessing's callback": "r = threads.apply_async(int, callback=lambda r: print('mine')); r.get()\n"
    "threads.apply_async(int).get()",
    "the loop's pool": "await asyncio.get_event_loop().run_in_executor(pool, print, 'mine')",
    "the loop's own pool": "await asyncio.get_event_loop().run_in_executor(None, print, 'mine')",
    "a callback": "f = pool.submit(time.sleep, 0.1); f.add_done_callback(lambda f: print('mine'))\n"
    "f.result(); pool.submit(int).result()",
    "a callback of what is done": "f = pool.submit(int); f.result(); f.add_done_callback(lambda f: print('mine'))",
    "a queue": "items.put('mine'); _ = done.get()",
    "a pool in a pool": "pool.submit(lambda: mine.submit(print, 'mine').result()).result()",
}


@pytest.mark.parametrize("work", WORK)
def test_work_for_what_an_earlier_cell_has_made(kernel: Kernel, site: Site, work: str) -> None:
    assert ok(kernel.execute(WORK[work])).stdout == "mine\n"
    assert ok(kernel.execute("print('after')")).stdout == "after\n"


def test_a_listener_of_the_library(kernel: Kernel) -> None:
    assert "mine\n" in ok(kernel.execute("logger.warning('mine'); records.join(); time.sleep(0.1)")).stderr


def test_work_that_outlives_its_cell_is_shown_by_the_one_that_runs(kernel: Kernel) -> None:
    code = "go = threading.Event()\nf = pool.submit(lambda: (print('early'), go.wait(30), print('late')))\n"
    first = ok(kernel.execute(code + "while not f.running(): time.sleep(0.01)\ntime.sleep(0.1)"))
    assert first.stdout == "early\n"
    assert ok(kernel.execute("go.set(); f.result();")).stdout == "late\n"
    # A thread that the user has begun stays with its own cell.
    own = ok(
        kernel.execute("go = threading.Event()\nt = threading.Timer(0, lambda: (go.wait(30), print('own')))\nt.start()")
    )
    assert ok(kernel.execute("go.set(); t.join()")).stdout == ""
    kernel.wait_for(lambda: own.stdout == "own\n", "the thread of the cell before")


def test_what_a_pool_raises_shows_no_frame_of_ours(kernel: Kernel) -> None:
    code = "def bad(n=0): return 1 / n\n"
    for call in (
        "pool.submit(bad).result()",
        "threads.map(bad, [0])",
        "threads.apply(bad)",
        "list(pool.map(bad, [0]))",
    ):
        run = kernel.execute(code + call)
        assert run.error is not None
        assert run.error["ename"] == "ZeroDivisionError"
        assert "return 1 / n" in uncoloured(run.traceback)
        assert "flame_agent" not in run.traceback
    run = kernel.execute("ended = futures.ThreadPoolExecutor(1); ended.shutdown(); ended.submit(print)")
    assert "cannot schedule new futures after shutdown" in run.traceback
    assert "flame_agent" not in run.traceback


def test_a_pool_keeps_what_its_threads_have_set(kernel: Kernel) -> None:
    code = "import decimal\ndef begin(): decimal.getcontext().prec = 5\n"
    code += "own = futures.ThreadPoolExecutor(1, initializer=begin)\nown.submit(print).result()"
    ok(kernel.execute(code))
    run = ok(kernel.execute("r = own.submit(lambda: decimal.getcontext().prec).result(); own.shutdown(); r"))
    assert run.result == "5"
    # Nothing keeps what work was given, or has made.
    code = (
        "import gc, weakref\nclass Big: pass\nbig = Big(); w = weakref.ref(big)\nf = pool.submit(id, big); f.result()\n"
    )
    code += "f.add_done_callback(lambda f, big=big: None)\ndel big, f\npool.submit(int).result()\n"
    code += "_ = gc.collect(); w() is None"
    assert ok(kernel.execute(code)).result == "True"
