"""Files and folders over a link that breaks, what their connection carries, and a side that has no room."""

from __future__ import annotations

import _thread
import contextlib
import os
import random
import resource
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farside import wait_until
from flakylink import FlakyLink
from transfers import KEY, MiB, connected, digest, far_side, parts, planted, snapshot

import flame
from flame_kernel.agent.wire import frames
from flame_kernel.connect.target import Location, Secret, Target
from flame_kernel.connect.tls import Tls
from flame_kernel.errors import ConnectionLost, TransferError, UnsafeAnswer
from flame_kernel.files import transfer
from flame_kernel.remote.remote import Remote
from flame_kernel.serve.certs import Authority


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes a moment."""
    path = tmp_path_factory.mktemp("big") / "big"
    with open(path, "wb") as file:
        for seed in range(24):
            file.write(random.Random(seed).randbytes(MiB))
    return path


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
def test_a_tree_through_many_cuts(way: str, tmp_path: Path) -> None:
    tree = planted(tmp_path / "tree")
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


SLOW = """
import sys, time
(_files,) = [one for name, one in sys.modules.items() if name.startswith("flame_agent_") and ".remote.files" in name]
_call = _files.call
_files.call = lambda *args: (time.sleep(30), _call(*args))
"""


def test_a_file_that_does_not_open_holds_nobody_else(tmp_path: Path) -> None:
    """As on a mount whose host is gone: a Stop gets through meanwhile. Then the file has a connection of its own."""
    (tmp_path / "a").write_bytes(b"a" * 1000)
    with far_side("key") as server, flame.connect(server.location, key=server.key, place="process") as pi:
        pi.execute(SLOW)
        done: list[object] = []
        thread = threading.Thread(target=lambda: done.append(pi.put(str(tmp_path / "a"), str(tmp_path / "b"))))
        thread.start()
        cell = pi.cell("import time\nwhile True: time.sleep(0.01)", lambda event: None)
        wait_until(lambda: pi.session.sessions().result(5)[0]["state"] == "busy", "the cell to run")
        pi.session.interrupt()
        assert cell.result(5)["status"] == "error"
        thread.join(10)
        assert (tmp_path / "b").read_bytes() == b"a" * 1000
        assert len(done) == 1


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
