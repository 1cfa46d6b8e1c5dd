"""What work costs, counted and not timed: messages, bytes on the link, and memory of the codec.

So speed is kept where clocks say nothing. Round trips: ``test_round_trips.py``, ``test_library_round_trips.py``.
"""

from __future__ import annotations

import collections
import sys
import threading
import time
import tracemalloc
import types
from collections.abc import Iterator

import numpy
import pytest
from farside import FlameServer, wait_until
from flakylink import FlakyLink
from kernels import Kernel, remote_flame
from trips import ops

import flame
from flame_kernel.agent.wire import message as wire
from flame_kernel.agent.wire import values
from flame_kernel.session.io_threads import IoThreads

MIB = 1 << 20


@pytest.fixture
def site(server: FlameServer) -> Iterator[tuple[Kernel, FlakyLink]]:
    """A kernel on a link that counts, when it has run its first cell."""
    with FlakyLink(server.location) as link, remote_flame(env={"FLAME_TARGET": link.location}) as k:
        assert k.execute("import sys").error is None
        yield k, link


def passed(link: FlakyLink) -> tuple[int, int]:
    """Bytes up and down so far, when the link is at rest: a poll waits, and what came is acknowledged."""
    wait_until(lambda: ops(link.messages)[-1] in ("poll", "read"), "a poll that waits")
    return link.passed["up"], link.passed["down"]


def test_messages_of_a_cell(site: tuple[Kernel, FlakyLink]) -> None:
    k, _ = site
    for code, between in (
        ("x = 1", []),
        ("print('a')", ["stream"]),
        ("1 + 1", ["execute_result"]),
        ("for i in range(100): print(i)", ["stream"]),
        ("1 / 0", ["error"]),
    ):
        run = k.execute(code)
        assert [m.type for m in run.iopub] == ["status", "execute_input", *between, "status"], code


def test_bytes_of_a_cell_are_few_and_do_not_grow(site: tuple[Kernel, FlakyLink]) -> None:
    k, link = site

    def cells(count: int) -> tuple[float, float]:
        before = passed(link)
        for _ in range(count):
            k.execute("x = 1")
        after = passed(link)
        return (after[0] - before[0]) / count, (after[1] - before[1]) / count

    first = cells(20)
    cells(200)
    last = cells(20)
    print(f"bytes up and down of a cell: {first}, after 220 cells {last}")
    assert first[0] <= 800  # one request and its answer, in Pyro's envelopes
    assert first[1] <= 1000
    assert last[0] <= first[0] + 64
    assert last[1] <= first[1] + 64


def test_lines_come_in_few_messages_and_cost_few_bytes(site: tuple[Kernel, FlakyLink]) -> None:
    k, link = site
    before, began = passed(link), time.monotonic()
    run = k.execute("for i in range(100_000): print(i, flush=True)")
    seconds = time.monotonic() - began
    after = passed(link)
    text = "".join(f"{i}\n" for i in range(100_000))
    assert run.stdout == text
    assert len(run.of_type("stream")) <= 100 * seconds + 20
    assert after[1] - before[1] <= len(text) * 1.1 + 600 * len(run.of_type("stream"))


def test_an_idle_kernel_says_nothing(site: tuple[Kernel, FlakyLink], server: FlameServer) -> None:
    """While another one works: nothing but the poll that waits."""
    _, link = site
    passed(link)
    before = len(link.messages)
    with remote_flame(env={"FLAME_TARGET": server.location}) as other:
        for _ in range(20):
            other.execute("print('at work')")
    assert len(link.messages) - before <= 1  # the poll's successor, where its wait was over


def test_library_calls_run_little_python_and_wake_few_threads(
    server: FlameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted on this side: functions of ours and of Pyro's that run, and answers for which the thread that waits for
    all sessions had to be asked."""
    ran: collections.Counter[str] = collections.Counter()
    listened: list[object] = []
    listen = IoThreads._listen
    monkeypatch.setattr(IoThreads, "_listen", lambda *args: (listened.append(args), listen(*args))[1])

    def count(frame: types.FrameType, event: str, arg: object) -> None:
        if event == "call" and "flame_kernel" in frame.f_code.co_filename:
            ran[frame.f_code.co_name] += 1

    threading.setprofile(count)
    try:
        with flame.connect(server.location, place="process", shell="mini") as pi:
            for work, most in ((lambda: pi.modules.os.getpid(), 260), (lambda: pi.execute("1"), 220)):
                for _ in range(10):
                    work()
                ran.clear()
                listened.clear()
                sys.setprofile(count)
                for _ in range(50):
                    work()
                sys.setprofile(None)
                assert ran.total() / 50 <= most, ran.most_common(20)
                assert len(listened) <= 25
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("work", ["encode", "decode"])
def test_the_codec_copies_once_at_the_most(work: str) -> None:
    data = bytes(32 * MIB)
    message = bytes(wire.encode({"op": "submit"}, [data]))
    tracemalloc.start()
    try:
        if work == "encode":
            kept: object = wire.encode({"op": "submit"}, [data])
        else:
            kept = wire.decode(message)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept
    assert peak <= (len(data) if work == "encode" else 0) + MIB / 4


def test_an_array_is_not_copied_to_be_sent() -> None:
    values.encode(numpy.arange(3))  # what is made once
    array = numpy.arange(4 * MIB, dtype="f8")
    tracemalloc.start()
    try:
        parts = values.encode(array)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(memoryview(part).nbytes for part in parts) >= 32 * MIB
    assert peak <= MIB / 4
