"""LiveNames: the global names of functions that a client has sent, and behind them those of the session."""

import builtins
import types


class LiveNames(dict):
    """A space whose other names are those of the session, as they are when they are read.

    ``globals()["name"]`` and ``"name" in globals()`` find them too, and ``globals()["name"] = value`` binds a name of
    the session, unless the name was sent along.
    """

    def __init__(self, content, session):
        dict.__init__(self, content)
        self._flame_session = session

    def __missing__(self, name):
        return self._flame_session[name]

    def __contains__(self, name):
        return dict.__contains__(self, name) or name in self._flame_session

    def __setitem__(self, name, value):
        if dict.__contains__(self, name):
            dict.__setitem__(self, name, value)
        else:
            self._flame_session[name] = value

    def know(self, code):
        """Hold the built-ins that code reads: they are found at once, without a look into the session."""
        for name in code.co_names:
            if hasattr(builtins, name) and name not in self:
                dict.__setitem__(self, name, getattr(builtins, name))
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.know(constant)
