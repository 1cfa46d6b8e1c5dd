"""Arrays and tables of any plain content, exact both ways: with pyarrow here, there, on both sides or on neither."""

from __future__ import annotations

import datetime
import decimal
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from farside import FlameServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sameness import same

import flame
from flame_kernel.agent.wire import values
from flame_kernel.remote.remote import Remote

NAN = float("nan")
BERLIN = "Europe/Berlin"


def through(value: Any) -> Any:
    return values.decode([bytes(part) for part in values.encode(value)])


@pytest.fixture
def remote(flame_server: Callable[..., FlameServer]) -> Iterator[Remote]:
    with flame.connect(flame_server().location) as connected:
        yield connected


def texts(kind: Any = None) -> Any:
    return pd.Series(["é%d" % at if at % 3 else None for at in range(100)], dtype=kind)  # noqa: UP031


ARRAYS: list[Any] = [
    np.array([1, "a", None, {1: [2]}], dtype=object),
    np.array([[1, [2]], [None, (3,)]], dtype=object),
    np.asfortranarray(np.array([[1, "a"], [2, "b"]], dtype=object)),
    np.empty((0, 3), object),
    np.array(None, dtype=object),
    np.array([["x", None, NAN] * 20] * 2, dtype=object),
    np.array(["ä\ud800"] * 40, dtype=object),
    np.array([(1, "a"), (2, None)], dtype=[("n", "i4"), ("o", "O")]),
    np.rec.array([(1, 2.5), (3, 4.5)], names="a,b"),
    np.rec.array([(1, 2.5)], names="a,b").view(np.ndarray),
    np.rec.array([(1, 2.5)], names="a,b")[0],
    np.array([[1, 2], [3, 4]]).view(np.matrix),
    np.array(["a", "bb"]).view(np.char.chararray),
    np.ma.array([1, 2, 3], mask=[0, 1, 0]),
    np.ma.array([1.5, 2]),
    np.ma.array([[1, 2], [3, 4]], mask=[[0, 1], [0, 0]], fill_value=7, hard_mask=True),
    np.ma.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")], mask=[(1, 0)]),
    np.array(["a", "bbb"], dtype=np.dtypes.StringDType()),
    np.array(["a", None] * 30, dtype=np.dtypes.StringDType(na_object=None, coerce=False)),
    np.array([["a", NAN]], dtype=np.dtypes.StringDType(na_object=np.nan)),
]
SCALARS: list[Any] = [
    pd.Timestamp("2024-01-01 10:00:00.123456789"),
    pd.Timestamp("2024-10-27 00:30", tz="UTC").tz_convert(BERLIN),
    pd.Timestamp("2024-10-27 01:30", tz="UTC").tz_convert(BERLIN),  # the second half past two
    pd.Timestamp("2024-01-01 10:00", tz=datetime.timezone(datetime.timedelta(hours=2))),
    pd.Timestamp("2024-01-01").as_unit("s"),
    pd.Timedelta("1D 3ns"),
    pd.Period("2024-03", "M"),
    pd.Period("2024Q1"),
    pd.NaT,
    pd.NA,
    pd.Interval(1, 2),
    pd.Interval(pd.Timestamp("2020"), pd.Timestamp("2021"), closed="both"),
    pd.offsets.Day(3),
    pd.offsets.MonthEnd(),
    pd.offsets.Week(weekday=2),
    np.ma.masked,
    np.dtype(object),
]
EXTENSIONS: list[Any] = [
    pd.Categorical(["a", "b", None, "a"], ordered=True),
    pd.Categorical([1.5, None]),
    pd.array([1, None], dtype="Int64"),
    pd.array([1, None], dtype="UInt8"),
    pd.array([1.5, None], dtype="Float32"),
    pd.array([True, None], dtype="boolean"),
    pd.period_range("2020", periods=3, freq="M").array,
    pd.interval_range(0, 3).array,
    pd.arrays.SparseArray([0, 0, 1, 2]),
    pd.arrays.SparseArray([1.0, NAN, NAN], kind="block"),
    pd.date_range("2020", periods=3, tz="UTC").array,
    pd.to_timedelta([1, 2], unit="s").array,
    pd.array(["a", None], dtype="string"),
    pd.array(["a", None] * 30, dtype=pd.StringDtype("python")),
    pd.array(["a", None] * 30, dtype=pd.StringDtype("pyarrow")),
    pd.array(["a", None] * 30, dtype=pd.StringDtype("pyarrow", na_value=np.nan))[7:40],
    pd.array(["a", None] * 30, dtype=pd.StringDtype("python", na_value=np.nan)),
    pd.array([1, None], dtype="int64[pyarrow]"),
    pd.array([[1], None], dtype=pd.ArrowDtype(pa.list_(pa.int8()))),
]
INDEXES: list[Any] = [
    pd.RangeIndex(3, 10, 2, name="x"),
    pd.Index([1, 2], name=("a", 1)),
    pd.Index(["a", "b"]),
    pd.Index(["a", 1, None], dtype=object),
    pd.date_range("2020", periods=4, freq="D", tz=BERLIN),
    pd.date_range("2020", periods=4, freq="B"),
    pd.timedelta_range("1s", periods=3, freq="2s"),
    pd.period_range("2020", periods=3, freq="Q"),
    pd.interval_range(pd.Timestamp("2020"), periods=3),
    pd.CategoricalIndex(["a", "b"]),
    pd.MultiIndex.from_product([[1, 2], ["a", None]], names=["k", None]),
    pd.MultiIndex.from_tuples([("a",)]),
    pd.MultiIndex.from_arrays([[], []]),
    pd.Index([]),
    pd.Index([1.5, NAN]),
    pd.Index([True, False]),
]
GROUPS = pd.DataFrame({"k": ["a", "b", "a"], "n": [1, 2, 3]})
SERIES: list[Any] = [
    GROUPS["k"].value_counts(),
    GROUPS["k"].value_counts(normalize=True),
    GROUPS.dtypes,
    pd.cut(pd.Series([1, 5, 9]), 3),
    pd.cut(pd.Series([1, 5, 9]), 3).value_counts(),
    pd.qcut(pd.Series(range(10)), 4),
    pd.Series([1, "a"], name=("q", 1)),
    pd.Series([], dtype=float),
    pd.Series([], dtype=object),
    pd.Series([pd.NaT, 1], dtype=object),
    pd.Series([pd.NA, "x"] * 40, dtype=object),
    pd.Series(["a,b", "c"]).str.split(","),
    texts(),
    texts(object),
    texts("string[python]"),
]
FRAMES: list[Any] = [
    pd.DataFrame({"a": pd.Series(["x", NAN, "y"], dtype=object)}),
    pd.DataFrame({"a": [1, "x", 2.5]}),
    pd.DataFrame({"l": [[1, 2], [3]], "d": [{"x": 1}, None], "a": [np.arange(2), (1,)]}),
    pd.DataFrame({"a": [1, None]}, dtype=object),
    GROUPS.groupby("k").agg(["sum", "mean"]),
    GROUPS.describe(include="all"),
    GROUPS.pivot_table(index="k", values="n", aggfunc=["sum", "count"]),
    pd.concat([GROUPS, GROUPS], axis=1),
    pd.DataFrame({1: [1], "a": [2], (1, 2): [3], None: [4]}),
    pd.DataFrame(index=[1, 2]),
    pd.DataFrame(columns=["a"]),
    pd.DataFrame(index=pd.RangeIndex(3)),
    pd.DataFrame({"a": [1j, 2], "s": pd.arrays.SparseArray([0, 1])}),
    pd.DataFrame({"x": pd.cut([1, 2, 3], 2)}),
    pd.DataFrame({"t": pd.to_datetime(["2020", None]), "z": pd.date_range("2020", periods=2, tz=BERLIN)}),
    pd.DataFrame({"t": pd.to_timedelta(["1s", None]), "p": pd.period_range("2020", periods=2, freq="M")}),
    pd.DataFrame({"d": [decimal.Decimal("1.10"), None], "e": [datetime.date(2020, 1, 1), NAN]}),
    pd.DataFrame({"b": [b"x", b"yy"] * 30}),
    pd.DataFrame({"e": [pd.Timestamp("2020"), "x"]}),
    pd.DataFrame(np.arange(6.0).reshape(2, 3)),
    pd.DataFrame(np.arange(6.0).reshape(2, 3)).T,
    pd.DataFrame({f"c{at}": [at, at] for at in range(100)}),
    pd.DataFrame({f"c{at}": [at, at] if at % 2 else [0.5, 1] for at in range(100)}),
    pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2020", periods=2, freq="D")).resample("D").sum(),
    pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False),
]
FRAMES[0].attrs["unit"] = {"m": [1, (2,)]}
SERIES[0].attrs["unit"] = "m"
ARROW: list[Any] = [
    pa.record_batch({"a": [1]}),
    pa.record_batch({"a": pa.array([], pa.string())}),
    pa.array([1, None]),
    pa.array([], pa.string()),
    pa.array(["a", "b", "a"]).dictionary_encode(),
    pa.chunked_array([[1], [2]]),
    pa.scalar(5),
    pa.scalar("x"),
    pa.schema([("a", pa.int8())]),
    pa.list_(pa.int8()),
]


def check(back: Any, value: Any) -> None:
    assert same(back, value)
    if isinstance(value, pd.DataFrame):
        assert [str(one) for one in back.dtypes] == [str(one) for one in value.dtypes]
        assert back.attrs == value.attrs
        assert back.flags.allows_duplicate_labels == value.flags.allows_duplicate_labels
        for at in range(len(value.columns)):
            assert [type(one) for one in back.iloc[:, at]] == [type(one) for one in value.iloc[:, at]]
    if isinstance(value, pd.Series):
        assert (back.dtype, back.attrs) == (value.dtype, value.attrs)
        assert [type(one) for one in back] == [type(one) for one in value]
    if isinstance(value, pd.Index):
        assert getattr(back, "freq", None) == getattr(value, "freq", None)
    if isinstance(value, np.ma.MaskedArray) and value is not np.ma.masked:
        assert (back.fill_value, back.hardmask) == (value.fill_value, value.hardmask)
        assert np.array_equal(back.mask, value.mask)


@pytest.mark.parametrize(
    "value", ARRAYS + SCALARS + EXTENSIONS + INDEXES + SERIES + FRAMES + ARROW, ids=lambda value: type(value).__name__
)
def test_it_is_the_same(value: Any) -> None:
    check(through(value), value)
    first, second = through([value, value])
    assert first is second


@pytest.mark.parametrize("value", [one.dtype for one in EXTENSIONS], ids=str)
def test_a_dtype_is_the_same(value: Any) -> None:
    assert through(value) == value


@pytest.mark.parametrize(("new", "old"), [("Y-MAR", "A-MAR"), ("2h", "2H"), ("min", "T"), ("Q-DEC", "Q-DEC")])
def test_a_period_of_an_older_pandas_has_its_frequency_of_today(new: str, old: str) -> None:
    for value in (pd.Period(ordinal=50, freq=new), pd.period_range("2020", periods=2, freq=new)):
        parts = [bytes(part).replace(f'"{new}"'.encode(), f'"{old}"'.encode()) for part in values.encode(value)]
        assert old.encode() in parts[0]
        assert bool(np.all(values.decode(parts) == value))


def test_a_frequency_that_pandas_lacks_is_no_lie_of_the_server() -> None:
    with pytest.raises(values.BadValue, match=r"'QQ-DEC', which pandas [\d.]+ does not have") as caught:
        values.decode([b'{"pp":[50,"QQ-DEC"]}'])
    assert caught.value.missing


def test_tables_are_the_same_there(remote: Remote) -> None:
    for value in [*ARRAYS, *EXTENSIONS, *INDEXES, *SERIES, *FRAMES, *SCALARS[:13]]:
        remote["v"] = value
        pickled = remote.evaluate("__import__('pickle').dumps(v, 4)")
        if not isinstance(value, np.record):
            check(pickle.loads(pickled), pickle.loads(pickle.dumps(value, 4)))
        check(remote.evaluate("v", ref=True).fetch(), value)


def test_polars_travels() -> None:
    frames = [pl.DataFrame({"a": [1, None], "b": ["x", "y"], "l": [[1], [2, 3]]}), pl.DataFrame()]
    for value in [*frames, pl.DataFrame({"s": [{"x": 1}], "d": [datetime.date(2020, 1, 1)]})]:
        assert through(value).equals(value)
        assert through(value).schema == value.schema
    assert through(pl.Series("n", [1, 2])).equals(pl.Series("n", [1, 2]), check_names=True)


# Reads parts without pyarrow, and says what is read; or writes what it has made.
WITHOUT_ARROW = """
import pickle, sys
sys.modules["pyarrow"] = None
import numpy, pandas
from flame_kernel.agent.wire import values
made = []
for parts in pickle.load(sys.stdin.buffer):
    value = values.decode(parts)
    made.append(([bytes(part) for part in values.encode(value)], repr(value)))
pickle.dump(made, sys.stdout.buffer)
"""


def test_tables_through_a_side_without_pyarrow() -> None:
    """pandas there keeps its texts in Python's objects; they are the same tables, and come back as they were."""
    tables = [one for one in SERIES + FRAMES + INDEXES if getattr(one, "dtype", None) != "string[python]"]
    parts = [[bytes(part) for part in values.encode(one, libraries=("numpy", "pandas"))] for one in tables]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_ARROW],
        input=pickle.dumps(parts),
        capture_output=True,
        check=True,
    )
    for value, (again, shown) in zip(tables, pickle.loads(run.stdout), strict=True):
        assert shown == repr(value)
        check(values.decode(again), value)


def test_a_column_of_arrow_needs_pyarrow_there() -> None:
    column = pd.DataFrame({"a": pd.array([1, None], dtype="int64[pyarrow]")})
    with pytest.raises(
        values.NotPlain,
        match=r"int64\[pyarrow\] needs pyarrow on both sides \(there: %flame pip install pyarrow\), in the column 'a'",
    ):
        values.encode(column, libraries=("numpy", "pandas"))


CELLS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.just(pd.NA)
    | st.just(pd.NaT)
    | st.lists(st.integers(0, 9), max_size=2)
    | st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)).map(pd.Timestamp)
)
KINDS = st.sampled_from([object, "float64", "Int64", "boolean", "string", "str", "category", "M8[ns]", "M8[s]", "i2"])


@st.composite
def frames(draw: st.DrawFn) -> Any:
    """Frames of any cells, dtypes, and names, equal ones among them."""
    rows = draw(st.integers(0, 40))
    columns = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(KINDS)
        if kind is object:
            cells = draw(st.lists(CELLS, min_size=rows, max_size=rows))
        elif kind in ("str", "string", "category"):
            cells = draw(st.lists(st.none() | st.text(max_size=5), min_size=rows, max_size=rows))
        else:
            limit = 1 if kind == "boolean" else 99
            missing = st.nothing() if kind == "i2" else st.none()
            cells = draw(st.lists(missing | st.integers(0, limit), min_size=rows, max_size=rows))
            cells = [bool(one) if kind == "boolean" and one is not None else one for one in cells]
        columns.append(pd.Series(cells, dtype=kind))
    made = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(rows))
    names: Any = st.text(max_size=2) | st.integers(0, 2) | st.none()
    made.columns = pd.Index(draw(st.lists(names, min_size=len(columns), max_size=len(columns))), dtype=object)
    return made


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames())
def test_frames_of_any_content_are_the_same(frame: Any) -> None:
    check(through(frame), frame)


@settings(max_examples=150, deadline=None)
@given(st.lists(CELLS, max_size=40), st.sampled_from(["C", "F"]))
def test_arrays_of_objects_are_the_same(cells: list[Any], order: Any) -> None:
    array = np.empty(len(cells), object)
    for at, cell in enumerate(cells):
        array[at] = cell
    for value in (array, array.reshape((1, -1), order=order), array[::-1]):
        back = through(value)
        assert back.shape == value.shape
        assert same(back.ravel().tolist(), value.ravel().tolist())
