"""JSON text of large messages: what Python's own encoder and parser make of it, and what stands outside its strings."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flame_kernel.agent.wire import json_text, message

LONG = "x" * 20_000


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        LONG + '\n\t\r"\\/\\\\n',
        LONG + "\x00\x1f\x7f\u2028",
        "é" * 20_000,
        LONG + "\U0001f600",
        LONG + "\\" * 1000 + '"',
        "",
        "short\x01",
    ],
)
def test_a_string(text: str) -> None:
    content = {"data": {"text/html": text, "é": 1}, "metadata": {}, "n": [text, None]}
    assert json.loads(json_text.dumps(content)) == content


def test_a_lone_surrogate_is_an_escape() -> None:
    content = {"data": {"text/plain": LONG + "\ud800"}}
    assert b"\\ud800" in json_text.dumps(content)
    assert json.loads(json_text.dumps(content)) == content


def test_keys_that_are_no_text() -> None:
    content = {"data": {1: LONG, None: 2, "a": LONG}, 3.5: LONG}
    assert json.loads(json_text.dumps(content)) == json.loads(json.dumps(content))
    with pytest.raises(TypeError):
        json_text.dumps({"data": {(1, 2): LONG}})
    assert json.loads(json_text.dumps({"data": {(1, 2): LONG, "a": LONG}}, skipkeys=True)) == {"data": {"a": LONG}}
    with pytest.raises(ValueError, match="JSON compliant"):
        json_text.dumps({"data": {"a": LONG, "b": float("nan")}}, allow_nan=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='\\"a,[{é0'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='\\"a,[{'), inner),
)


@settings(deadline=None)
@given(JSON)
def test_what_stands_outside_strings(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    rest = json_text.without_strings(text)
    assert rest is not None
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    assert rest == b'""'.join(plain[::2])


def test_quotes_without_end_are_given_up() -> None:
    began = time.monotonic()
    assert json_text.without_strings(b'["' + b'\\"' * 10_000_000 + b'"]') is None
    assert json_text.without_strings(b'["' + b"\\\\" * 10_000_000 + b'"]') is None
    assert json_text.without_strings(b'["a' + b"\\") == b"["
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(("inside", "many"), [("[,{" * 1_000_000, False), ('\\",' * 1_000_000, False)])
def test_values_are_counted_outside_strings(inside: str, many: bool) -> None:
    assert message.has_too_many_values(b'["%s"]' % inside.encode()) is many
    assert message.has_too_many_values(b'["%s"%s]' % (inside.encode(), b",1" * 2_100_000))


def test_text_that_others_read_differently_is_not_passed_on() -> None:
    for text, passed in (
        (b'{"a": "NaN"}', True),
        (b'{"NaN": "-Infinity", "a": NaN}', False),
        (b'{"a": NaN}', False),
        (b'{"a": -Infinity}', False),
        (b'{"a": "\\ud800"}', False),
        (b'{"\\ud800": 1}', False),
        (b'{"a": {"b": {"c": ["\\udfff"]}}}', False),
        (b'{"a": {"b": "\\u0041\\n"}}', True),
        (b'{"a": "\\uD83D\\uDE00"}', False),
        ('{"a": "é\U0001f600"}'.encode(), True),
    ):
        event = {"type": "display_data", "request": None, "content": {}, "json_buffer": 0}
        (found,) = message.decode_events([event], [text])
        assert (found["packed"] is not None) is passed
        if passed:
            assert found["packed"][0] is found["content"]
