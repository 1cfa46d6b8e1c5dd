"""Messages as bytes: what jupyter_client's own packer makes of them, and what no browser could read, mended."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flame_kernel.kernel.iopub import LONG, pack

# Characters of all kinds, lone surrogates among them, and those that JSON escapes more often than by chance.
TEXT = st.text(
    st.characters() | st.sampled_from('\n"\\\r\t\x00\x1b\x7f\u2028') | st.characters(categories=["Cs"]), max_size=50
)


def readable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@given(text=TEXT, name=TEXT)
def test_text_of_any_length_and_content(text: str, name: str) -> None:
    for made in (text, text * (1 + LONG // max(1, len(text))), "x" * LONG + text, "line\n" * LONG + text):
        packed = pack({"name": name, "text": made})
        assert json.loads(packed) == {"name": readable(name), "text": readable(made)}


@pytest.mark.parametrize(
    ("message", "read"),
    [
        ({"a": float("nan"), "b": [float("inf"), 1.5]}, {"a": None, "b": [None, 1.5]}),
        ({"name": "stdout", "text": ""}, None),
        ({"text": "x" * (LONG + 1)}, None),
        ({"name": "stdout", "text": "x" * (LONG + 1), "more": [1]}, None),
        ({}, None),
        ([1, {"a": "\ud800"}], [1, {"a": "?"}]),
        ("text", None),
        ({"n": 1 << 70}, None),
    ],
)
def test_anything_else_is_as_json_has_it(message: Any, read: Any) -> None:
    assert json.loads(pack(message)) == (message if read is None else read)
