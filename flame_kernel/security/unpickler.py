"""An inert version of pickle's stack machine, for `reader.py`.

It reads the opcodes of a pickle, but imports, calls and sets nothing: a global becomes a `Name` that is never looked
up, and a call becomes a `Record` of what would have been called.  An attacker can then only make us work, so all work
is counted: opcodes, the memo, hashed keys, and bytes created.

It reads only what a stock Flame server writes: pickle protocols 2 to 5. (`connect/pyro_message.py` reads the one
marshalled string.)
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from ..errors import UnsafeAnswer

_MAX_NAME = 512  # characters of a module or class name
_MAX_INTEGER = 16_384  # bytes; a number of about 40,000 digits
_MAX_KEY_TUPLE = 32


@dataclass(frozen=True)
class Budget:
    """How much work one answer may cause: numbers of items; `text` is in bytes and characters."""

    opcodes: int
    nodes: int  # of the finished tree; a shared part counts once for every reference
    text: int = 128 * 1024 * 1024  # in that tree, counted likewise
    depth: int = 100
    # Hashes of numbers are predictable, and a dict with 10^5 colliding numbers takes minutes; hashes of text have a
    # secret seed. A set counts as a key, because one byte of pickle makes a set of 200 bytes.
    guessable_keys: int = 2_000


def refuse(detail: str) -> NoReturn:
    """Raise UnsafeAnswer; `connect/connection.py` adds the location."""
    raise UnsafeAnswer("", detail)


@dataclass(frozen=True, repr=False, eq=False)
class Name:
    """A global's name that a server sent, such as a class; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"<remote name {self}>"


@dataclass(repr=False, eq=False, slots=True)
class Record:
    """A description of an object that is not plain data: its class and arguments. The object itself is never made."""

    kind: Name
    args: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<remote {self.kind} object>"


def as_text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


ATOMS = frozenset({type(None), bool, int, float, complex, Name})


class Machine:
    """The inert stack machine. Each instance is used for one `run`."""

    def __init__(self, data: bytes | bytearray | memoryview, budget: Budget) -> None:
        self.view = memoryview(data).cast("B")
        self.end = len(self.view)
        self.at = 0
        self.budget = budget
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.keys_left = budget.guessable_keys
        # All calls that copy (set(list), bytes(text)) together may not make more than normal data needs.
        self.copies_left = 2 * self.end + 1024

    def run(self) -> Any:
        try:
            return self._run()
        except UnsafeAnswer:
            raise
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error, RecursionError) as error:
            # Malformed data makes Python's own checks fail in many places; all of them are the same to the caller.
            # `from None`: the original message may quote data of the server.
            raise UnsafeAnswer("", f"malformed pickle ({type(error).__name__})") from None

    def _run(self) -> Any:
        if self.end < 2 or self.view[0] != 0x80:
            refuse("an answer that is no pickle of protocol 2 or newer")
        table, view, left = _TABLE, self.view, self.budget.opcodes
        while True:
            opcode = view[self.at]
            self.at += 1
            if opcode == 0x2E:  # STOP
                break
            left -= 1
            if left < 0:
                refuse(f"a pickle of more than {self.budget.opcodes} steps")
            step = table.get(opcode)
            if step is None:
                refuse(f"pickle opcode {opcode:#04x}, which no Flame server sends")
            step(self)
        if self.at != self.end or len(self.stack) != 1 or self.marks:
            refuse("a pickle that does not end where it says")
        return self.stack[0]

    # --- reading what follows an opcode

    def take(self, size: int) -> memoryview:
        start = self.at
        if size < 0 or size > self.end - start:
            refuse("a pickle that claims more bytes than there are")
        self.at = start + size
        return self.view[start : start + size]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        text = bytes(self.view[self.at : self.at + _MAX_NAME + 1])
        size = text.find(b"\n")
        if size < 0:
            refuse("a name without an end")
        self.at += size + 1
        return text[:size].decode("utf-8")

    # --- the stack

    def top(self) -> Any:
        if self.marks and self.marks[-1] >= len(self.stack):
            refuse("a pickle that takes what is not there")
        return self.stack[-1]

    def pop(self) -> Any:
        item = self.top()
        self.stack.pop()
        return item

    def pop_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def put(self, index: int) -> None:
        # Every pickler numbers its memo from 0 or 1. Other indices could waste memory, or collide in our dict.
        if index > len(self.memo) + 1:
            refuse("a memo index out of turn")
        self.memo[index] = self.top()

    # --- containers

    def count_key(self) -> None:
        self.keys_left -= 1
        if self.keys_left < 0:
            refuse(f"more than {self.budget.guessable_keys} sets and keys that are not text")

    def empty_set(self) -> None:
        self.count_key()
        self.stack.append(set())

    def key(self, key: Any) -> Any:
        """Return ``key`` if it is always cheap to hash and compare: an atom, or a short tuple of atoms; else refuse."""
        kind = type(key)
        if kind is str or kind is bytes:
            return key
        self.count_key()
        if kind is tuple:
            if len(key) > _MAX_KEY_TUPLE:
                refuse("a long tuple as a key")
            if any(type(part) not in ATOMS and type(part) not in (str, bytes) for part in key):
                refuse("a nested key")
        elif kind not in ATOMS:
            refuse("a key that is not plain data")
        return key

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(items)
        elif type(target) is Record:
            target.items.extend(items)  # a subclass of list
        else:
            refuse("an append to something that is not a list")

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if len(items) % 2:
            refuse("a key without a value")
        if type(target) is dict:
            for i in range(0, len(items), 2):
                target[self.key(items[i])] = items[i + 1]
        elif type(target) is Record:
            target.items.extend(zip(items[::2], items[1::2], strict=True))  # a subclass of dict
        else:
            refuse("an item for something that is no dict")

    def add_items(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is not set:
            refuse("an addition to something that is no set")
        target.update([self.key(item) for item in items])

    # --- names and calls: never looked up, never called

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str or max(len(module), len(name)) > _MAX_NAME:
            refuse("a name that is not text")
        self.stack.append(Name(module, name))

    def call(self, function: Any, args: Any) -> Any:
        """The value of ``function(*args)`` if this is a known way to write a plain value, otherwise a `Record`."""
        kind = function.kind if type(function) is Record else function
        if type(kind) is not Name or type(args) is not tuple:
            refuse("a call of something that cannot be called")
        if kind is function:
            spell = _SPELLINGS.get(str(kind).replace("__builtin__.", "builtins.", 1))
            if spell is not None:
                return spell(self, args)
        return Record(kind, args)

    def copy(self, size: int) -> None:
        self.copies_left -= size
        if self.copies_left < 0:
            refuse("a pickle that copies its data over and over")

    def reduce(self) -> None:
        args = self.pop()
        self.stack.append(self.call(self.pop(), args))

    def new_object_ex(self) -> None:
        keywords = self.pop()
        args = self.pop()
        made = self.call(self.pop(), args)
        if type(made) is not Record or type(keywords) is not dict:
            refuse("keywords for a plain value")
        made.items.extend(keywords.items())
        self.stack.append(made)

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if type(target) is not Record:
            refuse("a state for a plain value")
        target.state = state


# --- calls with which picklers write plain values at old protocols


def _spell_set(machine: Machine, args: tuple[Any, ...]) -> Any:
    items = args[0] if args else []
    if len(args) > 1 or type(items) is not list:
        refuse("a set of something that is not a list")
    machine.copy(len(items))
    machine.count_key()
    return {machine.key(item) for item in items}


def _spell_bytes(machine: Machine, args: tuple[Any, ...]) -> Any:
    """``_codecs.encode(text, "latin1")``: bytes at protocol 2; ``bytes()`` is the empty one."""
    if not args:
        return b""
    if len(args) != 2 or type(args[0]) is not str or type(args[1]) not in (str, bytes):
        refuse("an encoding of something else")
    if as_text(args[1]) not in ("latin1", "latin-1"):  # Python 2 writes the name as bytes
        refuse("an encoding that no pickler asks for")
    machine.copy(len(args[0]))
    return args[0].encode("latin-1")


def _spell_bytearray(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) == 1 and type(args[0]) is bytes:
        machine.copy(len(args[0]))
        return bytearray(args[0])
    return bytearray(_spell_bytes(machine, args))


def _spell_complex(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 2 or any(type(part) is not float for part in args):
        refuse("a complex number of something else")
    return complex(*args)


def _spell_getattr(machine: Machine, args: tuple[Any, ...]) -> Any:
    """``getattr(Outer, "Inner")`` is how protocols before 4 name a nested class."""
    if len(args) == 2 and type(args[0]) is Name and type(args[1]) is str:
        name = f"{args[0].name}.{args[1]}"
        if len(name) <= _MAX_NAME:
            machine.copy(len(name))
            return Name(args[0].module, name)
    return Record(Name("builtins", "getattr"), args)


_SPELLINGS: dict[str, Callable[[Machine, tuple[Any, ...]], Any]] = {
    "builtins.set": _spell_set,
    "builtins.frozenset": lambda machine, args: frozenset(_spell_set(machine, args)),
    "builtins.bytes": _spell_bytes,
    "builtins.bytearray": _spell_bytearray,
    "builtins.complex": _spell_complex,
    "builtins.getattr": _spell_getattr,
    "_codecs.encode": _spell_bytes,
}


# --- the opcodes; `m` is the machine. Not among them, hence refused: persistent ids, EXT, INST, OBJ, out-of-band
# buffers, DUP, and everything that only protocols 0 and 1 write.


def _unicode(width: int, m: Machine) -> None:
    m.stack.append(str(m.take(m.number(width)), "utf-8", "surrogatepass"))


def _bytes(width: int, m: Machine) -> None:
    m.stack.append(bytes(m.take(m.number(width))))


def _integer(width: int, m: Machine) -> None:
    size = m.number(width)
    if size > _MAX_INTEGER:
        refuse(f"an integer of {size} bytes")
    m.stack.append(int.from_bytes(m.take(size), "little", signed=True))


def _tuple(size: int, m: Machine) -> None:
    items = [m.pop() for _ in range(size)]
    m.stack.append(tuple(reversed(items)))


def _protocol(m: Machine) -> None:
    version = m.number(1)
    if m.at != 2 or not 2 <= version <= 5:
        refuse(f"pickle protocol {version}")


def _frozenset(m: Machine) -> None:
    m.count_key()
    items = m.pop_mark()
    m.stack.append(frozenset([m.key(item) for item in items]))


def _set_item(m: Machine) -> None:
    value = m.pop()
    key = m.pop()
    m.set_items([key, value])


_TABLE: dict[int, Callable[[Machine], Any]] = {
    0x80: _protocol,
    0x95: lambda m: m.take(8),  # FRAME: a hint for buffering
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("K"): lambda m: m.stack.append(m.number(1)),
    ord("M"): lambda m: m.stack.append(m.number(2)),
    ord("J"): lambda m: m.stack.append(int.from_bytes(m.take(4), "little", signed=True)),
    0x8A: partial(_integer, 1),
    0x8B: partial(_integer, 4),
    ord("G"): lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
    0x8C: partial(_unicode, 1),
    ord("X"): partial(_unicode, 4),
    0x8D: partial(_unicode, 8),
    ord("C"): partial(_bytes, 1),
    ord("B"): partial(_bytes, 4),
    0x8E: partial(_bytes, 8),
    ord("U"): partial(_bytes, 1),  # SHORT_BINSTRING and BINSTRING: a Python 2 str
    ord("T"): partial(_bytes, 4),
    0x96: lambda m: m.stack.append(bytearray(m.take(m.number(8)))),
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord("]"): lambda m: m.stack.append([]),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_mark()),
    ord("}"): lambda m: m.stack.append({}),
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.pop_mark()),
    ord(")"): lambda m: m.stack.append(()),
    ord("t"): lambda m: m.stack.append(tuple(m.pop_mark())),
    0x85: partial(_tuple, 1),
    0x86: partial(_tuple, 2),
    0x87: partial(_tuple, 3),
    0x8F: lambda m: m.empty_set(),
    0x90: lambda m: m.add_items(m.pop_mark()),
    0x91: _frozenset,
    ord("q"): lambda m: m.put(m.number(1)),
    ord("r"): lambda m: m.put(m.number(4)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.stack.append(m.memo[m.number(1)]),
    ord("j"): lambda m: m.stack.append(m.memo[m.number(4)]),
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: lambda m: m.name(*reversed((m.pop(), m.pop()))),  # STACK_GLOBAL
    ord("R"): lambda m: m.reduce(),
    0x81: lambda m: m.reduce(),  # NEWOBJ
    0x92: lambda m: m.new_object_ex(),
    ord("b"): lambda m: m.build(),
    ord("0"): lambda m: m.pop(),  # POP and POP_MARK: written for a tuple or an object that contains itself
    ord("1"): lambda m: m.pop_mark(),
}
