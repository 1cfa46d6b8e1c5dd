"""Apps of odd kinds: patched by gevent or eventlet, on uvloop, workers of gunicorn and uWSGI, embedded, frozen."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import farside
import needs
import pytest
from farside import HERE, FarProcess, LiveApp, Python, bare_pyro, wait_until
from walk import printed, walk

import flame

FOUND = HERE / "apps" / "found_app.py"
BARE = next(one for one in reversed(farside.pythons()) if not one.pyro)

UVLOOP = """
import asyncio, threading, uvloop
threading.Thread(target=daemon.requestLoop, daemon=True).start()
async def main():
    await asyncio.Event().wait()
asyncio.set_event_loop(uvloop.new_event_loop())
asyncio.get_event_loop().run_until_complete(main())
"""
# A program that embeds Python may have set none of these.
EMBEDDED = "import sys\nsys.modules.pop('__main__')\ndel sys.argv\nsys.executable = ''"

LOOPS = {
    "gevent": {"APP_BEFORE": "from gevent import monkey; monkey.patch_all()"},
    "eventlet": {"APP_BEFORE": "import eventlet; eventlet.monkey_patch()"},
    "uvloop": {"APP_AFTER": UVLOOP},
}
GUNICORN = "-m gunicorn --preload -w 1 -b unix:web -c python:worker_app worker_app:application"
UWSGI = "-c import:pyuwsgi;pyuwsgi.run() --master --processes 1 --enable-threads --socket web --module worker_app"
WORKERS = {"gunicorn": GUNICORN, "pyuwsgi": UWSGI + " --die-on-term"}


def here(library: str) -> Python:
    """The tests' own Python, which has ``library``."""
    if importlib.util.find_spec(library) is None:
        needs.missing(library)
    return next(python for python in farside.pythons() if python.path == sys.executable)


@pytest.mark.parametrize("library", LOOPS)
@pytest.mark.parametrize("place", ["process", "child"])
def test_an_app_with_a_loop_of_its_own(library: str, place: str, tmp_path: Path) -> None:
    with (
        farside.stopped(LiveApp(here(library), app=FOUND, env=dict(LOOPS[library]))) as app,
        flame.connect(app.location, place=place) as pi,
    ):
        walk(pi, tmp_path)
        if (library, place) == ("uvloop", "process"):
            return  # a call in C, in a thread
        begun = threading.Event()
        cell = pi.cell("print('begun', flush=True)\ntime.sleep(600)", lambda event: begun.set())
        assert begun.wait(20)
        assert "line 2" in pi.where()
        pi.interrupt()
        assert cell.result(20)["ename"] == "KeyboardInterrupt"
        code = "import subprocess\nsubprocess.run([sys.executable, '-c', 'print(5)'], stdout=sys.stdout)"
        assert printed(pi, code) == ("5\n", "")


def test_an_embedded_interpreter(tmp_path: Path) -> None:
    with farside.stopped(LiveApp(BARE, app=FOUND, env={"APP_AFTER": EMBEDDED})) as app:
        with flame.connect(app.location, place="process") as pi:
            walk(pi, tmp_path)
        with pytest.raises(flame.FlameError, match=r"sys\.executable.*place = process"):
            flame.connect(app.location, place="child")


def test_an_app_in_a_zip_without_sources(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    shutil.copytree(bare_pyro(), folder)
    shutil.copy(FOUND, folder / "__main__.py")
    subprocess.run([BARE.path, "-m", "compileall", "-q", "-b", folder], check=True)
    for source in folder.rglob("*.py"):
        source.unlink()
    packed = shutil.make_archive(str(tmp_path / "app"), "zip", folder)
    shutil.rmtree(folder)
    with farside.stopped(LiveApp(BARE, app=Path(packed), env={"PYTHONPATH": packed})) as app:
        for place in ("child", "process"):
            with flame.connect(app.location, place=place) as pi:
                walk(pi, tmp_path)


def test_a_frozen_app(tmp_path: Path) -> None:
    """Made by PyInstaller: no sources on disk, and its program is no Python; a second one would be a second app."""
    python = here("PyInstaller")
    words = ("--name", "app", "--hidden-import", "Pyro4.utils.flame", "--distpath", tmp_path, "--log-level", "ERROR")
    more = ("--workpath", tmp_path / "build", "--specpath", tmp_path, "--paths", bare_pyro())
    environ = {**farside.clean_environ(), "PYINSTALLER_CONFIG_DIR": str(tmp_path / "config")}

    def frozen(*modules: str) -> LiveApp:
        hidden = [word for name in modules for word in ("--hidden-import", name)]
        command = [python.path, "-m", "PyInstaller", "-y", *words, *more, *hidden, FOUND]
        subprocess.run(command, check=True, env=environ, timeout=55, capture_output=True)
        return LiveApp(Python(str(tmp_path / "app" / "app"), python.version, False, True, False, False), app=FOUND)

    with farside.stopped(frozen()) as app, pytest.raises(flame.FlameError, match="--hidden-import") as caught:
        flame.connect(app.location)
    assert "\n" not in str(caught.value)
    missing = str(caught.value).rpartition(": ")[2].split()
    assert "json" in missing
    with farside.stopped(frozen(*missing)) as app:
        with flame.connect(app.location) as pi:
            assert pi.evaluate("__import__('sys').frozen") is True
            walk(pi, tmp_path)
            with pytest.raises(flame.FlameError, match="frozen app"):
                pi.execute("get_ipython().run_line_magic('pip', 'list')")
        with pytest.raises(flame.FlameError, match="a frozen app, so it cannot start a child: use place = process"):
            flame.connect(app.location, place="child")
        assert app.children() == []


class Workers(FarProcess):
    """A web server with a master process and workers forked from it, each with a Flame server (``apps/worker_app``)."""

    def __init__(self, library: str) -> None:
        environ = {"PYTHONPATH": str(HERE / "apps"), "HOME": "."}
        arguments = [word.replace("import:", "import ") for word in WORKERS[library].split()]
        super().__init__(arguments, here(library), dict(environ), subprocess.DEVNULL)
        self.location = self._wait_for_line("master uri: ").partition("@")[2]

    def stdout_text(self) -> str:
        return super().stdout_text() + self.stderr_text()  # uWSGI makes one of them

    def worker(self, number: int) -> str:
        """Where the Flame server of a worker is; the first is 0."""

        def found() -> list[str]:
            lines = self.stdout_text().splitlines()
            return [line.partition("@")[2] for line in lines if line.startswith("worker uri: ")][number:]

        return str(wait_until(found, f"worker {number} of\n{self.stderr_text()}", 20)[0])


@pytest.fixture(params=WORKERS)
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    with farside.stopped(Workers(request.param)) as one:
        yield one


def test_workers_forked_after_the_start(workers: Workers, tmp_path: Path) -> None:
    first = workers.worker(0)
    with flame.connect(first, place="process") as pi:
        walk(pi, tmp_path)
        if "uWSGI" in workers.stdout_text():
            with pytest.raises(flame.FlameError, match="--py-call-osafterfork"):
                pi.where()
        else:
            assert "no cell" in pi.where()
    with flame.connect(first, place="child") as pi:
        walk(pi, tmp_path)
    with flame.connect(workers.location, place="process") as master:  # the next is forked while a session lives there
        master["x"] = 5
        workers.children()[0].kill()
        with flame.connect(workers.worker(1), place="process") as pi:
            assert pi.evaluate("'x' in globals()") is False
            walk(pi, tmp_path)
        assert master["x"] == 5
