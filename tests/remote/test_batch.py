"""``pi.batch()``: many calls in one message, each with a value of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from farside import FlameServer, wait_until
from flakylink import FlakyLink
from trips import ops

import flame


@pytest.mark.parametrize("place", ["process", "child"])
def test_many_calls_are_one_round_trip(flame_server: Callable[..., FlameServer], place: str) -> None:
    with (
        FlakyLink(flame_server().location) as link,
        flame.connect(link.location, place=place, shell="mini") as pi,
    ):
        pi.execute("x = 0")
        wait_until(lambda: ops(link.messages)[-1] == "poll", "the end of it")
        before = len(link.messages)
        with pi.batch() as b:
            b["x"] = 3
            base = b.modules.os.path.basename("a/b")
            length = b.builtins.len("abc")
            doubled = b.run(lambda number: number * 2, 21)
            b.push({"y": [1, 2]})
            b.execute("x += len(y)")
            total, name = b.evaluate("x + 1"), b["y"]
            assert not total.done()
        asked = [op for op in ops(link.messages[before:]) if op not in ("poll", "hello")]
        assert asked == ["submits"]
        found = [future.result(0) for future in (base, length, doubled, total, name)]
        assert found == ["b", 3, 42, 6, [1, 2]]
        assert pi["x"] == 5


def test_an_error_takes_no_other_along(flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server().location, place="process", shell="mini") as pi:
        b = pi.batch()
        bad, good = b.evaluate("1 / 0"), b.evaluate("6 * 7")
        with pytest.raises(ZeroDivisionError):
            b.__exit__(None)
        assert good.result(0) == 42
        assert isinstance(bad.exception(0), ZeroDivisionError)
        with pytest.raises(flame.FlameError, match="was sent already"):
            b.evaluate("1")


def test_nothing_is_sent_where_the_block_fails(flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server().location, place="process", shell="mini") as pi:
        b = pi.batch()
        later = b.execute("ran = True")
        b.__exit__(LookupError)
        assert later.cancelled()
        assert "ran" not in pi
        with pi.batch():
            pass


def test_more_than_one_message_holds(flame_server: Callable[..., FlameServer]) -> None:
    with flame.connect(flame_server().location, place="process", shell="mini") as pi:
        with pi.batch() as b:
            futures = [b.evaluate(f"{number} * 2") for number in range(500)]
            large = b.run(lambda data: len(data), b"x" * 5_000_000)
        assert [future.result(0) for future in futures] == [number * 2 for number in range(500)]
        assert large.result(0) == 5_000_000
