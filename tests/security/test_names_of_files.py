"""Names, kinds and modes that a hostile far side answers with: nothing outside of the chosen folder is touched."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_files import HostileFar, content, entry, everything, found, hostile_session, outside, watched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flame_kernel.agent.wire import frames
from flame_kernel.agent.wire.files import file_names, receiving, trees
from flame_kernel.errors import FlameError, TransferError, UnsafeAnswer
from flame_kernel.files import destination, sync, transfer
from flame_kernel.remote import modules


class Home:
    """A user's home with things in it, and ``out``, the folder that is chosen, in which links lead out of it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.out = top / "out"
        (self.out / "sub").mkdir(parents=True)
        (top / "outside").mkdir()
        (top / "bashrc").write_text("# the user's own\n")
        (top / "outside" / "secret").write_text("secret")
        (top / "outside" / "secret").chmod(0o600)
        (self.out / "kept").write_text("kept")
        (self.out / "link").symlink_to(top / "outside")
        (self.out / "filelink").symlink_to(top / "bashrc")
        (self.out / "sub" / "up").symlink_to("../..")
        self.look()

    def look(self) -> None:
        """What is outside now is to stay."""
        self._before = self._around()

    def _around(self) -> dict[str, Any]:
        seen = everything(self.top)
        inside = [name for name in seen if name == "out" or name.startswith("out/")]
        for name in inside:
            del seen[name]
        return seen

    def check(self) -> None:
        """Nothing outside is other than before, and nothing inside is what must not be."""
        assert self._around() == self._before
        for path in self.out.rglob("*"):
            status = path.lstat()
            if not stat.S_ISLNK(status.st_mode):
                # The sticky bit is our own mark of a folder that is not whole yet.
                assert status.st_mode & 0o7000 == 0 or stat.S_IMODE(status.st_mode) == 0o1700, path
                assert status.st_nlink == 1 or stat.S_ISDIR(status.st_mode), path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    one = Home(tmp_path / "home")
    yield one
    one.check()


def answers(**by_op: Any) -> Callable[[dict[str, Any], frames.Frames], Any]:
    """Answer each op with what is given for it: a dict, or a function of the request and the link."""

    def answer(request: dict[str, Any], link: frames.Frames) -> Any:
        one = by_op.get(request["op"], {})
        return one(request, link) if callable(one) else one

    return answer


def send(data: bytes = b"stolen", mode: int = 0o644) -> Callable[[dict[str, Any], frames.Frames], Any]:
    return lambda request, link: content(link, data, mode)


LEADING_ELSEWHERE: list[Any] = [
    "{top}/bashrc",
    "sub/../../bashrc",
    "../bashrc",
    "..",
    ".",
    "",
    "/",
    "//bashrc",
    "link/secret",
    "./x",
    "x/",
    "x\0",
    "\0",
    "\ud800",
    "\udc2e\udc2e",
    "\udc2fetc",
    None,
    7,
    ["x"],
]


@pytest.mark.parametrize("name", LEADING_ELSEWHERE, ids=ascii)
def test_a_pattern_gives_names_of_one_component(home: Home, monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    name = name.replace("{top}", str(home.top)) if isinstance(name, str) else name
    before = everything(home.out)
    patterns = ["/data/*", "/data/**", "/data/[!a]*", "/data/*/*", "/data/?*"]
    for pattern, kind in itertools.product(patterns, ("file", "folder")):
        listed = {"entries": [entry("x")], "last": True}
        session = hostile_session(monkeypatch, answers(find={"found": [found(name, kind)]}, list=listed, read=send()))
        with watched() as events, pytest.raises((UnsafeAnswer, TransferError)) as error:
            transfer.get(session, [pattern], home.out)
        assert "\n" not in str(error.value)
        assert not outside(events, home.out)
        assert everything(home.out) == before


@pytest.mark.parametrize("name", LEADING_ELSEWHERE, ids=ascii)
@pytest.mark.parametrize("way", ["get", "sync"])
def test_a_folder_lists_names_of_one_component(
    home: Home, monkeypatch: pytest.MonkeyPatch, name: Any, way: str
) -> None:
    name = name.replace("{top}", str(home.top)) if isinstance(name, str) else name
    before = everything(home.out)
    for path in ([name], ["sub", name], [name, "x"], ["sub", "up", name], [[name]], name):
        if path == ["x"]:
            continue  # is one component
        for kind in ("file", "folder", "link", "end", "odd"):
            bad = dict(entry(kind=kind, target="x"), path=path)
            session = hostile_session(
                monkeypatch,
                answers(
                    find={"found": [found("data", "folder")]},
                    where=dict(found("data", "folder"), parent="folder", path="/data"),
                    list={"entries": [bad], "last": True},
                    read=send(),
                ),
            )
            # A folder that cannot be read is listed with one odd entry, which has no name.
            unread = kind == "odd" and path in ([""], ["sub", ""], ["sub", "up", ""])
            refused = contextlib.nullcontext() if unread else pytest.raises(UnsafeAnswer)
            with watched() as events, refused:
                if way == "get":
                    transfer.get(session, ["/data/."], home.out)
                else:
                    sync.sync_down(session, "/data/", str(home.out), sync.SyncOptions())
            assert not outside(events, home.out), (path, kind)
            assert everything(home.out) == before, (path, kind)


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a"), entry("a")],
        [entry("b"), entry("a")],
        [entry("a", kind="folder"), entry("b"), entry("a", "x")],
        [entry("a", kind="folder"), entry("a", kind="end"), entry("a", "x")],
        [entry("a", kind="link", target="b"), entry("a", kind="folder")],
        [entry("\udcc3\udca9"), entry("\u00e9")],  # two texts, and one name
    ],
)
def test_a_folder_lists_each_name_once_and_in_order(
    home: Home, monkeypatch: pytest.MonkeyPatch, entries: list[Any]
) -> None:
    session = hostile_session(
        monkeypatch,
        answers(find={"found": [found("d", "folder")]}, list={"entries": entries, "last": True}, read=send()),
    )
    with pytest.raises(UnsafeAnswer, match="twice, or out of order"):
        transfer.get(session, ["/data"], home.out)


def test_a_list_does_not_begin_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    session = hostile_session(
        monkeypatch,
        answers(
            find={"found": [found("d", "folder")]},
            list={"entries": [entry("a"), entry("b")], "last": False},
            read=send(),
        ),
    )
    with pytest.raises(UnsafeAnswer, match="twice, or out of order"):
        transfer.get(session, ["/data"], home.out)


def test_names_that_are_odd_and_names_are_copied_and_shown_escaped(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(["a\nb", "\x1b[31mred", "\u202egpj.exe", "C:", "back\\slash", "\udcff", "NUL", "e.", "\x7f"])
    names.sort(key=lambda name: file_names.from_wire(name))
    entries = [entry(name) for name in names]
    entries.insert(1, entry(names[0] + "\x1b", kind="odd", reason="\x1b]0;title\x07\nno"))
    session = hostile_session(
        monkeypatch,
        answers(find={"found": [found("d", "folder")]}, list={"entries": entries, "last": True}, read=send()),
    )
    result = transfer.get(session, ["/data/."], home.out)
    assert {os.fsencode(one.name) for one in home.out.iterdir()} >= {file_names.from_wire(name) for name in names}
    assert str(result).isprintable() or all(line.isprintable() for line in str(result).splitlines())
    assert len(result.notes) == 1


@pytest.mark.parametrize(
    "name",
    [
        b"C:",
        b"C:x",
        b"a\\b",
        b"..\\x",
        b"NUL",
        b"nul.txt",
        b"COM1",
        "COM\u00b9".encode(),
        b"CONIN$",
        b"x.",
        b"x ",
        b"a\nb",
    ],
)
def test_names_that_are_none_on_windows(name: bytes) -> None:
    file_names.check_name(name, windows=False)
    with pytest.raises(file_names.Refused, match="not a possible file name on Windows"):
        file_names.check_name(name, windows=True)


@pytest.mark.parametrize("target", [b"..\\..\\x", b"C:x", b"\\x", b"a\\..\\..\\x", b"x:y"])
def test_links_that_lead_out_on_windows(target: bytes) -> None:
    file_names.check_link((b"a",), target, windows=False)
    with pytest.raises(file_names.Refused, match="leads out of the folder"):
        file_names.check_link((b"a",), target, windows=True)


@pytest.mark.parametrize(
    "target", ["..", "../x", "/x", "{top}/outside", "a/../../x", "./../x", "d/../../outside", "", "\0", "\ud800", None]
)
@pytest.mark.parametrize("below", [False, True])
def test_links_that_lead_out_are_not_made(
    home: Home, monkeypatch: pytest.MonkeyPatch, target: Any, below: bool
) -> None:
    target = target.replace("{top}", str(home.top)) if isinstance(target, str) else target
    if below and isinstance(target, str) and target.startswith("."):
        target = f"../{target}"
    path = ("d", "l") if below else ("l",)
    entries = [entry("d", kind="folder"), entry(*path, kind="link", target=target)]
    session = hostile_session(
        monkeypatch,
        answers(find={"found": [found("d", "folder")]}, list={"entries": entries, "last": True}, read=send()),
    )
    refused = r"leads out of the folder|is not a file name|is no name|leads to no path|wrong shape"
    with pytest.raises((TransferError, UnsafeAnswer), match=refused):
        transfer.get(session, ["/data/."], home.out)
    assert not (home.out / Path(*path)).is_symlink()


def test_folders_deeper_than_a_path_may_be_are_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """They could not be deleted again by most programs."""
    names = ["n" * 200] * 30
    entries = [entry(*names[:depth], kind="folder") for depth in range(1, 31)]
    session = hostile_session(
        monkeypatch,
        answers(find={"found": [found("d", "folder")]}, list={"entries": entries, "last": True}, read=send()),
    )
    with pytest.raises(TransferError, match="too many, or their names too long"):
        transfer.get(session, ["/data/."], home.out)
    assert all(len(os.fsencode(path)) < 5000 for path in home.out.rglob("*"))


# -- what was typed decides --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", ["{top}", "/data/.ssh", "/", "/data/..", "/x/../..", "sub/../../outside", "\ud800", ""]
)
@pytest.mark.parametrize("typed", ["/data/results", "/data/results/", "/data/..", "/data/.", "/"])
def test_sync_makes_and_empties_the_folder_that_was_typed(
    home: Home, monkeypatch: pytest.MonkeyPatch, said: str, typed: str
) -> None:
    """Whatever the far side calls it, and with ``delete``."""
    said = said.replace("{top}", str(home.top))
    mine = home.out / "mine"
    (mine / "results").mkdir(parents=True)
    (mine / "results" / "old").write_text("old")
    (mine / "other").write_text("other")
    where = dict(found("data", "folder"), path=said, parent="folder")
    listed = {"entries": [entry("new")], "last": True}
    session = hostile_session(monkeypatch, answers(where=where, list=listed, read=send()))
    with watched() as events:
        if said == "\ud800":
            with pytest.raises(UnsafeAnswer):
                sync.sync_down(session, typed, str(mine), sync.SyncOptions(delete=True))
            return
        sync.sync_down(session, typed, str(mine), sync.SyncOptions(delete=True))
    assert not outside(events, mine)
    if typed == "/data/results":
        assert sorted(os.listdir(mine)) == ["other", "results"]
        assert os.listdir(mine / "results") == ["new"]
    else:
        assert os.listdir(mine) == ["new"], "the content of the source was asked for"


@pytest.mark.parametrize("delete", [False, True])
def test_sync_does_not_follow_a_link_that_has_the_name(
    home: Home, monkeypatch: pytest.MonkeyPatch, delete: bool
) -> None:
    where = dict(found("data", "folder"), path="/data/link", parent="folder")
    session = hostile_session(
        monkeypatch, answers(where=where, list={"entries": [entry("new")], "last": True}, read=send())
    )
    with watched() as events, pytest.raises(TransferError, match="is a link here; name the folder that it leads to"):
        sync.sync_down(session, "/data/link", str(home.out), sync.SyncOptions(delete=delete))
    assert not outside(events, home.out)


def test_a_file_gets_the_name_that_was_typed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, said in enumerate(["{top}/bashrc", "../bashrc", "x"]):
        said = said.replace("{top}", str(home.top))
        session = hostile_session(monkeypatch, answers(find={"found": [found(said)]}, read=send()))
        transfer.get(session, [f"/data/typed{number}"], home.out)
        assert (home.out / f"typed{number}").read_bytes() == b"stolen"


def test_a_link_that_is_named_is_followed_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own link is the user's word; what stands behind it is reached, and nothing beside."""
    (home.out / "real").mkdir()
    (home.out / "to").symlink_to("real")
    listed = {"entries": [entry("x")], "last": True}
    session = hostile_session(monkeypatch, answers(find={"found": [found("d", "folder")]}, list=listed, read=send()))
    transfer.get(session, ["/data/."], home.out / "to")
    assert (home.out / "real" / "x").read_bytes() == b"stolen"


# -- planted meanwhile -------------------------------------------------------------------------------------------------


def _swap_folder(home: Home) -> None:
    """The folder that is being filled becomes a link to another one."""
    if not (home.out / "d").is_symlink() and (home.out / "d").exists():
        (home.out / "d").rename(home.out / "d moved")
        (home.out / "d").symlink_to(home.top / "outside")


def _swap_parts(home: Home) -> None:
    """What is written becomes a link to something of the user's."""
    for part in home.out.rglob(".flame-*.part"):
        part.unlink()
        part.symlink_to(home.top / "bashrc")


def _link_parts(home: Home) -> None:
    for part in home.out.rglob(".flame-*.part"):
        part.rename(part.with_name("taken"))
        part.symlink_to(home.top / "outside" / "secret")


def _swap_files(home: Home) -> None:
    """What was there, or has just come, becomes a link."""
    for name in ("secret", "d/secret", "sub/secret"):
        path = home.out / name
        if path.parent.is_dir() and not path.parent.is_symlink() and not path.is_symlink():
            path.unlink(missing_ok=True)
            path.symlink_to(home.top / "outside" / "secret")


def _swap_sub(home: Home) -> None:
    if not (home.out / "sub").is_symlink():
        shutil.rmtree(home.out / "sub")
        (home.out / "sub").symlink_to(home.top / "outside")


PLANTS = [_swap_folder, _swap_parts, _link_parts, _swap_files, _swap_sub]


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("way", ["get", "pattern", "sync"])
def test_links_that_are_planted_meanwhile_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Home], None], way: str
) -> None:
    for op in ("list", "read", "frame", "sums"):
        home = Home(tmp_path / op)
        _copy_while_links_are_planted(home, monkeypatch, plant, op, way)
        home.check()


def _copy_while_links_are_planted(
    home: Home, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Home], None], op: str, way: str
) -> None:
    (home.out / "sub" / "secret").write_bytes(b"x" * 200_000)
    entries = [
        entry("d", kind="folder"),
        entry("d", "secret"),
        entry("d", kind="end"),
        entry("sub", kind="folder"),
        entry("sub", "secret", size=200_000),
        entry("sub", kind="end"),
    ]

    def answer(request: dict[str, Any], link: frames.Frames) -> Any:
        what = request["op"]
        if what == op:
            plant(home)
        if what == "find":
            if way == "pattern":
                return {"found": [found("secret"), found("sub", "folder")]}
            return {"found": [found("out", "folder")]}
        if what == "where":
            return dict(found("data", "folder"), parent="folder", path="/data")
        if what == "list":
            wanted = entries if way != "pattern" else [entry("secret")]
            return {"entries": wanted, "last": True}
        if what == "sums":
            return {"sums": ["0" * 64], "size": 200_000}
        link.send_control({"size": 6, "mode": 0o4755, "mtime": 1, "more": True})
        link.room[:6] = b"stolen"
        link.send_room(6)
        if op == "frame":
            plant(home)
        return {"at": 6, "last": True}

    session = hostile_session(monkeypatch, answer)
    with contextlib.suppress(UnsafeAnswer, TransferError):
        if way == "sync":
            sync.sync_down(session, "/data/", str(home.out), sync.SyncOptions(delete=True))
        else:
            transfer.get(session, ["/data/*" if way == "pattern" else "/data/."], home.out)


@pytest.mark.parametrize("swapped", ["sub", "sub/deep", "itself"])
def test_delete_stays_in_the_folder_while_links_are_planted(
    home: Home, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """Between the look at what is here and the deletion, a folder becomes a link to one with the same names in it."""
    deep = home.out / "work" / "sub" / "deep"
    for folder in (deep, home.top / "outside" / "deep", home.top / "outside" / "sub" / "deep"):
        folder.mkdir(parents=True)
        (folder / "secret").write_text("secret")
    home.look()

    def lines(line: str) -> None:
        path = home.out / "work" if swapped == "itself" else home.out / "work" / swapped
        if line.startswith("delete") and not path.is_symlink():
            path.rename(home.out / "moved")
            path.symlink_to(home.top / "outside")

    where = dict(found("data", "folder"), parent="folder", path="/data")
    session = hostile_session(monkeypatch, answers(where=where, list={"entries": [], "last": True}))
    with contextlib.suppress(TransferError):
        sync.sync_down(session, "/data/", str(home.out / "work"), sync.SyncOptions(delete=True, report=lines))
    assert (home.out / "moved").exists()


def test_a_part_that_somebody_else_put_there_is_not_gone_on_with(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard link to something of the user's, under the name that the part will have."""
    size = 2 << 20
    precious = home.top / "precious"
    precious.write_bytes(b"p" * size)
    home.look()
    part = home.out / os.fsdecode(receiving.part_path(b"big", size, 1))
    os.link(precious, part)

    def sums(request: dict[str, Any], link: frames.Frames) -> Any:
        with trees.Source(os.fsencode(precious)) as source:
            return {"sums": list(trees.sums(source, 0, size, memoryview(bytearray(1 << 20)))), "size": size}

    def read(request: dict[str, Any], link: frames.Frames) -> Any:
        assert request["offset"] == 0
        link.send_control({"size": size, "mode": 0o644, "mtime": 1, "more": True})
        link.send_hole(size)
        return {"at": size, "last": True}

    session = hostile_session(monkeypatch, answers(find={"found": [found("big", size=size)]}, sums=sums, read=read))
    transfer.get(session, ["/data/big"], home.out)
    assert not part.exists()
    assert (home.out / "big").read_bytes() == bytes(size)
    assert precious.read_bytes() == b"p" * size


# -- modes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o027])
@pytest.mark.parametrize("mode", [0o4777, 0o2777, 0o1777, 0o7777, 0o777, 0o4000, 0o666, 0o100755])
def test_modes_are_what_a_plain_copy_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        out = tmp_path / "out"
        out.mkdir(mode=0o700)
        (out / "same").write_bytes(b"x" * 200_000)
        (out / "small").write_bytes(b"stolen")
        size = 200_000
        entries = [
            entry("d", kind="folder", mode=mode),
            entry("d", "x", mode=mode),
            entry("d", kind="end", mode=mode),
            entry("same", size=size, mode=mode),
            entry("small", mode=mode),
        ]

        def sums(request: dict[str, Any], link: frames.Frames) -> Any:
            with trees.Source(os.fsencode(out / "same")) as source:
                return {"sums": list(trees.sums(source, 0, size, memoryview(bytearray(1 << 20)))), "size": size}

        session = hostile_session(
            monkeypatch,
            answers(
                find={"found": [found("d", "folder", mode=mode)]},
                list={"entries": entries, "last": True},
                read=send(mode=mode),
                sums=sums,
            ),
        )
        transfer.get(session, ["/data/."], out)
        transfer.get(session, ["/data"], out / "made")
        wanted = mode & 0o777 & ~mask
        for path in [out / "d", out / "d" / "x", out / "same", out / "small", out / "made", out / "made" / "d"]:
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
        assert stat.S_IMODE(out.stat().st_mode) == 0o700, "the chosen folder keeps its own"
    finally:
        os.umask(before)
        for path in tmp_path.rglob("*"):
            path.chmod(0o700)


def test_the_umask_where_no_proc_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o037)
    try:
        assert destination.umask() == 0o037
        monkeypatch.setattr(destination, "_UMASK", re.compile("nothing like it"))
        assert destination.umask() == 0o037
        assert os.umask(0o037) == 0o037
    finally:
        os.umask(before)


# -- other systems -----------------------------------------------------------------------------------------------------


def test_without_open_folders_the_same_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system reaches nothing by open folders."""
    monkeypatch.setattr(destination, "_BY_FOLDER", False)
    entries = [
        entry("d", kind="folder"),
        entry("d", "x"),
        entry("d", kind="end"),
        entry("link", "secret"),
        entry("new"),
        entry("sub", "up", "bashrc"),
    ]
    session = hostile_session(
        monkeypatch,
        answers(
            find={"found": [found("d", "folder")]},
            where=dict(found("data", "folder"), parent="folder", path="/data"),
            list={"entries": entries, "last": True},
            read=send(),
        ),
    )
    for copy in (
        lambda: transfer.get(session, ["/data/."], home.out),
        lambda: sync.sync_down(session, "/data/", str(home.out), sync.SyncOptions(checksum=True)),
    ):
        with pytest.raises(
            TransferError, match="2 of 4 files could not be copied: link/secret: its folder is not there"
        ):
            copy()
        assert (home.out / "d" / "x").read_bytes() == (home.out / "new").read_bytes() == b"stolen"


def test_two_names_that_are_one_here(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that does not tell upper from lower case: nothing is lost without a word."""
    monkeypatch.setattr(destination.ChosenFolder, "_ignores_case", lambda *args: True)
    for first, second in (("README", "readme"), ("STRASSE", "stra\u00dfe"), ("e\u0301", "\u00e9")):
        entries = [entry("1"), entry(first), entry(second)]
        session = hostile_session(
            monkeypatch,
            answers(find={"found": [found("d", "folder")]}, list={"entries": entries, "last": True}, read=send()),
        )
        with pytest.raises(TransferError, match=f"1 of 3 files could not be copied: {second}: {first} has the same"):
            transfer.get(session, ["/data/."], home.out)
        assert (home.out / first).exists()
        assert not (home.out / second).exists()
        for name in ("1", first):
            (home.out / name).unlink()


# -- getfile, getmodule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames_of", "words"),
    [
        ([("size", 6), ("data", 7)], "more bytes than were announced"),
        ([("data", 1)], "more bytes than were announced"),
        ([("size", 1 << 50)], "too large for memory"),
        ([("size", 2 << 30), ("hole", 2 << 30)], "nothing but zeros"),
        ([("size", 6), ("hole", 1 << 62)], "more bytes than were announced"),
        ([("size", -1)], "wrong shape"),
        ([("size", "x")], "wrong shape"),
        ([("size", 6), ("last", False)], "of which nothing more comes"),
    ],
)
def test_a_file_in_memory_is_as_large_as_was_announced(
    home: Home, monkeypatch: pytest.MonkeyPatch, frames_of: list[tuple[str, Any]], words: str
) -> None:
    def read(request: dict[str, Any], link: frames.Frames) -> Any:
        last = True
        for what, value in frames_of:
            if what == "size":
                link.send_control({"size": value, "mode": 0o644, "mtime": 1, "more": True})
            elif what == "data":
                link.room[:value] = b"x" * value
                link.send_room(value)
            elif what == "hole":
                link.send_hole(value)
            else:
                last = value
        return {"at": 0, "last": last}

    where = {"path": f"{home.top}/bashrc", "kind": "file"}
    session = hostile_session(monkeypatch, answers(where=where, read=read))
    with watched() as events, pytest.raises((UnsafeAnswer, TransferError), match=words):
        transfer.getfile(session, "/data/x")
    assert [event for event in events if event[0] != "open" or "bashrc" in str(event[1])] == []


def test_a_module_comes_as_text_and_touches_no_file(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future
    from types import SimpleNamespace

    for source in ("text", None, 7, ["x"], {"path": "/etc/passwd"}):
        reply: Future[Any] = Future()
        reply.set_result({"status": "ok", "source": source, "path": f"{home.top}/bashrc", "module": "/etc/passwd"})
        session: Any = SimpleNamespace(location="evil:1", request=lambda *args, reply=reply, **fields: reply)
        with watched() as events:
            if source == "text":
                assert modules.getmodule(session, "a.b") == "text"
            else:
                with pytest.raises(TransferError, match="did not give the source"):
                    modules.getmodule(session, "a.b")
        assert events == []


# -- to the far side: what is read here --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["put", "sync"])
@pytest.mark.parametrize("said", ["{top}/bashrc", "{top}/outside/secret", "../bashrc", "\ud800"])
def test_only_what_was_named_is_read_and_sent(home: Home, monkeypatch: pytest.MonkeyPatch, way: str, said: str) -> None:
    """Whatever the answers call the destination, its part, or a source."""
    said = said.replace("{top}", str(home.top))
    mine = home.out / "mine"
    mine.mkdir()
    (mine / "a").write_bytes(b"mine" * 100_000)
    (mine / "b").write_bytes(b"mine")

    def look(request: dict[str, Any], link: frames.Frames) -> Any:
        return {"kind": "file", "size": 7, "mode": 0, "mtime": 0, "part": 300_000, "path": said, "source": said}

    named = {"path": said, "source": said, "name": said}
    session = hostile_session(
        monkeypatch,
        answers(
            where=dict(named, kind="folder", size=0, mode=0o755, mtime=1, parent="folder"),
            list=dict(named, entries=[], last=True),
            look=look,
            sums=dict(named, sums=["0" * 64] * 3, size=1),
            folder=dict(named, made=True),
            write=lambda request, link: dict(named, more=True),
            done=dict(named, same=False),
            pause=dict(named, at=0),
            attributes=named,
        ),
    )
    with watched() as events, contextlib.suppress(UnsafeAnswer):
        if way == "put":
            transfer.put(session, [mine], "/far")
        else:
            sync.sync_up(session, str(mine), "/far", sync.SyncOptions())
    far: HostileFar = session.far
    sent = b"".join(far.data)
    assert sent in (b"", b"mine" * 100_001)
    assert sent or said == "\ud800"
    read = {places[0] for event, places in events if event == "open" and places} - {"/proc/self/status"}
    assert read <= {str(mine), ".", "a", "b"}


@pytest.mark.parametrize("how", ["folder", "above", "file"])
def test_a_source_that_becomes_a_link_is_not_read(home: Home, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """What was a folder when it was looked at, and leads elsewhere when it is to be read."""
    mine = home.out / "mine"
    (mine / "inner").mkdir(parents=True)
    (mine / "inner" / "secret").write_bytes(b"public")
    (home.top / "trap" / "inner").mkdir(parents=True)
    (home.top / "trap" / "inner" / "secret").write_bytes(b"secret")
    home.look()
    path = {"folder": mine / "inner", "above": mine, "file": mine / "inner" / "secret"}[how]
    target = {"folder": "trap/inner", "above": "trap", "file": "trap/inner/secret"}[how]

    def swap(request: dict[str, Any], link: frames.Frames) -> Any:
        if not path.is_symlink():
            path.rename(home.out / "moved")
            path.symlink_to(home.top / target)
        return {"made": True}

    session = hostile_session(
        monkeypatch,
        answers(
            where={"path": "/far", "kind": "missing", "size": 0, "mode": 0, "mtime": 0, "parent": "folder"},
            folder=swap,
            write=lambda request, link: {"more": True},
            done={"same": False},
            drop={},
            attributes={},
        ),
    )
    # The folders are made there by the first batch, and the file is read for the second.
    monkeypatch.setattr(transfer, "BATCH", 2)
    with contextlib.suppress(TransferError):
        transfer.put(session, [mine], "/far")
    assert b"secret" not in b"".join(session.far.data)


def test_a_folder_that_is_opened_again_is_the_same_one(home: Home) -> None:
    """Of many sources few are open at a time."""
    mine = home.out / "mine"
    mine.mkdir()
    (mine / "secret").write_bytes(b"public")
    with contextlib.closing(destination.ChosenFolder(os.fsencode(mine))) as folder:
        for _ in range(2):
            with folder.source((b"secret",)) as source:
                assert source.size == 6
            folder.close()
        mine.rename(home.out / "moved")
        mine.symlink_to(home.top / "outside")
        for act in (folder.source, folder.describe, folder.remove, folder.make_folder, folder.read_link):
            with pytest.raises(file_names.Refused, match="another one by now"):
                act((b"secret",))


# -- whatever it answers -----------------------------------------------------------------------------------------------

_NAMES = st.one_of(
    st.sampled_from(
        [
            *("a", "A", "b", "sub", "link", "filelink", "kept", "up", "d", ".bashrc", "secret", "outside", "bashrc"),
            *("..", ".", "", "/", "../bashrc", "link/secret", "sub/up/bashrc", "//x", "a/b", "a\0b", "C:", "..\\b"),
            *("\n", "\x1b[2J", "\u202e", "\ud800", "\udc2f", "\udcff", "n" * 300, "{top}/bashrc", "{top}/outside/x"),
        ]
    ),
    st.text(max_size=4),
    st.sampled_from([None, 7, True, [], {}]),
)
_PATHS = st.one_of(st.lists(_NAMES, max_size=4), _NAMES)
_NUMBERS = st.one_of(st.sampled_from([0, 6, 7, 200_000, 1 << 61, 1 << 70, -1, None, "6"]), st.integers(0, 300))
_MODES = st.one_of(st.integers(0, 0o7777), st.sampled_from([-1, None, 1 << 40]))
_KINDS = st.sampled_from(["file", "file", "folder", "folder", "link", "end", "odd", "other", "missing", 3, None])
_TARGETS = st.one_of(_NAMES, st.sampled_from(["..", "../..", "../outside", "a/../../x", "{top}/outside", "d"]))
_ENTRIES = st.fixed_dictionaries(
    {"path": _PATHS, "kind": _KINDS, "size": _NUMBERS, "mode": _MODES, "mtime": _NUMBERS, "target": _TARGETS}
)
_FOUND = st.fixed_dictionaries(
    {
        "name": _NAMES,
        "path": _NAMES,
        "real": _NAMES,
        "kind": _KINDS,
        "size": _NUMBERS,
        "mode": _MODES,
        "mtime": _NUMBERS,
    }
)
_HEADS = st.fixed_dictionaries({"size": _NUMBERS, "mode": _MODES, "mtime": _NUMBERS, "more": st.just(True)})
_FRAMES = st.lists(
    st.one_of(
        st.tuples(st.just("head"), _HEADS),
        st.tuples(st.just("data"), st.integers(0, 9)),
        st.tuples(st.just("hole"), st.sampled_from([0, 6, 200_000, 1 << 62])),
    ),
    max_size=4,
)
_WHERE = st.fixed_dictionaries(
    {
        "path": _NAMES,
        "kind": _KINDS,
        "size": _NUMBERS,
        "mode": _MODES,
        "mtime": _NUMBERS,
        "parent": st.sampled_from(["folder", "file", None]),
    }
)
_WAYS = st.sampled_from(["get /data/*", "get /data/**", "get /data", "get /data/.", "sync /data/", "sync /data/sub"])


def _filled(answer: Any, top: Path) -> Any:
    """The answer with the test's own folder in it."""
    if isinstance(answer, str):
        return answer.replace("{top}", str(top))
    if isinstance(answer, list):
        return [_filled(one, top) for one in answer]
    if isinstance(answer, dict):
        return {name: _filled(one, top) for name, one in answer.items()}
    return answer


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_whatever_is_answered_nothing_outside_is_touched(data: st.DataObject, monkeypatch: pytest.MonkeyPatch) -> None:
    way = data.draw(_WAYS)
    finds = data.draw(st.one_of(st.lists(_FOUND, max_size=3), _NAMES))
    lists = data.draw(st.lists(_ENTRIES, max_size=5))
    if data.draw(st.booleans()):  # else most are refused for their order
        lists.sort(key=lambda one: [str(part) for part in one["path"]] if isinstance(one["path"], list) else [])
    reads = data.draw(_FRAMES)
    where = data.draw(_WHERE)
    if data.draw(st.booleans()):
        where |= {"kind": "folder", "size": 0, "mode": 0o755, "mtime": 1}
    plants = data.draw(st.dictionaries(st.integers(0, 8), st.sampled_from(PLANTS), max_size=2))
    delete = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        count = 0

        def answer(request: dict[str, Any], link: frames.Frames) -> Any:
            nonlocal count
            planting = plants.get(count)
            count += 1
            if count > 60:
                return {"error": "enough"}
            if planting is not None:
                with contextlib.suppress(OSError):
                    planting(home)
                home.check()
            op = request["op"]
            if op == "find":
                return {"found": _filled(finds, home.top)}
            if op == "where":
                return _filled(where, home.top)
            if op == "list":
                return {"entries": _filled(lists, home.top), "last": True}
            if op == "sums":
                return {"sums": ["0" * 64], "size": 6}
            for what, value in reads:
                if what == "head":
                    link.send_control(value)
                elif what == "data":
                    link.room[:value] = b"x" * value
                    link.send_room(value)
                else:
                    link.send_hole(value)
            return {"at": 6, "last": True}

        session = hostile_session(monkeypatch, answer)
        word, source = way.split()
        with watched() as events, contextlib.suppress(FlameError):
            if word == "get":
                transfer.get(session, [source], home.out)
            else:
                sync.sync_down(session, source, str(home.out), sync.SyncOptions(delete=delete))
        if not plants:  # planting is seen, too
            assert not outside(events, home.out)
        home.check()
        for path in home.out.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o700)
