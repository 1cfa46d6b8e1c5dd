"""A server that is begun before its kernel is there: taken, or ended; and not begun where another may be named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from farside import wait_until

from flame_kernel.errors import FlameError
from flame_kernel.serve import early
from flame_kernel.session.bootstrap import agent_text

AGENT = agent_text()
FILES = ("targets.toml", "jupyter_flame_config.py", "jupyter_flame_config.json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Jupyter's configuration folder, empty; nothing is begun before or behind a test."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("FLAME_")]:
        monkeypatch.delenv(name)
    assert early.take() is None
    yield tmp_path
    assert early.take() is None


def begin(*arguments: str) -> None:
    early.begin(AGENT, os.environ, ("-f", "connection.json", *arguments))


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def test_it_is_taken_once(folder: Path) -> None:
    begin()
    server = early.take()
    assert server is not None
    assert server.is_running
    assert early.take() is None
    server.close()


def test_what_is_not_wanted_ends(folder: Path) -> None:
    before = children()
    begin()
    wait_until(lambda: children() != before, "the server's process")
    early.drop()
    assert early.take() is None
    wait_until(lambda: children() == before, "its end")
    early.drop()


@pytest.mark.parametrize("way", [*FILES, "argument", "alias", "environment", "another file"])
def test_none_is_begun_where_another_may_be_named(folder: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    before = children()
    arguments = {"argument": ["--FlameSettings.target=pi"], "alias": ["--target", "pi"]}.get(way, [])
    if way in FILES:
        (folder / way).touch(mode=0o600)
    elif way == "environment":
        monkeypatch.setenv("FLAME_TARGET", "pi")
    elif way == "another file":
        monkeypatch.setenv("FLAME_CONFIG", __file__)
    begin(*arguments)
    assert early.take() is None
    assert children() == before


def test_one_that_does_not_start_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def __init__(self, agent: tuple[str, str]) -> None:
            raise FlameError("no")

    monkeypatch.setattr(early, "EmbeddedServer", Server)
    begin()
    assert early.take() is None
    begin()
    early.drop()
