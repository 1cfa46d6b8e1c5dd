"""Files from a far side that means harm: its names lead nowhere, and answers that are none are refused."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farside import LiveApp
from transfers import connected, far_side

from flame_kernel.errors import TransferError, UnsafeAnswer
from flame_kernel.remote.remote import Remote

SPOIL = """
import sys
files = next(m for n, m in sys.modules.items() if n.startswith("flame_agent_") and n.endswith(".remote.files"))
Worker = files.Worker
def spoil(name):
    def with_it(function):
        original = getattr(Worker, name)
        setattr(Worker, name, lambda self, request: function(self, request, original))
    return with_it
"""
ENTRY = "dict(path={path!r}, kind={kind!r}, size={size}, mode=0o777, mtime=1, target={target!r})"


def entry(*path: str, kind: str = "file", size: int = 6, target: str = "") -> str:
    return ENTRY.format(path=list(path), kind=kind, size=size, target=target)


HOSTILE_LISTS = {
    "up": [entry("..", "stolen")],
    "up in one": [entry("../stolen")],
    "up further on": [entry("a", kind="folder"), entry("a", "..", "..", "stolen")],
    "absolute": [entry("/tmp/stolen")],
    "empty": [entry("")],
    "dot": [entry(".")],
    "NUL": [entry("a\0b")],
    "no name": ["dict(path=[], kind='file', size=6, mode=0, mtime=0)"],
    "no text": ["dict(path=[3], kind='file', size=6, mode=0, mtime=0)"],
    "no list": ["dict(path='x', kind='file', size=6, mode=0, mtime=0)"],
    "no entry": ["'x'"],
    "kind": [entry("x", kind="device")],
    "size": [entry("x", size=-1)],
    "size text": ["dict(path=['x'], kind='file', size='6', mode=0, mtime=0)"],
    "time": ["dict(path=['x'], kind='file', size=6, mode=0, mtime=1 << 70)"],
    "link out": [entry("l", kind="link", target="../outside"), entry("l", "stolen")],
    "link absolute": [entry("l", kind="link", target="{outside}"), entry("l", "stolen")],
    "link through a link": [
        entry("d", kind="link", target="."),
        entry("l", kind="link", target="d/../../outside"),
        entry("l", "stolen"),
    ],
    "through a good link": [entry("d", kind="folder"), entry("l", kind="link", target="d"), entry("l", "stolen")],
    "through a link that is here": [entry("here", "stolen")],
    "folder over a link that is here": [entry("here", kind="folder"), entry("here", "stolen")],
    "end of a link that is here": [entry("here", kind="end")],
    "long": [entry("n" * 300)],
    "file over a folder": [entry("there", size=6)],
    "folder that was not named": [entry("ghost", "stolen")],
    "nothing at all": [],
}


def test_names_of_a_hostile_far_side_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    with far_side("process") as server, connected(server) as pi:
        (server.cwd / "d").mkdir()
        pi.get(str(server.cwd / "d"), tmp_path / "first")  # the agent's files are loaded
        pi.execute(SPOIL)
        for number, (name, entries) in enumerate(HOSTILE_LISTS.items()):
            top = tmp_path / f"top{number}"
            (top / "there" / "in").mkdir(parents=True)
            outside.mkdir(exist_ok=True)
            outside.chmod(0o750)
            (top / "here").symlink_to(outside)
            listed = ", ".join(entries).replace("{outside}", str(outside))
            pi.execute(
                f"@spoil('_do_list')\ndef _(self, request, original):\n"
                f"    return {{'entries': [{listed}], 'last': {bool(entries)}}}\n"
                "@spoil('_do_read')\ndef _(self, request, original):\n"
                "    self._out.send_control({'size': 6, 'mode': 0o4777, 'mtime': 1, 'more': True})\n"
                "    self._out.room[:6] = b'stolen'; self._out.send_room(6)\n"
                "    return {'at': 6, 'last': True}\n"
            )
            with contextlib.suppress(TransferError, UnsafeAnswer):
                pi.get(str(server.cwd / "d") + "/.", top)
            assert not list(outside.iterdir()), name
            assert stat.S_IMODE(outside.stat().st_mode) == 0o750, name
            assert not (tmp_path / "stolen").exists(), name
            assert not Path("/tmp/stolen").exists(), name
            for path in top.rglob("*"):
                status = path.lstat()
                special = status.st_mode & 0o7777 if status.st_mode & 0o7000 else 0
                assert special in (0, 0o1700), f"{name}: {path} has special bits"  # the latter: not whole yet
                if path.is_symlink() and path.name != "here":
                    assert (path.parent / os.readlink(path)).resolve().is_relative_to(top.resolve()), name
            assert os.readlink(top / "here") == str(outside), name


@pytest.mark.parametrize(
    ("op", "body", "words"),
    [
        ("find", "return {'found': [dict(found, name='.bashrc', path='/x')]}", "was not asked for"),
        ("find", "return {'found': [dict(found, name='evil.sh', path='/x')]}", "was not asked for"),
        ("find", "return {'found': [dict(found, name='../a.txt', path='/x')]}", "was not asked for"),
        ("find", "return {'found': 'x'}", "wrong shape"),
        ("find", "return {}", "wrong shape"),
        ("find", "return {'found': [dict(found, kind='socket')]}", "wrong shape"),
        ("find", "return {'found': [dict(found, size=2 ** 80)]}", "wrong shape"),
        ("read", "return {'at': 6, 'last': True}", "ends before it began"),
        ("read", "out(size=6); data(7); return {}", "more bytes came than were announced"),
        ("read", "out(size=6); data(5); return {}", "5 bytes of 6 came"),
        ("read", "out(size=6); out(size=6); return {}", "begins twice"),
        ("read", "data(6); return {}", "content of no file"),
        ("read", "out(size=-6); return {}", "wrong shape"),
        ("read", "out(size=1 << 61); data(7); return {}", "no room here"),
        ("read", "out(size='6'); return {}", "wrong shape"),
        ("read", "return {'error': ['x'] * 9, 'code': {}}", "x"),
        ("read", "self._out._send_frame(ord('Q'), 5)", "kind 81"),
        ("read", "self._out.room[:3] = b'[3]'; self._out._send_frame(ord('J'), 3)", "not an object"),
        ("read", "self._out.room[:3] = b'{3]'; self._out._send_frame(ord('J'), 3)", "not JSON"),
        ("read", "out(size=6); self._out.send_hole(1 << 62); return {}", "were announced"),
    ],
)
def test_answers_of_a_hostile_far_side_are_refused(tmp_path: Path, spoilt: Any, op: str, body: str, words: str) -> None:
    server, pi = spoilt
    pi.execute(
        f"@spoil('_do_{op}')\ndef _(self, request, original):\n"
        "    found = dict(source='', path='/x', name='a.txt', kind='file', size=6, mode=0, mtime=0)\n"
        "    def out(**more): self._out.send_control(dict({'mode': 0, 'mtime': 1, 'more': True}, **more))\n"
        "    def data(size): self._out.room[:size] = b'x' * size; self._out.send_room(size)\n"
        f"    {body}\n"
    )
    with pytest.raises((TransferError, UnsafeAnswer), match=words) as error:
        pi.get(f"{server.cwd}/*.txt", tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def spoilt_server() -> Iterator[tuple[LiveApp, Remote]]:
    with far_side("process") as server, connected(server) as pi:
        (server.cwd / "a.txt").write_text("a text")
        pi.getfile(server.cwd / "a.txt")
        pi.execute(SPOIL)
        pi.execute("kept = dict(vars(Worker))")
        yield server, pi


@pytest.fixture
def spoilt(spoilt_server: tuple[LiveApp, Remote]) -> Iterator[tuple[LiveApp, Remote]]:
    yield spoilt_server
    spoilt_server[1].execute("for name in ('_do_find', '_do_read'): setattr(Worker, name, kept[name])")
