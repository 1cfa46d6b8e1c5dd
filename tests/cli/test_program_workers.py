"""Worker processes of a script of ``jupyter flame run``: they look for its file, which the far disk lacks."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import farside
import pytest
from farside import FlameServer
from shell import COMMAND

WARM = ()
pytestmark = pytest.mark.usefixtures("warm_commands")

KEY = farside.random_key()
OLDEST, NEWEST = farside.every_python()[0], farside.every_python()[-2]
HELPER = "def more(x):\n    return x + 100\n"
HEAD = "import multiprocessing, os, sys, helper\n"
SCRIPT = (
    HEAD
    + """
from multiprocessing.managers import BaseManager

class Thing:
    def __init__(self, n):
        self.n = n

    def twice(self):
        return self.n * 2

class Mine(Exception):
    pass

class Manager(BaseManager):
    pass

Manager.register("thing", Thing)

def square(x):
    return x * x

def fails(x):
    raise Mine("no %d" % x)

def grown(thing):
    return Thing(thing.n + 1)

def tells(queue):
    print("out", __name__ == "__main__", repr(sys.stdin.read()), flush=True)
    print("err", file=sys.stderr, flush=True)
    queue.put((helper.more(4), os.path.basename(__file__), sys.argv))

def nested(queue):
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        queue.put(pool.map(square, [7]))

if __name__ == "__main__":
    way = multiprocessing.get_context(sys.argv[1])
    with way.Pool(1) as pool:
        print(pool.map(square, range(5)), pool.apply(Thing(4).twice), pool.map(helper.more, [1]))
        thing = pool.apply(grown, (Thing(1),))
        print(thing.n, type(thing) is Thing)
        try:
            pool.apply(fails, (3,))
        except Mine as e:
            print("Mine", e)
    queue = way.Queue()
    for work, args in ((tells, (queue,)), (nested, (queue,)), (sys.exit, (5,)), (fails, (1,))):
        process = way.Process(target=work, args=args)
        process.start()
        if args == (queue,):
            print(queue.get())
        process.join()
        print(process.exitcode)
    with Manager(ctx=way) as manager:
        print(manager.thing(6).twice())
    if sys.version_info >= (3, 7):
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(1, mp_context=way) as pool:
            print(list(pool.map(square, range(3))), type(pool.submit(grown, Thing(2)).result()) is Thing)
"""
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "server.key"
    path.touch(mode=0o600)
    path.write_text(KEY)
    return path


@pytest.fixture(scope="module", params=[OLDEST, NEWEST], ids=str)
def server(request: pytest.FixtureRequest) -> Iterator[FlameServer]:
    far = FlameServer(request.param, key=KEY)
    yield far
    far.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def words(far: FlameServer, key: Path, place: str, way: str) -> list[str]:
    return [COMMAND, "run", "--place", place, "-t", far.location, "--key-file", str(key), "script.py", way]


@pytest.mark.parametrize(("way", "place"), [("spawn", "child"), ("forkserver", "child"), ("spawn", "process")])
def test_workers_find_the_script(way: str, place: str, server: FlameServer, key: Path, folder: Path) -> None:
    """As with ``python script.py``: Pool, Process, Manager, executor, workers of workers, a module beside."""
    here = [server.python.path, "script.py", way]
    want = subprocess.run(here, cwd=folder, env=farside.clean_environ(), capture_output=True, timeout=60)
    got = subprocess.run(words(server, key, place, way), cwd=folder, capture_output=True, timeout=60)
    assert (want.returncode, got.returncode, got.stdout) == (0, 0, want.stdout), got.stderr
    shown = want.stderr.replace(os.fsencode(folder) + b"/", b"").splitlines()
    assert [line for line in got.stderr.splitlines() if b"Process-" not in line] == [
        line for line in shown if b"Process-" not in line
    ]


def test_a_script_that_fails_in_its_workers(server: FlameServer, key: Path, folder: Path) -> None:
    """It ends, as with Python: the line that fails is shown, and no frame of ours hides it."""
    (folder / "script.py").write_text(
        HEAD + "if __name__ == '__main__':\n    process = multiprocessing.get_context('spawn').Process(target=print)\n"
        "    process.start(); process.join(); sys.exit(process.exitcode + 10)\nelse:\n    1 / 0  # here\n"
    )
    got = subprocess.run(words(server, key, "child", ""), cwd=folder, capture_output=True, timeout=60)
    assert (got.returncode, got.stdout) == (11, b"")
    assert b"1 / 0  # here" in got.stderr
    assert got.stderr.splitlines()[-1] == b"ZeroDivisionError: division by zero"


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_a_stop_ends_the_workers(way: str, server: FlameServer, key: Path, folder: Path) -> None:
    (folder / "script.py").write_text(
        HEAD + "import time\ndef work(x):\n    print(os.getpid(), flush=True)\n    time.sleep(600)\n"
        "if __name__ == '__main__':\n    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:\n"
        "        pool.map(work, [1])\n"
    )
    run = subprocess.Popen(
        words(server, key, "child", way), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "KeyboardInterrupt" in err
    assert "flame" not in err
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
