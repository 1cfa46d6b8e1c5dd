"""Large values: the connection of their own on which they cross, what breaks it, and what goes by requests instead."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from farside import FlameServer, wait_until
from flakylink import FlakyLink
from transfers import KEY, SERVERS, MiB, connected, far_side

import flame
from flame_kernel.agent.wire import chunks, frames, seals
from flame_kernel.connect.target import Location, Secret, Target
from flame_kernel.connect.tls import Tls
from flame_kernel.errors import CallTimeout, CannotTravel, ObjectGone, UnsafeAnswer
from flame_kernel.remote import bulk
from flame_kernel.remote.remote import Remote
from flame_kernel.serve.certs import Authority

BIG = random.Random(5).randbytes(24 * MiB)
# What has no memory of its own beside it: long texts, small and large; empty ones between.
MANY = [
    BIG[:1500],
    *[BIG[at : at + 5000] for at in range(2000)],
    b"",
    BIG[: 9 * MiB],
    "ä" * 3000,
    bytearray(b"x") * MiB,
]


@contextlib.contextmanager
def counted(pi: Remote) -> Iterator[list[str]]:
    """The requests about large values that go over the link's own connections."""
    seen: list[str] = []
    request = pi.session.request

    def counting(kind: str, *args: Any, **fields: Any) -> Any:
        if fields.get("op") in ("stage", "piece"):
            seen.append(fields["op"])
        return request(kind, *args, **fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pi.session, "request", counting)
        yield seen


def there_and_back(pi: Remote, value: Any) -> Any:
    pi["large"] = value
    back = pi.evaluate("large", ref=True).fetch()
    del pi["large"]
    return back


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


# -- the way ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_a_large_value_is_the_same(name: str) -> None:
    with far_side(name) as server, connected(server) as pi, counted(pi) as requests:
        assert there_and_back(pi, BIG) == BIG
        assert there_and_back(pi, MANY) == MANY
        assert set(requests) == ({"stage", "piece"} if name == "multiplex" else set())


def test_nothing_of_it_is_left(flame_server: Callable[..., FlameServer]) -> None:
    server = flame_server()
    with flame.connect(server.location) as pi:
        child = pi.evaluate("__import__('os').getpid()")
        there_and_back(pi, BIG)
        everybody = (os.getpid(), server.pid, child)
        before = [descriptors(pid) for pid in everybody]
        for _ in range(5):
            there_and_back(pi, BIG)
        wait_until(lambda: [descriptors(pid) for pid in everybody] == before, "all of them are closed")
        kept = "[o for o in __import__('gc').get_objects() if type(o).__name__ in ('Incoming', 'Outgoing')]"
        assert pi.evaluate(f"len({kept})") == 0


@pytest.mark.parametrize("place", ["child", "process"])
def test_through_tls(place: str, tmp_path: Path) -> None:
    """In a child as well, though only the server can read what comes."""
    authority = Authority(tmp_path / "ca")
    authority.server(["localhost"], days=30)
    env: dict[str, str | None] = {"PYRO_SSL": "true", "PYRO_SSL_SERVERCERT": str(tmp_path / "ca" / "server.pem")}
    with far_side("key", env=env) as server:
        tls = Tls(ca=str(tmp_path / "ca" / "ca.pem"))
        target = Target(Location.parse(server.location), key=Secret(KEY.encode()), tls=tls, place=place)
        with Remote(target) as pi, counted(pi) as requests:
            assert there_and_back(pi, BIG) == BIG
            assert there_and_back(pi, MANY) == MANY
            assert not requests


def test_an_array_can_be_written_to_and_its_memory_is_its_own(flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server().location) as pi:
        pi.execute("import numpy; kept = numpy.arange(1_000_000.0)")
        back = pi.evaluate("kept", ref=True).fetch()
        back += 1
        assert pi.evaluate("kept[7]") == 7
        pi["here"] = back
        assert pi.evaluate("here.flags.writeable and here[7] == 8 and here.base is not None")
        back += 1
        assert pi.evaluate("here[7]") == 8
        assert np.array_equal(back, np.arange(1_000_000.0) + 2)


def test_while_a_cell_runs(flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server().location) as pi:
        running = pi.cell("import time\nwhile not globals().get('stop'): time.sleep(0.01)", lambda event: None)
        pi["large"] = BIG
        assert pi.evaluate("len(large)") == len(BIG)
        assert not running.done()
        pi["stop"] = True
        running.result(10)


# -- cuts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["child", "key"])
@pytest.mark.parametrize("way", ["up", "down"])
def test_it_goes_on_after_a_cut(name: str, way: Any) -> None:
    with far_side(name) as server, FlakyLink(server.location) as link, connected(server, link.location) as pi:
        if way == "down":
            pi["large"] = BIG
        with counted(pi) as requests:
            cuts, passed = link.cuts, link.passed[way]
            link.cut_at(way, 10 * MiB)
            if way == "up":
                pi["large"] = BIG
            assert pi["large"].ref().fetch() == BIG
            assert link.cuts == cuts + 1
            assert not requests
            # What was under way at the cut comes again, and nothing before it.
            assert link.passed[way] - passed < len(BIG) + 12 * MiB


def test_a_link_on_which_no_piece_gets_through_whole() -> None:
    with far_side("key") as server, FlakyLink(server.location, seed=3) as link, connected(server, link.location) as pi:
        pi.session.ready.result(30)
        link.cut_every(3_500_000)
        assert there_and_back(pi, BIG) == BIG
        link.cut_every(None)
        assert link.cuts > 10


@pytest.mark.parametrize("name", ["child", "key"])
def test_an_outage(name: str) -> None:
    with far_side(name) as server, FlakyLink(server.location) as link, connected(server, link.location) as pi:
        pi.session.ready.result(30)
        for way in ("up", "down"):

            def outage(way: Any = way) -> None:
                start = link.passed[way]
                wait_until(lambda: link.passed[way] > start + 3 * MiB, "some of the value")
                link.down()
                time.sleep(0.3)  # that is how long it lasts
                link.up()

            thread = threading.Thread(target=outage)
            thread.start()
            if way == "up":
                pi["large"] = BIG
            else:
                assert pi["large"].ref().fetch() == BIG
            thread.join()
        assert link.cuts


def test_a_server_without_room_for_one_more_connection(flame_server: Callable[..., FlameServer]) -> None:
    server = flame_server(env={"PYRO_THREADPOOL_SIZE": "2", "PYRO_THREADPOOL_SIZE_MIN": "1"})
    with flame.connect(server.location) as pi, counted(pi) as requests:
        assert there_and_back(pi, BIG) == BIG
        assert set(requests) == {"stage", "piece"}


@pytest.mark.parametrize("way", ["up", "down"])
def test_ctrl_c_ends_it_and_leaves_nothing_there(way: Any) -> None:
    with (
        far_side("key") as server,
        FlakyLink(server.location) as link,
        connected(server, link.location) as pi,
    ):
        if way == "down":
            pi["large"] = BIG

        def interrupt() -> None:
            start = link.passed[way]
            wait_until(lambda: link.passed[way] > start + 4 * MiB, "some of it")
            link.silent()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        act = (lambda: pi.__setitem__("large", BIG)) if way == "up" else (lambda: pi["large"].ref().fetch())
        with pytest.raises(KeyboardInterrupt):
            act()
        thread.join()
        link.up()
        kept = "[o for o in __import__('gc').get_objects() if type(o).__name__ in ('Incoming', 'Outgoing')]"
        wait_until(lambda: pi.evaluate(f"len({kept})") == 0, "nothing of it is there")
        assert there_and_back(pi, MANY) == MANY


def test_a_call_that_may_not_take_so_long() -> None:
    with (
        far_side("child") as server,
        FlakyLink(server.location, rate=4 * MiB) as link,
        connected(server, link.location) as pi,
    ):
        pi.session.ready.result(30)
        pi.timeout = 1.0
        with pytest.raises(CallTimeout, match=r"within 1 s"):
            pi["large"] = BIG
        pi.timeout = None
        assert pi.evaluate("1 + 1") == 2


def test_a_child_that_ends_meanwhile() -> None:
    with (
        far_side("child") as server,
        FlakyLink(server.location, rate=20 * MiB) as link,
        connected(server, link.location) as pi,
    ):
        pi["large"] = BIG
        child = pi.evaluate("__import__('os').getpid()")

        def kill(way: Any, pid: int) -> threading.Thread:
            def run() -> None:
                start = link.passed[way]
                wait_until(lambda: link.passed[way] > start + 3 * MiB, "some of the value")
                os.kill(pid, 9)

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        killer = kill("down", child)
        with pytest.raises(ObjectGone):
            pi["large"].ref().fetch()
        killer.join()
        child = pi.evaluate("__import__('os').getpid()")
        killer = kill("up", child)
        pi["large"] = BIG  # it is begun again, in the child that has come in its place
        killer.join()
        assert pi.evaluate("len(large)") == len(BIG)
        assert pi.evaluate("__import__('os').getpid()") != child


# -- what is wrong ----------------------------------------------------------------------------------------------------


def _sealed(parts: list[bytes], key: bytes = b"k" * 32) -> list[bytes]:
    """What is sent, each chunk and each seal by itself."""
    sent: list[bytes] = []

    def keep(data: Any) -> None:
        sent.append(bytes(data))

    chunks.send(chunks.Outgoing(parts), 0, keep, seals.Seal("sha256", key))
    return sent


def _received(sent: list[bytes], sizes: list[int], key: bytes = b"k" * 32) -> list[bytes]:
    box, large = frames.Box(b"".join(sent)), chunks.Incoming(sizes)
    chunks.receive(large, 0, box.receive, seals.Seal("sha256", key))
    assert box.empty
    assert large.come == large.size
    return [bytes(part) for part in large.parts]


def test_nothing_of_it_can_be_changed_dropped_or_repeated_under_a_key() -> None:
    parts = [BIG[:10], b"", BIG[: 2 * MiB + 5], BIG[:MiB]]
    sizes = [len(part) for part in parts]
    sent = _sealed(parts)
    assert len(sent) == 2 * 4
    assert sum(map(len, sent)) == chunks.length(sum(sizes), True)
    assert _received(sent, sizes) == parts
    rng = random.Random(6)
    for number in range(len(sent)):
        spoilt = bytearray(sent[number])
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        with pytest.raises(chunks.Damaged):
            _received([*sent[:number], bytes(spoilt), *sent[number + 1 :]], sizes)
    for wrong in ([2, 3, 0, 1, 4, 5, 6, 7], [0, 1, 0, 1, 4, 5, 6, 7], [0, 1, 4, 5, 2, 3, 6, 7]):
        with pytest.raises((chunks.Damaged, frames.Damaged)):
            _received([sent[index] for index in wrong], sizes)
    with pytest.raises(chunks.Damaged):
        _received(sent, sizes, b"l" * 32)


@pytest.mark.parametrize("way", ["up", "down"])
def test_one_who_does_not_know_the_key_cannot_answer(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seals are of another key: it is noticed on the side that receives, and the value comes by requests."""
    with far_side("key") as server, connected(server) as pi:
        if way == "down":
            pi["large"] = BIG
        real: Any = frames.connection_key
        monkeypatch.setattr(frames, "connection_key", lambda secret, ours, theirs: real(b"another", ours, theirs))
        with counted(pi) as requests:
            if way == "up":
                pi["large"] = BIG
                assert set(requests) == {"stage"}
                assert pi.evaluate("len(large)") == len(BIG)
            else:
                assert pi["large"].ref().fetch() == BIG
                assert set(requests) == {"piece"}


@pytest.mark.parametrize(
    "sizes",
    [None, "x", [1 << 46], [-1], [1.5], [True, "a"], [1] * (bulk.MAX_FETCHED_PARTS + 1)],
    ids=lambda x: str(x)[:9],
)
def test_sizes_that_are_none_are_refused(
    sizes: Any, flame_server: Callable[..., FlameServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with flame.connect(flame_server().location, shell="mini") as pi:
        held = pi.evaluate("b'x' * (5 << 20)", ref=True)
        real = bulk.Bulk.fetch
        monkeypatch.setattr(bulk.Bulk, "fetch", lambda self, ticket, _, timeout: real(self, ticket, sizes, timeout))
        with pytest.raises(UnsafeAnswer, match="a reply of the wrong shape"):
            held.fetch()


def test_no_memory_is_one_sentence(flame_server: Callable[..., FlameServer], monkeypatch: pytest.MonkeyPatch) -> None:
    with flame.connect(flame_server().location, place="child", shell="mini") as pi:
        pi["large"] = BIG

        def none(size: int) -> None:
            raise MemoryError

        monkeypatch.setattr(chunks, "_memory", none)
        with pytest.raises(CannotTravel, match=r"a value of \d+ bytes, which does not fit into the memory here"):
            pi["large"].ref().fetch()
        monkeypatch.undo()
        pi.execute("import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, -1))")
        with pytest.raises(CannotTravel, match="cannot take the value: no room for"):
            pi["more"] = bytes(1 << 30)
        pi.execute("resource.setrlimit(resource.RLIMIT_AS, (-1, -1))")
        assert there_and_back(pi, MANY) == MANY


def test_arguments_that_have_not_come_whole_are_refused(flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server().location, shell="mini") as pi:
        for staged, status in (("never came", "gone"), ("half", "refused")):
            if staged == "half":
                reply = pi.session.request("object", buffers=[b"[1"], op="stage", ticket="half", sizes=[9], at=0)
                assert reply.result(10)["status"] == "ok"
            reply = pi.session.request("object", root=["builtins"], mode="value", staged=staged)
            assert reply.result(10)["status"] == status
        reply = pi.session.request("object", buffers=[b"xx"], op="stage", ticket="odd", sizes=[1], at=0)
        assert reply.result(10)["status"] == "refused"
        assert pi.evaluate("1 + 1") == 2
