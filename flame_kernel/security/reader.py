"""The inert reader of answers: reading one cannot run code here.

A pickle is a program, and `pickle.loads` of a server's answer would run it here.  So answers are read by a machine that
cannot call or import anything (`unpickler.py`), and its result must be a tree of bounded size.  Refused answers raise
`UnsafeAnswer` without a location; `connect/connection.py` adds it.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from ..errors import MAX_MESSAGE, MAX_TRACEBACK, RemoteError
from .unpickler import ATOMS, Budget, Machine, Name, Record, as_text, refuse

__all__ = [
    "AGENT_ANSWER",
    "PLAIN_ANSWER",
    "Budget",
    "Name",
    "Record",
    "read_exception",
    "read_value",
    "refuse",
]

# An answer of our agent is one bytes object, so a few opcodes. A plain call may return a list of 10^5 items.
AGENT_ANSWER = Budget(opcodes=10_000, nodes=10_000)
PLAIN_ANSWER = Budget(opcodes=1_000_000, nodes=1_000_000)


# A pickle of one bytes object: protocol and frame, a size, the bytes, and the end. See `pickletools`.
_OPENING = struct.Struct("<BBBQ")
_PROTO, _FRAME, _SHORT_BINBYTES, _BINBYTES = b"\x80\x95CB"
_END = b"\x94."  # MEMOIZE, STOP
_SHORTEST = _OPENING.size + 2 + len(_END)


def read_value(data: bytes | bytearray | memoryview, budget: Budget = PLAIN_ANSWER) -> Any:
    """The value pickled in ``data``: plain built-ins, with a `Record` or a `Name` for anything else.

    A Python 2 ``str`` is read as bytes.  The value is a tree within ``budget``, so it is safe to compare, print and
    turn into JSON.  Raises only UnsafeAnswer.
    """
    alone = _bytes_alone(data)
    if alone is not None and len(alone) <= budget.text:
        return alone
    value = Machine(data, budget).run()
    _walk(value, budget)
    return value


def _bytes_alone(data: bytes | bytearray | memoryview) -> bytes | None:
    """The value, if ``data`` is a pickle of one bytes object in the form that current Pythons write; else None.
    Answers of our agent are such pickles, so most of them need no machine."""
    if len(data) < _SHORTEST:
        return None
    (proto, protocol, frame, framed), size, at = _OPENING.unpack_from(data), 0, _OPENING.size
    if proto != _PROTO or protocol not in (4, 5) or frame != _FRAME or framed != len(data) - at:
        return None
    if data[at] == _SHORT_BINBYTES:
        size, at = data[at + 1], at + 2
    elif data[at] == _BINBYTES:
        size, at = int.from_bytes(data[at + 1 : at + 5], "little"), at + 5
    else:
        return None
    view = memoryview(data)
    return bytes(view[at : at + size]) if view[at + size :] == _END else None


def read_exception(data: bytes | bytearray | memoryview, budget: Budget = PLAIN_ANSWER) -> RemoteError:
    """The exception pickled in ``data``, as text; raises UnsafeAnswer if it is not an exception.

    Other parts of the object are not checked: exceptions may hold anything, and the user must get the message.
    """
    value = Machine(data, budget).run()
    if type(value) is not Record:
        refuse("an error that is not an exception")
    # The state is the __dict__, or (the __dict__, the __slots__).
    state = value.state[0] if type(value.state) is tuple and value.state else value.state
    lines = state.get("_pyroTraceback", state.get(b"_pyroTraceback")) if type(state) is dict else None
    # The end is the most useful part. Bound the sum before joining: one long text may be in the list many times.
    chunks: list[str] = []
    room = 2 * MAX_TRACEBACK
    for line in reversed(lines if type(lines) is list else []):
        if room > 0 and type(line) in (str, bytes):
            chunks.append(as_text(line[-room:]))
            room -= len(line)
    chunks.reverse()
    ename, evalue = _title(value, chunks)
    return RemoteError(ename, evalue, "".join(chunks))


_TITLE = re.compile(r"([^\W\d][\w.]*)(?:: ?(.*))?\n*", re.DOTALL)


def _title(value: Record, chunks: list[str]) -> tuple[str, str]:
    """Name and ``str()`` of the exception, taken from the traceback text: its class exists only on the far side.

    This uses the last line that begins with the name of the class (notes may follow it). If there is none, it uses the
    last line that looks like such a line: the exception may have a factory of its own, or it could not be pickled, and
    the server sent a PyroError with its traceback.
    """
    kind, args = _made_of(value)
    ename = kind.name.rpartition(".")[2]
    titles = [title.groups("") for title in map(_TITLE.fullmatch, chunks) if title]
    for name, message in reversed(titles):
        if name.rpartition(".")[2] == ename:
            return ename, message.rstrip("\n")
    if titles:
        return titles[-1][0].rpartition(".")[2], titles[-1][1].rstrip("\n")
    args = args if type(args) is tuple else ()
    return ename, ", ".join(as_text(arg[:MAX_MESSAGE]) for arg in args[:8] if type(arg) in (str, bytes))


def _made_of(value: Record) -> tuple[Name, Any]:
    """The class of an exception and its arguments.

    Where dask is loaded, tblib pickles exceptions, by functions of its own: their first argument is the class, the
    second the arguments, or a dict that has them.
    """
    args = value.args
    if value.kind.module != "tblib.pickling_support" or type(args) is not tuple or len(args) < 2:
        return value.kind, args
    kind, given = args[:2]
    return (kind, given.get("args") if type(given) is dict else given) if type(kind) is Name else (value.kind, ())


def _walk(value: Any, budget: Budget) -> None:
    """Refuse a value that would be huge when printed: too deep, cyclic, or with many references to shared parts."""
    nodes, text = budget.nodes, budget.text
    level: list[Any] = [value]
    for _ in range(budget.depth):
        below: list[Any] = []
        for node in level:
            kind = type(node)
            if kind is str or kind is bytes or kind is bytearray:
                text -= len(node)
                continue
            if kind in ATOMS:
                if kind is int or kind is Name:
                    text -= node.bit_length() >> 1 if kind is int else len(str(node))
                continue
            size = len(below)
            if kind is dict:
                below.extend(node)
                below.extend(node.values())
            elif kind is Record:
                below += (node.args, node.state, node.items)
            else:
                below.extend(node)
            nodes -= len(below) - size
            if nodes < 0:
                refuse(f"an answer that unfolds to more than {budget.nodes} parts")
        if text < 0:
            refuse(f"an answer that unfolds to more than {budget.text} bytes of text")
        if not below:
            return
        level = below
    refuse(f"an answer nested deeper than {budget.depth}")
