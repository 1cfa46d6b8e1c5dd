"""Files of odd kinds: those of /proc and /sys, times that clocks do not reach, names as bytes, folders to be made."""

from __future__ import annotations

import ntpath
import os
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest
from farside import FlameServer
from transfers import SERVERS, connected, far_side

from flame_kernel.errors import TransferError
from flame_kernel.files import destination
from flame_kernel.files.sync import SyncOptions, sync_down, sync_up
from flame_kernel.remote.remote import Remote

KERNEL_FILES = ["/proc/version", "/proc/self/limits", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/block"]
KERNEL_FILES += ["/sys/kernel/notes", "/sys/devices/system/cpu/online", "/sys/devices/system/cpu/offline"]


@pytest.fixture(scope="module", params=["key", "multiplex", "oldest"])
def pi(request: pytest.FixtureRequest) -> Iterator[Remote]:
    assert request.param in SERVERS
    with far_side(request.param) as server, connected(server) as one:
        assert isinstance(server, FlameServer)
        yield one


@pytest.mark.parametrize("path", KERNEL_FILES)
def test_a_file_of_the_kernel_comes_whole(path: str, pi: Remote, tmp_path: Path) -> None:
    if not os.path.isfile(path):
        if path == "/sys/block":
            return  # a folder: the next test
        needs.missing(path)
    want = b"" if "self" in path else Path(path).read_bytes()
    pi.get(path, tmp_path / "got", progress=False)
    pi.put(path, tmp_path / "put", progress=False)
    if want:
        assert (tmp_path / "got").read_bytes() == (tmp_path / "put").read_bytes() == pi.getfile(path) == want
    else:
        assert (tmp_path / "got").read_bytes().startswith((tmp_path / "put").read_bytes()[:5])


def test_a_file_without_blocks_keeps_its_content(pi: Remote, tmp_path: Path) -> None:
    """A new one may have none yet; one of zeros alone never has."""
    (tmp_path / "new").write_bytes(b"x" * 5000)
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(500_000)
    for name in ("new", "hole"):
        pi.put(tmp_path / name, tmp_path / f"{name}-there", progress=False)
        pi.get(tmp_path / f"{name}-there", tmp_path / f"{name}-back", progress=False)
        assert (tmp_path / f"{name}-back").read_bytes() == (tmp_path / name).read_bytes()
    assert (tmp_path / "hole-back").stat().st_blocks == (tmp_path / "hole").stat().st_blocks


@pytest.mark.parametrize("seconds", [-(10**9), 2**33 + 2**31, 10**10, 1.4e10])
def test_a_time_far_away(seconds: float, pi: Remote, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("x")
    os.utime(tmp_path / "here", (seconds, seconds))
    kept = (tmp_path / "here").stat().st_mtime_ns
    pi.put(tmp_path / "here", tmp_path / "there", progress=False)
    pi.get(tmp_path / "there", tmp_path / "back", progress=False)
    assert (tmp_path / "there").stat().st_mtime_ns == (tmp_path / "back").stat().st_mtime_ns == kept


def test_names_as_bytes(pi: Remote, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(name)).write_bytes(b"content")
    pi.put(name, name + b"-there", progress=False)
    pi.get(name + b"-there", name + b"-back", progress=False)
    assert Path(os.fsdecode(name + b"-back")).read_bytes() == pi.getfile(name) == b"content"
    pi.sendfile(name + b"-sent", b"more")
    assert pi.getfile(name + b"-sent") == b"more"


def tree(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


@pytest.mark.parametrize("dry", [True, False])
def test_a_folder_comes_into_one_that_is_not_there_yet(dry: bool, pi: Remote, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a").write_text("x")
    for sync, name in ((sync_up, "up"), (sync_down, "down")):
        to = tmp_path / name / "new"
        (tmp_path / name).mkdir()
        done = sync(pi.session, str(tmp_path / "s"), str(to), SyncOptions(dry_run=dry), False)
        assert done.transferred.files == 1
        assert tree(tmp_path / name) == ([] if dry else ["new", "new/s", "new/s/a"])
        with pytest.raises(TransferError, match="create it first"):
            sync(pi.session, str(tmp_path / "s"), str(tmp_path / name / "no" / "no"), SyncOptions(dry_run=dry), False)


def test_a_folder_takes_the_place_of_a_file(pi: Remote, tmp_path: Path) -> None:
    (tmp_path / "s" / "a").mkdir(parents=True)
    (tmp_path / "s" / "a" / "f").write_text("x")
    for sync, name in ((sync_up, "up"), (sync_down, "down")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("a file")
        (tmp_path / name / "other").write_text("stays")
        lines: list[str] = []
        sync(pi.session, f"{tmp_path / 's'}/", str(tmp_path / name), SyncOptions(report=lines.append), False)
        assert tree(tmp_path / name) == ["a", "a/f", "other"]
        assert "delete a" in lines


def test_paths_there_are_not_this_systems(pi: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client on Windows joins its own paths with backslashes, and those of a far side with slashes."""
    (tmp_path / "tree" / "in").mkdir(parents=True)
    (tmp_path / "tree" / "in" / "b").write_text("b")
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(os.path, "join", ntpath.join)
    pi.put(tmp_path / "tree", f"{tmp_path}/there", progress=False)
    monkeypatch.undo()
    assert (tmp_path / "there" / "tree" / "in" / "b").read_text() == "b"


@pytest.mark.parametrize(
    ("path", "name"),
    [("C:\\a\\b.txt", "b.txt"), ("\\\\pc\\share\\f", "f"), ("c:/x/y/", "y"), ("a\\b", "a\\b"), ("x/a:b", "a:b")],
)
def test_the_name_in_a_path_of_windows(path: str, name: str) -> None:
    assert destination.plain_name(path) == name
