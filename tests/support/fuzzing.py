"""Mutants of values, of arrays and of Arrow streams, read in a process of its own with bounds.

``python fuzzing.py values|arrow COUNT SEED`` prints what came of them; it dies of the first that crashes, or wants more
memory or time than there is.
"""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import fractions
import json
import random
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any

import bounded

Seed = list[bytes]
NUMBERS = [0, -1, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, -(2**63), 10**30]


def examples(kind: str) -> list[Any]:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    if kind == "values":
        shared = [1, (2.5, None)]
        plain = [{"a": (1, {2}), 3: b"y" * 2000}, 2**80, datetime.date(2020, 1, 2), list(range(99)), [shared, shared]]
        numbers = [decimal.Decimal("1.5"), fractions.Fraction(3, 7), range(5), 1j, slice(1, 2), datetime.timedelta(1)]
        dtypes = ["<i4", "<U3", ">M8[25s]", [("a", "i1"), ("b", "f8", (2,))], [("x", [("y", "U2"), ("z", ">u4")])]]
        whole = [np.zeros((2, 2), one) for one in dtypes] + [np.zeros(2, one)[0] for one in dtypes]
        whole += [np.dtype([("a", "i4"), ("b", "S3")], align=True), np.str_("ä")]
        loop: list[Any] = [1]
        loop.append({"self": loop})
        deep: Any = ()
        for _ in range(130):
            deep = (deep, {1: "a"})
        kinds = [collections.OrderedDict(a=1), collections.defaultdict(list, {2: [3]}), collections.Counter("aab")]
        more = [collections.deque([1, (2,)], 4), array.array("h", [1, 2]), memoryview(array.array("d", [1.5] * 6))]
        rows: list[Any] = [[{"id": at, "name": f"é{at}", "x": at / 3, "tags": [at, None]} for at in range(70)]]
        rows += [[(at, "x", [at]) for at in range(70)], [[at, True, {"a": -0.0}] for at in range(70)]]
        long = [*rows, ["a", 1, None, *({"b": [at]} for at in range(70))], {f"key {at}": [at, {}] for at in range(70)}]
        return [*plain, *numbers, *whole, *kinds, *more, loop, deep, *long]
    nested = pa.table({"l": [[1], [2, 3]], "s": [{"x": 1, "y": None}] * 2, "n": pa.nulls(2), "b": [b"a", None]})
    words = pa.table(
        {"d": pa.array(["a", "b", "a"]).dictionary_encode(), "t": pa.array([1, 2, 3], pa.timestamp("s", "UTC"))}
    )
    frame = pd.DataFrame(
        {"a": [1, 2], "c": pd.Categorical(["x", "y"]), "t": pd.date_range("2020", periods=2, tz="UTC")}
    )
    more = pd.DataFrame({"p": pd.period_range("2020", periods=2, freq="M"), "s": pd.array(["a", None], "string")})
    levels = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("b", "y")]))
    mixed = pd.DataFrame({"a": [1, "x", None], "l": [[1], {"y": 2}, (3,)], "s": pd.arrays.SparseArray([0, 0, 1])})
    cut = pd.cut(pd.Series([1, 5, 9]), 2)
    many = pd.DataFrame({"t": ["é%d" % at if at % 3 else None for at in range(40)]})  # noqa: UP031
    index = pd.MultiIndex.from_product([[1, 2], ["a", None]], names=["k", None])
    scalars = [pd.Timestamp("2024", tz="Europe/Berlin"), pd.Period("2024", "M"), pd.Interval(1, 2), pd.Timedelta("1s")]
    objects = [np.array([[1, "a"], [None, [2]]], object), np.array([(1, "a")], [("n", "i4"), ("o", "O")])]
    kinds = [np.ma.array([1, 2], mask=[0, 1]), np.rec.array([(1, 2.5)], names="a,b"), pd.array([1, None], dtype="Int8")]
    tables = [pa.table({"a": [1, 2, 3]}), nested, words, frame, more, levels, frame["a"], pd.Index(["a", "b"])]
    return [*tables, mixed, cut, many, index, *scalars, *objects, *kinds, pa.record_batch({"a": [1]}), pa.scalar("x")]


def mutants(seeds: list[Seed], count: int, chance: random.Random) -> Iterator[Seed]:
    """Bits, bytes, cuts and repeats anywhere; numbers of the text, and of the buffers where these would have them."""
    for _ in range(count):
        parts = [bytearray(part) for part in chance.choice(seeds)]
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            data = chance.choices(parts, [len(part) + 1 for part in parts])[0]
            at, change = chance.randrange(len(data) or 1), chance.choice([0, 0, 0, 1, 1, 2, 3, 4, 4, 4, 5])
            if not data:
                continue
            if change == 0:
                data[at] ^= 1 << chance.randrange(8)
            elif change == 1:
                data[at] = chance.randrange(256)
            elif change == 2:
                del data[at : at + chance.randint(1, 12)]
            elif change == 3:
                data[at:at] = data[at : at + chance.randint(1, 12)]
            elif change == 4 and len(data) > 16:
                width, code = chance.choice([(4, "<I"), (8, "<Q")])
                place = at // width * width if at // width * width + width <= len(data) else 0
                struct.pack_into(code, data, place, chance.choice(NUMBERS) % (1 << 8 * width))
            else:
                end = at
                while data[end : end + 1].isdigit():
                    end += 1
                data[at:end] = str(chance.choice(NUMBERS)).encode()
        yield [bytes(part) for part in parts]


def main(kind: str, count: int, seed: int) -> dict[str, Any]:
    from flame_kernel.agent.wire import values

    bounded.libraries()
    seeds = [[bytes(part) for part in values.encode(one)] for one in examples(kind)]
    for parts in seeds:
        repr(values.decode(parts))
    before, slowest = bounded.peak(), 0.0
    bounded.limit(1 << 30, 60 + count // 50)
    outcomes: collections.Counter[str] = collections.Counter()
    started = time.process_time()
    for parts in mutants(seeds, count, random.Random(seed)):
        begun = time.process_time()
        how, words = bounded.read(parts)
        slowest = max(slowest, time.process_time() - begun)
        outcomes[how] += 1
        if how not in ("read", "refused"):
            print(
                json.dumps({"how": how, "words": words[:300], "parts": [part.hex() for part in parts]}), file=sys.stderr
            )
    told: dict[str, Any] = {"outcomes": outcomes, "grown": bounded.peak() - before, "slowest": slowest}
    return {**told, "seconds": time.process_time() - started}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
