"""The data files and the folders of a package that was sent, as pkgutil and importlib.resources find them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import farside
import pytest
from farside import FlameServer

import flame
from flame_kernel.remote import modules

INSIDE = """
import io, os, pkgutil, sys

def data():
    return pkgutil.get_data(__name__, "data/x.txt"), pkgutil.get_data("bundle.plug", "deep/y.bin")

def walked():
    return sorted(one.name for one in pkgutil.walk_packages(__path__, "bundle."))

def listed():
    return [(one.name, one.ispkg) for one in pkgutil.iter_modules(__path__)]

def loaded():
    return __loader__.get_data(os.path.join(os.path.dirname(__file__), "data", "x.txt"))

def absent():
    for name in ("data", "data/none", "../bundle/none", "../../etc/passwd"):
        try:
            pkgutil.get_data(__name__, name)
        except OSError as e:
            assert isinstance(e, FileNotFoundError), e
        else:
            assert False, name
    return True

def old_resources():
    if not (3, 7) <= sys.version_info < (3, 13):
        return None
    import warnings
    warnings.simplefilter("ignore")
    from importlib import resources
    with resources.path("bundle.plug", "y.bin") as path:
        on_disk = path.read_bytes()
    with resources.open_text("bundle.data", "x.txt") as file:
        text = file.read()
    return (resources.read_text("bundle.data", "x.txt"), text, resources.is_resource("bundle.plug", "y.bin"),
            resources.is_resource("bundle.plug", "deep"), sorted(resources.contents("bundle.plug")), on_disk)

def resources():
    if sys.version_info < (3, 9):
        return None
    from importlib import resources
    top = resources.files("bundle")
    with resources.as_file(top / "data" / "x.txt") as path:
        on_disk = path.read_bytes()
    with top.joinpath("data/x.txt").open("rb") as file:
        raw = file.read()
    inside = sorted(one.name for one in top.iterdir() if one.name != "none")
    return ((top / "data" / "x.txt").read_text(encoding="utf-8"), on_disk, raw, inside,
            (top / "data").is_dir(), (top / "data").is_file(), (top / "data" / "x.txt").is_file(),
            sys.version_info > (3, 10) and (top / "none").is_file(),
            [one.name for one in (top / "plug" / "deep").iterdir()])
"""


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with data, on the path here."""
    top = tmp_path / "bundle"
    for name, content in {
        "__init__.py": INSIDE.encode(),
        "data/__init__.py": b"",
        "data/x.txt": "hellö".encode(),
        "data/large.bin": b"\0" * 1_000_000,
        "plug/__init__.py": b"",
        "plug/one.py": b"V = 1",
        "plug/y.bin": b"\0\xff",
        "plug/deep/y.bin": b"deep",
        ".secret": b"hidden",
    }.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    os.mkfifo(top / "pipe")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield top
    for name in [name for name in sys.modules if name.partition(".")[0] == "bundle"]:
        del sys.modules[name]


@pytest.mark.parametrize("python", farside.pythons(), ids=lambda one: one.name)
def test_a_package_has_its_files(bundle: Path, python: farside.Python) -> None:
    server = FlameServer(python)
    try:
        with flame.connect(server.location, shell="mini") as pi:
            sent = pi.sendmodule("bundle")
            assert set(sent.left_out) == {"bundle/.secret", "bundle/pipe"}
            assert "bundle: 4 modules and 4 data files, " in str(sent)
            pi.execute("import bundle")
            there = pi["bundle"]
            text = "hellö".encode()
            assert there.data() == (text, b"deep")
            assert there.loaded() == text
            assert there.absent()
            assert there.listed() == [("data", True), ("plug", True)]
            assert there.walked() == ["bundle.data", "bundle.plug", "bundle.plug.one"]
            old, new = there.old_resources(), there.resources()
            if old is not None:
                names = {"__init__.py", "one.py", "y.bin", "deep"}
                assert old == ("hellö", "hellö", True, False, old[4], b"\0\xff")
                assert set(old[4]) == names
            if new is not None:
                inside = ["__init__.py", "data", "plug"]
                assert new == ("hellö", text, text, inside, True, False, True, False, ["y.bin"])
            (bundle / "data" / "x.txt").write_text("again")
            (bundle / "plug" / "y.bin").unlink()
            pi.sendmodule("bundle")  # what is gone here is gone there
            pi.execute("import bundle, pkgutil")
            assert pi.evaluate("pkgutil.get_data('bundle', 'data/x.txt')") == b"again"
            with pytest.raises(FileNotFoundError):
                pi.evaluate("pkgutil.get_data('bundle', 'plug/y.bin')")
    finally:
        server.stop()


def test_data_has_a_limit_and_what_is_beyond_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_MAX_DATA", 1_000_000)
    server = FlameServer(farside.pythons()[-1])
    try:
        with flame.connect(server.location, shell="mini") as pi:
            sent = pi.sendmodule("bundle")
            assert "bundle/data/x.txt" in sent.left_out  # large.bin comes before it and fills the room
            assert sent.data == ("bundle/data/large.bin",)
            assert "left out, as hidden or beyond 0 MB of data: bundle/.secret" in str(sent)
    finally:
        server.stop()
