"""What the caller does next with what it is about to get, read from its bytecode.

``pi.modules.os.environ["HOME"]`` is three operations for Python, and shall be one request.  What an attribute is, a
value or an object, nobody here knows until it has been asked for; but where the very next thing is another attribute,
an item or a call, that does not matter: the chain that is written without a break is evaluated there, as one.  So a
chain also acts there: ``pi.modules.sys.path.append("x")`` changes the list there, while a list that has been stored in
a variable here is a copy.

Where the reading fails (another Python, an attribute by ``getattr``) the answer is no, and each operation is a request.
"""

from __future__ import annotations

import dis
import functools
import sys
from types import CodeType, FrameType

# Instructions that do something with what was just made: an attribute of it is taken, set or deleted.
_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR"})
# … and those that take an item of what stands below the key.
_ITEM = frozenset({"BINARY_SUBSCR", "STORE_SUBSCR", "DELETE_SUBSCR"})
_LOADS = ("LOAD_CONST", "LOAD_SMALL_INT", "LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF")
_SILENT = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "NOT_TAKEN"})
_ASKS = ("LOAD_ATTR", "LOAD_METHOD", "BINARY_SUBSCR", "BINARY_OP", "CALL")

Step = tuple[bool, str]  # whether what it makes is gone on with; the attribute that is then taken, or ""


def goes_on(frame: FrameType | None) -> bool:
    """Whether what ``frame``'s running instruction makes is at once asked for an attribute or an item, or called."""
    return _step(frame)[0]


def next_attribute(frame: FrameType | None) -> str:
    """The attribute that is at once taken of what ``frame``'s running instruction makes; or ""."""
    return _step(frame)[1]


def is_attribute(frame: FrameType | None) -> bool:
    """Whether ``frame``'s running instruction takes an attribute, rather than calls what does, such as ``hasattr``."""
    try:
        return frame is None or frame.f_lasti in _attributes(frame.f_code)
    except Exception:  # bytecode of a kind that `dis` does not know
        return True


@functools.lru_cache(maxsize=512)
def _attributes(code: CodeType) -> frozenset[int]:
    """The places of the instructions that take attributes, to the last of their cache entries."""
    instructions = [one for one in dis.get_instructions(code) if one.opname not in _SILENT]
    ends = [*(one.offset for one in instructions[1:]), len(code.co_code)]
    places = zip(instructions, ends, strict=True)
    return frozenset(at for one, end in places if one.opname in _ATTRIBUTE for at in range(one.offset, end, 2))


def _step(frame: FrameType | None) -> Step:
    if frame is None:
        return False, ""
    try:
        return _plan(frame.f_code).get(frame.f_lasti, (False, ""))
    except Exception:  # bytecode of a kind that `dis` does not know: it is only a saving that is lost
        return False, ""


@functools.lru_cache(maxsize=512)
def _plan(code: CodeType) -> dict[int, Step]:
    """For the offset of each instruction that may make one of our objects: see Step."""
    found: dict[int, Step] = {}
    instructions = [one for one in dis.get_instructions(code) if one.opname not in _SILENT]
    for index, one in enumerate(instructions):
        if not one.opname.startswith(_ASKS):
            continue
        loads = 0  # of variables and constants that follow: keys and arguments
        while _at(instructions, index + 1 + loads).opname.startswith(_LOADS):
            loads += 1
        after, consumer = _at(instructions, index + 1), _at(instructions, index + 1 + loads)
        name = after.argval if after.opname in ("LOAD_ATTR", "LOAD_METHOD") else ""
        goes = (
            _is_method(one)
            or after.opname in _ATTRIBUTE
            or (loads == 1 and _takes_item(consumer))
            # Python 3.10 knows no method where there are keywords, whose names are one load more.
            or (loads > 1 and consumer.opname == "CALL_FUNCTION_KW" and consumer.arg == loads - 1)
        )
        # While a method in Python that it calls runs, the place may be that of its last cache entry.
        end = after.offset if after is not one else one.offset + 2
        found.update(dict.fromkeys(range(one.offset, end, 2), (goes, str(name))))
    return found


def _at(instructions: list[dis.Instruction], index: int) -> dis.Instruction:
    """The instruction at ``index``, or the last one: nothing goes on after that."""
    return instructions[min(index, len(instructions) - 1)]


def _is_method(one: dis.Instruction) -> bool:
    """Whether it looks up what is then called: ``x.name(…)``."""
    if one.opname == "LOAD_METHOD":
        return True
    return _METHOD_BIT and one.opname == "LOAD_ATTR" and bool((one.arg or 0) & 1)


def _takes_item(one: dis.Instruction) -> bool:
    return one.opname in _ITEM or (one.opname == "BINARY_OP" and one.argrepr == "[]")


# From Python 3.12 on LOAD_ATTR does for both, and its lowest bit tells them apart (opmap still has the other's name).
_METHOD_BIT = sys.version_info >= (3, 12)
