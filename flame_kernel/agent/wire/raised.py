"""Exceptions as values, from the far side: their class, arguments and attributes. Both sides import it.

::

    {"rx": [classes, text, facts]}

``classes`` are the exception's class and its bases, each as ``[key, module, name]`` (see ``records``), ``text`` is its
``str()``, and ``facts`` is a dict: see ``facts``.  The reader's ``classes`` makes the exception; see ``values.decode``.
"""

import types

from .scalars import BadValue

# Attributes of built-in exceptions that do not follow from their arguments.
FACTS = ("errno", "strerror", "filename", "filename2", "characters_written", "name", "path", "value", "msg", "obj")
FACTS += ("lineno", "offset", "end_lineno", "end_offset", "text", "code")
# Exception classes that have other names in other versions of Python and of numpy.
_SPELLINGS = (
    (("re", "error"), ("re", "PatternError"), ("sre_constants", "error")),
    (("queue", "Empty"), ("_queue", "Empty")),
    (("numpy.linalg", "LinAlgError"), ("numpy.linalg.linalg", "LinAlgError")),
    (("numpy.exceptions", "AxisError"), ("numpy", "AxisError"), ("numpy.core._exceptions", "AxisError")),
    (
        ("asyncio.exceptions", "TimeoutError"),
        ("concurrent.futures._base", "TimeoutError"),
        ("socket", "timeout"),
        ("builtins", "TimeoutError"),
    ),
)
# Most characters of a note or a message; most attributes, notes, members and classes of one exception.
LIMIT = 1 << 16
MOST = 100


def spellings(module, name):
    """The ``(module, name)`` of an exception class, and those that it has elsewhere."""
    place = (module, name)
    for group in _SPELLINGS:
        if place in group and module != "builtins":
            return (place,) + group
    return (place,)


def facts(exc):
    """The facts of an exception: ``args``, ``attributes`` (of its ``__dict__`` and its slots), ``notes``, a group's
    ``message``, and the attributes of built-in exceptions by their names."""
    found = {name: attribute(exc, name) for name in FACTS}
    found = {name: one for name, one in found.items() if one is not None}
    attributes = slots(exc)
    attributes.update(attribute(exc, "__dict__") or {})
    notes = attributes.pop("__notes__", None)
    if isinstance(notes, list):
        found["notes"] = [text_of(note)[:LIMIT] for note in notes[:MOST]]
    if isinstance(exc, SystemExit):
        attributes["code"] = exc.code
    names = [name for name in attributes if isinstance(name, str)][:MOST]
    found["attributes"] = {name: attributes[name] for name in names}
    found["args"] = exc.args[:MOST]
    if is_group(exc):
        found["message"] = exc.message[:LIMIT]
    return found


def is_group(exc):
    """Whether it is an exception group."""
    return any(kind.__name__ == "BaseExceptionGroup" and kind.__module__ == "builtins" for kind in type(exc).__mro__)


def slots(exc):
    """The attributes in slots of an exception's classes, read without running their code."""
    found = {}
    for name, slot in slots_of(type(exc)).items():
        try:
            found[name] = slot.__get__(exc, type(exc))
        except AttributeError:
            pass  # the slot has no value
    return found


def slots_of(kind):
    """The slots that classes other than Python's own have: ``{name: descriptor}``."""
    found = {}
    for base in reversed(kind.__mro__):
        if base.__module__ != "builtins":
            found.update((name, one) for name, one in vars(base).items() if type(one) is types.MemberDescriptorType)
    return found


def text_of(value):
    """The ``str()`` of an exception or its argument; what Python's tracebacks say instead if that fails."""
    try:
        return str(value)
    except Exception:  # the user's __str__ may raise anything
        kind = "exception" if isinstance(value, BaseException) else type(value).__name__
        return "<%s str() failed>" % kind


def attribute(exc, name):
    """An attribute; None if it has none, or if a property of the user's raises."""
    try:
        return getattr(exc, name, None)
    except Exception:  # a property of the user's may raise anything; that fact is left out
        return None


def encode(encoder, value, kind, depth, told=None):
    """The node of an exception, made with a ``values.Encoder``; None for other values, or if its class is not told.
    ``told`` describes the class; without it, the encoder is asked."""
    if encoder.classes is None or not issubclass(kind, BaseException):
        return None
    told = encoder.classes(kind) if told is None else told
    if told is None:
        return None
    bases = [one for one in kind.__mro__[1:MOST] if issubclass(one, BaseException)]
    classes = [told] + [[None, str(one.__module__)[:500], one.__qualname__[:500]] for one in bases]
    return {"rx": [classes, encoder.node(text_of(value)[:LIMIT], depth + 1), encoder.node(facts(value), depth + 1)]}


def _read(decoder, content, depth):
    classes, text, found = content
    text, found = decoder.value(text, depth + 1), decoder.value(found, depth + 1)
    make = getattr(decoder.classes, "exception", None)
    if make is None or type(classes) is not list or not 0 < len(classes) <= MOST:
        raise BadValue("an exception, where none is allowed, or of no class")
    for one in classes:
        if type(one) is not list or len(one) != 3 or type(one[1]) is not str or type(one[2]) is not str:
            raise BadValue("an exception of the class %.60r" % (one,))
    if type(text) is not str or type(found) is not dict:
        raise BadValue("an exception without text or facts")
    return make(classes, text, found)


READERS = {"rx": _read}
