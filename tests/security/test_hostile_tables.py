"""Arrays of objects and tables that lie about themselves: refused, within bounds of memory and time, and in words."""

from __future__ import annotations

import json
import struct
from typing import Any

import bounded
import pytest

MANY = 10**12


def parts(tree: Any, *buffers: bytes) -> list[bytes]:
    return [json.dumps(tree).encode(), *buffers]


def whole(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}q", *numbers)


def column(content: Any, *buffers: bytes) -> list[bytes]:
    return parts({"px": content}, *buffers)


def indexed(content: Any, *buffers: bytes) -> list[bytes]:
    return parts({"pi": content}, *buffers)


RANGE = {"pi": ["range", None, 0, 2, 1]}
TIMES = {"a": ["<i8", [2], "C", 1]}
TWO = whole(1, 2)
CATEGORIES = {"pi": ["values", None, {"px": ["objects", ["x", "y"]]}, None]}
SPARSE = ["sparse", {"l": "<i8"}, 0]
CASES: dict[str, list[bytes]] = {
    "objects that do not fill their shape": parts({"o": [[3], "C", [1]]}),
    "objects of a negative shape": parts({"o": [[-1], "C", [1]]}),
    "objects of many axes": parts({"o": [[1] * 100, "C", [1]]}),
    "objects in another order": parts({"o": [[1], "K", [1]]}),
    "objects of nothing that claim": parts({"o": [[0, MANY, MANY], "C", []]}),
    "objects that are a text": parts({"o": [[1], "C", "x"]}),
    "objects that are memory": parts({"a": ["|O", [1], "C", 1]}, b"\1" * 8),
    "a struct with memory as objects": parts(
        {"a": [{"names": ["a"], "formats": ["|O"], "offsets": [0], "itemsize": 8, "aligned": False}, [1], "C", 1]},
        b"\1" * 8,
    ),
    "fields of other shapes": parts({"of": [["a"], False, [5], [{"o": [[1], "C", [1]]}]]}),
    "fields without arrays": parts({"of": [["a"], False, [1], [1]]}),
    "a field twice": parts({"of": [["a", "a"], False, [1], [{"o": [[1], "C", [1]]}, {"o": [[1], "C", [1]]}]]}),
    "fields without any": parts({"of": [[], False, [MANY], []]}),
    "texts of numbers": parts({"oc": [[1], "C", [1], None, False]}),
    "texts that claim": parts({"oc": [[MANY], "C", ["x"], None, True]}),
    "a mask that does not fit": parts({"om": [TIMES, {"a": ["|b1", [1], "C", 2]}, None, False]}, TWO, b"\0"),
    "a mask of a frame": parts({"om": [{"pf": []}, None, None, False]}),
    "a fill value of many": parts({"om": [TIMES, None, {"a": ["<i8", [2], "C", 2]}, False]}, TWO, TWO),
    "a view of another class": parts({"ov": ["os.system", TIMES]}, TWO),
    "a matrix of one axis": parts({"ov": ["matrix", TIMES]}, TWO),
    "records without fields": parts({"ov": ["record array", TIMES]}, TWO),
    "a chararray of numbers": parts({"ov": ["chararray", TIMES]}, TWO),
    "views in views": [b'{"ov":["recarray",' * 3000 + b"0" + b"]}" * 3000],
    "texts that end before they begin": column(["objects", {"tx": [2, 1, 2, None]}], whole(2, 1), b"xx"),
    "texts that end behind the end": column(["objects", {"tx": [2, 1, 2, None]}], whole(1, 9), b"xx"),
    "texts that end below nothing": column(["objects", {"tx": [2, 1, 2, None]}], whole(-5, 2), b"xx"),
    "texts that claim to be many": column(["objects", {"tx": [MANY, 1, 2, None]}], whole(2), b"xx"),
    "texts without an end": column(["objects", {"tx": [0, 1, 2, None]}], b"", b"xx"),
    "texts that are missing in a new way": column(["objects", {"tx": [1, 1, 2, 3]}], whole(2), b"xx", b"\x07"),
    "marks that do not fit": column(["objects", {"tx": [1, 1, 2, 3]}], whole(2), b"xx", b"\0\0"),
    "texts that are not UTF-8": column(
        ["texts", ["text", "pyarrow", "nan", True], {"tx": [1, 1, 2, None]}], whole(2), b"\xff\xfe"
    ),
    "a text that begins within a character": column(
        ["texts", ["text", "pyarrow", "NA", True], {"tx": [2, 1, 2, None]}], whole(1, 2), "ä".encode()
    ),
    "texts of another dtype": column(["texts", ["period", "D"], ["x"]]),
    "texts that are kept elsewhere": column(["texts", ["text", "os.system", "nan", False], ["x"]]),
    "texts that are numbers": column(["texts", ["text", "python", "NA", True], [1, 2]]),
    "an array of an unknown kind": column(["os.system", "true"]),
    "an array of no kind": column([]),
    "an array of a kind that is none": column([["moments"], "ns", None, TIMES], TWO),
    "times of another unit": column(["moments", "Y", None, TIMES], TWO),
    "times of text": column(["moments", "ns", None, "x"]),
    "times of two axes": column(["moments", "ns", None, {"a": ["<i8", [1, 2], "C", 1]}], TWO),
    "a zone that is a file": column(["moments", "ns", "../../../etc/passwd", TIMES], TWO),
    "a zone by its file": column(["moments", "ns", "dateutil//etc/passwd", TIMES], TWO),
    "a zone of dateutil": column(["moments", "ns", "dateutil/passwd", TIMES], TWO),
    "a zone beyond a day": column(["moments", "ns", [10**9, "datetime"], TIMES], TWO),
    "spans with a zone": column(["spans", "ns", "UTC", TIMES], TWO),
    "periods of another frequency": column(["periods", "os.system", TIMES], TWO),
    "periods of a long frequency": column(["periods", "1" * 1000 + "D", TIMES], TWO),
    "periods of text": column(["periods", "D", ["x"]]),
    "intervals that are closed elsewhere": column(["intervals", "up", RANGE, RANGE]),
    "intervals without ends": column(["intervals", "left", [1], [2]]),
    "intervals of two lengths": column(["intervals", "left", RANGE, {"pi": ["range", None, 0, 5, 1]}]),
    "intervals that end before they begin": column(["intervals", "left", {"pi": ["range", None, 5, 7, 1]}, RANGE]),
    "codes beyond the categories": column(["categories", ["category", CATEGORIES, False], TIMES], TWO),
    "codes below the categories": column(["categories", ["category", CATEGORIES, False], TIMES], whole(0, -5)),
    "codes of text": column(["categories", ["category", CATEGORIES, False], ["x"]]),
    "categories that are a list": column(["categories", ["category", ["x"], False], TIMES], TWO),
    "categories of another dtype": column(["categories", ["period", "D"], TIMES], TWO),
    "a category twice": column(
        ["categories", ["category", {"pi": ["values", None, {"px": ["objects", ["x", "x"]]}, None]}, False], TIMES], TWO
    ),
    "a mask of numbers": column(["masked", "Int64", TIMES, {"a": ["<i8", [2], "C", 2]}], TWO, TWO),
    "a mask that is short": column(["masked", "Int64", TIMES, {"a": ["|b1", [1], "C", 2]}], TWO, b"\0"),
    "numbers of another size": column(["masked", "Int8", TIMES, {"a": ["|b1", [2], "C", 2]}], TWO, b"\0\0"),
    "a masked dtype of another's": column(["masked", "geometry", TIMES, TIMES], TWO),
    "a sparse array that claims": column(
        ["sparse", MANY, "integer", SPARSE, TIMES, {"a": ["<i4", [2], "C", 2]}], TWO, struct.pack("<2i", 0, 1)
    ),
    "sparse places beyond the end": column(
        ["sparse", 3, "integer", SPARSE, TIMES, {"a": ["<i4", [2], "C", 2]}], TWO, struct.pack("<2i", 0, 7)
    ),
    "sparse places below nothing": column(
        ["sparse", 3, "integer", SPARSE, TIMES, {"a": ["<i4", [2], "C", 2]}], TWO, struct.pack("<2i", -9, 1)
    ),
    "sparse places in another order": column(
        ["sparse", 3, "block", SPARSE, TIMES, {"a": ["<i4", [2], "C", 2]}], TWO, struct.pack("<2i", 2, 1)
    ),
    "sparse places that are too many": column(
        ["sparse", 3, "block", SPARSE, TIMES, {"a": ["<i4", [3], "C", 2]}], TWO, struct.pack("<3i", 0, 1, 2)
    ),
    "a sparse array of another dtype": column(
        ["sparse", 3, "integer", ["sparse", {"l": "<f8"}, 0], TIMES, {"a": ["<i4", [2], "C", 2]}],
        TWO,
        struct.pack("<2i", 0, 1),
    ),
    "a column of Arrow that is a list": column(["arrow", [1]]),
    "a dtype of an unknown kind": parts({"pd": ["os.system"]}),
    "a dtype of no kind": parts({"pd": []}),
    "a dtype of intervals of a table": parts({"pd": ["interval", {"k": 1}, "left"]}, b"x"),
    "an index of an unknown kind": indexed(["os.system", None, 1]),
    "a range of texts": indexed(["range", None, "0", "1", "2"]),
    "a range without a step": indexed(["range", None, 0, 2, 0]),
    "a range beyond 64 bits": indexed(["range", None, 0, 2**62 * 8, 1]),
    "a frequency of numbers": indexed(["values", None, TIMES, "D"], TWO),
    "a frequency that does not fit": indexed(["values", None, {"px": ["moments", "ns", None, TIMES]}, "D"], TWO),
    "a frequency that is none": indexed(["values", None, {"px": ["moments", "ns", None, TIMES]}, "__import__"], TWO),
    "a name that is a list": indexed(["values", [1], TIMES, None], TWO),
    "levels without any": indexed(["levels", [], [], []]),
    "levels that are lists": indexed(["levels", [None], [[1]], [TIMES]], TWO),
    "codes beyond the level": indexed(["levels", [None], [RANGE], [TIMES]], whole(0, 7)),
    "codes below the level": indexed(["levels", [None], [RANGE], [TIMES]], whole(0, -7)),
    "codes that are lists": indexed(["levels", [None], [RANGE], [[0, 1]]]),
    "codes of two lengths": indexed(
        ["levels", [None, None], [RANGE, RANGE], [TIMES, {"a": ["<i8", [1], "C", 2]}]], whole(0, 1), whole(0)
    ),
    "levels of levels": indexed(
        ["levels", [None], [{"pi": ["levels", [None], [RANGE], [TIMES]]}], [{"a": ["<i8", [1], "C", 2]}]],
        whole(0, 1),
        whole(0),
    ),
    "a series without an index": parts({"ps": [[1], None, TIMES, {"m": {}}, False]}, TWO),
    "a series of another length": parts(
        {"ps": [{"pi": ["range", None, 0, MANY, 1]}, None, TIMES, {"m": {}}, False]}, TWO
    ),
    "a series of a list": parts({"ps": [RANGE, None, [1, 2], {"m": {}}, False]}),
    "a series of two axes": parts({"ps": [RANGE, None, {"a": ["<i8", [2, 1], "C", 1]}, {"m": {}}, False]}, TWO),
    "a series of a series": parts(
        {"ps": [RANGE, None, {"ps": [RANGE, None, TIMES, {"m": {}}, False]}, {"m": {}}, False]}, TWO
    ),
    "attributes that are a list": parts({"ps": [RANGE, None, TIMES, [1], False]}, TWO),
    "a frame of other columns": parts({"pf": [RANGE, RANGE, [TIMES], {"m": {}}, False]}, TWO),
    "a frame that does not fill": parts({"pf": [RANGE, RANGE, {"a": ["<i8", [2, 1], "C", 1]}, {"m": {}}, False]}, TWO),
    "a frame of texts in memory": parts({"pf": [RANGE, RANGE, {"a": ["|S4", [2, 2], "C", 1]}, {"m": {}}, False]}, TWO),
    "a frame of columns that claim": parts({"pf": [RANGE, {"pi": ["range", None, 0, MANY, 1]}, [], {"m": {}}, False]}),
    "frames in names": [b'{"pi":["range",' * 3000 + b"0" + b",0,1,1]}" * 3000],
    "a moment beyond 64 bits": parts({"pt": [2**63, "ns", None, 0]}),
    "a moment of a text": parts({"pt": ["2020", "ns", None, 0]}),
    "a moment in a file": parts({"pt": [0, "ns", "../../etc/passwd", 0]}),
    "a span of a list": parts({"pw": [[1], "ns"]}),
    "a period of another frequency": parts({"pp": [1, "os.system"]}),
    "an interval of texts": parts({"pv": ["a", "b", "left"]}),
    "an offset that is none": parts({"po": "__import__('os')"}),
    "an offset that is long": parts({"po": "1" * 10_000 + "D"}),
    "nothing of an unknown kind": parts({"pn": "os"}),
    "a batch that is none": parts({"kc": ["RecordBatch", 1]}, b"\xff" * 100),
    "polars that is none": parts({"pl": ["DataFrame", None, 1]}, b"\xff" * 100),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    return bounded.outcomes(CASES, memory=900 << 20)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", CASES)
def test_a_table_that_lies_is_refused(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes[name]["how"] == "refused", outcomes[name]
    assert outcomes[name]["grown"] < 100 << 20
