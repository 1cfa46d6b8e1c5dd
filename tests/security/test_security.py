"""The inert reader: it reads all that stock servers write, does nothing, and has an end whatever it is given."""

from __future__ import annotations

import collections
import contextlib
import datetime
import decimal
import io
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import evil
import pytest
from tblib.pickling_support import pickle_exception, pickle_traceback

from flame_kernel.connect import pyro_message
from flame_kernel.errors import FlameError, RemoteError, UnsafeAnswer
from flame_kernel.security import limits, reader, unpickler
from flame_kernel.security.reader import AGENT_ANSWER, Budget, Name, Record, read_exception, read_value

ROOT = Path(__file__).parents[2]

PLAIN: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    255,
    65536,
    -(2**31),
    2**31,
    2**63,
    -(2**200),
    1.5,
    float("inf"),
    1j,
    "",
    "a",
    "ä€😀\0",
    "\ud800 lone",
    "x" * 70_000,
    b"",
    b"\x00\xff",
    b"x" * 70_000,
    bytearray(b"ab"),
    bytearray(),
    [],
    [1, [2, [3]]],
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    {},
    {"a": 1, b"b": 2, 3: 4, None: 5, (1, "x"): 6, 1.5: 7, True: 8},
    set(),
    {1, "a"},
    frozenset(),
    frozenset({1, 2}),
    list(range(2500)),
    {str(n): n for n in range(2500)},
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back(protocol: int) -> None:
    for value in PLAIN:
        read = read_value(pickle.dumps(value, protocol))
        assert read == value
        assert type(read) is type(value)
    shared = ["shared"]
    assert read_value(pickle.dumps([PLAIN, shared, shared], protocol)) == [PLAIN, shared, shared]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_come_as_records_that_are_never_made(protocol: int) -> None:
    for value, name in (
        (datetime.date(2020, 1, 2), "datetime.date"),
        (decimal.Decimal("1.5"), "decimal.Decimal"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (collections.Counter("aab"), "collections.Counter"),
        (collections.deque([1, 2]), "collections.deque"),
        (evil.Shell("true"), f"{os.system.__module__}.system"),
    ):
        read = read_value(pickle.dumps(value, protocol))
        assert type(read) is Record
        assert repr(read) == f"<remote {name} object>"
    assert str(read_value(pickle.dumps(len, protocol))) in ("builtins.len", "__builtin__.len")
    assert type(read_value(pickle.dumps(dict, protocol))) is Name


def test_a_python_2_str_is_bytes() -> None:
    assert read_value(b"\x80\x02U\x02\xe4bq\x01.") == b"\xe4b"  # cPickle counts its memo from 1
    assert read_value(b"\x80\x02T\x02\x00\x00\x00ab.") == b"ab"


class Outer:
    class Inner(Exception):
        pass


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_exceptions_come_as_text(protocol: int) -> None:
    error: Any = ValueError("wrong", 3)
    lines = ["Traceback (most recent call last):\n", '  File "x", line 1\n', "ValueError: ('wrong', 3)\n"]
    error._pyroTraceback = lines
    read = read_exception(pickle.dumps(error, protocol))
    assert (read.ename, read.evalue, read.traceback) == ("ValueError", "('wrong', 3)", "".join(lines))
    assert str(read) == "ValueError: ('wrong', 3)"

    # What the class's own __str__ says is in the far side's text only, notes may follow it, and it may have many lines.
    nested: Any = Outer.Inner(1)
    nested._pyroTraceback = ["Traceback\n", "mod.Outer.Inner: two\nlines\n", "a note: here\n"]
    read = read_exception(pickle.dumps(nested, protocol))
    assert (read.ename, read.evalue) == ("Inner", "two\nlines")

    assert read_exception(pickle.dumps(KeyError("k"), protocol)).evalue == "k"
    silent: Any = AssertionError()
    silent._pyroTraceback = ["Traceback\n", "AssertionError\n"]
    assert str(read_exception(pickle.dumps(silent, protocol))) == "AssertionError"


@pytest.mark.parametrize(
    "error", [KeyError("k"), OSError(2, "k"), Outer.Inner("k")], ids=lambda error: type(error).__name__
)
def test_exceptions_as_tblib_pickles_them(error: Exception) -> None:
    """It does so on every far side that has loaded dask."""
    try:
        raise error
    except Exception:  # as it comes from a server: with a traceback, which is pickled too
        data = _pickled(error, {type(error): pickle_exception, TracebackType: pickle_traceback})
    read = read_exception(data)
    assert read.ename == type(error).__name__
    assert read.evalue == "k"


@pytest.mark.parametrize("table", [{}, {ValueError: pickle_exception}], ids=["pickle", "tblib"])
def test_an_exception_that_contains_itself(table: dict[type, Any]) -> None:
    attribute: Any = ValueError("k")
    attribute.me = attribute
    argument, inner = ValueError(), []
    argument.args = ("k", inner)
    inner.append(argument.args)
    for error in (attribute, argument):
        read = read_exception(_pickled(error, table))
        assert (read.ename, read.evalue) == ("ValueError", "k")


@pytest.mark.parametrize("nothing", [b"\x80\x020.", b"\x80\x02(0.", b"\x80\x021.", b"\x80\x02N(1"])
def test_what_is_not_there_cannot_be_taken(nothing: bytes) -> None:
    with pytest.raises(UnsafeAnswer):
        read_value(nothing)


def _pickled(error: Exception, table: dict[type, Any]) -> bytes:
    """Pickled by no other functions than these, whatever has been loaded by other tests."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 4)
    pickler.dispatch_table = table
    pickler.dump(error)
    return buffer.getvalue()


def test_an_exception_made_by_a_factory_has_its_name_from_the_traceback() -> None:
    error: Any = RemoteError("Inside", "x", "")  # has one, to be pickled at all
    error._pyroTraceback = ["Traceback\n", "flame_kernel.errors.RemoteError: Inside: x\n"]
    read = read_exception(pickle.dumps(error, 4))
    assert (read.ename, read.evalue) == ("RemoteError", "Inside: x")


def test_an_exception_tells_even_if_its_attributes_are_beyond_reading() -> None:
    error: Any = ValueError("x")
    error.me = error
    error.deep = None
    for _ in range(200):
        error.deep = [error.deep]
    error._pyroTraceback = ["ValueError: x\n"] * 10
    assert str(read_exception(_pickled(error, {}))) == "ValueError: x"
    error._pyroTraceback = ["y" * 1_000_000] * 500  # half a gigabyte by references
    assert len(read_exception(_pickled(error, {})).traceback) < 110_000


def test_what_is_no_exception_is_refused() -> None:
    for value in (1, None, "x", [], {"_pyroTraceback": []}):
        with pytest.raises(UnsafeAnswer):
            read_exception(pickle.dumps(value, 4))


# A frame's length is a hint, which is not followed; and a state for a record is only noted.
HARMLESS = {"frame": "None", "build-call": "<remote Pyro4.utils.flame.FlameBuiltin object>"}


@pytest.mark.parametrize("name", sorted(evil.bombs()))
def test_bombs_are_refused_quickly_and_cheaply(name: str) -> None:
    data = evil.bombs()[name]
    if name in HARMLESS:
        assert repr(read_value(data)) == HARMLESS[name]
        return
    tracemalloc.start()
    try:
        with pytest.raises(UnsafeAnswer):
            read_value(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 128 * 2**20
    started = time.monotonic()
    with pytest.raises(UnsafeAnswer):
        read_exception(data)
    assert time.monotonic() - started < 3


def test_colliding_keys_within_the_budget_end_soon() -> None:
    keys = {index * (2**61 - 1): None for index in range(reader.PLAIN_ANSWER.guessable_keys)}
    started = time.monotonic()
    assert len(read_value(pickle.dumps(keys, 4))) == len(keys)
    assert time.monotonic() - started < 3


def test_budgets_are_exact() -> None:
    small = Budget(opcodes=10, nodes=5, text=20, depth=3)
    assert read_value(pickle.dumps([1, 2, 3], 2), small) == [1, 2, 3]
    for value in ([1] * 20, [[[[1]]]], "x" * 21, ["x" * 11, "y" * 10]):
        with pytest.raises(UnsafeAnswer):
            read_value(pickle.dumps(value, 2), small)
    agent = pickle.dumps(b"x" * 10**7, 5)
    assert len(read_value(agent, AGENT_ANSWER)) == 10**7
    with pytest.raises(UnsafeAnswer):
        read_value(pickle.dumps(list(range(20_000)), 5), AGENT_ANSWER)


def _seeds() -> list[bytes]:
    error: Any = ValueError("x")
    error._pyroTraceback = ["Traceback\n", "ValueError: x\n"]
    small = [value for value in PLAIN if not hasattr(value, "__len__") or len(value) < 100]
    objects = [error, datetime.date(2020, 1, 2), collections.OrderedDict(a=1), {1: "a", (1, 2): {3}}, small]
    return [pickle.dumps(value, protocol) for value in [*small, *objects] for protocol in (2, 3, 4, 5)]


def test_mutated_pickles_raise_nothing_but_unsafe_answer() -> None:
    read = refused = 0
    for data in evil.mutants(_seeds(), 20_000, seed=4):
        try:
            repr(read_value(data))
            read += 1
        except UnsafeAnswer:
            refused += 1
        with contextlib.suppress(UnsafeAnswer):
            str(read_exception(data))
    assert read > 1000  # the mutations reach beyond the first opcode
    assert refused > 1000


def _read_by_the_machine(data: bytes) -> Any:
    try:
        return unpickler.Machine(data, AGENT_ANSWER).run()
    except UnsafeAnswer:
        return UnsafeAnswer


def test_one_bytes_object_is_read_at_once_and_as_the_machine_reads_it() -> None:
    sizes = (0, 1, 255, 256, 5000, 1 << 16, 1 << 17)
    seeds = [pickle.dumps(bytes(range(256)) * (size // 256) + bytes(size % 256), 4) for size in sizes]
    assert [reader._bytes_alone(data) is not None for data in seeds] == [size < 1 << 16 for size in sizes]
    small = [data for data in seeds if len(data) < 300]
    at_once = 0
    for data in [*seeds, *evil.mutants(small, 20_000, seed=6), *(data[:end] for data in small for end in range(30))]:
        for form in (data, bytearray(data), memoryview(data)):
            found = reader._bytes_alone(form)
            if found is not None:
                at_once += 1
                assert type(found) is bytes
                assert found == _read_by_the_machine(data)
    assert at_once > 1000
    with pytest.raises(UnsafeAnswer, match="bytes of text"):
        read_value(seeds[4], Budget(opcodes=10, nodes=10, text=4999))


def test_random_opcodes_raise_nothing_but_unsafe_answer() -> None:
    chance = random.Random(5)
    codes = [*unpickler._TABLE, ord("."), 0, 1, 2]
    for _ in range(5_000):
        data = bytes(chance.choice(codes) for _ in range(chance.randint(1, 60)))
        for read in (read_value, read_exception):
            with contextlib.suppress(UnsafeAnswer):
                read(b"\x80\x04" + data)


def test_deep_structures_are_freed_without_a_crash() -> None:
    for opener in (b"]", b"}"):
        data = b"\x80\x02" + opener * 500_000 + b"."
        with pytest.raises(UnsafeAnswer):
            read_value(data)
    with pytest.raises(UnsafeAnswer):
        read_value(b"\x80\x02ca\nb\nq\x00N" + b"\x85q\x01h\x00h\x01R" * 200_000 + b".")


# --- the rest of the room


def test_marshalled_refusals_are_read_without_marshal() -> None:
    import marshal

    for version in range(5):
        for text in ("", "hmac key config not symmetric", "ä", "x" * 300):
            assert pyro_message.marshal_text(marshal.dumps(text, version)) == text
    assert pyro_message.marshal_text(b"s\x02\x00\x00\x00ab") == "ab"  # Python 2
    code = marshal.dumps(compile("1", "x", "eval"))
    for data in (b"", b"z", b"z\x05ab", b"u\xff\xff\xff\x7fab", code, marshal.dumps(["a"]), marshal.dumps("a") + b"x"):
        with pytest.raises(UnsafeAnswer):
            pyro_message.marshal_text(data)
    for data in evil.mutants([marshal.dumps("hmac mismatch", version) for version in range(5)], 2_000, seed=6):
        with contextlib.suppress(UnsafeAnswer):
            pyro_message.marshal_text(data)


def test_inflate_makes_no_more_than_its_limit() -> None:
    assert limits.inflate(zlib.compress(b"abc"), 3) == b"abc"
    for data in (zlib.compress(b"abcd"), zlib.compress(b"abc")[:-1], zlib.compress(b"abc") + b"x", b"", b"abc"):
        with pytest.raises(UnsafeAnswer):
            limits.inflate(data, 3)
    bomb = zlib.compress(bytes(256 * 2**20), 9)
    tracemalloc.start()
    try:
        with pytest.raises(UnsafeAnswer):
            limits.inflate(bomb, 16 * 2**20)
        assert tracemalloc.get_traced_memory()[1] < 48 * 2**20
    finally:
        tracemalloc.stop()


def test_signatures_are_pyros() -> None:
    from Pyro4 import message

    annotations = {"CORR": b"c" * 16, "ABCD": b"x"}
    theirs = message.Message(message.MSG_RESULT, b"data", 4, 0, 1, annotations=annotations, hmac_key=b"key")
    mine = pyro_message.signature(b"key", b"data", annotations)
    assert theirs.annotations["HMAC"] == mine
    assert pyro_message.is_signed(b"key", b"data", {**annotations, "HMAC": mine})
    for key, data, chunks in (
        (b"kez", b"data", {**annotations, "HMAC": mine}),
        (b"key", b"dato", {**annotations, "HMAC": mine}),
        (b"key", b"data", {"CORR": b"c" * 16, "HMAC": mine}),
        (b"key", b"data", annotations),
        (b"key", b"data", {**annotations, "HMAC": b""}),
    ):
        assert not pyro_message.is_signed(key, data, chunks)


# --- a watched client in a process of its own meets every evil server


@pytest.fixture(scope="module")
def canary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "owned")


@pytest.fixture(scope="module")
def outcomes(canary: Path) -> dict[str, dict[str, Any]]:
    """Mode -> what the watched client reported of it."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = {}
    with subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "support" / "evil.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        text=True,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        # The first one is honest: it makes what is made once, such as the caches of the import system.
        honest: dict[str, evil.Answer] = {
            "honest": lambda server, connection, seq: connection.sendall(
                evil.message(evil.RESULT, pickle.dumps(1, 4), seq)
            )
        }
        for name, answer in (honest | evil.modes(f"touch {canary}")).items():
            with contextlib.closing(evil.EvilServer(answer, at_handshake=name.startswith("handshake-"))) as server:
                client.stdin.write(f"{name} {server.location}\n")
                client.stdin.flush()
                line = client.stdout.readline()
                assert line, f"the client died of {name}"
                found[name] = json.loads(line)
        client.stdin.close()
        assert client.wait(10) == 0
    return found


MODES = sorted(evil.modes("true"))


@pytest.mark.parametrize("mode", MODES)
def test_an_evil_server_gets_nowhere(mode: str, outcomes: dict[str, dict[str, Any]], canary: Path) -> None:
    seen = outcomes[mode]
    assert outcomes["honest"]["outcome"] == "value"
    assert not canary.exists()
    assert seen["events"] == []
    assert seen["seconds"] < 4  # the deadlines are 1 s
    assert seen["grown"] < 150 * 2**20
    assert seen["outcome"] in ("value", "UnsafeAnswer", "RemoteError", "CannotConnect", "CallTimeout", "ConnectionLost")
    if seen["outcome"] == "value":  # what it made of it is a description, or a plain value
        assert seen["shown"] in ("<remote posix.system object>", "<remote Pyro4.core.Proxy object>", *HARMLESS.values())
    elif mode.startswith("handshake-"):
        # A greeting is read like any answer, and then not looked at: such a server is only found out by the first call.
        assert seen["outcome"] in ("CannotConnect", "ConnectionLost")


def test_silence_and_dripping_end_at_the_deadline_of_the_call(outcomes: dict[str, dict[str, Any]]) -> None:
    for mode in ("silence", "drip", "handshake-silence", "handshake-drip"):
        assert outcomes[mode]["outcome"] in ("CallTimeout", "CannotConnect")
        assert 0.9 < outcomes[mode]["seconds"] < 20


def test_a_remote_exit_is_only_an_error(outcomes: dict[str, dict[str, Any]]) -> None:
    assert outcomes["system-exit"]["outcome"] == "RemoteError"
    assert outcomes["interrupt"]["outcome"] == "RemoteError"


def test_every_error_here_is_of_our_tree() -> None:
    assert issubclass(UnsafeAnswer, FlameError)
    for error in (UnsafeAnswer("a", "b"), RemoteError("a", "b", "c")):
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error)
        assert vars(again) == vars(error)
