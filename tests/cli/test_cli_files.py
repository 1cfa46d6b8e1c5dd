"""``jupyter flame put``, ``get`` and ``sync``, against a stock server and a multiplex one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from farside import FlameServer
from shell import flame, typed

pytestmark = pytest.mark.usefixtures("warm_commands")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with what folders have."""
    top = tmp_path / "src"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "a.txt").write_text("a")
    (top / "b.bin").write_bytes(os.urandom(300_000))
    (top / "sub" / "c d.txt").write_text("c")
    (top / "sub" / "deep" / "run.sh").write_text("#!")
    (top / "sub" / "deep" / "run.sh").chmod(0o755)
    (top / "sub" / "link").symlink_to("../a.txt")
    (top / "sub" / "x.pyc").write_text("x")
    (top / "empty").mkdir()
    return top


def listed(top: Path) -> dict[str, object]:
    """What is below a folder: content or link, mode and time."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = path.stat().st_mode
        else:
            found[name] = (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
    return found


def test_there_and_back(server: FlameServer, tree: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    done = flame("put", "-t", server.location, tree, tree / "a.txt", far)
    assert (done.code, done.err) == (0, ""), done
    assert done.out.startswith("7 files, ")
    assert listed(far / "src") == listed(tree)
    assert "7 there already" in flame("put", "-t", server.location, tree, tree / "a.txt", far).out
    done = flame("get", "-t", server.location, f"{far}/src/*.txt", cwd=tmp_path)
    assert (done.code, (tmp_path / "a.txt").read_text()) == (0, "a")
    assert flame("get", "-q", "-t", server.location, far / "src", tmp_path / "back").out == ""
    assert listed(tmp_path / "back") == listed(tree)
    # Relative names there are of the folder in which the server is.
    assert flame("put", "-t", server.location, tree / "a.txt", "put.txt").code == 0
    (Path(server.cwd) / "put.txt").unlink()


def test_a_path_of_a_server(server: FlameServer, tree: Path, tmp_path: Path) -> None:
    config = {"FLAME_CONFIG": str(tmp_path / "targets.toml")}
    assert flame("targets", "add", "box", server.location, **config).code == 0
    far, back = Path(server.cwd) / "far.txt", tmp_path / "back"
    try:
        assert flame("put", "a.txt", "box:far.txt", cwd=tree, **config).code == 0
        assert far.read_text() == "a"
        assert flame("get", "box:far.txt", back, **config).code == 0
        assert back.read_text() == "a"
        # A name that is no target's is no file either, unless it is written as one.
        for words in (("put", "a.txt", "lab:y"), ("get", "lab:y", "."), ("get", "far.txt", "lab:y")):
            done = flame(*words, "-t", server.location, cwd=tree, **config)
            assert (done.code, "there is no target 'lab'" in done.err, "./lab:y" in done.err) == (1, True, True), done
        assert not list(Path(server.cwd).glob("*:*")) + list(tree.glob("*:*"))
        assert flame("put", "-t", server.location, "a.txt", "./lab:y", cwd=tree, **config).code == 0
        (Path(server.cwd) / "lab:y").unlink()
        assert "two servers" in flame("put", "-t", server.location, "a.txt", "box:y", cwd=tree, **config).err
    finally:
        far.unlink(missing_ok=True)


def test_a_bar_in_a_terminal(server: FlameServer, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(1 << 20) * 64)
    with typed("put", "-t", server.location, tmp_path / "big", tmp_path / "there") as c:
        c.expect(r"1 file, 64 MiB in ")
    assert (tmp_path / "there").stat().st_size == 64 << 20


@pytest.mark.parametrize("servertype", ["thread", "multiplex"])
def test_sync(servertype: str, flame_server: type[FlameServer], tree: Path, tmp_path: Path) -> None:
    far, config = tmp_path / "far", {"FLAME_CONFIG": str(tmp_path / "targets.toml")}
    server = flame_server(servertype=servertype)
    assert flame("targets", "add", "box", server.location, **config).code == 0
    words = ["--exclude", "*.pyc"]

    done = flame("sync", f"{tree}/", f"box:{far}", "--dry-run", *words, **config)
    assert done.code == 0
    assert not far.exists()
    assert done.out.splitlines()[0] == "copy   a.txt"
    assert done.out.splitlines()[-1].startswith("would do: 5 files, 293 KiB")
    assert "make   sub/deep/\n" in done.out
    assert ".pyc" not in done.out
    done = flame("sync", f"{tree}/", f"box:{far}", *words, **config)
    assert (done.code, done.out[:8]) == (0, "5 files,"), done
    expected = {name: what for name, what in listed(tree).items() if not name.endswith(".pyc")}
    assert listed(far) == expected

    # Only what changed; what is gone here goes there, and what is excluded stays.
    (tree / "a.txt").write_text("changed")
    (tree / "sub" / "deep" / "run.sh").unlink()
    (tree / "sub" / "deep").rmdir()
    (tree / "empty").rmdir()
    (tree / "empty").write_text("a file now")
    (tree / "b2.txt").symlink_to("a.txt")
    (far / "b2.txt").write_text("a file before")
    (far / "kept.pyc").write_text("kept")
    (far / "old").mkdir()
    (far / "old" / "kept.pyc").write_text("kept")
    done = flame("sync", "-t", "box", f"{tree}/", f":{far}", *words, **config)
    assert (done.code, "a file is in the place" in done.err or "a folder has that name" in done.err) == (1, True), done
    done = flame("sync", "-t", "box", f"{tree}/", f":{far}", "--delete", "-v", *words, **config)
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[:4] == ["delete empty/", "copy   empty", "delete sub/deep/run.sh", "delete sub/deep/"]
    assert lines[4] == "delete old/"
    assert lines[5].startswith("1 file, 10 bytes in ")
    assert lines[5].endswith("; 5 there already; 4 deleted")
    assert lines[6].startswith("old: not deleted: directory not empty")
    assert (far / "b2.txt").is_symlink()
    expected = {name: what for name, what in listed(tree).items() if not name.endswith(".pyc")}
    assert {name: what for name, what in listed(far).items() if "kept" not in name and name != "old"} == expected
    assert (far / "old" / "kept.pyc").exists()

    # The other way: the folder itself, without a / at its end.
    back = tmp_path / "back"
    back.mkdir()
    assert flame("sync", f"box:{far}", back, **config).code == 0
    assert listed(back / "far") == listed(far)
    (far / "b.bin").write_bytes(b"x" * 300_000)
    os.utime(far / "b.bin", ns=(0, (back / "far" / "b.bin").stat().st_mtime_ns))
    (far / "kept.pyc").unlink()
    done = flame("sync", f"box:{far}", back, "--delete", **config)
    assert "0 files" in done.out
    assert not (back / "far" / "kept.pyc").exists()
    done = flame("sync", f"box:{far}", back, "--checksum", **config)
    assert (done.code, done.out[:7]) == (0, "1 file,")
    assert listed(back / "far") == listed(far)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("put a", 2, "required: DEST"),
        ("put a b", 1, "no server is named"),
        ("put -t {there} nowhere b", 1, "'nowhere' not found here"),
        ("get -t {there} /nowhere", 1, "'/nowhere' not found on localhost:"),
        ("sync a b", 1, "neither path is on the server; write the one that is there as TARGET:PATH"),
        ("sync :a :b", 1, "both paths are on the server"),
        ("sync -t {there} a :", 1, "names nothing there"),
        ("sync -t {there} a :b", 1, "'a' is not a folder here"),
        ("sync -t {there} :/etc/hostname b", 1, "'/etc/hostname' is not a folder"),
        ("sync -t {there} . :/nowhere/b", 1, "/nowhere does not exist on "),
        ("put -t {there} . /etc/hostname/b", 1, "/etc/hostname is not a folder on "),
        ("get -t {there} /etc/hostname /etc/passwd/b", 1, "/etc/passwd is not a folder here"),
        ("get -t {there} /" + "n" * 300, 1, "]' on localhost:"),
    ],
)
def test_what_cannot_be(words: str, code: int, says: str, server: FlameServer, tmp_path: Path) -> None:
    done = flame(*words.format(there=server.location).split(), cwd=tmp_path)
    assert (done.code, says in done.err) == (code, True), done
    assert done.err.count("\n") == 1 or code == 2
