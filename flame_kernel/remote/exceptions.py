"""Turns exceptions of the far side into local exceptions of the same class, if both sides know that class.

For a class of the user's own that was sent to the far side, that class is used.  Other classes are looked up in a fixed
table of built-in exceptions, and among the exception classes that this program has loaded.  Nothing is imported or run
because a server names it, and the table has no class that ends a program (SystemExit, KeyboardInterrupt).  The local
exception is of that class and also a RemoteError, so both ``except ZeroDivisionError`` and ``except RemoteError`` work.
Its message, arguments and attributes come from the far side; the traceback there is added as a note.

All text in it is cleaned for a terminal, because Python and IPython print it without calling us: file name and line of
a SyntaxError, arguments and attributes of any exception.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, cast

from ..agent.wire import raised
from ..errors import MAX_MESSAGE, FlameError, RemoteError, cap
from ..terminal import COLOUR, coloured_text, one_line, plain_text
from .by_name import is_installed
from .records import known_class, sent_class

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
_BUILTIN: dict[str, Any] = {name: getattr(builtins, name) for name in _NAMES.split()}
_GROUP: Any = getattr(builtins, "ExceptionGroup", None)  # from Python 3.11 on
if _GROUP is not None:
    _BUILTIN["ExceptionGroup"] = _GROUP
# The attributes of built-in exceptions beside their arguments, and their types.
_FACTS: dict[type[Exception], dict[str, tuple[type, ...]]] = {
    OSError: {
        "errno": (int, str),
        "strerror": (str,),
        "filename": (str, bytes, int),
        "filename2": (str, bytes, int),
        "characters_written": (int,),
    },
    ImportError: {"name": (str,), "path": (str,), "msg": (str,)},
    AttributeError: {"name": (str,), "obj": (object,)},
    NameError: {"name": (str,)},
    StopIteration: {"value": (object,)},
    SyntaxError: {
        "msg": (str,),
        "filename": (str,),
        "lineno": (int,),
        "offset": (int,),
        "text": (str,),
        "end_lineno": (int,),
        "end_offset": (int,),
    },
}


class RaisedThere:
    """Base class of all exceptions from the far side; adds to `RemoteError`'s name, text and traceback.

    ``traceback`` is text with source lines; ``lines`` is the same in colour, as IPython shows it. ``classes`` are its
    classes on the far side, as pairs of module and name.
    """

    ename: str
    evalue: str
    traceback: str
    lines: list[str]
    classes: list[list[str]]

    def __str__(self) -> str:
        return self.evalue

    def __repr__(self) -> str:
        return f"{self.ename}({', '.join(map(_repr, getattr(self, 'args', ())))})"

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython and ipykernel show in place of local frames."""
        return self.lines or [f"{self.ename}: {self.evalue}"]


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python refuses to print numbers of more than 4,300 digits
        return f"<{type(value).__name__}>"


class _Plain(RaisedThere, RemoteError):
    """An exception of a class that is not known here."""


_Plain.__name__ = _Plain.__qualname__ = "RemoteError"


@functools.lru_cache(maxsize=256)
def _mixed(kind: Any) -> type[RemoteError]:
    """A class that derives from RemoteError and ``kind``; TypeError if Python cannot combine them."""
    about = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (RaisedThere, RemoteError, kind), about)


def raised_there(content: Mapping[str, Any], facts: Mapping[str, Any], room: list[int] | None = None) -> RemoteError:
    """The exception that a reply describes. Both ``content`` and ``facts`` are untrusted and may be malformed.

    ``room`` is a list with one number: how many more members of exception groups are allowed.
    """
    ename, evalue = _text(content.get("ename"), one_line), cap(_text(content.get("evalue"), plain_text), MAX_MESSAGE)
    lines = content.get("traceback")
    lines = [_text(line, coloured_text) for line in lines] if isinstance(lines, list) else []
    text = COLOUR.sub("", "\n".join(lines))
    args = facts.get("args")
    arguments = args if type(args) is tuple else ()
    error = _made(_kind(content), arguments, facts, [_MOST] if room is None else room)
    if _GROUP is not None and isinstance(error, _GROUP):
        arguments = (error.message, list(error.exceptions))
    elif type(args) is not tuple and evalue:
        arguments = (evalue,)
    _fill(error, arguments, facts)
    error.ename, error.evalue = ename, evalue
    error.traceback = cap(text, _MAX_TEXT, keep_end=True)
    error.lines = lines  # type: ignore[attr-defined]
    error.classes = [[*one] for one in _places(content)]  # type: ignore[attr-defined]
    _note(error, facts, _beside(error, content))
    return error


def of_call(content: Mapping[str, Any], facts: Mapping[str, Any], room: list[int] | None = None) -> Exception:
    """As `raised_there`, but an exception of the user's own class if that class was sent from here."""
    own = sent_class(content.get("key"))
    error = raised_there(content, facts, room)
    if own is None or not issubclass(own, Exception) or issubclass(own, FlameError):
        return error
    made = _bare(own, error.args, facts)
    if made is None:
        return error
    _note(made, facts, _beside(error, content))
    if sys.version_info < (3, 11):  # these versions show no notes
        made.__cause__ = error
    return made


class Known:
    """The classes of records and exceptions that come as values; ``all`` tells whether all of them are known here."""

    def __init__(self) -> None:
        self.all = True
        self._found: dict[tuple[str, str], Any] = {}

    def __call__(self, key: str | None, module: str, name: str) -> type | None:
        kind = known_class(key, module, name)
        self.all = self.all and kind is not None
        return kind

    def exception(self, classes: list[list[Any]], text: str, facts: dict[str, Any]) -> Exception:
        """The exception with these classes, each as its key, module and name; a RemoteError if its own is not known."""
        key, module, name = classes[0]
        kind = sent_class(key) or self._named(module, name)
        if kind is not None and issubclass(kind, Exception) and not issubclass(kind, FlameError):
            args = facts.get("args")
            error = _bare(kind, args if type(args) is tuple else (text,), facts)
            if error is not None:
                _note(error, facts, "")
                return error
        self.all = False
        told = {
            "ename": f"{module}.{name}",
            "evalue": text,
            "bases": [one[2] for one in classes if one[1] == "builtins"],
        }
        return raised_there(told, facts)

    def _named(self, module: str, name: str) -> Any:
        """The exception class with this name. Only the first names are looked for, as each takes its time."""
        if module == "builtins":
            return _BUILTIN.get(name)
        if (module, name) not in self._found and len(self._found) < _MOST:
            self._found[module, name] = _one_loaded(module, name)
        return self._found.get((module, name))


def _beside(error: RemoteError, content: Mapping[str, Any]) -> str:
    """The note for an exception: its traceback on the far side, and advice."""
    text = f"{error.ename}: {error.evalue}" if error.evalue else error.ename
    is_alone = error.traceback.strip() in ("", text)  # the traceback has no frames
    parts = [] if is_alone else [f"{_THERE}{error.traceback}"]
    absent = content.get("absent")
    if isinstance(absent, str):
        parts.append(f"{one_line(absent, 200)} is neither defined here nor in the session there")
    return "\n".join(parts)


def _note(error: BaseException, facts: Mapping[str, Any], text: str) -> None:
    notes = facts.get("notes")
    kept = [cap(plain_text(note), MAX_MESSAGE) for note in _strings(notes)[:_MOST]]
    if text or kept:
        error.__dict__["__notes__"] = [*kept, *filter(None, [text])]


def _strings(listed: Any) -> list[str]:
    return [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []


def _places(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The classes of an exception on the far side: module and qualified name."""
    listed = content.get("classes")
    found = []
    for one in listed[:_MOST] if isinstance(listed, list) else ():
        if isinstance(one, list) and len(one) == 2 and all(isinstance(part, str) for part in one):
            found.append((one[0][:500], one[1][:500]))
    return found


def _kind(content: Mapping[str, Any]) -> type[RemoteError]:
    """The nearest class of the exception that is known here, combined with RemoteError."""
    places = [place for one in _places(content) for place in raised.spellings(*one)]
    loaded = _loaded(set(places)) if any(module != "builtins" for module, _ in places) else {}
    for module, name in places:
        kind = _BUILTIN.get(name) if module == "builtins" else loaded.get((module, name))
        if kind is not None:
            try:
                return _mixed(kind)
            except TypeError:  # its memory layout conflicts with ours
                continue
    known = _known_base(content.get("bases"))
    return _Plain if known is None else _mixed(_BUILTIN[known])


def _loaded(wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    """The loaded exception classes with these names. Only classes of libraries, and only if deriving from them runs no
    code."""
    found: dict[tuple[str, str], Any] = {}
    seen: set[type] = set()
    waiting: list[type[Exception]] = [Exception]
    while waiting:
        for kind in type.__subclasses__(waiting.pop()):
            if kind in seen or type(kind) is not type or issubclass(kind, FlameError):
                continue
            seen.add(kind)
            waiting.append(kind)
            place = (kind.__module__, kind.__qualname__)
            if place in wanted and _is_plain(kind, *place):
                found[place] = kind
    return found


def _one_loaded(module: str, name: str) -> Any:
    """The first class with a spelling of this name; None if there is none."""
    places = raised.spellings(module, name)
    found = _loaded(set(places))
    kinds = [_BUILTIN.get(name) if module == "builtins" else found.get((module, name)) for module, name in places]
    return next(filter(None, kinds), None)


def _is_plain(kind: type[Exception], module: str, name: str) -> bool:
    if module == "__main__" or hasattr(kind.__init_subclass__, "__func__"):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, (type, ModuleType)) else None
    return found is kind


def _made(
    kind: type[RemoteError], arguments: tuple[Any, ...], facts: Mapping[str, Any], room: list[int]
) -> RemoteError:
    """Make an exception of this class, without arguments and attributes.

    A UnicodeDecodeError or UnicodeEncodeError gets its five required arguments; if they are invalid, it becomes a
    UnicodeError. A group gets its members; if it has none, it becomes a plain RemoteError.
    """
    base: Any = next(one for one in kind.__mro__ if one.__module__ == "builtins" and one in _MAKERS)
    if base is _GROUP:
        members = [of_call(*one, room) for one in _members(facts, room)]
        if not members:
            return _Plain.__new__(_Plain)
        return cast("RemoteError", base.__new__(kind, _text(facts.get("message"), plain_text), members))
    if not issubclass(kind, UnicodeError):
        return cast("RemoteError", base.__new__(kind))
    if not _is_unicode(kind, arguments):
        kind = _mixed(_BUILTIN["UnicodeError"])
        return kind.__new__(kind)
    error = cast("RemoteError", base.__new__(kind, *arguments))
    _set_unicode(error, base, arguments)
    return error


def _bare(kind: Any, arguments: tuple[Any, ...], facts: Mapping[str, Any]) -> Exception | None:
    """An exception of exactly this class, made without running code of the class; None if Python refuses it."""
    base = next(one for one in kind.__mro__ if one.__module__ == "builtins")
    try:
        error: Exception = base.__new__(kind, *arguments)
    except (TypeError, ValueError):  # the built-in base class does not accept these arguments
        return None
    if _is_unicode(kind, arguments):
        _set_unicode(error, base, arguments)
    elif issubclass(kind, tuple(_UNICODE)):
        return None
    _fill(error, arguments, facts)
    return error


def _set_unicode(error: Any, base: Any, arguments: tuple[Any, ...]) -> None:
    for name, value in zip(("encoding", "object", "start", "end", "reason"), arguments, strict=True):
        getattr(base, name).__set__(error, value)


def _members(facts: Mapping[str, Any], room: list[int]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The members of an exception group, each in the form of a reply."""
    listed = facts.get("members")
    found = []
    for one in listed[: room[0]] if isinstance(listed, list) else ():
        room[0] -= 1
        if isinstance(one, list) and [type(part) for part in one] == [dict, dict]:
            found.append((one[0], one[1]))
    return found


def _fill(error: Exception, arguments: tuple[Any, ...], facts: Mapping[str, Any]) -> None:
    """Set the arguments and attributes of an exception without running code of its class."""
    if not isinstance(error, (StopIteration, *_UNICODE)):  # their arguments are values, not text to print
        arguments = tuple(map(_shown, arguments))
    BaseException.args.__set__(error, arguments)  # type: ignore[attr-defined]
    for base, names in _FACTS.items():
        if isinstance(error, base):
            _set_facts(error, base, names, facts)
    attributes, slots = facts.get("attributes"), raised.slots_of(type(error))
    for name, value in attributes.items() if isinstance(attributes, dict) else ():
        is_name = isinstance(name, str) and name.isidentifier() and not name.startswith("__")
        if is_name and name in slots:
            slots[name].__set__(error, _shown(value))
        elif is_name and name not in _OURS and not callable(getattr(type(error), name, None)):
            error.__dict__[name] = _shown(value)


def _shown(value: Any, depth: int = 0) -> Any:
    """``value`` with its text cleaned for a terminal, because exceptions are printed with it."""
    if type(value) is str:
        return plain_text(value)
    if depth < 3 and type(value) in (list, tuple):
        return type(value)(_shown(one, depth + 1) for one in value)
    return value


def sent(error: BaseException, travels: Callable[[Any, bool], bool]) -> dict[str, Any]:
    """The description of a local exception, from which the far side makes one: class, arguments and attributes.

    ``travels`` says whether a value can be sent, and is told whether it is an argument; other values are left out or
    sent as text. Never fails.
    """
    kind = type(error)
    is_from_there = isinstance(error, RaisedThere)
    is_own = not is_from_there and not is_installed(kind.__module__) and travels(kind, False)
    return {
        "kind": kind if is_own else None,
        "classes": getattr(error, "classes", None) if is_from_there else _classes_of(kind),
        "args": tuple(one if travels(one, True) else raised.text_of(one) for one in error.args),
        "attributes": {name: one for name, one in _attributes_of(error).items() if travels(one, False)},
        "facts": {name: one for name, one in _facts_of(error).items() if travels(one, False)},
        "text": raised.text_of(error),
        "notes": _own_notes(error),
    }


def _attributes_of(error: BaseException) -> dict[str, Any]:
    left_out = _OURS if isinstance(error, RaisedThere) else frozenset()
    held = {**raised.slots(error), **vars(error)}
    names = [name for name in held if isinstance(name, str) and name not in left_out]
    return {name: held[name] for name in names if name[:2] != "__"}


def _own_notes(error: BaseException) -> list[str]:
    """The notes of an exception, without those that tell where it was raised on the far side."""
    notes = vars(error).get("__notes__")
    texts = map(raised.text_of, notes[: raised.MOST]) if isinstance(notes, list) else ()
    return [text[: raised.LIMIT] for text in texts if not text.startswith(_THERE)]


def _classes_of(kind: type) -> list[list[str]]:
    """The base classes of an exception class, without those of ``__main__``: the session has another one."""
    kinds = [one for one in kind.__mro__ if issubclass(one, BaseException) and one.__module__ != "__main__"]
    return [[one.__module__, one.__qualname__] for one in kinds]


def _facts_of(error: BaseException) -> dict[str, Any]:
    if isinstance(error, UnicodeError):
        return {}
    names = {name for base, facts in _FACTS.items() if isinstance(error, base) for name in facts}
    found = {name: raised.attribute(error, name) for name in (*names, "code")}
    return {name: one for name, one in found.items() if one is not None}


def _set_facts(error: Exception, base: Any, names: Mapping[str, tuple[type, ...]], facts: Mapping[str, Any]) -> None:
    for name, kinds in names.items():
        fact = facts.get(name)
        if name in facts and hasattr(base, name) and isinstance(fact, kinds) and _is_sound(fact, name, kinds):
            fact = plain_text(fact) if isinstance(fact, str) and kinds != (object,) else fact
            getattr(base, name).__set__(error, fact)


_MAX_TEXT = 200_000
_THERE = "On the far side:\n"  # the beginning of the note with the traceback
# The most classes, attributes, notes and members of one exception.
_MOST = 100
# Attributes that only our exceptions have; they are not sent or set.
_OURS = frozenset({"ename", "evalue", "traceback", "lines", "classes", "args", "with_traceback", "add_note"})
# Python refuses MemoryError.__new__ for a class whose first base is another exception.
_MAKERS = frozenset({*_BUILTIN.values(), Exception, object} - {MemoryError})
_UNICODE = {UnicodeDecodeError: bytes, UnicodeEncodeError: str}


def _is_unicode(kind: type[Exception], arguments: tuple[Any, ...]) -> bool:
    """Whether it is a UnicodeDecodeError or UnicodeEncodeError with valid arguments."""
    for base, data in _UNICODE.items():
        if issubclass(kind, base):
            return [type(one) for one in arguments] == [str, data, int, int, str]
    return False


def _known_base(bases: Any) -> str | None:
    """The first name in ``bases`` that is in the table of built-in exceptions."""
    if not isinstance(bases, Sequence):
        return None
    return next((name for name in bases[:50] if isinstance(name, str) and name in _BUILTIN), None)


def _text(value: Any, measure: Callable[[str], str]) -> str:
    return measure(value) if isinstance(value, str) else ""


def _is_sound(fact: Any, name: str, kinds: tuple[type, ...]) -> bool:
    """Whether a fact is safe: Python prints numbers such as ``lineno``, so they must not be huge, and only those that C
    libraries choose may be negative."""
    lowest = -1 << 31 if name in ("errno", "end_offset") else 0
    return not isinstance(fact, int) or kinds == (object,) or lowest <= fact < 1 << 31
