"""Exceptions between the sides: described in plain data for the client, and made from the client's description.

told   ename, evalue, traceback: text; bases: names of its built-in classes; classes: all its classes as [module,
       qualified name]; key: the client's name of the class, if it sent the class.  With it goes a value, the facts:
       args, attributes (of its __dict__), notes, attributes of built-in exceptions by name, and a group's message and
       members
sent   {"kind": its class, if that can be sent, "classes", "args", "attributes", "facts", "text"}
"""

import builtins
import importlib

from ..shell import tracebacks
from ..wire import values

# Attributes of built-in exceptions that do not follow from their arguments.
FACTS = ("errno", "strerror", "filename", "filename2", "name", "path", "value", "msg", "obj")
FACTS += ("lineno", "offset", "end_lineno", "end_offset", "text", "code")
LIMIT = 1 << 16
# Most attributes, classes and members of a group in a description, and how deep groups may nest.
MOST = 100
DEPTH = 4


class Held:
    """Stands for an object that is not plain, until the client has a stand-in for it."""

    def __init__(self, thing):
        self.thing = thing


def told(exc, lines, key, depth=0):
    """``(content, facts)`` of an exception. ``lines`` gives a traceback, ``key`` the client's name of a class."""
    kinds = type(exc).__mro__[:MOST]
    content = {"ename": values.class_name(type(exc)), "evalue": tracebacks.evalue(exc), "traceback": lines(exc)}
    content["bases"] = [kind.__name__ for kind in kinds if kind.__module__ == "builtins"]
    content["classes"] = [[str(kind.__module__), kind.__qualname__] for kind in kinds if issubclass(kind, Exception)]
    own = key(type(exc))
    if own is not None:
        content["key"] = own
    facts = dict(_facts(exc), args=tuple(_fact(one) for one in exc.args[:MOST]))
    members = _attribute(exc, "exceptions")
    if "BaseExceptionGroup" in content["bases"] and depth < DEPTH:
        facts["members"] = [list(told(one, lambda e: [], key, depth + 1)) for one in members[:MOST]]
        facts["message"] = exc.message[:LIMIT]
    return content, facts


def _facts(exc):
    """The exception's attributes: its own, and those of built-in exceptions."""
    facts = {name: _fact(_attribute(exc, name)) for name in FACTS if _attribute(exc, name) is not None}
    attributes = dict(_attribute(exc, "__dict__") or {})
    notes = attributes.pop("__notes__", None)
    if isinstance(notes, list):
        facts["notes"] = [str(note)[:LIMIT] for note in notes[:MOST]]
    if isinstance(exc, SystemExit):
        attributes["code"] = exc.code
    names = [name for name in attributes if isinstance(name, str)][:MOST]
    facts["attributes"] = {name: _fact(attributes[name]) for name in names}
    return facts


def encoded(facts, hold):
    """The facts as parts of a value; ``hold`` describes an object that stays here."""
    try:
        return values.encode(facts, lambda one: hold(one.thing) if type(one) is Held else None, libraries=())
    except (values.NotPlain, values.TooLarge):
        return values.encode({})


def _attribute(exc, name):
    try:
        return getattr(exc, name, None)
    except Exception:  # a property of the user's may raise anything; that fact is left out
        return None


def _fact(thing):
    """A plain value if it is not large; otherwise something in its place."""
    try:
        values.encode(thing, libraries=(), limit=LIMIT)
    except values.NotPlain:
        return Held(thing)
    except values.TooLarge:
        return thing[: LIMIT // 4] if type(thing) in (str, bytes) else None
    return thing


def made(sent, names):
    """The exception that the client describes; ``names`` are the session's variables."""
    kind = sent.get("kind")
    if not _is_exception(kind):
        kind = next(filter(_is_exception, (_class(one, names) for one in sent["classes"])), Exception)
    args = sent["args"]
    try:
        base = next(one for one in kind.__mro__ if one.__module__ == "builtins")
        error = kind(*args) if kind is base else base.__new__(kind, *args)
        if kind is not base:
            base.__init__(error, *args)
        error.args = args
    except Exception:  # a class may take other arguments than it shows
        try:
            error = kind(sent["text"])
        except Exception:  # the same
            error = RuntimeError(sent["text"])
    for name, fact in sent["facts"].items():
        try:
            setattr(error, name, fact)
        except Exception:  # a property of the user's class
            pass
    error.__dict__.update(sent["attributes"])
    return error


def _is_exception(kind):
    return isinstance(kind, type) and issubclass(kind, BaseException)


def _class(place, names):
    module, path = place
    try:
        if module == "__main__":
            found = names[path.partition(".")[0]]
            rest = path.split(".")[1:]
        else:
            found = builtins if module == "builtins" else importlib.import_module(module)
            rest = path.split(".")
        for part in rest:
            found = getattr(found, part)
    except Exception:  # it is not here, or its module fails; the next class of the list may do
        return None
    return found
