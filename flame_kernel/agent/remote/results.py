"""Decides whether a result is sent to the client as a value, or stays here and the client gets a stand-in.

Sent are plain values, and objects whose identity does not matter: named tuples, enum members, frozen dataclasses,
exceptions, and objects of classes that the client sent.  If the client does not know their class, it uses the reference
that is sent along.  Under trust, unchangeable values that can be pickled are sent too: objects of classes derived from
int, str, tuple and the like, and compiled patterns.
"""

import enum
import re

from ..wire import records, values
from . import pickles

# The most bytes of a result that is sent as a value unasked: for an array or table, and for anything else.
ARRAY_LIMIT = 1 << 20
VALUE_LIMIT = 16 << 20

_FIXED = (int, float, complex, str, bytes, tuple, frozenset, type(re.compile("")))
_SCALARS = (int, float, bool, type(None))
_HOLDING = (list, tuple, dict, set, frozenset)


class Told:
    """The descriptions of classes for the client; ``classes`` are those that it has sent (``functions.Classes``)."""

    def __init__(self, classes):
        self._key = classes.key

    def any(self, kind):
        """The description of a class: ``[key, module, name]``."""
        return [self._key(kind), str(kind.__module__)[:500], kind.__qualname__[:500]]

    def known(self, kind):
        """The same, if the client certainly knows the class; None otherwise."""
        is_pythons = issubclass(kind, Exception) and kind.__module__ == "builtins"
        return self.any(kind) if is_pythons or self._key(kind) is not None else None

    def fixed(self, kind):
        """The same for a class whose objects do not change; None for others."""
        return self.any(kind) if _is_fixed(kind) else None

    def unless_pickled(self, kind):
        """The same for every class; for an exception only if the client knows it, as a pickle carries the others."""
        return self.known(kind) if issubclass(kind, BaseException) else self.any(kind)


class _Perhaps:
    """Like ``Told.known``, but also for classes whose objects do not change; ``used``: whether there was such a one."""

    def __init__(self, told):
        self._told = told
        self.used = False

    def __call__(self, kind):
        known = self._told.known(kind)
        if known is None:
            known = self._told.fixed(kind)
            self.used = self.used or known is not None
        return known


def _is_fixed(kind):
    if issubclass(kind, (enum.Enum, BaseException)) or records.is_named_tuple(kind):
        return True
    return getattr(vars(kind).get("__dataclass_params__"), "frozen", False)


class _Fixed:
    """Pickles unchangeable values, for ``values.encode``; ``used``: whether there was one."""

    def __init__(self, dumps):
        self._dumps = dumps
        self.used = False

    def takes(self, value):
        takes = isinstance(value, _FIXED) and type(value) not in _HOLDING
        self.used = self.used or takes
        return takes

    def __call__(self, value):
        return self._dumps(value)


def parts(thing, classes, libraries, trust=None, share=1):
    """``(the parts of a value, whether the client can certainly read it)``; None if ``thing`` stays here.

    ``trust`` is the client's own description if it reads pickles; ``share`` divides the limits.
    """
    if type(thing) in _SCALARS:
        return values.encode(thing, libraries=libraries, limit=VALUE_LIMIT // share), True
    told = Told(classes)
    perhaps = _Perhaps(told)
    how = {"libraries": libraries, "limit": VALUE_LIMIT // share, "array_limit": ARRAY_LIMIT // share}
    try:
        return values.encode(thing, classes=perhaps, **how), not perhaps.used
    except values.TooLarge:
        return None
    except values.NotPlain:
        if not trust or not (isinstance(thing, _FIXED) or type(thing) in _HOLDING):
            return None
    fixed = _Fixed(pickles.pickler(trust, classes))
    try:
        made = values.encode(thing, classes=perhaps, dumps=fixed, **how)
    except (values.NotPlain, values.TooLarge):
        return None
    return made, not (perhaps.used or fixed.used)
