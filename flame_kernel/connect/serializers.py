"""Writes calls and reads answers in Pyro messages: as pickles, which Flame requires, or as JSON, for other objects.

Calls are written in Pyro's own form. Answers are read as plain values only: pickles by the inert reader of
`security/reader.py`, JSON without the classes that Pyro would build from it.
"""

from __future__ import annotations

import json
import pickle
from typing import Any, Protocol

from ..errors import RemoteError
from ..security import limits, reader


class Serializer(Protocol):
    """One format of calls and answers; ``number`` identifies it in the message header."""

    number: int

    def call(self, name: str, method: str, args: tuple[Any, ...], protocol: int) -> bytes:
        """The bytes that call ``method`` of the object ``name``; ``protocol`` is the pickle protocol."""

    def hello(self, name: str, note: str) -> bytes:
        """The data of a handshake with a daemon about the object ``name``; the daemon ignores ``note``."""

    def value(self, data: bytes | bytearray, budget: reader.Budget) -> Any:
        """The value in an answer; UnsafeAnswer if it is malformed."""

    def error(self, data: bytes | bytearray) -> RemoteError:
        """The exception in an answer; UnsafeAnswer if it is not an exception."""


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
        limits.check_json(data)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            reader.refuse(f"malformed JSON ({type(error).__name__})")

    def error(self, data: bytes | bytearray) -> RemoteError:
        value = self.value(data, reader.PLAIN_ANSWER)
        if not isinstance(value, dict) or value.get("__exception__") is not True:
            reader.refuse("an error that is not an exception")
        args = value.get("args")
        args = args if isinstance(args, list) else []
        name = str(value.get("__class__")).rpartition(".")[2]
        return RemoteError(name, ", ".join(arg for arg in args[:8] if isinstance(arg, str)), "")


PICKLE: Serializer = _Pickle()
JSON: Serializer = _Json()
