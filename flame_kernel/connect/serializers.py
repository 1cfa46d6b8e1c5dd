"""How calls and answers are written in a Pyro message: as pickles, which Flame demands, or as JSON, for other objects.

Writing is Pyro's own form. Reading makes plain values only: pickles by the inert reader of
`security/reader.py`, and JSON with none of the classes that Pyro would build from it.
"""

from __future__ import annotations

import json
import pickle
from typing import Any, Protocol

from ..errors import RemoteError
from ..security import reader

_MAX_JSON = 8 << 20  # bytes: every pair of brackets in it becomes an object


class Serializer(Protocol):
    """``number`` is what it is called on the wire."""

    number: int

    def call(self, name: str, method: str, args: tuple[Any, ...], protocol: int) -> bytes:
        """A call of a method of the object ``name``; ``protocol`` is that of pickles."""

    def hello(self, name: str, note: str) -> bytes:
        """What a client greets a daemon with: the object that it is for, and a note that means nothing."""

    def value(self, data: bytes | bytearray, budget: reader.Budget) -> Any:
        """The value in an answer; UnsafeAnswer where it is none."""

    def error(self, data: bytes | bytearray) -> RemoteError:
        """The exception in an answer; UnsafeAnswer where it is none."""


class _Pickle:
    number = 4

    def call(self, name: str, method: str, args: tuple[Any, ...], protocol: int) -> bytes:
        return pickle.dumps((name, method, args, {}), protocol)

    def hello(self, name: str, note: str) -> bytes:
        return pickle.dumps({"handshake": "hello", "object": name, "note": note}, 2)

    def value(self, data: bytes | bytearray, budget: reader.Budget) -> Any:
        return reader.read_value(data, budget)

    def error(self, data: bytes | bytearray) -> RemoteError:
        return reader.read_exception(data)


class _Json:
    number = 2

    def call(self, name: str, method: str, args: tuple[Any, ...], protocol: int) -> bytes:
        return json.dumps({"object": name, "method": method, "params": args, "kwargs": {}}).encode()

    def hello(self, name: str, note: str) -> bytes:
        return json.dumps({"handshake": "hello", "object": name}).encode() + note.encode()  # white space, to JSON

    def value(self, data: bytes | bytearray, budget: reader.Budget) -> Any:
        if len(data) > _MAX_JSON:
            reader.refuse(f"JSON of {len(data)} bytes, the limit is {_MAX_JSON}")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            reader.refuse(f"malformed JSON ({type(error).__name__})")

    def error(self, data: bytes | bytearray) -> RemoteError:
        value = self.value(data, reader.PLAIN_ANSWER)
        if not isinstance(value, dict) or value.get("__exception__") is not True:
            reader.refuse("an exception that is no exception")
        args = value.get("args")
        args = args if isinstance(args, list) else []
        name = str(value.get("__class__")).rpartition(".")[2]
        return RemoteError(name, ", ".join(arg for arg in args[:8] if isinstance(arg, str)), "")


PICKLE: Serializer = _Pickle()
JSON: Serializer = _Json()
