"""Imports on a far side that are served from a folder here: what comes, what does not, and that nothing stays."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from farside import FlameServer, LiveApp
from flakylink import FlakyLink

import flame
from flame_kernel.errors import FlameError, TargetError, TransferError
from flame_kernel.hot import folders, serving
from flame_kernel.remote.remote import Remote

TRACES = """
import linecache, sys, threading
def traces():
    names = ("shop", "loose", "single")
    return [
        sorted(one for one in sys.modules if one.partition(".")[0] in names),
        [type(one).__name__ for one in sys.meta_path if hasattr(one, "flame_hot_names")],
        len(sys.path_hooks),
        [one for one in linecache.cache if one.startswith("<hot/")],
        [one for one in sys.path_importer_cache if one.startswith("<hot/")],
        sorted(one.name for one in threading.enumerate()),
    ]
"""


def test_all_that_a_project_has_can_be_imported(pi: Remote, project: Path) -> None:
    pi.execute(TRACES)
    pi.evaluate("traces()")
    before = pi.evaluate("traces()")
    with pi.hot(project) as hot:
        pi.execute("import shop, single, loose.part.leaf, inspect")
        assert pi.evaluate("(shop.Cart().total(), single.VALUE, loose.part.leaf.VALUE)") == (6, 1, "leaf")
        assert "price('tea') * 2" in pi.evaluate("inspect.getsource(shop.Cart)")
        pi.execute("import pkgutil; found = [one.name for one in pkgutil.iter_modules(shop.__path__)]")
        assert pi["found"] == ["cart", "prices"]
        assert [one.name for one in hot.served] == ["shop", "shop.cart", "shop.prices", "single", "loose.part.leaf"]
        with pytest.raises(ZeroDivisionError) as caught:
            pi.execute("shop.cart.fail()")
        assert "1 // 0  # here" in "".join(getattr(caught.value, "__notes__", ())) + str(caught.value.__cause__)
        assert pi.evaluate("__import__('json').dumps(1)") == "1"
    assert pi.evaluate("traces()") == before
    with pytest.raises(ModuleNotFoundError):
        pi.execute("import shop")


@pytest.mark.parametrize("site", ["child"], indirect=True)
def test_data_files_come_when_they_are_read(pi: Remote, project: Path, edit: Callable[[Path, str, str], None]) -> None:
    with pi.hot(project):
        pi.execute("from importlib import resources; import pkgutil, shop; files = resources.files('shop')")
        table = "files.joinpath('data', 'table.csv').read_text()"
        assert pi.evaluate(table) == "a,b\n"
        assert pi.evaluate("pkgutil.get_data('shop', 'data/table.csv')") == b"a,b\n"
        edit(project / "shop/data/table.csv", "a,b", "c,d")
        assert pi.evaluate(table) == "c,d\n"
        assert pi.evaluate("sorted(one.name for one in files.iterdir())") == [
            *("__init__.py", "cart.py", "data", "prices.py")
        ]
        with pytest.raises(FileNotFoundError):
            pi.evaluate("files.joinpath('.env').read_text()")


@pytest.mark.parametrize("site", ["child"], indirect=True)
def test_a_file_made_later_can_be_imported_and_one_edited_before_its_import_is_new(
    pi: Remote, project: Path, edit: Callable[[Path, str, str], None]
) -> None:
    with pi.hot(project) as hot:
        (project / "later.py").write_text("VALUE = 5\n")
        edit(project / "single.py", "1", "2")
        assert pi.evaluate("(__import__('later').VALUE, __import__('single').VALUE)") == (5, 2)
        edit(project / "single.py", "2", "3")  # without reload it stays, and the list says so
        assert pi.evaluate("__import__('single').VALUE") == 2
        assert "edited here since" in str(hot)
        pi.execute("import importlib, single as one; importlib.reload(one)")
        assert pi.evaluate("one.VALUE") == 3


@pytest.mark.parametrize("site", ["child", "process"], indirect=True)
def test_threads_of_a_cell_import_too_while_it_runs(pi: Remote, project: Path) -> None:
    with pi.hot(project):
        pi.execute(
            "import threading\nfound = []\n"
            "def work():\n    import single, shop\n    found.append(single.VALUE + shop.Cart().total())\n"
            "threads = [threading.Thread(target=work) for _ in range(4)]\n"
            "[one.start() for one in threads]; [one.join() for one in threads]"
        )
        assert pi["found"] == [7] * 4


@pytest.mark.parametrize("site", ["process"], indirect=True)
def test_in_an_app_only_the_sessions_own_code_finds_it_and_two_sessions_do_not_mix(
    pi: Remote, site: LiveApp, project: Path
) -> None:
    with pi.hot(project):
        pi.execute(
            "import sys, _thread, threading\nfound = []\ndone = threading.Event()\n"
            "finder = next(one for one in sys.meta_path if hasattr(one, 'flame_hot_names'))\n"
            "ours = finder.find_spec('single') is not None"
        )
        assert pi["ours"] is True
        with flame.connect(site.location, shell="mini") as other:
            with pytest.raises(FlameError, match="served to another session in this process already"):
                other.hot(project / "single.py")
            with pytest.raises(ModuleNotFoundError):
                other.execute("import single")
        assert pi.evaluate("__import__('single').VALUE") == 1
    with flame.connect(site.location, shell="mini") as other, other.hot(project):
        assert other.evaluate("__import__('single').VALUE") == 1


@pytest.mark.parametrize("site", ["child"], indirect=True)
def test_two_children_have_each_its_own(pi: Remote, site: FlameServer, project: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "single.py").write_text("VALUE = 'other'\n")
    with flame.connect(site.location, shell="mini") as other, other.hot(tmp_path / "other"), pi.hot(project):
        assert (pi.evaluate("__import__('single').VALUE"), other.evaluate("__import__('single').VALUE")) == (1, "other")


# -- what a server may ask -------------------------------------------------------------------------------------------


def test_only_what_is_listed_is_given_away(project: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("KEY = 1\n")
    (project / "out.py").symlink_to(tmp_path / "secret.py")
    (project / "shop" / "outside").symlink_to(tmp_path)
    (project / "venv").mkdir()
    (project / "venv" / "pyvenv.cfg").write_text("")
    (project / "venv" / "thing.py").write_text("")
    listed = folders.scan(folders.checked([project]))
    assert sorted(listed.modules) == ["loose.part.leaf", "shop", "shop.cart", "shop.prices", "single"]
    assert sorted(listed.data) == ["shop/data/table.csv"]
    assert listed.left_out.keys() == {"json.py", "out.py", "shop/outside", "shop/server.key", "venv"}
    assert listed.namespaces == {"loose", "loose.part"}


def test_a_link_that_takes_a_files_place_is_not_followed(project: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("KEY = 1\n")
    listed = folders.scan(folders.checked([project]))
    (project / "single.py").unlink()
    (project / "single.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(TransferError, match="has become a link"):
        folders.text_of(listed.modules["single"])
    (project / "loose").rename(tmp_path / "moved")
    (project / "loose").symlink_to(tmp_path / "moved")
    with pytest.raises(TransferError, match="has become a link"):
        folders.text_of(listed.modules["loose.part.leaf"])


@pytest.mark.parametrize("site", ["child"], indirect=True)
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "shop/.env", "shop/server.key", "..secret", "secret", ""])
def test_a_hostile_server_gets_nothing_by_asking(pi: Remote, project: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.py").write_text("KEY = 1\n")
    with pi.hot(project):
        pi.execute(
            "import sys\n"
            "finder = next(one for one in sys.meta_path if hasattr(one, 'flame_hot_names'))\n"
            "def ask(what, name):\n"
            "    try:\n        return str(finder.asking.fetch(what, name)[1])\n"
            "    except ImportError as error:\n        return 'refused: ' + str(error)\n"
        )
        for what in ("module", "data"):
            assert pi["ask"](what, name).startswith("refused: "), what
        assert "VALUE" in pi["ask"]("module", "single")


@pytest.mark.parametrize("name", ["nothing", "notes.txt", "/"])
@pytest.mark.parametrize("site", ["child"], indirect=True)
def test_a_folder_that_is_none_has_its_sentence(pi: Remote, project: Path, name: str) -> None:
    with pytest.raises(
        TargetError, match=r"there is no folder|is neither a folder nor a file NAME|holds more than a project"
    ):
        pi.hot(project / name if name != "/" else Path("/"))
    (project / "empty").mkdir()
    with pytest.raises(FlameError, match="there is no module in"):
        pi.hot(project / "empty")


# -- the link --------------------------------------------------------------------------------------------------------


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 40
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


AWAY = """
import os, sys, time
finder = next(one for one in sys.meta_path if hasattr(one, "flame_hot_names"))
def wait(name):
    while not os.path.exists(os.path.join({folder!r}, name)):
        time.sleep(0.01)
open(os.path.join({folder!r}, "begun"), "w").close()
wait("down")
finder.asking.patience = 0.5
try:
    import single
except ImportError as error:
    print(error)
finder.asking.patience = 60.0
finder.asking._is_away = False
open(os.path.join({folder!r}, "failed"), "w").close()
import single
print("at last", single.VALUE)
"""


def test_a_link_that_is_away_is_an_import_error_and_one_that_comes_back_is_waited_for(
    server: FlameServer, project: Path, tmp_path: Path
) -> None:
    with FlakyLink(server.location) as link, flame.connect(link.location, shell="mini", fast=True) as pi:
        pi.hot(project)
        told: list[str] = []
        reply = pi.cell(AWAY.format(folder=str(tmp_path)), lambda event: told.append(str(event["content"].get("text"))))
        _wait_for(tmp_path / "begun")
        link.down("rst")
        (tmp_path / "down").write_text("")
        _wait_for(tmp_path / "failed")
        link.up()
        assert reply.result(40)["status"] == "ok"
    shown = "".join(told)
    assert "single is hot code, served from the client's disk, and the client has not answered for 0.5 s" in shown
    assert "at last 1" in shown


def test_a_large_module_on_a_slow_link_shows_how_far_it_is(server: FlameServer, project: Path) -> None:
    (project / "large.py").write_text("TEXT = '%s'\n" % ("x" * 600_000))
    with FlakyLink(server.location, rate=150_000) as link, flame.connect(link.location, shell="mini") as pi:
        pi.hot(project)
        shown: list[str] = []
        pi.write = lambda name, text: shown.append(text)
        pi.execute("import large")
        assert pi.evaluate("len(large.TEXT)") == 600_000
        assert " KiB of 585.9 KiB" in "".join(shown)


@pytest.mark.parametrize("site", ["child"], indirect=True)
def test_who_attaches_without_the_folder_is_told_so(site: FlameServer, project: Path) -> None:
    first = flame.connect(site.location, shell="mini", session="hot-kept")
    first.hot(project)
    first.execute("import shop")
    first.detach()
    with contextlib.closing(flame.connect(site.location, session="hot-kept", shell="mini")) as second:
        assert second.evaluate("shop.Cart().total()") == 6
        with pytest.raises(ImportError, match="single is hot code, and this client serves none"):
            second.execute("import single")
        with second.hot(project):
            assert second.evaluate("__import__('single').VALUE") == 1


# -- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["child"], indirect=True)
def test_other_imports_ask_nobody_and_a_package_comes_in_one_answer(pi: Remote, project: Path) -> None:
    asked: list[str] = []
    hot = pi.hot(project)
    take = pi.session.services["hot_request"]

    def count(event: dict[str, object]) -> None:
        asked.append(event["content"]["name"])  # type: ignore[index]
        take(event)

    pi.session.services["hot_request"] = count
    pi.execute("import wave, colorsys, html.parser\ntry:\n    import not_there\nexcept ImportError:\n    pass")
    assert asked == []
    pi.execute("import shop")
    assert asked == ["shop"]
    assert serving.serving(pi.session) is hot
    hot.close()
    assert serving.serving(pi.session) is None


def test_a_target_says_what_is_served(server: FlameServer, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = project.parent / "targets.toml"
    file.write_text(
        f'[targets.here]\nlocation = "{server.location}"\nhot = ["{project}"]\nhot_reload = true\n'
        f'[targets.odd]\nlocation = "{server.location}"\nhot = ["{project}/none"]\n'
    )
    monkeypatch.setenv("FLAME_CONFIG", str(file))
    with flame.connect("here", shell="mini") as pi:
        assert pi.evaluate("__import__('shop').Cart().total()") == 6
    with pytest.raises(TargetError, match=r"hot of this target: there is no folder .*/none here"):
        flame.connect("odd", shell="mini")
