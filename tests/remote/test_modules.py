"""Modules to the far side: where they land, what replaces them, and what cannot be sent."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import farside
import pytest
from farside import FlameServer, LiveApp

import flame
from flame_kernel.agent.remote.modules import _forget_imported
from flame_kernel.errors import RemoteError, TransferError
from flame_kernel.remote.remote import Remote


@pytest.fixture(scope="module", params=["child", "process", "oldest"])
def pi(request: pytest.FixtureRequest) -> Iterator[Remote]:
    python = farside.pythons()[0 if request.param == "oldest" else -1]
    server = (LiveApp if request.param == "process" else FlameServer)(python)
    try:
        with flame.connect(server.location) as remote:
            remote.evaluate("object()", ref=True)  # what a session makes when it is first used is there
            yield remote
    finally:
        server.stop()


@pytest.fixture(scope="module")
def child() -> Iterator[Remote]:
    server = FlameServer(farside.pythons()[-1])
    try:
        with flame.connect(server.location) as remote:
            yield remote
    finally:
        server.stop()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A local package ``parcel`` with all that packages have, on the path here."""
    top = tmp_path / "parcel"
    (top / "inner" / "deep").mkdir(parents=True)
    (top / "data").mkdir()
    (top / "__pycache__").mkdir()
    (top / "__init__.py").write_text("from .one import VALUE\nfrom . import inner\n")
    (top / "one.py").write_text(
        "# -*- coding: latin-1 -*-\nVALUE = 'ä'\n".encode("latin-1").decode("latin-1"), "latin-1"
    )
    (top / "inner" / "__init__.py").write_text("from ..one import VALUE as OUTER\n")
    (top / "inner" / "deep" / "leaf.py").write_text("def fail():\n    return 1 // 0  # here\n")
    (top / "data" / "table.csv").write_text("a,b\n")
    (top / "not-a-module.py").write_text("")
    (top / "__pycache__" / "one.pyc").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield top
    for name in [name for name in sys.modules if name.partition(".")[0] == "parcel"]:
        del sys.modules[name]


def test_source_becomes_a_module_where_cells_run(pi: Remote) -> None:
    sent = pi.sendmodule("stuff", "import os\nWHERE = os.getpid()\ndef double(x):\n    return 2 * x\n")
    assert (sent.modules, sent.left_out) == (("stuff",), ())
    assert pi.module("stuff").double(21) == 42
    pi.execute("import stuff, os")
    assert pi.evaluate("stuff.WHERE == os.getpid()")
    assert pi.getmodule("stuff").startswith("import os\nWHERE")
    assert pi.evaluate("__import__('inspect').getsource(stuff.double)") == "def double(x):\n    return 2 * x\n"
    assert pi.evaluate("stuff.__file__, stuff.__name__, stuff.__spec__.origin")[1] == "stuff"


def test_a_form_feed_begins_no_line(pi: Remote) -> None:
    """As in a file: what ``str.splitlines`` takes for the end of a line is none."""
    pi.sendmodule("feeds", "'\f \u2028 \x1c \x85'\ndef f():\n    return 'here'\n")
    assert pi.evaluate("__import__('inspect').getsource(__import__('feeds').f)") == "def f():\n    return 'here'\n"
    pi.execute("'\f'\ndef g():\n    return 'there'")
    assert pi.evaluate("__import__('inspect').getsource(g)") == "def g():\n    return 'there'\n"


def test_nothing_runs_until_it_is_imported(pi: Remote) -> None:
    pi.sendmodule("loud", "raise RuntimeError('it ran')\n")
    assert not pi.evaluate("'loud' in __import__('sys').modules")
    with pytest.raises(RemoteError, match="it ran"):
        pi.execute("import loud")
    pi.sendmodule("loud", "quiet = 1\n")
    pi.execute("import loud")
    assert pi.evaluate("loud.quiet") == 1


def test_sent_again_it_is_replaced_whole(pi: Remote) -> None:
    pi.sendmodule("twice", "A = 1\nstate = []\n")
    pi.execute("import twice; old = twice; twice.state.append(1)")
    pi.sendmodule("twice", "B = 2\n")
    assert pi.evaluate("twice is old and twice.A == 1"), "names that are held stay what they were"
    pi.execute("import twice")
    assert pi.evaluate("(hasattr(twice, 'A'), hasattr(twice, 'state'), twice.B, old.state)") == (False, False, 2, [1])
    with pytest.raises(TransferError, match=r"twice\.py, line 2: Python 3"):
        pi.sendmodule("twice", "B = 3\ndef (\n")
    pi.execute("import sys; del sys.modules['twice']; import twice")
    assert pi.evaluate("twice.B") == 2, "what cannot be compiled changes nothing"


def test_a_package_comes_with_all_its_files(pi: Remote, package: Path) -> None:
    parcel = importlib.import_module("parcel")
    for one in (parcel, "parcel"):
        sent = pi.sendmodule(one)
        assert sent.modules == (
            "parcel",
            "parcel.inner",
            "parcel.inner.deep",
            "parcel.inner.deep.leaf",
            "parcel.one",
        )
        assert set(sent.data) == {"parcel/data/table.csv", "parcel/not-a-module.py"}
        assert sent.left_out == ()
    assert pi.module("parcel").VALUE == "ä"
    assert pi.evaluate("__import__('parcel.inner').inner.OUTER") == "ä"
    with pytest.raises(ZeroDivisionError) as error:
        pi.modules["parcel.inner.deep.leaf"].fail()
    assert "return 1 // 0  # here" in str(error.value.traceback)  # type: ignore[attr-defined]
    (package / "one.py").write_text("VALUE = 'new'\n")
    pi.sendmodule("parcel")
    pi.execute("import parcel")
    assert pi.evaluate("parcel.VALUE, parcel.inner.OUTER") == ("new", "new")


def test_dotted_names_need_no_package_there(pi: Remote) -> None:
    """As with Flame's own; and where there is one, the module joins it."""
    pi.sendmodule("made.up.name", "X = 1\n")
    pi.execute("import made.up.name")
    assert pi.evaluate("made.up.name.X") == 1
    pi.sendmodule("Pyro4_tests_of_ours", "")
    pi.sendmodule("serpent_tests.more", "Y = 2\n")
    assert pi.evaluate("__import__('serpent_tests.more').more.Y") == 2


def test_a_module_that_is_there_is_hidden_by_one_that_is_sent(pi: Remote) -> None:
    pi.execute(
        "import os, sys, tempfile\nhidden = tempfile.mkdtemp(); sys.path.insert(0, hidden)\n"
        "with open(os.path.join(hidden, 'covered.py'), 'w') as f: _ = f.write('X = 1')\nimport covered"
    )
    try:
        pi.sendmodule("covered", "X = 2\n")
        pi.execute("import covered")
        assert pi.evaluate("covered.X") == 2
    finally:
        pi.execute("import shutil; sys.path.remove(hidden); shutil.rmtree(hidden)")


def test_it_is_sent_while_a_cell_runs(pi: Remote) -> None:
    code = "import time\nwhile True:\n try: import arrives_late\n except ImportError: time.sleep(0.01)\n else: break"
    cell = pi.cell(code, lambda event: None)
    try:
        pi.sendmodule("arrives_late", "")
        assert cell.result(20)["status"] == "ok"
    finally:
        pi.interrupt()


def _module(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("no name", "", "not the name of a module"),
        ("", "", "not the name of a module"),
        ("a..b", "", "not the name of a module"),
        ("json", "", "cannot be sent as a module; give it another name"),
        (sys, None, "cannot be sent"),
        (_module("__main__"), None, "what a cell defines"),
        (_module("made_here"), None, "made_here has no source file here"),
        ("not_to_be_found", None, "there is no module not_to_be_found here; check its name"),
        ("not_to_be_found.either", None, "there is no module not_to_be_found.either here"),
        ("numpy", None, r"numpy has compiled parts \(numpy/.*\): they cannot be sent; install it on the far side"),
        (_module("quick", __file__="/x/quick.cpython-311.so"), None, r"quick is compiled \(quick.cpython-311.so\)"),
        ("broken", "x = '\0'", r"broken\.py"),
        ("broken", "x = 'never ended", r"broken\.py, line 1"),
        (_module("has_source"), "x = 1", "source text goes with a name"),
    ],
)
def test_what_cannot_be_sent_is_told_in_one_sentence(
    child: Remote, module: Any, source: str | None, words: str
) -> None:
    with pytest.raises(TransferError, match=words) as error:
        child.sendmodule(module, source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sys", "sys is compiled on the far side"),
        ("not_to_be_found", "there is no module not_to_be_found on the far side"),
        ("not_to_be_found.either", "there is no module not_to_be_found.either on the far side"),
        ("a b", "not the name of a module"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_sentence(child: Remote, name: str, words: str) -> None:
    with pytest.raises(TransferError, match=words):
        child.getmodule(name)


def test_getmodule_imports_nothing(pi: Remote) -> None:
    assert "def getsource" in pi.getmodule("inspect")
    assert not pi.evaluate("'antigravity' in __import__('sys').modules")
    assert "webbrowser" in pi.getmodule("antigravity")
    assert not pi.evaluate("'antigravity' in __import__('sys').modules")


def test_a_session_takes_its_modules_along() -> None:
    """In a live app they are of the app's process: nothing of them stays when the session ends."""
    app = LiveApp(farside.pythons()[-1])
    try:
        with flame.connect(app.location) as watcher:
            state = (
                "(sys.meta_path[:], sorted(sys.modules), sorted(n for n in linecache.cache if n.startswith('<sent')),"
                " sys.path_hooks[:], [n for n in sys.path_importer_cache if n.startswith('<sent')])"
            )
            watcher.execute("import sys, linecache; keep = lambda: None")
            with flame.connect(app.location) as first:  # whatever a session's first use loads
                first.execute("import sys")
            watcher.execute(f"before = {state}")
            with flame.connect(app.location) as pi:
                pi.sendmodule("passing.through", "X = 1\n")
                pi.execute("import passing.through, pkgutil; list(pkgutil.walk_packages(passing.__path__))")
                assert watcher.evaluate("'passing.through' in sys.modules")
            left = watcher.evaluate(f"[len(now) - len(then) for now, then in zip({state}, before)]")
            assert left == [0, 0, 0, 0, 0]
    finally:
        app.stop()


def test_modules_that_are_imported_meanwhile_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that imports something each time it is looked at, as another thread may."""

    class Name(str):
        def __add__(self, more: str) -> str:
            monkeypatch.setitem(sys.modules, f"imported_{len(sys.modules)}", ModuleType("imported"))
            return str(self) + more

    _forget_imported(Name("nothing_of_this_name"))
