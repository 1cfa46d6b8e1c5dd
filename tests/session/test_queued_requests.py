"""Requests that wait go in one call: in order, each once, whatever becomes of the link."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from farside import FlameServer, wait_until
from flakylink import FlakyLink

import flame
from flame_kernel.remote.remote import Remote


@pytest.fixture
def far(flame_server: Callable[..., FlameServer]) -> Iterator[tuple[Remote, FlakyLink]]:
    with (
        FlakyLink(flame_server().location, delay=0.02) as link,
        flame.connect(link.location, place="process", shell="mini") as remote,
    ):
        remote.evaluate("1")
        yield remote, link


def begin(remote: Remote, count: int) -> list[str]:
    """Run so many cells at once, each of which notes its number; what they printed, when all are done."""
    said: list[str] = []

    def sink(event: dict[str, object]) -> None:
        if event["type"] == "stream":
            said.append(event["content"]["text"])  # type: ignore[index]

    remote.execute("order = []")
    cells = [remote.cell(f"order.append({number}); print({number})", sink) for number in range(count)]
    for cell in cells:
        assert cell.result(60)["status"] == "ok"
    return "".join(said).split()


def test_fifty_cells_go_in_a_few_calls(far: tuple[Remote, FlakyLink], monkeypatch: pytest.MonkeyPatch) -> None:
    remote, _ = far
    asked: list[str] = []
    link = remote.session._link
    ask = link._ask
    monkeypatch.setattr(
        link, "_ask", lambda line, request, *more: (asked.append(request["op"]), ask(line, request, *more))[1]
    )
    assert begin(remote, 50) == [str(number) for number in range(50)]
    assert remote["order"] == list(range(50))
    calls = [op for op in asked if op in ("submit", "submits")]
    assert len(calls) <= 6, calls  # one each for what came before and after, and what was sent while those waited


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_each_runs_once_where_the_answer_is_lost(far: tuple[Remote, FlakyLink], how: str) -> None:
    remote, link = far
    link.swallow(b'"op":"submits"', times=2, how=how)  # type: ignore[arg-type]
    assert begin(remote, 50) == [str(number) for number in range(50)]
    assert remote["order"] == list(range(50))
    assert link.still_to_swallow == 0


def test_a_long_cell_goes_by_itself(far: tuple[Remote, FlakyLink]) -> None:
    remote, _ = far
    remote.execute("order = []")
    cells = [
        remote.cell(f"order.append({number})  # {'x' * size}", print) for number, size in enumerate((9, 90_000, 9))
    ]
    assert [cell.result(60)["status"] for cell in cells] == ["ok"] * 3
    assert remote["order"] == [0, 1, 2]


def test_values_keep_to_their_requests(far: tuple[Remote, FlakyLink]) -> None:
    remote, _ = far
    results: dict[int, bytes] = {}

    def ask(number: int) -> None:
        results[number] = remote.run(lambda one: one * 2, bytes([number]) * (1000 + number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: bytes([number]) * 2 * (1000 + number) for number in range(40)}


def test_a_cell_that_waits_there_can_be_stopped(far: tuple[Remote, FlakyLink]) -> None:
    remote, _ = far
    remote.execute("import time\nran = []")
    on = threading.Event()
    first = remote.cell("print('on')\nwhile True:\n    time.sleep(0.01)", lambda event: on.set())
    assert on.wait(60)
    others = [remote.cell(f"ran.append({number})", print) for number in range(5)]
    stopped = others[2].request_id  # type: ignore[attr-defined]
    wait_until(lambda: remote.session._pending[stopped].state == "begun", "the far side has them")
    remote.interrupt(stopped)
    remote.interrupt(first.request_id)  # type: ignore[attr-defined]
    assert first.result(60)["ename"] == "KeyboardInterrupt"
    assert [other.result(60)["status"] == "ok" for other in others] == [True, True, False, True, True]
    assert remote["ran"] == [0, 1, 3, 4]
