"""Named tuples, dataclasses and enum members as values: their content and their class. Both sides import it.

::

    {"rt": [class, names, item, …]}       a named tuple
    {"rd": [class, name, value, …]}       a dataclass; {"rd": [class, null, name, …]} if it is filled later
    {"re": [class, name, value]}          an enum member; name is null for several flags in one
    {"?": [node, reference]}              one of these or an exception, if the reader knows its class; else the
                                          object with this reference

Towards the far side, ``class`` is ``{"@": …}``, a reference to the class itself.  From the far side it is ``{"c": [key,
module, name]}``, and the reader decides which of its own classes that is.  If it knows none, the value becomes a
read-only stand-in: ``TupleFacts`` for a tuple, ``IntFacts`` or ``TextFacts`` for an enum member that is a number or a
text, and ``Facts`` for anything else.  Reading a value runs no code of its class.
"""

import enum
import types

from .scalars import BadValue, NotPlain, class_name


class Facts:
    """A read-only stand-in with the attributes of an object whose class is not here."""

    __slots__ = ("_flame_class", "_flame_values")

    def __init__(self, kind, values):
        object.__setattr__(self, "_flame_class", kind)
        object.__setattr__(self, "_flame_values", values)

    def __getattr__(self, name):
        try:
            return object.__getattribute__(self, "_flame_values")[name]
        except KeyError:
            raise AttributeError("%s has no %s" % (_title(self), name))

    def __setattr__(self, name, value):
        raise AttributeError("%s is a copy whose class is not here: it can only be read" % _title(self))

    def __delattr__(self, name):
        self.__setattr__(name, None)

    def __dir__(self):
        return sorted(self._flame_values)

    def __eq__(self, other):
        if type(other) is not Facts:
            return NotImplemented
        return self._flame_class == other._flame_class and self._flame_values == other._flame_values

    __hash__ = None

    def __reduce_ex__(self, protocol):
        return (Facts, (self._flame_class, dict(self._flame_values)))

    def __repr__(self):
        return "%s(%s)" % (_title(self), ", ".join("%s=%r" % pair for pair in self._flame_values.items()))


class TupleFacts(tuple):
    """A named tuple whose class is not here."""

    _fields = ()
    _flame_class = None

    def __getattr__(self, name):
        fields = self._fields
        if name in fields:
            return self[fields.index(name)]
        raise AttributeError("%s has no %s" % (_title(self), name))

    def _asdict(self):
        return dict(zip(self._fields, self))

    def __repr__(self):
        return "%s(%s)" % (_title(self), ", ".join("%s=%r" % pair for pair in zip(self._fields, self)))


class IntFacts(int):
    """A member of an IntEnum or a Flag whose class is not here."""

    name = value = _flame_class = None

    def __repr__(self):
        return "<%s.%s: %r>" % (_title(self), self.name, self.value)


class TextFacts(str):
    """A member of a str enum whose class is not here."""

    name = value = _flame_class = None

    def __repr__(self):
        return "<%s.%s: %r>" % (_title(self), self.name, self.value)


STAND_INS = (Facts, TupleFacts, IntFacts, TextFacts)


def _title(facts):
    kind = facts._flame_class
    return kind[2] if kind else type(facts).__name__


def is_named_tuple(kind):
    """Whether ``kind`` looks like a named tuple class: a tuple with ``_fields`` that are strings."""
    fields = getattr(kind, "_fields", None)
    return issubclass(kind, tuple) and isinstance(fields, tuple) and all(type(one) is str for one in fields)


def is_record(kind):
    """Whether this module writes values of class ``kind``."""
    if issubclass(kind, (enum.Enum, STAND_INS)):
        return True
    return is_named_tuple(kind) or _is_data(kind)


def _is_data(kind):
    """Whether it is a dataclass that holds nothing but attributes: it derives from no built-in class."""
    return "__dataclass_fields__" in vars(kind) and all(
        base.__flags__ & _MADE_BY_PYTHON for base in kind.__mro__ if base is not object
    )


# The flag of classes that a class statement or call has made (Py_TPFLAGS_HEAPTYPE).
_MADE_BY_PYTHON = 1 << 9


# -- writing ---------------------------------------------------------------------------------------------------------


def encode(encoder, value, kind, depth, told=None):
    """The node of a record, made with a ``values.Encoder``; None for other values, or if its class cannot be sent.
    ``told`` describes the class; without it, the encoder is asked."""
    if not is_record(kind):
        return None
    told = _told(encoder, value, kind, depth) if told is None else {"c": told}
    if told is None:
        return None
    if issubclass(kind, STAND_INS):
        return _write_facts(encoder, value, told, depth)
    if issubclass(kind, enum.Enum):
        name = value._name_
        if kind.__members__.get(name) is not value:
            if not issubclass(kind, enum.Flag):
                raise NotPlain("a %s that is not one of its members" % class_name(kind))
            name = None
        return {"re": [told, name, encoder.node(value._value_, depth + 1)]}
    if issubclass(kind, tuple):
        if getattr(value, "__dict__", None):
            raise NotPlain("a %s with attributes beside its items is not plain data" % class_name(kind))
        return {"rt": [told, list(kind._fields)] + encoder.nodes(tuple(value), depth)}
    pairs = [thing for pair in _attributes(value, kind).items() for thing in pair]
    return {"rd": [told] + encoder.nodes(pairs, depth)}


def can_be_filled(kind):
    """Whether a record of this class can be made first and given its attributes later."""
    return kind is Facts or (is_record(kind) and _is_data(kind))


def empty(encoder, value, kind):
    """The node of a record that is filled later; None if its class cannot be sent."""
    told = _told(encoder, value, kind, 0)
    return None if told is None else {"rd": [told, None] + sorted(_values(value, kind))}


def fill(made, other):
    """Give record ``made`` the attributes of ``other``, which has the same class."""
    if type(made) is Facts:
        made._flame_values.update(other._flame_values)
    else:
        _filled(made, type(made), _attributes(other, type(other)))


def content(value, kind):
    """The values that a record holds."""
    if issubclass(kind, tuple):
        return tuple(value)
    return list(_values(value, kind).values()) if can_be_filled(kind) else ()


def _values(value, kind):
    return value._flame_values if kind is Facts else _attributes(value, kind)


def _told(encoder, value, kind, depth):
    if issubclass(kind, STAND_INS):
        return {"c": list(value._flame_class or (None, "", kind.__name__))}
    if encoder.classes is not None:
        told = encoder.classes(kind)
        return None if told is None else {"c": told}
    return encoder.node(kind, depth + 1) if encoder.references else None


def _write_facts(encoder, value, told, depth):
    if type(value) is TupleFacts:
        return {"rt": [told, list(value._fields)] + encoder.nodes(tuple(value), depth)}
    if type(value) is Facts:
        pairs = [thing for pair in value._flame_values.items() for thing in pair]
        return {"rd": [told] + encoder.nodes(pairs, depth)}
    return {"re": [told, value.name, encoder.node(value.value, depth + 1)]}


def _attributes(value, kind):
    """The attributes of an object, including those in slots, read without running its class's code."""
    found = {}
    for base in reversed(kind.__mro__):
        for name, slot in vars(base).items():
            if type(slot) is types.MemberDescriptorType:
                try:
                    found[name] = slot.__get__(value, kind)
                except AttributeError:
                    pass  # the slot has no value yet
    found.update(getattr(value, "__dict__", ()))
    return found


# -- reading ---------------------------------------------------------------------------------------------------------


def _class(decoder, node, depth):
    """``(class or None, its [key, module, name])``."""
    if type(node) is not dict or set(node) != {"c"}:
        kind = decoder.value(node, depth + 1)
        if not isinstance(kind, type):
            raise BadValue("a record whose class is not one")
        return kind, None
    told = node["c"]
    if type(told) is not list or len(told) != 3 or type(told[1]) is not str or type(told[2]) is not str:
        raise BadValue("a record of the class %.60r" % (told,))
    told = [told[0] if type(told[0]) is str else None, told[1][:200], told[2][:200]]
    return (None if decoder.classes is None else decoder.classes(*told)), told


def _read_tuple(decoder, content, depth):
    kind, told = _class(decoder, content[0], depth)
    names, items = content[1], decoder.values(content[2:], depth)
    if type(names) is not list or not all(type(one) is str for one in names) or len(names) != len(items):
        raise BadValue("a named tuple of %d items and other names" % len(items))
    if kind is not None and is_named_tuple(kind) and list(kind._fields) == names:
        return tuple.__new__(kind, items)
    _facts_only(kind, told, "tuple")
    made = tuple.__new__(TupleFacts, items)
    vars(made).update(_fields=tuple(names), _flame_class=told)
    return made


def _facts_only(kind, told, what):
    if told is None:
        raise BadValue("a %s of the class %s, which is another" % (what, class_name(kind)))


def _read_data(decoder, content, depth):
    kind, told = _class(decoder, content[0], depth)
    names, values = _named(decoder, content[1:], depth)
    if kind is not None and _is_data(kind):
        made = None
        if told is None or told[0] is not None or _field_names(kind) <= set(names):
            made = _bare(kind)
        if made is not None and _filled(made, kind, values):
            return made
    _facts_only(kind, told, "dataclass")
    if kind is not None and issubclass(kind, enum.Enum):  # stand-ins that go back to the side they came from
        return kind.__members__.get(values.get("name"), Facts(told, values))
    return Facts(told, values)


def _named(decoder, content, depth):
    """``(attribute names, {name: value})`` of an object; no values if it is filled later."""
    if content and content[0] is None:
        names, items = decoder.values(content[1:], depth), None
    else:
        both = decoder.values(content, depth)
        names, items = both[::2], both[1::2]
    if not all(type(one) is str for one in names) or (items is not None and len(names) != len(items)):
        raise BadValue("an object whose names and values do not fit each other")
    return names, dict(zip(names, items or ()))


def _bare(kind):
    """An object of a class, without attributes; None if the class is also a built-in type."""
    try:
        return object.__new__(kind)
    except TypeError:
        return None


def _field_names(kind):
    import dataclasses

    return {field.name for field in dataclasses.fields(kind)}


def _filled(made, kind, values):
    slots = {}
    for base in kind.__mro__:
        for name, slot in vars(base).items():
            if type(slot) is types.MemberDescriptorType:
                slots.setdefault(name, slot)
    rest = getattr(made, "__dict__", None)
    for name, value in values.items():
        if name in slots:
            slots[name].__set__(made, value)
        elif rest is None:
            return False
        else:
            rest[name] = value
    return True


def _read_member(decoder, content, depth):
    node, name, value = content
    kind, told = _class(decoder, node, depth)
    value = decoder.value(value, depth + 1)
    if not (name is None or type(name) is str):
        raise BadValue("an enum member of the name %.40r" % (name,))
    if kind is not None and issubclass(kind, enum.Enum):
        found = kind.__members__.get(name)
        if name is None and issubclass(kind, enum.Flag) and type(value) is int:
            try:
                found = kind(value)
            except ValueError:
                found = None
        if found is not None:
            return found
    _facts_only(kind, told, "enum member")
    base = {int: IntFacts, str: TextFacts}.get(type(value))
    if base is None:
        return Facts(told, {"name": name, "value": value})
    made = base(value)
    vars(made).update(name=name, value=value, _flame_class=told)
    return made


def _read_either(decoder, content, depth):
    node, reference = content
    classes = decoder.classes
    if not hasattr(classes, "all"):
        raise BadValue("a value of a class that may be unknown, where none is allowed")
    before, classes.all = classes.all, True
    made = decoder.bare(node, depth + 1)
    is_known, classes.all = classes.all, before
    there = decoder.bare({"@": reference}, depth + 1)  # read in any case, so that the other side may release it
    return made if is_known else there


READERS = {"rt": _read_tuple, "rd": _read_data, "re": _read_member, "?": _read_either}
