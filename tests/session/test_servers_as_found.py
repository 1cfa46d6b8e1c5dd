"""Apps in odd states: patched, with limits, in a folder that is gone, started by a program that is no Python."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest
from farside import FlameServer, LiveApp, Python, pythons, random_key

import flame
from flame_kernel.agent.wire import message as wire
from flame_kernel.remote.remote import Remote
from flame_kernel.session import large_messages

APP = Path(__file__).parents[1] / "apps" / "found_app.py"
NEWEST = pythons()[-1]


@contextlib.contextmanager
def found(before: str = "", after: str = "", python: Python = NEWEST, **env: str) -> Iterator[LiveApp]:
    app = LiveApp(python, app=APP, env={"APP_BEFORE": before, "APP_AFTER": after, **env})
    try:
        yield app
    finally:
        app.stop()


def printed(pi: Remote, code: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        pi.execute(code)
    return out.getvalue()


SUBCLASS = "class Own(threading.Thread):\n    pass\nthreading.Thread = Own"
FUNCTION = "kind = threading.Thread\nthreading.Thread = lambda *a, **k: kind(*a, **k)"
OVERRIDES = """
class Own(threading.Thread):
    def start(self):
        return threading._Plain.start(self)
threading._Plain, threading.Thread = threading.Thread, Own
"""


ARGUMENTS = """
class Own(threading.Thread):
    def __init__(self, name, work=None, target=None):
        super().__init__(name=name, target=target or work)
threading.Thread = Own
"""


@pytest.mark.parametrize("after", [SUBCLASS, FUNCTION, OVERRIDES], ids=["subclass", "function", "overrides"])
@pytest.mark.parametrize("python", [pythons()[0], NEWEST], ids=lambda one: one.name)
def test_an_app_whose_threads_are_of_another_class(after: str, python: Python) -> None:
    thread = "import threading\none = threading.Thread(target=lambda: print('there'))\none.start()\none.join()"
    with found(after=after, python=python) as app, flame.connect(app.location) as pi:
        assert pi.evaluate("6 * 7") == 42
        assert printed(pi, thread) == "there\n"


@pytest.mark.parametrize("place", ["process", "child"])
def test_an_app_whose_threads_want_other_arguments(place: str) -> None:
    with found(after=ARGUMENTS) as app, flame.connect(app.location, place=place) as pi:
        assert pi.evaluate("6 * 7") == 42
        assert printed(pi, "print('there')") == "there\n"


def test_an_app_under_gevent() -> None:
    if importlib.util.find_spec("gevent") is None:
        needs.missing("gevent")
    here = next(python for python in pythons() if python.path == sys.executable)
    with found("from gevent import monkey; monkey.patch_all()", python=here) as app:
        for place in ("process", "child"):
            with flame.connect(app.location, place=place) as pi:
                assert pi.evaluate("6 * 7") == 42
                assert printed(pi, "print('there')") == "there\n"
                pi.push({"large": b"x" * 3_000_000})
                assert pi.evaluate("len(large)") == 3_000_000


@pytest.mark.parametrize("python", [pythons()[0], NEWEST], ids=lambda one: one.name)
def test_children_of_an_app_with_a_default_timeout(python: Python) -> None:
    with found(after="import socket\nsocket.setdefaulttimeout(0.5)", python=python) as app:
        for _ in range(5):
            with flame.connect(app.location, place="child") as pi:
                assert pi.evaluate("__import__('time').sleep(0.7) or 42") == 42
                pi.push({"large": b"x" * 6_000_000})
                assert pi.evaluate("len(large)") == 6_000_000


@pytest.mark.parametrize(
    "executable", ["/bin/cat", "/bin/false", "/nowhere/uwsgi", "/etc/passwd", "/etc"], ids=lambda path: path[1:]
)
def test_a_child_where_sys_executable_is_no_python(executable: str) -> None:
    with found(after=f"import sys\nsys.executable = {executable!r}") as app:
        with (
            pytest.raises(flame.FlameError, match=r"sys\.executable.*place = process"),
            flame.connect(app.location, place="child") as pi,
        ):
            pi.evaluate("1")
        with flame.connect(app.location, place="process") as pi:
            assert pi.evaluate("6 * 7") == 42


def test_files_of_a_server_whose_folder_is_gone(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("hello")
    with found(
        after="os.chdir(os.path.dirname(os.getcwd()))\nos.rmdir('cwd')\nos.mkdir('x')\nos.chdir('x')\nos.rmdir('../x')"
    ) as app:
        for place in ("process", "child"):
            with flame.connect(app.location, place=place) as pi:
                pi.put(tmp_path / "here", tmp_path / place, progress=False)
                assert (tmp_path / place).read_text() == "hello"
                pi.get(tmp_path / place, tmp_path / "back", progress=False)
                with pytest.raises(flame.FlameError, match="no longer exists there; give a path from /"):
                    pi.put(tmp_path / "here", "there", progress=False)


@pytest.mark.parametrize("servertype", ["thread", "multiplex"])
@pytest.mark.parametrize("most", [20_000, 300_000, 1_000_000])
def test_a_server_that_takes_small_messages_only(most: int, servertype: str, tmp_path: Path) -> None:
    key = random_key() if most > 100_000 else None
    server = FlameServer(NEWEST, servertype=servertype, key=key, env={"PYRO_MAX_MESSAGE_SIZE": str(most)})
    large = bytes(range(256)) * 12_000
    (tmp_path / "here").write_bytes(large)
    try:
        for place in ("child", "process"):
            with flame.connect(server.location, key=key, place=place) as pi:
                pi.push({"large": large, "text": "ä" * 2_000_000})
                assert pi.pull(["large", "text"]) == {"large": large, "text": "ä" * 2_000_000}
                assert len(printed(pi, "print('x' * 2_000_000)")) == 2_000_001
                assert pi.evaluate(f"len({'y' * 400_000!r})") == 400_000
                pi.put(tmp_path / "here", tmp_path / place, progress=False)
                assert pi.getfile(tmp_path / place) == large
                pi.get(tmp_path / place, tmp_path / "back", progress=False)
                assert (tmp_path / "back").read_bytes() == large
    finally:
        server.stop()


def test_a_server_that_takes_no_message_worth_the_name() -> None:
    server = FlameServer(NEWEST, env={"PYRO_MAX_MESSAGE_SIZE": "9000"})
    try:
        with pytest.raises(flame.FlameError, match="PYRO_MAX_MESSAGE_SIZE"):
            flame.connect(server.location)
    finally:
        server.stop()


def test_files_of_a_server_without_a_thread_for_them(tmp_path: Path) -> None:
    """Values and files go by the session's own two connections."""
    large = bytes(range(256)) * 30_000
    (tmp_path / "here" / "below").mkdir(parents=True)
    (tmp_path / "here" / "a").write_bytes(large)
    (tmp_path / "here" / "below" / "b").write_text("b")
    server = FlameServer(NEWEST, env={"PYRO_THREADPOOL_SIZE": "2", "PYRO_THREADPOOL_SIZE_MIN": "1"})
    try:
        with flame.connect(server.location) as pi:
            pi.push({"large": large})
            assert pi["large"] == large
            pi.put(tmp_path / "here", tmp_path / "there", progress=False)
            assert (tmp_path / "there" / "a").read_bytes() == large
            pi.get(tmp_path / "there", tmp_path / "back", progress=False)
            assert (tmp_path / "back" / "a").read_bytes() == large
            assert (tmp_path / "back" / "below" / "b").read_text() == "b"
            pi.sendfile(tmp_path / "one", large)
            assert pi.getfile(tmp_path / "one") == large
    finally:
        server.stop()


class Lying:
    """A connection whose server answers for the rest of an answer what it likes."""

    location = "there:1"

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.closed = False

    def invoke(self, dotted: str, message: bytes, timeout: float | None = None) -> bytes:
        return self.answers.pop(0)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("size", "answers"),
    [
        (None, []),
        (-1, []),
        (True, []),
        (1 << 40, []),
        (10, [b""]),
        (10, [b"no message"]),
        (10, [wire.encode({}, [b""])]),
        (10, [wire.encode({}, [b"x" * 11])]),
        (10, [wire.encode({}, [b"x" * 6]), wire.encode({}, [b"x" * 6])]),
        (10, [wire.encode({}, [b"x", b"y"])]),
        (10, [wire.encode({"large": 5})]),
    ],
    ids=repr,
)
def test_the_rest_of_an_answer_that_is_none(size: object, answers: list[bytes]) -> None:
    lying = Lying(*answers)
    with pytest.raises(flame.FlameError):
        large_messages.rest(lying, size)  # type: ignore[arg-type]
    assert lying.closed
