"""Reads in the caller's bytecode what it will do next with the result that it is about to get.

``pi.modules.os.environ["HOME"]`` is several operations in Python, but should be one request.  Whether an attribute is a
plain value or an object is known only after a request.  This does not matter if the next operation is another
attribute, an item or a call: then the whole chain is evaluated on the far side at once.  So a chain also has its effect
there: ``pi.modules.sys.path.append("x")`` changes the list there, while a list that was stored in a local variable is a
copy.

If the bytecode cannot be read (another Python, or ``getattr``), the answer is no, and each operation is a request.
"""

from __future__ import annotations

import dis
import functools
import sys
from types import CodeType, FrameType

# Instructions that get, set or delete an attribute of the object on top of the stack.
_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR"})
# Instructions that get, set or delete an item; the object is below the key on the stack.
_ITEM = frozenset({"BINARY_SUBSCR", "STORE_SUBSCR", "DELETE_SUBSCR"})
_LOADS = ("LOAD_CONST", "LOAD_SMALL_INT", "LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF")
_SILENT = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "NOT_TAKEN"})
_ASKS = ("LOAD_ATTR", "LOAD_METHOD", "BINARY_SUBSCR", "BINARY_OP", "CALL")

Step = tuple[bool, str]  # whether the result is used in a chain; the attribute taken next, or ""


def goes_on(frame: FrameType | None) -> bool:
    """Whether the next operation on the result of ``frame``'s instruction is an attribute, an item or a call."""
    return _step(frame)[0]


def next_attribute(frame: FrameType | None) -> str:
    """The attribute that is taken next of the result of ``frame``'s instruction, or ""."""
    return _step(frame)[1]


def is_attribute(frame: FrameType | None) -> bool:
    """Whether ``frame``'s instruction itself takes an attribute; not if it calls, for example, ``hasattr``."""
    try:
        return frame is None or frame.f_lasti in _attributes(frame.f_code)
    except Exception:  # bytecode of a kind that `dis` does not know
        return True


@functools.lru_cache(maxsize=512)
def _attributes(code: CodeType) -> frozenset[int]:
    """The offsets of the instructions that take attributes, with their cache entries."""
    instructions = [one for one in dis.get_instructions(code) if one.opname not in _SILENT]
    ends = [*(one.offset for one in instructions[1:]), len(code.co_code)]
    places = zip(instructions, ends, strict=True)
    return frozenset(at for one, end in places if one.opname in _ATTRIBUTE for at in range(one.offset, end, 2))


def _step(frame: FrameType | None) -> Step:
    if frame is None:
        return False, ""
    try:
        return _plan(frame.f_code).get(frame.f_lasti, (False, ""))
    except Exception:  # bytecode of a kind that `dis` does not know: this only costs more requests
        return False, ""


@functools.lru_cache(maxsize=512)
def _plan(code: CodeType) -> dict[int, Step]:
    """The Step for the offset of each instruction that may return one of our objects."""
    found: dict[int, Step] = {}
    instructions = [one for one in dis.get_instructions(code) if one.opname not in _SILENT]
    for index, one in enumerate(instructions):
        if not one.opname.startswith(_ASKS):
            continue
        loads = 0  # the number of loads that follow, of variables and constants: keys and arguments
        while _at(instructions, index + 1 + loads).opname.startswith(_LOADS):
            loads += 1
        after, consumer = _at(instructions, index + 1), _at(instructions, index + 1 + loads)
        name = after.argval if after.opname in ("LOAD_ATTR", "LOAD_METHOD") else ""
        goes = (
            _is_method(one)
            or after.opname in _ATTRIBUTE
            or (loads == 1 and _takes_item(consumer))
            # Python 3.10 has no LOAD_METHOD for calls with keywords; the tuple of their names is one more load.
            or (loads > 1 and consumer.opname == "CALL_FUNCTION_KW" and consumer.arg == loads - 1)
        )
        # While the instruction runs a Python method, f_lasti may be the offset of its last cache entry.
        end = after.offset if after is not one else one.offset + 2
        found.update(dict.fromkeys(range(one.offset, end, 2), (goes, str(name))))
    return found


def _at(instructions: list[dis.Instruction], index: int) -> dis.Instruction:
    """The instruction at ``index``, or the last one if there are fewer."""
    return instructions[min(index, len(instructions) - 1)]


def _is_method(one: dis.Instruction) -> bool:
    """Whether the instruction looks up a method to call: ``x.name(…)``."""
    if one.opname == "LOAD_METHOD":
        return True
    return _METHOD_BIT and one.opname == "LOAD_ATTR" and bool((one.arg or 0) & 1)


def _takes_item(one: dis.Instruction) -> bool:
    return one.opname in _ITEM or (one.opname == "BINARY_OP" and one.argrepr == "[]")


# From Python 3.12 on LOAD_ATTR does both; its lowest bit means a method. (LOAD_METHOD is still in opmap.)
_METHOD_BIT = sys.version_info >= (3, 12)
