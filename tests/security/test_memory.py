"""Memory: what a dtype, a shape or a text claims is added up before numpy sees it, on both sides."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import bounded
import numpy as np
import pytest
from farside import FlameServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sameness import same

import flame
from flame_kernel.agent.wire import values
from flame_kernel.agent.wire.tables import dtypes
from flame_kernel.errors import CannotTravel, UnsafeAnswer
from flame_kernel.remote import calls

NUMBERS: list[Any] = [0, -1, 1, 7, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, -(2**63), 1.5, None, True, "x", [], {}]


def struct(formats: list[Any], offsets: list[Any], size: Any, **more: Any) -> dict[str, Any]:
    names = [f"f{number}" for number in range(len(formats))]
    return {"names": names, "formats": formats, "offsets": offsets, "itemsize": size, "aligned": False, **more}


def array(dtype: Any, shape: Any, data: bytes, order: Any = "C") -> list[bytes]:
    return [json.dumps({"a": [dtype, shape, order, 1]}).encode(), data]


def deep(levels: int) -> Any:
    dtype: Any = "|i1"
    for _ in range(levels):
        dtype = struct([dtype], [0], 1)
    return dtype


HOLE = struct(["|V16"], [2147483640], 8)
TOO_HIGH = b"\xff\xff\xff\x7f"
CASES: dict[str, list[bytes]] = {
    # Fields beyond the item.
    "offset that overflows": array(HOLE, [8], b"x" * 64),
    "offset that overflows, large item": array(struct(["|V16"], [2147483640], 64), [1 << 10], bytes(64 << 10)),
    "offset of the last byte": array(struct(["<f8"], [1], 8), [1], b"x" * 8),
    "negative offset": array(struct(["<f8"], [-8], 8), [1], b"x" * 8),
    "offset of 64 bits": array(struct(["<f8"], [2**32], 8), [1], b"x" * 8),
    "offset beyond 64 bits": array(struct(["<f8"], [2**64], 8), [1], b"x" * 8),
    "offset in a field": array(struct([HOLE], [0], 8), [8], b"x" * 64),
    "offset in a subarray": array(struct([[HOLE, [2]]], [0], 16), [4], b"x" * 64),
    "offset of a scalar": [json.dumps({"g": [HOLE, 1]}).encode(), b"x" * 8],
    "offset of a dtype alone": [json.dumps({"l": HOLE}).encode()],
    "offset that is true": array(struct(["|i1"], [True], 8), [1], b"x" * 8),
    "fewer offsets": array(struct(["|i1", "|i1"], [0], 8), [1], b"x" * 8),
    # Sizes.
    "negative item": array(struct(["|i1"], [0], -8), [1], b"x" * 8),
    "item of 4 GiB": array(struct(["|i1"], [0], 2**32 + 8), [1], b"x" * 8),
    "text of 2 GiB": array("|S2147483648", [1], b"x"),
    "text that wraps to 4 bytes": array("<U1073741825", [1], b"x" * 4),
    "void that wraps to 8": array("|V4294967304", [1], b"x" * 8),
    "subarray that wraps": array(struct([["<f8", [2**29]]], [0], 8), [1], b"x" * 8),
    "subarray of two that wrap": array(struct([["<f8", [2**16, 2**16]]], [0], 8), [1], b"x" * 8),
    "subarray with a zero to hide behind": array(struct([["<f8", [0, 2**31 - 1, 2**31 - 1]]], [0], 8), [1], b"x" * 8),
    "negative subarray": array(struct([["<f8", [-1]]], [0], 8), [1], b"x" * 8),
    "subarray that is an array": array(["<f8", [2]], [2], b"x" * 16),
    "shape that wraps": array("<f8", [2**61 + 1], b"x" * 8),
    "shape of two that wrap": array("<f8", [2**32, 2**32], b""),
    "shape of a zero and 2**62": array("<f8", [0, 2**62, 2**62], b""),
    "shape of true": array("<f8", [True], b"x" * 8),
    "shape of 1000 axes": array("<f8", [1] * 1000, b"x" * 8),
    "shape of 4300 digits": [f'{{"a":["<f8",[{"9" * 4300}],"C",1]}}'.encode(), b"x" * 8],
    "empty array of items of 2 GiB": array("|V2147483647", [0], b""),
    "strange order": array("<f8", [1], b"x" * 8, "K"),
    # Units.
    "unit of none": array("<M8[0s]", [1], b"x" * 8),
    "unit of 10 digits": array("<M8[9999999999s]", [1], b"x" * 8),
    "unit of a code": array("<M8[s/0]", [1], b"x" * 8),
    # Names, titles, more of it than there is.
    "names twice": array(struct(["|i1", "|i1"], [0, 1], 8, names=["a", "a"]), [1], b"x" * 8),
    "names that are none": array(struct(["|i1"], [0], 8, names=[["a", "title"]]), [1], b"x" * 8),
    "titles": array(struct(["|i1"], [0], 8, titles=["t"]), [1], b"x" * 8),
    "aligned by a number": array(struct(["|i1"], [0], 8, aligned=8), [1], b"x" * 8),
    "deep": array(deep(11), [1], b"x"),
    "very deep": array(deep(90), [1], b"x"),
    "too many fields": array(struct(["|i1"] * 100_001, [0] * 100_001, 1), [1], b"x"),
    "fields that overlap": array(struct(["|V1000000"] * 500, [0] * 500, 1_000_000), [4], bytes(4_000_000)),
    "elements of no size": array(struct(["|S0"] * 1000 + ["|i1"], [0] * 1001, 1), [100_000], bytes(100_000)),
    # Characters.
    "text above the last character": array("<U1", [1], TOO_HIGH),
    "text above it, of another byte order": array(">U1", [1], TOO_HIGH[::-1]),
    "text above it, at the end": array("<U3", [2], b"a\0\0\0" * 5 + b"\0\0\x11\0"),
    "text in a field": array(struct(["|i1", "<U2"], [0, 3], 11), [2], b"\0" * 11 + b"\0" * 7 + TOO_HIGH),
    "text in a subarray": array(struct([["<U1", [2, 2]]], [0], 16), [1], b"\0" * 12 + TOO_HIGH),
    "text in a struct in a subarray": array(
        struct([[struct(["|i1", "<U1"], [0, 1], 5), [3]]], [1], 16), [1], b"\0" * 12 + TOO_HIGH
    ),
    "text of a scalar": [b'{"g":["<U1",1]}', TOO_HIGH],
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    return bounded.outcomes(CASES)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", CASES)
def test_a_dtype_that_claims_is_refused(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes[name]["how"] == "refused", outcomes[name]
    assert outcomes[name]["grown"] < 100 << 20


# -- every plain dtype travels, and nothing else does


PLAIN = ["?", "b1", "i1", "<u2", ">i4", "<i8", "<f2", ">f4", "<f8", "<c8", ">c16", "<f16", "S3", "S0", "V5", "V0"]
PLAIN += ["<M8[ns]", ">M8[25s]", "<M8", "<m8[D]", "<m8[3W]", "<U2", ">U3", "U0"]


def dtype_words(depth: int = 2) -> st.SearchStrategy[Any]:
    """What numpy's ``dtype`` takes: plain, subarrays, and structs whose fields lie anywhere."""
    plain: st.SearchStrategy[Any] = st.sampled_from(PLAIN).map(np.dtype)
    if not depth:
        return plain
    inner = dtype_words(depth - 1)
    sized = inner.filter(lambda dtype: dtype.itemsize > 0)
    subarrays = st.builds(
        lambda base, shape: np.dtype((base, tuple(shape))), sized, st.lists(st.integers(1, 3), max_size=2)
    )
    return plain | subarrays | structs(inner | subarrays)


@st.composite
def structs(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> Any:
    formats = draw(st.lists(inner, max_size=4))
    offsets = [draw(st.integers(0, 20)) for _ in formats]
    size = max([offset + dtype.itemsize for offset, dtype in zip(offsets, formats, strict=True)], default=0)
    names = draw(st.lists(st.text(max_size=3), min_size=len(formats), max_size=len(formats), unique=True))
    packed = draw(st.booleans())
    if packed:
        return (
            np.dtype(list(zip(names, formats, strict=True)), align=draw(st.booleans())) if all(names) else plain_int()
        )
    plan: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": size + draw(st.integers(0, 3))}
    return np.dtype(plan)


def plain_int() -> Any:
    return np.dtype("<i4")


def content(dtype: Any, count: int, seed: int) -> bytes:
    """Bytes of ``count`` items, with characters that there are where the dtype has text."""
    data = bytearray(random.Random(seed).randbytes(count * dtype.itemsize))
    texts = dtypes.check(dtypes.words(np, dtype)).texts if count else ()
    last = (
        0x10FFFF if len(texts) == 1 else 0
    )  # several may overlap, and of these bytes only zeros are text in any place
    for offset, order, axes in texts:
        shape, strides = zip((count, dtype.itemsize), *axes, strict=True)
        np.ndarray(shape, f"{order}u4", data, offset, strides)[...] = last
    return bytes(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    dtype=dtype_words(), shape=st.lists(st.integers(0, 3), max_size=3), seed=st.integers(), order=st.sampled_from("CF")
)
def test_every_plain_dtype_travels(dtype: Any, shape: list[int], seed: int, order: Any) -> None:
    again = values.decode([bytes(part) for part in values.encode(dtype)])
    assert again == dtype
    assert again.isalignedstruct == dtype.isalignedstruct
    if dtype.subdtype is None and dtype.itemsize:
        count = int(np.prod(shape))
        made = np.frombuffer(content(dtype, count, seed), dtype).reshape(shape, order=order)
        assert same(values.decode([bytes(part) for part in values.encode(made)]), made)


def changed(words: Any, chance: random.Random) -> Any:
    """The words of a dtype, with one of its numbers, texts or lists another."""
    text = json.dumps(words)
    found = [at for at, one in enumerate(text) if one.isdigit() and not text[at - 1].isdigit()] or [0]
    at = chance.choice(found)
    end = at
    while text[end : end + 1].isdigit():
        end += 1
    number = json.dumps(chance.choice(NUMBERS)).strip('"') or "7"
    try:
        return json.loads(text[:at] + number + text[end:])
    except ValueError:
        return number


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(dtype=dtype_words(), seed=st.integers(0, 2**32))
def test_a_changed_dtype_is_whole_or_refused(dtype: Any, seed: int) -> None:
    """Whatever is let through: its fields are within its items, as numpy has them too."""
    chance = random.Random(seed)
    words = changed(dtypes.words(np, dtype), chance)
    try:
        made, layout = dtypes.make(np, words)
    except values.BadValue:
        return
    assert made.itemsize == layout.size <= dtypes.MAX_ITEM
    check_within(made)


def check_within(dtype: Any) -> None:
    base = dtype.base
    assert not base.hasobject
    for name in base.names or ():
        field, offset = base.fields[name][:2]
        assert 0 <= offset <= offset + field.itemsize <= base.itemsize
        check_within(field)


# -- both sides


PATCH = """
import json, sys
for name, module in list(sys.modules.items()):
    if name.startswith("flame_agent_") and name.endswith("objects"):
        module.Objects._answer = lambda self, thing, request: ({"status": "ok", "how": "value"}, [TEXT, DATA])
"""


@pytest.fixture
def remote(flame_server: Callable[..., FlameServer]) -> Iterator[Any]:
    with flame.connect(flame_server().location, shell="mini") as connected:
        yield connected


@pytest.mark.parametrize("name", ["offset that overflows", "text in a field", "shape of 4300 digits"])
def test_an_answer_that_claims_is_unsafe(name: str, remote: Any) -> None:
    text, data = CASES[name]
    with pytest.raises(UnsafeAnswer, match="a reply of the wrong shape"):
        remote.execute(PATCH.replace("TEXT", repr(text)).replace("DATA", repr(data)))


@pytest.mark.parametrize("name", ["offset that overflows", "text in a field", "shape of 4300 digits"])
def test_the_far_side_refuses_it_too(name: str, remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text, data = CASES[name]
    steps = [b'[["x",' + text + b"]]", data]
    with monkeypatch.context() as patched:
        patched.setattr(calls.Calls, "_encode", lambda self, value, trust: steps)
        with pytest.raises(CannotTravel, match="cannot read what was sent"):
            remote.evaluate("1")
    assert remote.evaluate("1 + 1") == 2
