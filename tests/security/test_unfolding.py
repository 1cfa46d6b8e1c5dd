"""Sizes after unfolding: some hundred bytes of a table or of a value are never gigabytes, or minutes, here."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import bounded
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sameness import same

from flame_kernel.agent.wire import values
from flame_kernel.agent.wire.scalars import BadValue, NotPlain
from flame_kernel.agent.wire.tables import arrow_stream

MANY = 10**9


def stream(table: Any, **options: Any) -> bytes:
    """A table as pyarrow writes it, whatever we say to that."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def one(array: Any, **options: Any) -> bytes:
    return stream(pa.table({"a": array}), **options)


def table(data: bytes) -> list[bytes]:
    return [b'{"k":1}', data]


def arrow_column(data: bytes) -> list[bytes]:
    """A column of pandas that is one of Arrow."""
    return [json.dumps({"px": ["arrow", {"kc": ["ChunkedArray", 1]}]}).encode(), data]


def of_pandas(frame: Any, **change: Any) -> bytes:
    """A frame's table, with other words to pandas."""
    made = pa.Table.from_pandas(frame)
    told = json.loads(made.schema.metadata[b"pandas"])
    for key, value in change.items():
        told[key] = value(told[key]) if callable(value) else value
    return stream(made.replace_schema_metadata({"pandas": json.dumps(told)}))


def replaced(data: bytes, old: bytes, new: bytes, at: int = 0) -> bytes:
    found = data.find(old, at)
    assert found >= 0
    return data[:found] + new + data[found + len(old) :]


def fixed(value: Any, size: int) -> Any:
    return pa.FixedSizeListArray.from_arrays(value, size)


def of_no_bytes(rows: int) -> Any:
    return pa.Array.from_buffers(pa.binary(0), rows, [None, pa.py_buffer(b"")])


def one_list(cells: int) -> Any:
    offsets = pa.py_buffer(struct.pack("<2i", 0, cells))
    return pa.Array.from_buffers(pa.list_(pa.null()), 1, [None, offsets], children=[pa.nulls(cells)])


def nested_dictionary(length: int, count: int) -> Any:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int8()), pa.array(["x" * length]))
    return pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), words)


def shared_names() -> bytes:
    """A schema of 1,000 columns that are one and the same, whose name is long."""
    data = bytearray(stream(pa.table({"x" * 100_000: [1]} | {f"c{number}": [1] for number in range(1000)})))
    (length,) = struct.unpack_from("<i", data, 4)
    flat = arrow_stream._Flat(bytes(data[8 : 8 + length]))
    schema = flat.root().table(2)
    vector = schema._target(1)
    (count,) = struct.unpack_from("<I", flat.data, vector)
    (first,) = struct.unpack_from("<I", flat.data, vector + 4)
    places = [vector + 4 + 4 * number for number in range(count)]
    # Offsets lead forwards: all but those behind it can lead to the one that lies last.
    ends = [place + struct.unpack_from("<I", flat.data, place)[0] for place in places]
    last = vector + 4 + first if vector + 4 + first > max(places) else max(ends)
    for place in places:
        struct.pack_into("<I", data, 8 + place, last - place)
    return bytes(data)


def compressed() -> Iterator[tuple[str, bytes]]:
    for codec in ("lz4", "zstd"):
        if pa.Codec.is_available(codec):
            zeros = pa.array(np.zeros(10**6))
            yield f"compressed by {codec}", one(zeros, compression=codec)


def unfolding() -> Iterator[tuple[str, list[bytes]]]:
    for name, data in compressed():
        yield name, table(data)
        yield f"{name}, a column", arrow_column(data)
    nulls = pa.nulls(MANY)
    for name, array in {
        "nulls": nulls,
        "nulls in a struct": pa.StructArray.from_arrays([nulls], ["n"]),
        "a struct of nothing": pa.Array.from_buffers(pa.struct([]), MANY, [None]),
        "nulls in lists of a fixed size": fixed(pa.nulls(MANY), 1000),
        "lists of a fixed size of those": fixed(fixed(pa.nulls(MANY), 1000), 1000),
        "lists of no size": pa.Array.from_buffers(pa.list_(pa.null(), 0), MANY, [None], children=[pa.nulls(0)]),
        "bytes of no size": of_no_bytes(MANY),
        "one list of nulls": one_list(2**31 - 1),
        "a map of nulls": None,
        "run ends": pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.array(["x"])),
        "text views": pa.array(["x" * 100], pa.string_view()) if hasattr(pa, "string_view") else None,
        "byte views": pa.array([b"x" * 100], pa.binary_view()) if hasattr(pa, "binary_view") else None,
        "list views": pa.array([[1]], pa.list_view(pa.int8())) if hasattr(pa, "list_view") else None,
        "dictionaries in lists": nested_dictionary(1 << 20, 1 << 17),
    }.items():
        if array is not None:
            yield name, table(one(array))
            yield f"{name}, a column", arrow_column(one(array))
    yield "100 columns of nulls", table(stream(pa.table({f"c{n}": pa.nulls(MANY // 100) for n in range(100)})))
    chunks = [pa.table({"a": pa.nulls(MANY // 100)})] * 100
    yield "100 batches of nulls", table(stream(pa.concat_tables(chunks)))
    yield "one column a thousand times", table(shared_names())
    words = pa.array(["y" * (1 << 20)])
    again = pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), words)] * 2000)
    yield "one dictionary in 2,000 batches", table(one(again))
    sink = pa.BufferOutputStream()
    growing = [pa.table({"a": pa.array([str(n) for n in range(k)]).dictionary_encode()}) for k in range(1, 5)]
    with pa.ipc.new_stream(
        sink, growing[0].schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    ) as writer:
        for part in growing:
            writer.write_table(part)
    yield "dictionaries bit by bit", table(bytes(sink.getvalue()))
    good = one(pa.array(["abc", "def"]))
    yield "a body beyond the end", table(good[:-40])
    yield "an old format", table(good[4:])
    yield "no schema", table(b"\xff\xff\xff\xff\0\0\0\0")
    buffers = one(pa.array([1.0] * 1000))
    yield "a buffer beyond its body", table(replaced(buffers, struct.pack("<q", 8000), struct.pack("<q", 1 << 40)))


def pandas_words() -> Iterator[tuple[str, list[bytes]]]:
    small = pd.DataFrame({"a": [1, 2]})
    column = {"name": "a", "field_name": "a", "pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    level = {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    cases: dict[str, dict[str, Any]] = {
        "names to evaluate": {"columns": [{**column, "name": "(" * 5000}], "column_indexes": [level, level]},
        "numbers to evaluate": {"columns": [{**column, "name": "-" * 5000 + "1"}], "column_indexes": [level, level]},
        "names to evaluate that no column tells": {"columns": [], "column_indexes": [level, level]},
        "a dtype of another's": {"columns": [{**column, "numpy_type": "geometry"}]},
        "a dtype of structs": {"columns": [{**column, "numpy_type": "O,O"}]},
        "a dtype of 2 GiB": {"columns": [{**column, "numpy_type": "S2147483648"}]},
        "names of a dtype": {"column_indexes": [{**level, "pandas_type": "(1000000,1000000)f8"}]},
        "names of a dtype of 2 GiB": {"column_indexes": [{**level, "pandas_type": "a2147483648"}]},
        "a zone that is a file": {
            "columns": [{**column, "pandas_type": "datetimetz", "metadata": {"timezone": "../../../etc/passwd"}}]
        },
        "an absolute zone": {"columns": [{**column, "numpy_type": "datetime64[ns, /etc/passwd]"}]},
        "one index many times": {"index_columns": ["a"] * 10_000},
        "ranges": {"index_columns": [{"kind": "range", "name": None, "start": 0, "stop": 2, "step": 1}] * 10_000},
        "a range of text": {"index_columns": [{"kind": "range", "name": None, "start": "0", "stop": 2, "step": 1}]},
        "an index of another kind": {"index_columns": [{"kind": "os.system"}]},
        "attributes that are deep": {"attributes": {"a": json.loads("[" * 500 + "]" * 500)}},
        "attributes that are none": {"attributes": [1]},
        "columns that are none": {"columns": {"a": 1}},
        "a column without a dtype": {"columns": [{"name": "a", "field_name": "a", "pandas_type": "int64"}]},
        "a column twice": {"columns": [column, column]},
        "metadata that are a list": {"columns": [{**column, "metadata": [[]]}]},
        "a number of 4300 digits": {"creator": int("9" * 4300)},
    }
    for name, change in cases.items():
        yield name, arrow_column(of_pandas(small, **change))
        yield f"{name}, a table", table(of_pandas(small, **change))
    yield "words that are no JSON", table(stream(pa.table({"a": [1]}).replace_schema_metadata({"pandas": "{"})))
    yield "a zone of a column", table(one(pa.array([1], pa.timestamp("ns", "../../etc/passwd"))))


def shared(levels: int) -> list[Any]:
    """Equal tuples that are not the same, each of 2**levels parts, whose hashes are all one."""
    nodes: list[Any] = []
    made = 0
    tuples = []
    for number in range(60):
        nodes.append({"t": []})
        made += 1
        for _ in range(levels):
            nodes.append({"t": [{"r": made - 1}, {"r": made - 1}]})
            made += 1
        tuples.append({"t": [{"r": made - 1}, {"i": f"{number * (2**61 - 1):x}"}]})
    return [nodes, {"s": tuples}]


def slow() -> Iterator[tuple[str, Any]]:
    def text(tree: Any) -> list[bytes]:
        return [json.dumps(tree).encode()]

    digits = "".join(random.Random(1).choice("123456789abcdef") for _ in range(1 << 18))
    yield "a fraction of a million bits", text({"F": [digits, digits[::-1]]})
    yield "1,400 fractions", lambda: text([{"F": [digits[:16000], digits[n : n + 15999]]} for n in range(1400)])
    yield "a range that divides", text({"R": ["0", digits, digits[: 1 << 17]]})
    yield "20,000 ranges", text([{"R": ["0", digits[:400], digits[:200]]}] * 20_000)
    decimals = [{"N": "9" * 2_000_000}, [{"d": [{"r": 0}, 0]}] * 20_000]
    yield "a long number as a key many times", text(decimals)
    yield "a number of 4300 digits", [b"9" * 4300]
    yield "a number of two million digits", [b"9" * 2_000_000]
    yield "a number of 20 digits", [b"[1,99999999999999999999]"]
    yield "tuples that are alike", text(shared(14))
    yield "a decimal of a list", text({"N": [0, [1] * 10, 5]})
    yield "a date of a text", text({"D": ["\x07\xe4\x01\x01"]})
    yield "a complex of texts", text({"c": ["1", "2"]})
    yield "a slice of many", text({"S": [1, 2, 3, 4]})
    yield "deep series", [b'{"ps":[' * 500 + b"0" + b"]}" * 500, b""]


BAD_EXTENSIONS = {
    "deep": ("arrow.fixed_shape_tensor", '{"shape":' + "[" * 30_000 + "]" * 30_000 + "}"),
    "deep behind another": ("arrow.opaque", '{"type_name":' + "[" * 30_000 + "]" * 30_000 + ',"type_name":"a"}'),
    "long": ("arrow.opaque", '{"type_name":"' + "x" * 100_000 + '"}'),
    "another key": ("pandas.period", '{"freq":"D","x":1}'),
    "another class": ("pandas.interval", '{"subtype":["int64"],"closed":"right"}'),
    "another storage": ("pandas.period", '{"freq":"D"}'),
    "another storage of two ends": ("pandas.interval", '{"subtype":"int64","closed":"right"}'),
    "ends of text": ("pandas.interval", '{"subtype":"string","closed":"right"}'),
    "no json": ("pandas.period", "freq"),
}


def with_extension(kind: str, told: str) -> bytes:
    field = pa.field("a", pa.string(), metadata={"ARROW:extension:name": kind, "ARROW:extension:metadata": told})
    return stream(pa.table([pa.array(["x"])], schema=pa.schema([field])))


def extensions() -> Iterator[tuple[str, list[bytes]]]:
    for name, (kind, told) in BAD_EXTENSIONS.items():
        yield f"an extension type: {name}", table(with_extension(kind, told))


CASES: dict[str, Any] = dict(unfolding()) | dict(pandas_words()) | dict(extensions()) | dict(slow())
# What is read, for it is whole, but has to be in time and within bounds.
READ = {"20,000 ranges"}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    made = {name: case() if callable(case) else case for name, case in CASES.items()}
    return bounded.outcomes(made, memory=900 << 20)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", CASES)
def test_what_unfolds_is_refused(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    """Within the memory and the time that ``bounded`` gives."""
    assert outcomes[name]["how"] == ("read" if name in READ else "refused"), outcomes[name]
    assert outcomes[name]["grown"] < 400 << 20


# -- names that are looked up


class Spy(pa.ExtensionType):  # type: ignore[misc]
    """A type that somebody has registered, and that does something when it is looked up."""

    seen: list[bytes] = []  # noqa: RUF012

    def __init__(self, name: str) -> None:
        super().__init__(pa.int64(), name)

    def __arrow_ext_serialize__(self) -> bytes:
        return b"here"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Any:
        cls.seen.append(serialized)
        return cls("spy.type")


@pytest.fixture
def spy() -> Iterator[Any]:
    made = Spy("spy.type")
    pa.register_extension_type(made)
    yield made
    pa.unregister_extension_type("spy.type")
    Spy.seen.clear()


@pytest.mark.parametrize("how", ["column", "in a struct", "in a list", "in a dictionary", "by metadata alone"])
def test_no_type_is_looked_up_by_a_name_that_was_sent(how: str, spy: Any) -> None:
    array = pa.ExtensionArray.from_storage(spy, pa.array([1]))
    if how == "by metadata alone":
        field = pa.field("a", pa.int64(), metadata={"ARROW:extension:name": "spy.type"})
        data = stream(pa.table([pa.array([1])], schema=pa.schema([field])))
    elif how == "in a dictionary":
        data = one(pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), array))
    else:
        wrapped = {"in a struct": pa.StructArray.from_arrays([array], ["x"])}
        wrapped["in a list"] = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), array)
        data = one(wrapped.get(how, array))
    Spy.seen.clear()
    for parts in (table(data), arrow_column(data)):
        with pytest.raises(BadValue, match=r"the extension type 'spy\.type'"):
            values.decode(parts)
    assert Spy.seen == []


def test_one_whose_type_is_not_known_does_not_set_out(spy: Any) -> None:
    with pytest.raises(NotPlain, match=r"the extension type 'spy\.type'; send its storage"):
        values.encode(pa.table({"a": pa.ExtensionArray.from_storage(spy, pa.array([1]))}))


# -- schemas: all that are whole travel


FLAT = [pa.int8(), pa.uint64(), pa.float32(), pa.bool_(), pa.string(), pa.large_binary(), pa.null(), pa.binary(3)]
FLAT += [pa.timestamp("us", "Europe/Berlin"), pa.date32(), pa.duration("s"), pa.decimal128(9, 2), pa.time64("ns")]
TYPES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(FLAT),
    lambda inner: (
        inner.map(pa.list_)
        | inner.map(pa.large_list)
        | st.tuples(inner, st.integers(0, 3)).map(lambda both: pa.list_(both[0], both[1]))
        | st.lists(inner, max_size=3).map(lambda found: pa.struct([(f"f{n}", kind) for n, kind in enumerate(found)]))
        | st.sampled_from([pa.map_(pa.string(), pa.int8()), pa.dictionary(pa.int8(), pa.string())])
    ),
    max_leaves=5,
)


def empty_cells(kind: Any, rows: int) -> Any:
    return pa.nulls(rows, kind)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kinds=st.lists(TYPES, max_size=4), rows=st.integers(0, 5), chunks=st.integers(1, 3), keys=st.booleans())
def test_every_schema_travels(kinds: list[Any], rows: int, chunks: int, keys: bool) -> None:
    columns = {f"c{number}": empty_cells(kind, rows) for number, kind in enumerate(kinds)}
    whole = pa.concat_tables([pa.table(columns)] * chunks)
    if keys:
        whole = whole.replace_schema_metadata({"any": "thing", "b": b"\xff"})
    assert same(values.decode([bytes(part) for part in values.encode(whole)]), whole)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kinds=st.lists(TYPES, min_size=1, max_size=3), at=st.integers(0, 10**6), number=st.integers(-(2**63), 2**63 - 1))
def test_a_changed_stream_is_a_table_or_refused(kinds: list[Any], at: int, number: int) -> None:
    data = bytearray(stream(pa.table({f"c{n}": empty_cells(kind, 3) for n, kind in enumerate(kinds)})))
    struct.pack_into("<q", data, at % (len(data) // 8) * 8, number)
    with contextlib.suppress(BadValue):
        assert isinstance(values.decode(table(bytes(data))), pa.Table)
