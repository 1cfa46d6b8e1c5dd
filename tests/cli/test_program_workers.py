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
    for work, args in ((tells, (queue,)), (nested, (queue,)), (os._exit, (3,)), (fails, (1,))):
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
def servers() -> Iterator[dict[farside.Python, FlameServer]]:
    far = {python: FlameServer(python, key=KEY) for python in (OLDEST, NEWEST)}
    yield far
    for one in far.values():
        one.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def words(far: FlameServer, key: Path, place: str, way: str) -> list[str]:
    return [COMMAND, "run", "--place", place, "-t", far.location, "--key-file", str(key), "script.py", way]


# Of multiprocessing itself: it ends with the app.
IN_APP = pytest.mark.leaves("the app's process has a tracker of shared resources from now on")
EXPECTED = """\
[0, 1, 4, 9, 16] 8 [101]
2 True
Mine no 3
out False ''
(104, 'script.py', ['script.py', 'WAY'])
0
[49]
0
3
1
12
"""


@pytest.mark.parametrize(
    ("python", "way", "place"),
    [
        (OLDEST, "spawn", "child"),
        pytest.param(OLDEST, "spawn", "process", marks=IN_APP),
        (NEWEST, "forkserver", "child"),
        pytest.param(NEWEST, "spawn", "process", marks=IN_APP),
    ],
    ids=str,
)
@pytest.mark.timeout(120)
def test_workers_find_the_script(
    python: farside.Python, way: str, place: str, servers: dict[farside.Python, FlameServer], key: Path, folder: Path
) -> None:
    """As with ``python script.py``: Pool, Process, Manager, executor, workers of workers, a module beside."""
    got = subprocess.run(words(servers[python], key, place, way), cwd=folder, capture_output=True, text=True)
    more = "[0, 1, 4] True\n" if python is NEWEST else ""
    assert (got.returncode, got.stdout) == (0, EXPECTED.replace("WAY", way) + more), got.stderr
    first, process, *shown = got.stderr.splitlines()
    assert (first, process.partition("Process-")[1], shown[-1].endswith(".Mine: no 1")) == ("err", "Process-", True), (
        got
    )
    assert '    raise Mine("no %d" % x)' in shown
    assert "flame_agent" not in got.stderr


@pytest.mark.timeout(120)
def test_a_script_that_fails_in_its_workers(
    servers: dict[farside.Python, FlameServer], key: Path, folder: Path
) -> None:
    """It ends, as with Python: the line that fails is shown."""
    (folder / "script.py").write_text(
        HEAD + "if __name__ == '__main__':\n    process = multiprocessing.get_context('spawn').Process(target=print)\n"
        "    process.start(); process.join(); sys.exit(process.exitcode + 10)\nelse:\n    1 / 0  # here\n"
    )
    got = subprocess.run(words(servers[OLDEST], key, "child", ""), cwd=folder, capture_output=True, text=True)
    assert (got.returncode, got.stdout) == (11, "")
    assert "1 / 0  # here" in got.stderr
    assert got.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.timeout(120)
def test_a_stop_ends_the_workers(servers: dict[farside.Python, FlameServer], key: Path, folder: Path) -> None:
    (folder / "script.py").write_text(
        HEAD + "import time\ndef work(x):\n    print(os.getpid(), flush=True)\n    time.sleep(600)\n"
        "if __name__ == '__main__':\n    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:\n"
        "        pool.map(work, [1])\n"
    )
    run = subprocess.Popen(
        words(servers[NEWEST], key, "child", "forkserver"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    run.send_signal(signal.SIGINT)
    _, err = run.communicate()
    assert run.returncode == 130
    assert "KeyboardInterrupt" in err
    assert "flame_agent" not in err
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
