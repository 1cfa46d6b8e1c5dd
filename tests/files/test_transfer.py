"""Files and folders to the far side and back: what arrives, where, through what, and what is refused."""

from __future__ import annotations

import contextlib
import math
import os
import random
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from farside import FlameServer, LiveApp
from flakylink import FlakyLink
from transfers import SERVERS, MiB, connected, far_side, parts, planted, snapshot

from flame_kernel.errors import TransferError
from flame_kernel.files import progress
from flame_kernel.remote.remote import Remote


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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return planted(tmp_path / "tree")


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
        (lambda pi, here: pi.put(here / "none", "x"), "none' not found here"),
        (lambda pi, here: pi.put("", "x"), "not the name of a file"),
        (lambda pi, here: pi.put(here, ""), "not the name of a file"),
        (lambda pi, here: pi.put(here, "a\0b"), "not the name of a file"),
        (lambda pi, here: pi.get("a\0b", here), "not the name of a file"),
        (lambda pi, here: pi.get("/none", here), "'/none' not found on localhost"),
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
    """A small file costs two, a larger one four, and one more where it may be there already; a folder no more than its
    batches."""
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
        limits = dict.fromkeys(works, 2) | {"put large": 5, "get large": 5, "put many": 5, "get many": 6}
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


@pytest.mark.parametrize("name", ["key", "child", "multiplex"])
def test_a_few_small_files_need_no_connection_of_their_own(name: str, tmp_path: Path) -> None:
    (tmp_path / "small").write_text("content")
    (tmp_path / "large").write_bytes(bytes(300_000))
    with far_side(name) as server, FlakyLink(server.location) as link, connected(server, link.location) as pi:
        small, there = tmp_path / "small", f"{server.cwd}/there"
        pi.put(small, there)  # which begins a conversation
        before, calls = link.accepted, pi.session._link.calls.connection.calls
        assert pi.put(small, there).skipped == 1
        assert pi.get(there, tmp_path / "back").files == 1
        assert pi.session._link.calls.connection.calls == calls + 4
        pi.sendfile(f"{there}2", b"more")
        assert pi.getfile(f"{there}2") == b"more"
        assert (tmp_path / "back").read_text() == "content"
        with pytest.raises(TransferError, match="not found"):
            pi.get(f"{there}-not", tmp_path / "back")
        assert link.accepted == before
        pi.put(tmp_path / "large", there)
        assert link.accepted == before + 1
        assert pi.get(there, tmp_path / "back").files == 1
        assert link.accepted == before + 2


def test_small_files_through_cuts(tmp_path: Path) -> None:
    """An answer that is lost ends the conversation; the file is there once and whole."""
    (tmp_path / "small").write_text("content")
    with far_side("key") as server, FlakyLink(server.location) as link, connected(server, link.location) as pi:
        for number in range(4):
            link.cut_at("down", 40 * number)
            pi.put(tmp_path / "small", f"{server.cwd}/{number}")
            assert pi.getfile(f"{server.cwd}/{number}") == b"content"
            assert not parts(server.cwd)


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
