"""Exceptions between the sides: described in plain data for the client, and made from the client's description.

told   ename, evalue, traceback: text; bases: names of its built-in classes; classes: all its classes as [module,
       qualified name]; key: the client's name of the class, if it sent the class.  With it goes a value, the facts, see
       ``wire/raised``, and a group's members
sent   {"kind": its class, if that can be sent, "classes", "args", "attributes", "facts", "text",
       "notes"}
"""

import builtins
import importlib

from ..shell import tracebacks
from ..wire import raised, values

# How deep groups may nest in a description.
DEPTH = 4


class Held:
    """Stands for an object that is not plain, until the client has a stand-in for it."""

    def __init__(self, thing):
        self.thing = thing


def held_once(hold):
    """A function that makes the reference for an object or a ``Held`` by ``hold``: one each, even if a value is encoded
    twice."""
    made = {}

    def reference(one):
        if id(one) not in made:
            made[id(one)] = hold(one.thing if type(one) is Held else one), one
        return made[id(one)][0]

    return reference


def told(exc, lines, classes, depth=0):
    """``(content, facts)`` of an exception. ``lines`` gives a traceback, ``classes`` is a ``results.Told``."""
    kinds = type(exc).__mro__[: raised.MOST]
    content = {"ename": values.class_name(type(exc)), "evalue": tracebacks.evalue(exc), "traceback": lines(exc)}
    content["bases"] = [kind.__name__ for kind in kinds if kind.__module__ == "builtins"]
    content["classes"] = [[str(kind.__module__), kind.__qualname__] for kind in kinds if issubclass(kind, Exception)]
    own = classes.any(type(exc))[0]
    if own is not None:
        content["key"] = own
    facts = {}
    for name, one in raised.facts(exc).items():
        if name == "args":
            facts[name] = tuple(_fact(thing, classes) for thing in one)
        elif name == "attributes":
            facts[name] = {attribute: _fact(thing, classes) for attribute, thing in one.items()}
        else:
            facts[name] = _fact(one, classes)
    if raised.is_group(exc) and depth < DEPTH:
        members = raised.attribute(exc, "exceptions")[: raised.MOST]
        facts["members"] = [list(told(one, lambda e: [], classes, depth + 1)) for one in members]
    return content, facts


def encoded(facts, hold, classes):
    """The facts as parts of a value. ``hold`` describes an object that stays here; ``classes`` is a
    ``results.Told``."""
    reference = held_once(hold)
    try:
        return values.encode(facts, reference, libraries=(), classes=classes.known, unsure=classes.fixed)
    except (values.NotPlain, values.TooLarge):
        return values.encode({})


def _fact(thing, classes):
    """What is sent of a value: a large text is cut, another large value is None; one that is not plain is ``Held``,
    unless objects of its class do not change."""
    try:
        values.encode(thing, libraries=(), limit=raised.LIMIT, classes=classes.known)
    except values.NotPlain:
        return Held(thing) if classes.fixed(type(thing)) is None else thing
    except values.TooLarge:
        return thing[: raised.LIMIT // 4] if type(thing) in (str, bytes) else None
    return thing


def made(sent, names):
    """The exception that the client describes; ``names`` are the session's variables."""
    kind = sent.get("kind")
    if not _is_exception(kind):
        places = [place for one in sent["classes"] for place in raised.spellings(*one)]
        kind = next(filter(_is_exception, (_class(one, names) for one in places)), Exception)
    args = sent["args"]
    try:
        base = next(one for one in kind.__mro__ if one.__module__ == "builtins")
        error = kind(*args) if kind is base else base.__new__(kind, *args)
        if kind is not base:
            base.__init__(error, *args)
        error.args = args
    except Exception:  # a class may take other arguments than those in ``args``
        try:
            error = kind(sent["text"])
        except Exception:  # the same
            error = RuntimeError(sent["text"])
    for name, fact in sent["facts"].items():
        try:
            setattr(error, name, fact)
        except Exception:  # a property of the user's class
            pass
    set_attributes(error, sent.get("attributes") or {})
    if sent["notes"]:
        set_attributes(error, {"__notes__": sent["notes"]})
    return error


def set_attributes(error, attributes):
    """Give an exception the attributes that it has on the client's side, as far as its class allows."""
    for name, value in attributes.items():
        try:
            BaseException.__setattr__(error, name, value)  # without code of the user's class; sets slots, too
        except Exception:  # a property, or a class with slots that lacks this one
            pass


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
    except Exception:  # it is not here, or its module fails; the next class in the list may work
        return None
    return found
