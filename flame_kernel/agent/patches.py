"""Patches of what a whole process shares (a class method, a builtin), in force while a session needs them.

Versions of the agent stack: each layer keeps what it found, and passes on to it what is not for a session of its own.
Layers may end in any order.  One that ends below another stays and passes everything on; the one above removes it when
it ends itself.  When the last session of the last version has ended, everything is as it was found.
"""

MISSING = object()

# The attribute by which layers of all versions know each other; its dict has: live, found, missing.
_MARK = "_flame_layer"


def is_layer(value):
    """Whether ``value`` is that of a layer, of any version of the agent."""
    return _MARK in getattr(getattr(value, "__func__", value), "__dict__", {})


class Layer:
    """``owner.name`` replaced by ``make(found)``; ``found`` is MISSING where the owner itself had no such attribute.

    What ``make`` returns must be able to carry an attribute, or be a classmethod.
    """

    def __init__(self, owner, name, make):
        self._owner = owner
        self._name = name
        found = vars(owner).get(name, MISSING)
        self._state = {"live": True, "found": found, "missing": found is MISSING}
        self.value = make(found)
        setattr(getattr(self.value, "__func__", self.value), _MARK, self._state)
        setattr(owner, name, self.value)

    def __repr__(self):
        return "<Layer %s.%s%s>" % (
            getattr(self._owner, "__name__", self._owner),
            self._name,
            "" if self._state["live"] else " over",
        )

    def remove(self):
        """Put back what was found, unless somebody has put something above it since. Idempotent."""
        self._state["live"] = False
        top = found = vars(self._owner).get(self._name, MISSING)
        while found is not MISSING:
            state = getattr(getattr(found, "__func__", found), "__dict__", {}).get(_MARK)
            if state is None or state["live"]:
                break
            found = MISSING if state["missing"] else state["found"]
        if found is MISSING and top is not MISSING:
            delattr(self._owner, self._name)
        elif found is not top:
            setattr(self._owner, self._name, found)
