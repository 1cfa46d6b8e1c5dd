"""Files and folders to the far side and back: what arrives, where, through what, and what is refused."""

from __future__ import annotations

import _thread
import contextlib
import hashlib
import math
import os
import random
import resource
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import farside
import psutil
import pytest
from farside import FlameServer, LiveApp, wait_until
from flakylink import FlakyLink

import flame
from flame_kernel import progress, transfer
from flame_kernel.agent import frames
from flame_kernel.certs import Authority
from flame_kernel.config import Location, Secret, Target
from flame_kernel.errors import ConnectionLost, TransferError, UnsafeAnswer
from flame_kernel.remote import Remote
from flame_kernel.tls import Tls

KEY = "a key for the tests of transfers"
MiB = 1 << 20

# name -> (kind of server, its options, the interpreter: "" for the tests' own)
SERVERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "child": ("flame", {}, ""),
    "key": ("flame", {"key": KEY}, ""),
    "unix": ("flame", {"unix": True}, ""),
    "process": ("app", {}, ""),
    "multiplex": ("flame", {"servertype": "multiplex", "key": KEY}, ""),
    "oldest": ("flame", {"key": KEY}, "oldest"),
}


@contextlib.contextmanager
def far_side(name: str, **options: Any) -> Iterator[FlameServer | LiveApp]:
    kind, own, version = SERVERS[name]
    python = farside.pythons()[0 if version == "oldest" else -1]
    server = (FlameServer if kind == "flame" else LiveApp)(python, **own, **options)
    try:
        yield server
    finally:
        server.stop()


def connected(server: FlameServer | LiveApp, location: str = "") -> Remote:
    return flame.connect(location or server.location, key=server.key)


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest) -> Iterator[tuple[FlameServer | LiveApp, Remote]]:
    with far_side(request.param) as server, connected(server) as pi:
        pi.session.ready.result(30)
        yield server, pi


@pytest.fixture(scope="module")
def plain() -> Iterator[tuple[FlameServer | LiveApp, Remote]]:
    """A server with a key, and cells in a child."""
    with far_side("key") as server, connected(server) as pi:
        pi.session.ready.result(30)
        yield server, pi


def snapshot(top: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below ``top``: kind, mode, time, and content or target."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        name = os.fsencode(path.relative_to(top)).decode("latin1")
        if stat.S_ISLNK(status.st_mode):
            found[name] = ("link", os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            found[name] = ("folder", stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        else:
            found[name] = ("file", stat.S_IMODE(status.st_mode), status.st_mtime_ns, path.read_bytes())
    return found


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".flame-*.part"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with one of everything that can be copied."""
    top = tmp_path / "tree"
    (top / "empty folder").mkdir(parents=True)
    (top / "deep" / "er" / "est").mkdir(parents=True)
    (top / "deep" / "er" / "est" / "leaf").write_text("leaf")
    (top / "empty").touch()
    (top / "large").write_bytes(random.Random(1).randbytes(3 * MiB + 17))
    (top / "exactly one chunk").write_bytes(random.Random(2).randbytes(frames.CHUNK))
    with open(top / "sparse", "wb") as file:
        file.seek(5 * MiB)
        file.write(b"end")
        file.truncate(8 * MiB)
    for name in ("späß 🔥", "line\nbreak", "-rf", " blank ", "\\", "*", "[x]", "n" * 255, os.fsdecode(b"\xff\xfe raw")):
        (top / name).write_text(name, errors="surrogateescape")
    (top / "link").symlink_to("deep/er/est/leaf")
    (top / "deep" / "up").symlink_to("../large")
    (top / "dangling").symlink_to("not there")
    (top / "private").write_text("x")
    (top / "private").chmod(0o400)
    (top / "script").write_text("#!/bin/sh")
    (top / "script").chmod(0o755)
    (top / "deep" / "er").chmod(0o555)
    os.utime(top / "script", ns=(10**18, 10**18 + 123_456_789))
    os.utime(top / "deep", ns=(10**18, 10**18 + 987_654_321))
    return top


def test_a_tree_comes_back_as_it_went(site: tuple[FlameServer, Remote], tree: Path, tmp_path: Path) -> None:
    server, pi = site
    there = server.cwd / "a tree"
    try:
        sent = pi.put(tree, there)
        assert snapshot(there) == snapshot(tree)
        assert (sent.skipped, sent.notes) == (0, ())
        back = pi.get(there, tmp_path / "back")
        assert snapshot(tmp_path / "back") == snapshot(tree)
        assert back.files == sent.files == sum(kind[0] != "folder" for kind in snapshot(tree).values())
        assert (tmp_path / "back" / "sparse").stat().st_blocks * 512 < 5 * MiB, "holes stay holes"
        assert not parts(server.cwd)
        assert not parts(tmp_path)
        # Again, and nothing has to come but what is too small to be worth a question.
        again = pi.put(str(tree) + "/.", there)
        assert (again.files, again.skipped) == (0, sent.files)
        assert again.bytes < 10_000
        again = pi.get(str(there) + "/.", tmp_path / "back")
        assert (again.files, again.skipped) == (0, sent.files)
        assert again.bytes < 10_000
    finally:
        for folder in (server.cwd, tmp_path):
            for closed in folder.rglob("er"):
                closed.chmod(0o755)


# -- where it goes: as cp has it ---------------------------------------------------------------------------------------

DESTINATIONS = [
    (["a.txt"], "new.txt"),
    (["a.txt"], "old.txt"),
    (["a.txt"], "dir"),
    (["a.txt"], "dir/"),
    (["a.txt"], "."),
    (["a.txt", "b.txt"], "dir"),
    (["a.txt", "b.txt"], "new"),
    (["a.txt"], "missing/"),
    (["a.txt"], "missing/new"),
    (["a.txt"], "full"),
    (["d"], "new"),
    (["d"], "new/"),
    (["d"], "dir"),
    (["d/"], "dir/"),
    (["d/."], "dir"),
    (["d", "a.txt"], "dir"),
    (["d"], "old.txt"),
    (["d"], "full"),
    (["d/sub/../c.txt"], "dir"),
    (["*.txt"], "dir"),
    (["[ab].txt"], "dir"),
    (["d/*"], "dir"),
    (["d/.*"], "dir"),
    (["*.none"], "dir"),
    (["nothing"], "dir"),
    (["a.txt", "nothing"], "dir"),
    (["link"], "new.txt"),
    (["a.txt"], "to-old"),
    (["odd[1].txt"], "dir"),
]


def _sources(top: Path) -> None:
    (top / "d" / "sub").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "odd[1].txt", "d/c.txt", "d/.hidden", "d/sub/e.txt"):
        (top / name).write_text(f"from {name}")
    (top / "link").symlink_to("a.txt")


def _destinations(top: Path) -> None:
    (top / "dir").mkdir(parents=True)
    (top / "full" / "a.txt").mkdir(parents=True)  # a folder where a file would go
    (top / "full" / "d").write_text("a file where a folder would go")
    (top / "old.txt").write_text("old")
    (top / "to-old").symlink_to("old.txt")


def _content(top: Path) -> dict[str, Any]:
    return {name: what[-1] if what[0] != "folder" else "" for name, what in snapshot(top).items()}


@pytest.mark.parametrize("way", ["put", "get"])
def test_destinations_are_those_of_cp(plain: tuple[FlameServer, Remote], tmp_path: Path, way: str) -> None:
    server, pi = plain
    for number, (sources, destination) in enumerate(DESTINATIONS):
        mine, model = tmp_path / f"{way}{number}", tmp_path / f"cp{number}"
        here, there = mine, server.cwd / f"{way}{number}"
        source, target = (here, there) if way == "put" else (there, here)
        for top in (source, model / "s"):
            _sources(top)
        for top in (target, model / "t"):
            _destinations(top)
        words = " ".join(one if "*" in one or one.startswith("[") else f"'{one}'" for one in sources)
        # -L for what is named itself, as ours: what is inside stays a link.
        done = subprocess.run(
            ["bash", "-c", f"cp -rH {words} '{model}/t/{destination}'"], cwd=model / "s", capture_output=True, text=True
        )
        case = f"{way} {sources} {destination}"
        named = [f"{source}/{one}" for one in sources]
        if done.returncode:
            with pytest.raises(TransferError) as error:
                getattr(pi, way)(*named, f"{target}/{destination}")
            assert "\n" not in str(error.value)
            if len(sources) == 1:
                assert _content(target) == _content(model / "t"), f"{case}: nothing is half done"
        else:
            getattr(pi, way)(*named, f"{target}/{destination}")
            assert _content(target) == _content(model / "t"), case
        assert not parts(target)


def test_two_of_one_name_are_refused_before_anything_is_sent(plain: tuple[FlameServer, Remote], tmp_path: Path) -> None:
    _, pi = plain
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    (tmp_path / "to").mkdir()
    with pytest.raises(TransferError, match="would both become"):
        pi.put(tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "to")
    with pytest.raises(TransferError, match="would both become"):
        pi.get(f"{tmp_path}/*/x", tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_paths_there_are_those_of_the_cells(tmp_path: Path) -> None:
    """Relative ones are of the folder that the cells are in, ``~`` is the home of the server."""
    home = tmp_path / "home"
    home.mkdir()
    with far_side("child", env={"HOME": str(home)}) as server, connected(server) as pi:
        (tmp_path / "x").write_text("x")
        (tmp_path / "elsewhere").mkdir()
        pi.put(tmp_path / "x", "one")
        assert (server.cwd / "one").read_text() == "x"
        pi.execute(f"import os; os.chdir({str(tmp_path / 'elsewhere')!r})")
        pi.put(tmp_path / "x", "two")
        pi.put(tmp_path / "x", "~/three")
        pi.put(tmp_path / "x", "~")
        assert (tmp_path / "elsewhere" / "two").read_text() == "x"
        assert sorted(one.name for one in home.iterdir() if not one.name.startswith(".")) == ["three", "x"]
        pi.get("two", "~/three", dst=tmp_path / "home")
        pi.get("~", tmp_path / "copy")
        assert (tmp_path / "copy" / "three").read_text() == "x"
        assert pi.getfile("two") == b"x"
        pi.execute("os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')")
        with pytest.raises(TransferError, match="give a path from / or ~"):
            pi.put(tmp_path / "x", "y")
        pi.execute("os.chdir('/')")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda pi, here: pi.put("to"), "name what to copy and where to"),
        (lambda pi, here: pi.put(here / "none", "x"), "there is no .*none here; check its name"),
        (lambda pi, here: pi.put("", "x"), "no name of a file"),
        (lambda pi, here: pi.put(here, ""), "no name of a file"),
        (lambda pi, here: pi.put(here, "a\0b"), "no name of a file"),
        (lambda pi, here: pi.get("a\0b", here), "no name of a file"),
        (lambda pi, here: pi.get("/none", here), "there is no /none at localhost"),
        (lambda pi, here: pi.get("/etc/hostname", ""), "no usable name"),
        (lambda pi, here: pi.get("/dev/zero", here), "/dev/zero at .* is neither a file nor a folder"),
        (lambda pi, here: pi.put("/dev/zero", "x"), "/dev/zero is neither a file nor a folder"),
        (lambda pi, here: pi.put(here / "f", str(here / "pipe")), "neither a file nor a folder"),
        (lambda pi, here: pi.get("/etc/hostname", here / "pipe"), "neither a file nor a folder"),
        (lambda pi, here: pi.put(here, str(here / "inside")), "into itself"),
        (lambda pi, here: pi.get(here, here / "inside"), "into itself"),
        (lambda pi, here: pi.getfile("/none"), "cannot read /none at .*: no such file"),
        (lambda pi, here: pi.getfile("/"), "cannot read / at .*: is a directory"),
        (lambda pi, here: pi.sendfile("/none/x", b""), "cannot write /none/x at .*: no such file"),
        (lambda pi, here: pi.sendfile("/", b""), "cannot write / at"),
    ],
)
def test_bad_input_is_one_sentence(
    plain: tuple[FlameServer, Remote], tmp_path: Path, call: Callable[[Remote, Path], Any], words: str
) -> None:
    (tmp_path / "f").write_text("f")
    before = snapshot(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TransferError, match=words) as error:
        call(plain[1], tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "pipe").unlink()
    assert snapshot(tmp_path) == before


def test_what_cannot_be_copied_is_named_and_the_rest_is_copied(
    plain: tuple[FlameServer, Remote], tmp_path: Path
) -> None:
    server, pi = plain
    top = tmp_path / "odd"
    top.mkdir()
    (top / "good").write_text("good")
    (top / "out").symlink_to("/etc/passwd")
    (top / "up").symlink_to("../odd/good")
    (top / "over").symlink_to("good/../../x")
    os.mkfifo(top / "pipe")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(os.path.relpath(top / "socket"))
        for result in (pi.put(top, server.cwd / "odd"), pi.get(top, tmp_path / "back")):
            assert result.files == 1
            noted = {note.partition(":")[0] for note in result.notes}
            assert noted == {"out", "up", "over", "pipe", "socket"}
    assert _content(server.cwd / "odd") == _content(tmp_path / "back") == {"good": b"good"}


def test_files_of_the_kernel_have_content_and_no_size(plain: tuple[FlameServer, Remote], tmp_path: Path) -> None:
    _, pi = plain
    pi.get("/proc/version", tmp_path)
    assert (tmp_path / "version").read_text() == Path("/proc/version").read_text()


def test_a_failure_in_between_is_told_at_the_end(plain: tuple[FlameServer, Remote], tmp_path: Path) -> None:
    """A file where a folder has to be: what is below it cannot come, all else does."""
    server, pi = plain
    for name in ("a/1", "b/2", "c/3"):
        (tmp_path / "src" / name).parent.mkdir(parents=True)
        (tmp_path / "src" / name).write_text(name)
    for target, copy in ((server.cwd / "spoilt", pi.put), (tmp_path / "spoilt", pi.get)):
        target.mkdir()
        (target / "b").write_text("a file")
        with pytest.raises(TransferError, match=r"of 4 files could not be copied: b: .*in the place of the folder"):
            copy(str(tmp_path / "src") + "/.", target)
        assert _content(target) == {"a": "", "a/1": b"a/1", "b": b"a file", "c": "", "c/3": b"c/3"}


# -- Flame's own words -------------------------------------------------------------------------------------------------


def test_sendfile_and_getfile(site: tuple[FlameServer, Remote]) -> None:
    server, pi = site
    for content in (b"", b"short", random.Random(3).randbytes(5 * MiB + 1), bytes(3 * MiB)):
        pi.sendfile("a file", content)
        assert (server.cwd / "a file").read_bytes() == content
        assert pi.getfile("a file") == content
    assert stat.S_IMODE((server.cwd / "a file").stat().st_mode) == 0o600
    (server.cwd / "a file").chmod(0o644)
    pi.sendfile(server.cwd / "a file", memoryview(b"again"))
    assert stat.S_IMODE((server.cwd / "a file").stat().st_mode) == 0o644
    assert not parts(server.cwd)


# -- a link that breaks ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes a moment."""
    path = tmp_path_factory.mktemp("big") / "big"
    with open(path, "wb") as file:
        for seed in range(24):
            file.write(random.Random(seed).randbytes(MiB))
    return path


def digest(path: Path) -> str:
    total = hashlib.blake2b()
    with open(path, "rb") as file:
        while piece := file.read(MiB):
            total.update(piece)
    return total.hexdigest()


@pytest.mark.parametrize("name", ["key", "multiplex"])
@pytest.mark.parametrize("way", ["put", "get"])
def test_a_file_goes_on_after_a_cut(name: str, way: str, big: Path, tmp_path: Path) -> None:
    with far_side(name) as server, FlakyLink(server.location) as link, connected(server, link.location) as pi:
        pi.session.ready.result(30)
        source, target = (big, server.cwd / "f") if way == "put" else (tmp_path / "f", tmp_path / "g")
        if way == "get":
            shutil.copyfile(big, source)
        for how in ("rst", "fin") if (name, way) == ("key", "put") else ("rst",):
            target.unlink(missing_ok=True)
            before = link.cuts
            link.cut_at("up" if way == "put" else "down", 10 * MiB, how)  # type: ignore[arg-type]
            result = getattr(pi, way)(source, target)
            assert link.cuts == before + 1
            assert digest(target) == digest(big)
            # What was under way at the cut comes again, and nothing before it.
            assert result.bytes < big.stat().st_size + 8 * MiB
            assert not parts(target.parent)


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_tree_through_many_cuts(way: str, tree: Path, tmp_path: Path) -> None:
    """Each connection is cut at some point, folders and links and small files among them: all of it arrives, once."""
    (tree / "deep" / "er").chmod(0o755)
    for number in range(200):
        (tree / f"small {number}").write_text(str(number) * 300)
    with far_side("key") as server, FlakyLink(server.location) as link, connected(server, link.location) as pi:
        pi.session.ready.result(30)
        target = (server.cwd if way == "put" else tmp_path) / "there"
        link.cut_every(700_000)
        result = getattr(pi, way)(tree, target)
        link.cut_every(None)
        assert link.cuts >= 2
        assert snapshot(target) == snapshot(tree)
        assert result.files + result.skipped == sum(what[0] != "folder" for what in snapshot(tree).values())


def test_an_outage_of_200_ms(big: Path, tmp_path: Path) -> None:
    with far_side("key") as server, FlakyLink(server.location) as link, connected(server, link.location) as pi:
        pi.session.ready.result(30)

        def outage() -> None:
            start = link.passed["up"]
            wait_until(lambda: link.passed["up"] > start + 3 * MiB, "some of the file")
            link.down()
            time.sleep(0.2)  # that is how long it lasts
            link.up()

        thread = threading.Thread(target=outage)
        thread.start()
        result = pi.put(big, server.cwd / "f")
        thread.join()
        assert link.cuts
        assert digest(server.cwd / "f") == digest(big)
        assert result.bytes < big.stat().st_size + 8 * MiB


@pytest.mark.parametrize("way", ["put", "get"])
def test_a_later_call_goes_on_where_one_gave_up(
    way: str, big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PATIENCE", 0.3)
    source = tmp_path / "source"
    shutil.copyfile(big, source)
    with far_side("key") as server, FlakyLink(server.location) as link, connected(server, link.location) as pi:
        pi.session.ready.result(30)
        target = (server.cwd if way == "put" else tmp_path) / "target"

        def fail() -> None:
            def down() -> None:
                wait_until(lambda: not link.cut_is_due, "the cut")
                link.down()

            link.cut_at("up" if way == "put" else "down", 16 * MiB)
            thread = threading.Thread(target=down)
            thread.start()
            with pytest.raises((ConnectionLost, transfer.CannotConnect)):
                getattr(pi, way)(source, target)
            thread.join()
            assert not target.exists()
            link.up()

        fail()
        wait_until(lambda: len(parts(target.parent)) == 1, "the part of the file")
        assert stat.S_IMODE(parts(target.parent)[0].stat().st_mode) == 0o600
        result = getattr(pi, way)(source, target)
        assert digest(target) == digest(source)
        assert result.bytes < source.stat().st_size / 2 + 4 * MiB
        assert not parts(target.parent)
        # A part that is not the beginning of the file that it says is of no use, and no harm.
        target.unlink()
        fail()
        (part,) = wait_until(lambda: parts(target.parent), "the part of the file")
        with open(part, "r+b") as file:
            file.write(b"spoilt")
        result = getattr(pi, way)(source, target)
        assert digest(target) == digest(source)
        assert result.bytes >= source.stat().st_size


def test_ctrl_c_ends_it_and_keeps_the_part(big: Path, tmp_path: Path) -> None:
    with (
        far_side("key") as server,
        FlakyLink(server.location, rate=20 * MiB) as link,
        connected(server, link.location) as pi,
    ):
        pi.session.ready.result(30)
        source = tmp_path / "source"
        shutil.copyfile(big, source)
        for way, direction, target in (("put", "up", server.cwd / "f"), ("get", "down", tmp_path / "f")):

            def interrupt(direction: Any = direction) -> None:
                start = link.passed[direction]
                wait_until(lambda: link.passed[direction] > start + 4 * MiB, "some of the file")
                _thread.interrupt_main()

            thread = threading.Thread(target=interrupt)
            thread.start()
            started = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                getattr(pi, way)(source, target)
            assert time.monotonic() - started < 3
            thread.join()
            assert not target.exists()
            wait_until(lambda target=target: parts(target.parent), "the part of the file")
        assert pi.evaluate("1 + 1") == 2


# -- what a connection carries -----------------------------------------------------------------------------------------


def _conversation() -> tuple[frames.Frames, frames.Frames, bytearray, list[bytes]]:
    """Two ends with one key; what the client has sent so far, and each of its frames."""
    key = frames.connection_key(b"secret", b"c" * 32, b"s" * 32)
    box = frames.Box()
    client = frames.Frames(box.send, box.receive, key, b"client")
    sent: list[bytes] = []
    for size in (3, 0, 70_000):
        client.room[:size] = os.urandom(size)
        client.send_room(size)
        sent.append(bytes(box.sent))
        box.sent.clear()
    client.send_control({"op": "done"})
    sent.append(bytes(box.sent))
    return client, frames.Frames(box.send, box.receive, key, b"server"), box.sent, sent


def _read_all(data: bytes, key: bytes | None = None, side: bytes = b"server") -> int:
    box = frames.Box(data)
    reader = frames.Frames(box.send, box.receive, key or frames.connection_key(b"secret", b"c" * 32, b"s" * 32), side)
    count = 0
    while not box.empty:
        reader.receive()
        count += 1
    return count


def test_nothing_of_a_connection_can_be_changed_dropped_repeated_or_turned_back() -> None:
    _, _, _, sent = _conversation()
    whole = b"".join(sent)
    assert _read_all(whole) == 4
    rng = random.Random(4)
    for at in [*range(200), *(rng.randrange(len(whole)) for _ in range(300))]:
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << rng.randrange(8)
        with pytest.raises(frames.Damaged):
            _read_all(bytes(spoilt))
    for wrong in ([0, 2, 3], [0, 0, 1, 2, 3], [1, 0, 2, 3], [3], [0, 1, 3]):
        with pytest.raises(frames.Damaged):
            _read_all(b"".join(sent[index] for index in wrong))
    with pytest.raises(frames.Damaged):
        _read_all(whole, side=b"client")
    for other in (
        frames.connection_key(None, b"c" * 32, b"s" * 32),
        frames.connection_key(b"Secret", b"c" * 32, b"s" * 32),
        frames.connection_key(b"secret", b"c" * 32, b"t" * 32),
        frames.connection_key(b"secret", b"d" * 32, b"s" * 32),
    ):
        with pytest.raises(frames.Damaged):
            _read_all(whole, other)


def test_a_connection_with_the_wrong_key_is_refused(big: Path) -> None:
    """One who knows the traffic and not the key cannot answer a taken-over connection."""
    with far_side("key") as server, connected(server) as pi:
        other = "x" + (server.key or "")
        with pytest.raises(flame.FlameError, match="key"):
            flame.connect(server.location, key=other)
        real = frames.connection_key
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transfer, "PATIENCE", 0.0)
            patch.setattr(frames, "connection_key", lambda secret, ours, theirs: real(None, ours, theirs))
            with pytest.raises((UnsafeAnswer, ConnectionLost)):
                pi.put(big, "f")
        assert pi.getfile("/etc/hostname") == Path("/etc/hostname").read_bytes()


def test_through_tls(tmp_path: Path, big: Path) -> None:
    """The same inside mutual TLS: the taken-over connection is the one that was shaken hands on."""
    authority = Authority(tmp_path / "ca")
    authority.server(["localhost"], days=30)
    authority.client("me")
    own, ca = str(tmp_path / "ca" / "server.pem"), str(tmp_path / "ca" / "ca.pem")
    env: dict[str, str | None] = {"PYRO_SSL": "true", "PYRO_SSL_SERVERCERT": own}
    env |= {"PYRO_SSL_REQUIRECLIENTCERT": "true", "PYRO_SSL_CACERTS": ca}
    with far_side("key", env=env) as server:
        target = Target(
            Location.parse(server.location),
            key=Secret(KEY.encode()),
            tls=Tls(ca=ca, certificate=str(tmp_path / "ca" / "me.pem")),
        )
        with Remote(target) as pi:
            pi.put(big, server.cwd / "f")
            pi.get(server.cwd / "f", tmp_path / "f")
            assert digest(tmp_path / "f") == digest(big)


# -- no room -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Files of this process end at ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(big: Path, tmp_path: Path) -> None:
    with far_side("process") as server, connected(server) as pi:
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({}, -1))"
        shutil.copyfile(big, server.cwd / "source")
        pi.execute(limit.format(5 * MiB))
        with pytest.raises(TransferError, match=r"no room at .* for big: .*; make some, and begin again") as error:
            pi.put(big, server.cwd / "f")
        assert error.value.code == "full"
        with pytest.raises(TransferError, match=r"cannot write .*/f at .*: file too large"):
            pi.sendfile(server.cwd / "f", big.read_bytes())
        pi.execute(limit.format(-1))
        with files_limited_to(5 * MiB), pytest.raises(TransferError, match=r"no room here for f: .*") as error:
            pi.get(server.cwd / "source", tmp_path / "f")
        assert error.value.code == "full"
        for folder in (server.cwd, tmp_path):
            assert not (folder / "f").exists()
            assert not parts(folder)
        pi.put(big, server.cwd / "f")
        pi.get(server.cwd / "f", tmp_path / "f")
        assert digest(tmp_path / "f") == digest(big)


def test_a_file_that_cannot_fit_is_refused_before_it_comes(tmp_path: Path) -> None:
    """A hole takes no room where it is; but the size is what a disk must have room for."""
    free = shutil.disk_usage(tmp_path).free
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, free + (1 << 40))
    with far_side("child") as server, connected(server) as pi:
        for copy, target in ((pi.put, server.cwd / "f"), (pi.get, tmp_path / "f")):
            started = time.monotonic()
            with pytest.raises(TransferError, match=r"no room .*: \d+ bytes are needed and \d+ are free"):
                copy(huge, target)
            assert time.monotonic() - started < 5
            assert not target.exists()
            assert not parts(target.parent)


# -- a far side that means harm ----------------------------------------------------------------------------------------

SPOIL = """
import sys
files = next(m for n, m in sys.modules.items() if n.startswith("flame_agent_") and n.endswith(".files"))
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
        ("find", "return {'found': 'x'}", "not listed"),
        ("find", "return {}", "not listed"),
        ("find", "return {'found': [dict(found, kind='socket')]}", "there is no"),
        ("find", "return {'found': [dict(found, size=2 ** 80)]}", "no file is"),
        ("read", "return {'at': 6, 'last': True}", "ends before it began"),
        ("read", "out(size=6); data(7); return {}", "more bytes came than were announced"),
        ("read", "out(size=6); data(5); return {}", "5 bytes of 6 came"),
        ("read", "out(size=6); out(size=6); return {}", "begins twice"),
        ("read", "data(6); return {}", "content of no file"),
        ("read", "out(size=-6); return {}", "no file is"),
        ("read", "out(size=1 << 61); data(7); return {}", "no room here"),
        ("read", "out(size='6'); return {}", "no file is"),
        ("read", "return {'error': ['x'] * 9, 'code': {}}", "x"),
        ("read", "self._out._send_frame(ord('Q'), 5)", "kind 81"),
        ("read", "self._out.room[:3] = b'[3]'; self._out._send_frame(ord('J'), 3)", "no object"),
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


# -- costs -------------------------------------------------------------------------------------------------------------


def test_memory_is_constant(tmp_path: Path) -> None:
    """P6, in small: a file many times as large as what either side may take."""
    source = tmp_path / "source"
    piece = random.Random(5).randbytes(MiB)
    with open(source, "wb") as file:
        for _ in range(64):
            file.write(piece)
        file.seek(400 * MiB)
        file.write(piece)
    with far_side("key") as server, connected(server) as pi:
        pi.session.ready.result(30)
        pi.sendfile("warm", b"x" * 3 * MiB)
        here, there = psutil.Process(), psutil.Process(server.pid)
        base = here.memory_info().rss, there.memory_info().rss
        peak = list(base)
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                for index, process in enumerate((here, there)):
                    peak[index] = max(peak[index], process.memory_info().rss)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            pi.put(source, server.cwd / "up")
            pi.get(server.cwd / "up", tmp_path / "back")
        finally:
            over.set()
            thread.join()
        assert [top - bottom < 16 * MiB for top, bottom in zip(peak, base, strict=True)] == [True, True]
        assert subprocess.run(["cmp", source, tmp_path / "back"]).returncode == 0
        assert (server.cwd / "up").stat().st_blocks * 512 < 90 * MiB


def test_round_trips(tmp_path: Path) -> None:
    """A file costs four, and one more where it may be there already; a folder no more than its batches."""
    round_trip = 0.06
    many = tmp_path / "many"
    for number in range(300):
        (many / str(number % 7)).mkdir(parents=True, exist_ok=True)
        (many / str(number % 7) / str(number)).write_text(str(number))
    (tmp_path / "large").write_bytes(random.Random(6).randbytes(300_000))
    with far_side("child") as server, FlakyLink(server.location) as link, connected(server, link.location) as pi:
        pi.session.ready.result(30)
        pi.sendfile("warm", b"")

        def seconds(work: Callable[[str], Any], name: str) -> float:
            started = time.monotonic()
            work(name)
            return time.monotonic() - started

        works: dict[str, Callable[[str], Any]] = {
            "put small": lambda name: pi.put(many / "0" / "0", f"{server.cwd}/{name}"),
            "get small": lambda name: pi.get(many / "0" / "0", tmp_path / name),
            "put large": lambda name: pi.put(tmp_path / "large", f"{server.cwd}/{name}"),
            "get large": lambda name: pi.get(tmp_path / "large", tmp_path / name),
            "put many": lambda name: pi.put(many, f"{server.cwd}/{name}"),
            "get many": lambda name: pi.get(many, tmp_path / name),
            "sendfile": lambda name: pi.sendfile(f"{server.cwd}/{name}", b"x"),
            "getfile": lambda name: pi.getfile(many / "0" / "0"),
        }
        # The link answers the connection itself: one more in life.
        limits = dict.fromkeys(works, 4) | {"put large": 5, "put many": 6, "get many": 7}
        counts = dict.fromkeys(works, math.inf)
        for name, work in works.items():
            for attempt in range(4):  # a busy machine only adds to it
                link.delay = 0.0
                work_alone = seconds(work, f"{name} at once {attempt}")
                link.delay = round_trip / 2
                from_afar = seconds(work, f"{name} from afar {attempt}")
                counts[name] = min(counts[name], (from_afar - work_alone) / round_trip)
                if counts[name] < limits[name] + 1:
                    break
        print({name: round(count, 1) for name, count in counts.items()})
        for name, limit in limits.items():
            assert counts[name] < limit + 2.5, counts


def test_a_bar_counts_all_bytes(
    plain: tuple[FlameServer, Remote], tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server, pi = plain
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    (tree / "deep" / "er").chmod(0o755)
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    bars: list[Any] = []
    close = progress.Tally.close
    monkeypatch.setattr(progress.Tally, "close", lambda tally: (bars.append(tally._bar), close(tally))[1])
    pi.put(tree, server.cwd / "bar", progress=True)
    pi.get(server.cwd / "bar", tree.parent / "bar", progress=True)
    pi.put(str(tree) + "/.", server.cwd / "bar", progress=True)
    assert [(bar.n, bar.total) for bar in bars] == [(size, size)] * 3
    shown = capsys.readouterr().err
    assert "put: 100%" in shown
    assert "get: 100%" in shown
    pi.put(tree, server.cwd / "bar")  # nobody sees it: stderr is no terminal here
    assert not capsys.readouterr().err
