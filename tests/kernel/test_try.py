"""``%flame try``: a cell in a forked copy of the process, whose changes are thrown away."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from farside import LiveApp, Python, pythons, random_key, stopped
from kernels import Kernel, remote_flame
from places import Site, kernel_at, ok

import flame
from flame_kernel.commands import rails
from flame_kernel.session.inbox import Event
from flame_kernel.terminal import COLOUR


@pytest.fixture(scope="module", params=("process", "child-bare"))
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with kernel_at(request.param) as one:
        ok(
            one.kernel.execute(
                "data = {'a': 1, 'b': [1, 2]}; x = 3\ndef f(): data['b'].append(5)\nimport os; pid = os.getpid()"
            )
        )
        yield one


def test_what_it_shows_and_would_change(site: Site) -> None:
    k = site.kernel
    run = ok(k.execute("%flame try data['a'] = 2; x = 'q'; new = 5; print('out')\nf()\ndel pid\nx * 2"))
    assert run.stdout == (
        "out\nThrown away. It would have changed:\n  data['a']: 1 → 2\n  data['b']: [1, 2] → [1, 2, 5]\n"
        f"  x: 3 → 'q'\n  pid: deleted (it was {ok(k.execute('pid')).result})\n  new: 5 (new)\n"
    )
    assert run.result == "'qq'"
    assert ok(k.execute("data, x, 'new' in globals(), pid == os.getpid()")).result == (
        "({'a': 1, 'b': [1, 2]}, 3, False, True)"
    )
    run = ok(k.execute("%flame try\nimport asyncio\nawait asyncio.sleep(0.001)\nlen(data)"))
    assert run.result == "2"
    assert run.stdout.endswith("Thrown away. It would have changed none of the names that it mentions.\n")


def test_a_module_that_it_loads_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "loaded_in_a_trial.py").write_text("import os\nvalue = 1\n")
    load = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from loaded_in_a_trial import value; import colorsys"
    told = ok(site.kernel.execute(f"%flame try {load}")).stdout
    assert "  loaded_in_a_trial: loaded; what it does to other modules was not compared\n" in told
    assert "colorsys: loaded" not in told


def test_errors_and_the_end_of_the_copy(site: Site) -> None:
    k = site.kernel
    run = k.execute("%flame try\nx = 4\n1 / 0")
    assert run.error is not None
    assert run.error["ename"] == "ZeroDivisionError"
    assert "1 / 0" in COLOUR.sub("", run.traceback)
    assert "x: 3 → 4" in run.stdout
    run = k.execute("%flame try print('before'); os._exit(3)")
    assert run.error is not None
    assert run.stdout == "before\n"
    assert run.error["evalue"] == "the copy ended with exit status 3; this process did not"
    run = k.execute("%flame try os.kill(os.getpid(), 11)")
    assert run.error is not None
    assert "by SIGSEGV: invalid memory access" in run.error["evalue"]
    run = k.execute("%flame try input('who? ')")
    assert run.error is not None
    assert not run.prompts
    assert ok(k.execute("x")).result == "3"
    assert "nothing to try" in str(k.execute("%flame try").error)
    assert "must be the last %flame line" in str(k.execute("%flame try x\n%flame status").error)
    assert "above 0" in str(k.execute("%flame try --timeout 0 x").error)
    assert "--timeout S" in str(k.execute("%flame try --timeout soon x").error)


HOLD = """
import glob, subprocess, threading, time
lock = threading.Lock(); held = threading.Event(); go = threading.Event()
def hold():
    with lock:
        held.set(); go.wait()
thread = threading.Thread(target=hold); thread.start(); held.wait(30)
def children():
    stats = [open(p).read().rpartition(')')[2].split() for p in glob.glob('/proc/[0-9]*/stat')]
    return [one for one in stats if one[1] == str(pid)]
"""
LATE = """%flame try --timeout 0.5
child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True)
lock.acquire()
"""
LOOP = """%flame try
x = 5
print('begun', flush=True)
while True: time.sleep(0.01)
"""
DEAF = """%flame try
import signal; signal.signal(2, signal.SIG_IGN)
print('begun', flush=True)
lock.acquire()
"""


def test_time_limit_stop_and_what_is_left(site: Site) -> None:
    k = site.kernel
    ok(k.execute(HOLD))
    run = k.execute(LATE)
    assert run.error is not None
    assert run.error["ename"] == "KeyboardInterrupt"
    assert "lock.acquire()" in COLOUR.sub("", run.traceback)  # where it was
    assert "Not done after 0.5 s, so the copy was ended. It has one thread of this process's" in run.stderr
    child = int(run.stdout.split()[0])
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    shown = []
    for code in (LOOP, DEAF):  # a copy that hears no signal is killed, too
        run = k.submit(code)
        k.wait_for_output(run, "begun")
        k.interrupt()
        k.wait(run)
        assert run.error is not None
        assert run.error["ename"] == "KeyboardInterrupt"
        shown.append(run.stdout)
    assert "x: 3 → 5" in shown[0]
    ok(k.execute("go.set(); thread.join()"))
    assert ok(k.execute("children()")).result == "[]"


@contextlib.contextmanager
def app_kernel() -> Iterator[Kernel]:
    """A kernel whose cells run in the process of a live app."""
    with stopped(LiveApp(pythons()[-1], key=random_key())) as app, remote_flame(env=app.environ()) as k:
        yield k


SHOP = """
import socket, sys, types
one, other = socket.socketpair()
one.settimeout(0.2)
shop = sys.modules['shop'] = types.ModuleType('shop')
shop.__file__ = '/srv/shop.py'
shop.price = {'tea': 3}
exec('def cheaper(): price["tea"] -= 1', shop.__dict__)
"""


def test_the_apps_connections_are_not_touched() -> None:
    """What a copy writes to a socket of the app's reaches nobody; a module of the app's keeps its values."""
    with app_kernel() as k:
        ok(k.execute(SHOP))
        run = k.execute("%flame try\nimport shop\nshop.cheaper()\nother.sendall(b'from the copy')")
        assert run.error is not None
        assert run.error["ename"] in ("BrokenPipeError", "ConnectionResetError")
        assert "shop.price['tea']: 3 → 2" in run.stdout
        run = k.execute("print(shop.price); one.recv(99)")
        assert run.stdout == "{'tea': 3}\n"
        assert run.error is not None
        assert run.error["ename"] in ("timeout", "TimeoutError")
        ok(k.execute("one.close(); other.close(); del sys.modules['shop']"))


@pytest.mark.parametrize("python", pythons(), ids=str)
def test_every_python(python: Python) -> None:
    with stopped(LiveApp(python)) as app, flame.connect(app.location) as pi:
        pi["x"] = [1]
        events: list[Event] = []
        reply = pi.cell("x.append(2); sum(x)", events.append, trial={"seconds": 30}).result(60)
        assert reply["status"] == "ok"
        told = "".join(event["content"]["text"] for event in events if event["type"] == "stream")
        assert told == "Thrown away. It would have changed:\n  x: [1] → [1, 2]\n"
        assert [e["content"]["data"]["text/plain"] for e in events if e["type"] == "execute_result"] == ["3"]
        assert pi["x"] == [1]


def test_not_under_gevent() -> None:
    with app_kernel() as k:
        fake = "import sys, types\nfake = sys.modules['gevent.monkey'] = types.ModuleType('m')\n"
        ok(k.execute(fake + "fake.is_module_patched = lambda name: True"))
        assert "this process is patched by gevent" in str(k.execute("%flame try 1").error)
        ok(k.execute("del sys.modules['gevent.monkey']"))
        assert ok(k.execute("%flame try 1")).result == "1"


def test_rails_of_a_trial() -> None:
    held = rails.Rails(read_only=True)
    rails.refuse(held, "prod", "app.limit = 3", tried=True)
    for code in ("app.limit = 3", "import os; os.remove('x')", "!rm x"):
        with pytest.raises(rails.FlameError, match="is read_only"):
            rails.refuse(held, "prod", code, tried=code != "app.limit = 3")
    assert not re.search("limit", str(rails._bound["prod"]))
