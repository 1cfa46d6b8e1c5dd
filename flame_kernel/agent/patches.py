"""Patches of things that a whole process shares (a class method, a builtin), active while a session needs them.

Several versions of the agent can patch the same thing: each patch (a *layer*) keeps what it replaced, and passes on all
calls that are not for its own sessions.  Layers may end in any order.  A layer that ends below another stays in place
and passes everything on, until the one above it ends and removes both.  When the last session of the last version has
ended, everything is as it was found.
"""

MISSING = object()

# The attribute by which all versions recognize layers; its dict has: live, found, missing.
_MARK = "_flame_layer"


def is_layer(value):
    """Whether ``value`` was put there by a layer, of any version of the agent."""
    return _MARK in getattr(getattr(value, "__func__", value), "__dict__", {})


class Layer:
    """Replaces ``owner.name`` with ``make(found)``; ``found`` is MISSING if ``owner`` itself had no such attribute.

    ``make`` must return something that can have attributes, or a classmethod.
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
        """Put back what was found, unless someone else has replaced it since. Idempotent."""
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
