"""Long lists and dicts that go as a whole: records, rows, texts. They come out exactly as they went in."""

from __future__ import annotations

import collections
import datetime
import enum
import json
import math
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from sameness import same, sharing

from flame_kernel.agent.wire import columns, plain_json, values
from flame_kernel.agent.wire import message as wire


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Colour(enum.IntEnum):
    RED = 1


class Table(dict[str, int]):
    pass


class Listed(list[int]):
    pass


def sent(value: Any) -> tuple[Any, str]:
    """What comes out, and the text of the parts."""
    parts = [bytes(part) for part in values.encode(value)]
    return values.decode(parts), parts[0].decode()


RECORDS = [{"id": at, "name": f"näme {at}", "x": at / 3, "on": at % 2 == 0, "none": None} for at in range(200)]
MIXED: list[Any] = [*({"id": at} for at in range(100)), *([at, "x"] for at in range(100)), 1.5, None, True, "é"]
TEXTS = [f'text {at} "quoted" \\ \x00 \x7f \u2028 \U0001f600 é' for at in range(200)]
WHOLE: dict[str, tuple[Any, str]] = {
    "records": (RECORDS, '{"K":[["id","name","x","on","none"],{"q":1},{"J":2},{"e":3},{"J":4},{"J":5}]}'),
    "records of records": ([{"a": {"b": at}, "c": [at]} for at in range(99)], '{"K":[["a","c"],{"K":[["b"],{"q":1}]},'),
    "rows": ([(at, str(at)) for at in range(99)], '{"K":[0,{"q":1},{"J":2}]}'),
    "lists": ([[at, str(at)] for at in range(99)], '{"K":[1,{"q":1},{"J":2}]}'),
    "texts": (TEXTS, '{"J":1}'),
    "no two alike": (MIXED, '{"J":1}'),
    "a dict": ({f"k{at}": {"a": [at]} for at in range(99)}, '{"J":1}'),
    "a list in a dict": ({"a": MIXED, "b": 1}, '{"m":{"a":{"J":1},"b":1}}'),
    "floats and numbers": ([*range(99), 0.5, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1e308], '{"J":1}'),
    "the longest numbers": ([*["x"] * 64, 2**63 - 1, -(2**63), 10**19 - 1, 0.00012345678901234567], '{"J":1}'),
    "small numbers in text": ([*["12345678901234567890123"] * 64, 1], '{"J":1}'),
}


@pytest.mark.parametrize("name", WHOLE)
def test_it_goes_as_a_whole(name: str) -> None:
    value, start = WHOLE[name]
    made, text = sent(value)
    assert same(made, value)
    assert text.startswith(start)


LONG: list[Any] = list("x" * 70)
OTHERWISE: dict[str, Callable[[], Any]] = {
    "a subclass of str": lambda: [*LONG, Text("x")],
    "a subclass of int": lambda: [*LONG, Whole(3)],
    "an enum": lambda: [*LONG, Colour.RED],
    "a subclass of dict": lambda: [*LONG, Table(a=1)],
    "a subclass of list": lambda: [*LONG, Listed([1])],
    "a subclass far inside": lambda: [*LONG, [[[{"a": [Whole(3)]}]]]],
    "a key of a subclass": lambda: [*LONG, {Text("x"): 1}],
    "keys of a subclass in records": lambda: [{Text("x"): at} for at in range(99)],
    "a key of a subclass in one record": lambda: [*({"x": at} for at in range(98)), {Text("x"): 1}],
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_subclasses_are_not_taken_for_their_bases(name: str) -> None:
    with pytest.raises(values.NotPlain):
        values.encode(OTHERWISE[name]())


EXACT: dict[str, Callable[[], Any]] = {
    "true and one": lambda: [*LONG, True, 1, 1.0, False, 0, 0.0, -0.0],
    "tuple and list": lambda: [*LONG, (1, 2), [1, 2], ((),), [[]]],
    "a tuple far inside": lambda: [*LONG, [[[{"a": (1,)}]]]],
    "rows with a list among them": lambda: [*[(at, 1) for at in range(99)], [1, 2]],
    "rows of several lengths": lambda: [*[(at, 1) for at in range(99)], (1,), ()],
    "named rows": lambda: [collections.OrderedDict(a=at) for at in range(99)],
    "keys of numbers": lambda: [{at: at} for at in range(99)],
    "keys of true and none": lambda: [*LONG, {True: 1, None: 2, "True": 3, 1.5: 4}],
    "keys in another order": lambda: [*[{"a": at, "b": 1} for at in range(99)], {"b": 1, "a": 2}],
    "a key is missing": lambda: [*[{"a": at, "b": 1} for at in range(99)], {"a": 1}],
    "empty records": lambda: [{} for _ in range(99)],
    "empty rows": lambda: [() for _ in range(99)],
    "empty lists": lambda: [[] for _ in range(99)],
    "a number of 65 bits": lambda: [*LONG, 2**64, -(2**200)],
    "a number of 65 bits in a record": lambda: [{"a": 2**64 + at, "b": 3} for at in range(99)],
    "numbers of thousands of digits": lambda: [*LONG, 1 << 40_000],
    "a lone surrogate": lambda: [*LONG, "\ud800", "\udc00\ud800"],
    "two that JSON would join": lambda: [*LONG, "\ud83d\ude00", {"\ud83d\ude00": 1}],
    "surrogates in records": lambda: [{"\ud83d\ude00": f"\ud83d\ude00{at}"} for at in range(99)],
    "dates": lambda: [{"id": at, "when": datetime.date(2020, 1, 1 + at % 28)} for at in range(99)],
    "bytes": lambda: [*LONG, b"x", bytearray(b"y")],
    "long texts": lambda: ["x" * 5000 + str(at) for at in range(99)],
    "a matrix": lambda: [[float(at * row) for at in range(50)] for row in range(99)],
    "a wide matrix": lambda: [[float(at * row) for at in range(900)] for row in range(70)],
    "wide records": lambda: [{f"k{at}": at + row for at in range(70)} for row in range(70)],
    "nested to the limit": lambda: deep(90),
    "nested deeper": lambda: deep(130),
}


def deep(levels: int) -> Any:
    made: Any = LONG
    for at in range(levels):
        made = [*LONG, made] if at % 2 else {"a": made}
    return made


@pytest.mark.parametrize("name", EXACT)
def test_it_is_exact(name: str) -> None:
    value = EXACT[name]()
    assert same(sent(value)[0], value)


def test_what_is_shared_stays_shared() -> None:
    row: dict[str, Any] = {"id": 1, "name": "x"}
    column = [1, "a", {"b": 2}]
    inner = MIXED[0]
    for value in (
        [*RECORDS, row, row],
        [RECORDS, RECORDS[7]],
        [RECORDS[7], RECORDS],
        {"all": RECORDS, "one": RECORDS[0], "again": RECORDS},
        [MIXED, inner],
        [inner, MIXED],
        (MIXED, [{"a": inner, "b": at} for at in range(99)]),
        [{"a": column, "b": at} for at in range(99)],
        [(column, at) for at in range(99)],
        [[MIXED], {"x": [MIXED[150]]}, RECORDS],
    ):
        made, _ = sent(value)
        assert same(made, value)
        assert sharing(made) == sharing(value)
    one, many = sent([row, [*RECORDS, row]])[0]
    assert many[-1] is one


def test_what_contains_itself() -> None:
    value: list[Any] = [{"a": at, "b": None} for at in range(99)]
    value[50]["b"] = value
    made, _ = sent(value)
    assert made[50]["b"] is made
    value[50]["b"] = value[3]
    assert same(sent(value)[0], value)
    value[50]["b"] = value[50]
    made, _ = sent(value)
    assert made[50]["b"] is made[50]
    ring: list[Any] = [*LONG]
    ring.append([{"x": ring}])
    made, _ = sent(ring)
    assert made[-1][0]["x"] is made


def test_a_limit_is_kept_without_writing_all() -> None:
    text = "x" * 50_000
    texts, rows = [text + str(at) for at in range(500)], [[text, at] for at in range(500)]
    for value in (texts, rows, [{"a": text} for _ in range(500)]):
        began = time.process_time()
        with pytest.raises(values.TooLarge):
            values.encode(value, limit=1 << 17)
        assert time.process_time() - began < 0.5


def test_trust_pickles_no_more_than_before() -> None:
    pickled: list[Any] = []

    def dumps(things: list[Any]) -> bytes:
        pickled.extend(things)
        return b"p"

    values.encode([{"id": at, "odd": Text("x") if at == 50 else "x"} for at in range(99)], dumps=dumps)
    assert [type(one) for one in pickled] == [Text]


def test_a_reference_among_records() -> None:
    """What stays there is asked for each time it occurs, and only that."""
    odd = object()
    parts = values.encode([{"id": at, "it": odd} for at in range(99)], reference=lambda one: 7 if one is odd else None)
    made = values.decode([bytes(part) for part in parts], resolve=lambda told: ("it", told))
    assert made == [{"id": at, "it": ("it", 7)} for at in range(99)]


def test_records_take_no_code_for_each() -> None:
    """A hundred thousand records: calls of Python functions do not grow with them."""
    import sys

    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    many = [{"id": at, "name": f"name {at}", "x": at / 3, "on": None} for at in range(20_000)]
    sys.setprofile(count)
    try:
        parts = values.encode(many)
        made = values.decode(parts)
    finally:
        sys.setprofile(None)
    assert made == many
    assert calls < 1000


THROWN_IN = [b"[", b"]", b"{}", b'"', b"9" * 30, b"\xff", b","]


def test_nothing_at_random_breaks_it() -> None:
    """Changed bytes of a buffer of JSON: another plain value or BadValue, quickly."""
    chance = random.Random(3)
    seeds = [[bytes(part) for part in values.encode(value)] for value, _ in WHOLE.values()]
    for _ in range(4000):
        parts = list(chance.choice(seeds))
        at = chance.randrange(len(parts))
        data = bytearray(parts[at])
        for _ in range(chance.randrange(1, 4)):
            where = chance.randrange(len(data))
            data[where : where + chance.randrange(3)] = chance.choice(
                [b"[", b"]", b"{}", b'"', b"9" * 30, b"\xff", b","]
            )
        parts[at] = bytes(data)
        try:
            made = values.decode(parts)
        except values.BadValue:
            continue
        assert classes(made) <= {dict, list, tuple, str, int, float, bool, type(None), bytes, set, frozenset}


def classes(value: Any) -> set[type]:
    found, todo = set(), [value]
    while todo:
        one = todo.pop()
        found.add(type(one))
        if type(one) is dict:
            todo += [*one, *one.values()]
        elif type(one) in (list, tuple):
            todo += one
    return found


def test_a_hostile_value_counts_what_it_makes() -> None:
    """Rows that are made of little: as many as the limit says, and not one more."""
    most = columns.MAX_CELLS // columns.cells(1, 1)
    parts = [json.dumps({"K": [0, {"q": 1}]}).encode(), b"\0" * (8 * most)]
    assert len(values.decode(parts)) == most
    with pytest.raises(values.BadValue, match="fields of rows"):
        values.decode([parts[0], parts[1] + b"\0" * 8])
    assert plain_json.read(b'{"a":[1]}', 3, wire.MAX_VALUES)[0] == {"a": [1]}
