"""Every tag of the codec with content that ``encode`` never writes: a value or BadValue, in no time, and nothing runs.

The tags are read from the codec's own tables, so a new one is tried here by itself.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

import pytest

from flame_kernel.agent.wire import decoder, values
from flame_kernel.agent.wire.tables import arrays
from flame_kernel.remote.exceptions import Known
from flame_kernel.remote.records import known_class

TABLES: tuple[dict[str, Any], ...] = (
    decoder._READERS,
    decoder._MAKERS,
    decoder._LONG_MAKERS,
    decoder._ATOMS,
    arrays._READERS,
)
TAGS = sorted({tag for table in TABLES for tag in table} | {"r", "~", "G"})

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    10**40,
    1.5,
    "",
    "os.system",
    "x" * 70_000,
    "9" * 70_000,
    [],
    {},
    [None],
    [0],
    [-1],
    [1, 2],
    [2, 1, 1],
    ["os", "system"],
    [["os", "system"], 1],
    [[], [], []],
    [1] * 9,
    [10**30] * 9,
    ["a" * 70_000, "b" * 70_000, "c"],
    [{"c": [None, "os", "system"]}, "a", 1],
    [{"c": [None, "subprocess", "Popen"]}, ["args"], ["true"]],
    {"m": {}},
    {"@": "x"},
    {"!": 1},
    {"t": [{"r": 0}]},
    [{"t": []}, {"s": [[1]]}],
    {"a": 1, "b": 2},
    {"__class__": "os"},
    [None, True, 1.5, "x", [], {}],
]
BUFFERS: list[list[bytes]] = [[], [b""], [b"\0" * 7], [b"\xff" * 4096]]
# For tags that have no case of their own elsewhere: what looks right at first, and must be refused.
REFUSED: dict[str, list[Any]] = {
    "B": [7, -1, "x", [1]],
    "C": [[25, 0, 0, 0, 0, None], [1, 2, 3, 4, 0, "../../etc/passwd"], [1, 2]],
    "E": [2, "x", [0]],
    "R": [["1", "2", "0"], ["1", "2"], ["x", "y", "z"], ["1" * 200_000, "2", "3"]],
    "S": [[1, 2], 5, [1, 2, 3, 4]],
    "T": [[2024, 13, 1, 0, 0, 0, 0, 0, None], [2024, 1, 1, 0, 0, 0, 0, 0, "os.path"], [1] * 3],
    "W": [[10**12, 0, 0], ["x", 0, 0], [1]],
    "X": [7, [1], None],
    "i": ["x" * 10, None, [1]],
    "ip": [["IPv4Address", "1.2.3.4.5"], ["os", "1.2.3.4"], ["IPv4Network", 5], [["IPv4Address"], "::"], "::1"],
    "u": ["x", 5, "0" * 31],
    "y": [5, None, "\u0141"],
}


def read(tag: str, content: Any, buffers: list[bytes]) -> bool:
    """Whether a node is read; False if it is refused. Nothing else may be raised."""
    text = json.dumps({tag: content}).encode()
    started = time.process_time()
    try:
        values.decode([text, *buffers], None, None, known_class)
        values.decode([text, *buffers], lambda told: told, None, Known())
    except values.BadValue:
        return False
    finally:
        assert time.process_time() - started < 10, (tag, str(content)[:60])
    return True


def test_a_value_of_a_class_that_may_be_unknown_names_none() -> None:
    """It is a record or an exception of a loaded class, or the stand-in: nothing that is named is called."""
    told = [["os", "system"], ["subprocess", "Popen"], ["builtins", "SystemExit"], ["antigravity", "x"]]
    for module, name in told:
        kind = {"c": [None, module, name]}
        for node in ({"re": [kind, "a", 1]}, {"rt": [kind, ["a"], 1]}, {"rd": [kind, "a", 1]}):
            parts = [json.dumps({"t": [{"?": [node, "there"]}, {"?": [node, "there"]}]}).encode()]
            assert values.decode(parts, lambda told: told, None, Known()) == ("there", "there")
        raised = {"rx": [[[None, module, name]], "text", {"m": {}}]}
        assert values.decode([json.dumps({"?": [raised, "it"]}).encode()], lambda told: told, None, Known()) == "it"
    with pytest.raises(values.BadValue):
        values.decode([json.dumps({"?": [[1], "there"]}).encode()], lambda told: told, None, known_class)


@pytest.mark.parametrize("tag", TAGS)
def test_odd_content_is_a_value_or_refused(tag: str) -> None:
    before = {name for name in sys.modules if name.partition(".")[0] in ("antigravity", "this", "subprocess")}
    read_or_not = [read(tag, content, buffers) for content, buffers in itertools.product(ODD, BUFFERS)]
    assert False in read_or_not
    assert before == {name for name in sys.modules if name.partition(".")[0] in ("antigravity", "this", "subprocess")}


@pytest.mark.parametrize("tag", REFUSED)
def test_what_looks_right_at_first_is_refused(tag: str) -> None:
    assert [content for content in REFUSED[tag] if read(tag, content, [b"\0" * 8])] == []
