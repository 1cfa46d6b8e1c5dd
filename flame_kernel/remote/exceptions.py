"""Exceptions of the far side as exceptions here: of our own class and of the built-in one that they are there.

The table is fixed: a name that a server sends is looked for in it and nowhere else, and nothing in it ends a program
(SystemExit, KeyboardInterrupt).  So ``except ZeroDivisionError`` and ``except RemoteError`` both work.

All text in one becomes text that a terminal can be shown, since Python and IPython print it without asking us: of a
SyntaxError the file's name and the line, of any other the arguments.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import MAX_MESSAGE, RemoteError, cap
from ..terminal import COLOUR, coloured_text, one_line, plain_text

_NAMES = """
ArithmeticError AssertionError AttributeError BlockingIOError BrokenPipeError BufferError ChildProcessError
ConnectionAbortedError ConnectionError ConnectionRefusedError ConnectionResetError EOFError FileExistsError
FileNotFoundError FloatingPointError ImportError IndentationError IndexError InterruptedError IsADirectoryError KeyError
LookupError MemoryError ModuleNotFoundError NameError NotADirectoryError NotImplementedError OSError OverflowError
PermissionError ProcessLookupError RecursionError ReferenceError RuntimeError StopAsyncIteration StopIteration
SyntaxError SystemError TabError TimeoutError TypeError UnboundLocalError UnicodeDecodeError UnicodeEncodeError
UnicodeError UnicodeTranslateError ValueError ZeroDivisionError BytesWarning DeprecationWarning FutureWarning
ImportWarning PendingDeprecationWarning ResourceWarning RuntimeWarning SyntaxWarning UnicodeWarning UserWarning Warning
"""
_BUILTIN: dict[str, type[Exception]] = {name: getattr(builtins, name) for name in _NAMES.split()}
# The attributes that a built-in exception has beside its arguments, and what they may be.
_FACTS: dict[type[Exception], dict[str, tuple[type, ...]]] = {
    OSError: {
        "errno": (int, str),
        "strerror": (str,),
        "filename": (str, bytes, int),
        "filename2": (str, bytes, int),
    },
    ImportError: {"name": (str,), "path": (str,), "msg": (str,)},
    AttributeError: {"name": (str,)},
    NameError: {"name": (str,)},
    StopIteration: {"value": (object,)},
    SyntaxError: {"msg": (str,), "filename": (str,), "lineno": (int,), "offset": (int,), "text": (str,)},
}


class RaisedThere:
    """What every exception of the far side has here, beside `RemoteError`'s name, text and traceback.

    ``traceback`` is its text, source lines included; ``lines`` the same in colours, as IPython shows it.
    """

    ename: str
    evalue: str
    traceback: str
    lines: list[str]

    def __str__(self) -> str:
        text = f"{self.ename}: {self.evalue}" if self.evalue else self.ename
        is_alone = self.traceback.strip() in ("", text)  # no code of anybody's was running there
        return text if is_alone else f"{text}\n\nOn the far side:\n{self.traceback}"

    def __repr__(self) -> str:
        return f"{self.ename}({', '.join(map(_repr, getattr(self, 'args', ())))})"

    def _render_traceback_(self) -> list[str]:
        """What IPython and ipykernel show in place of the frames here."""
        return self.lines or [f"{self.ename}: {self.evalue}"]


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python puts no number of more than 4,300 digits into words
        return f"<{type(value).__name__}>"


class _Plain(RaisedThere, RemoteError):
    """An exception of a class that is not a built-in one."""


_Plain.__name__ = _Plain.__qualname__ = "RemoteError"


@functools.cache
def _class(name: str) -> type[RemoteError]:
    """Our class for the built-in exception ``name``."""
    return type(name, (RaisedThere, RemoteError, _BUILTIN[name]), {"__module__": __name__, "__doc__": _Plain.__doc__})


def raised_there(content: Mapping[str, Any], facts: Mapping[str, Any]) -> RemoteError:
    """The exception that a reply tells of; nothing in either of its arguments is trusted to be anything."""
    ename, evalue = _text(content.get("ename"), one_line), cap(_text(content.get("evalue"), plain_text), MAX_MESSAGE)
    lines = content.get("traceback")
    lines = [_text(line, coloured_text) for line in lines] if isinstance(lines, list) else []
    text = COLOUR.sub("", "\n".join(lines))
    known = _known_base(content.get("bases"))
    kind = _Plain if known is None else _class(known)
    args = facts.get("args")
    arguments = args if type(args) is tuple else ()
    error = _made(kind, arguments)
    if not isinstance(error, StopIteration):  # whose argument is a value
        arguments = tuple(plain_text(one) if isinstance(one, str) else one for one in arguments)
    error.args = arguments or ((evalue,) if evalue else ())
    for base, names in _FACTS.items():
        if isinstance(error, base):
            _set_facts(error, names, facts)
    error.ename, error.evalue = ename, evalue
    error.traceback = cap(text, _MAX_TEXT, keep_end=True)
    error.lines = lines  # type: ignore[attr-defined]
    return error


def _made(kind: type[RemoteError], arguments: tuple[Any, ...]) -> RemoteError:
    """An exception of this class, without its facts; a UnicodeDecodeError or UnicodeEncodeError with the five that it
    has to have, or if they are not sound a UnicodeError."""
    if not issubclass(kind, UnicodeError):
        return kind.__new__(kind)
    if not _is_unicode(kind, arguments):
        kind = _class("UnicodeError")
        return kind.__new__(kind)
    error = kind.__new__(kind, *arguments)
    for name, value in zip(("encoding", "object", "start", "end", "reason"), arguments, strict=True):
        setattr(error, name, value)
    return error


def _set_facts(error: RemoteError, names: Mapping[str, tuple[type, ...]], facts: Mapping[str, Any]) -> None:
    for name, kinds in names.items():
        fact = facts.get(name)
        if name in facts and isinstance(fact, kinds) and _is_sound(fact, kinds):
            setattr(error, name, plain_text(fact) if isinstance(fact, str) and kinds != (object,) else fact)


_MAX_TEXT = 200_000
_UNICODE = {UnicodeDecodeError: bytes, UnicodeEncodeError: str}


def _is_unicode(kind: type[Exception], arguments: tuple[Any, ...]) -> bool:
    """Whether it is an error with five arguments of certain classes, and has them."""
    for base, data in _UNICODE.items():
        if issubclass(kind, base):
            return [type(one) for one in arguments] == [str, data, int, int, str]
    return False


def _known_base(bases: Any) -> str | None:
    """The first class of the list that is in the table."""
    if not isinstance(bases, Sequence):
        return None
    return next((name for name in bases[:50] if isinstance(name, str) and name in _BUILTIN), None)


def _text(value: Any, measure: Callable[[str], str]) -> str:
    return measure(value) if isinstance(value, str) else ""


def _is_sound(fact: Any, kinds: tuple[type, ...]) -> bool:
    """Python puts these facts into words: the number of a line is none that would not fit on one."""
    return not isinstance(fact, int) or kinds == (object,) or 0 <= fact < 1 << 31
